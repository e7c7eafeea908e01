"""The tables of the store. A change here needs a migration in ``migrations/versions``.

A run has a number beside its id, so that a million attempts repeat a few bytes and not a long text. So it is
with the files that hold results.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

__all__ = [
    "REVISION",
    "attempts",
    "chunks",
    "events",
    "files",
    "live",
    "logs",
    "metadata",
    "number_of",
    "of_run",
    "programs",
    "queue",
    "requests",
    "runs",
    "schedules",
    "services",
    "succeeded",
]

REVISION = "0004"
"""The migration that these tables correspond to."""

metadata = sa.MetaData()

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _run() -> sa.Column[int]:
    """The run that a row is of."""
    return sa.Column("run", _Number, sa.ForeignKey("runs.number"), nullable=False)


runs = sa.Table(
    "runs",
    metadata,
    sa.Column("number", _Number, primary_key=True, comment="what other tables call it"),
    sa.Column("run_id", sa.String(120), nullable=False, unique=True),
    sa.Column("pipeline", sa.String(120), nullable=False),
    sa.Column("target", sa.String(400)),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("created", sa.Float, nullable=False, index=True),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("heartbeat", sa.Float, comment="when its driver was last known to be at work"),
    sa.Column("driver", sa.String(200), comment="host, process and its start time"),
    sa.Column(
        "fence", sa.Integer, nullable=False, server_default="0", comment="of the one that may write the run"
    ),
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("split", sa.String(400), nullable=False),
    sa.Column("stages", sa.JSON, nullable=False),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("versions", sa.JSON, nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("rows_in", sa.BigInteger, nullable=False),
    sa.Column("rows_solved", sa.BigInteger, nullable=False, default=0),
    sa.Column("rows_quarantined", sa.BigInteger, nullable=False, default=0),
    sa.Column("rows_cancelled", sa.BigInteger, nullable=False, default=0),
    sa.Column("chunks", sa.BigInteger, nullable=False, default=0, comment="planned so far"),
    sa.Column("combined", sa.Text, comment="path of the combined result"),
    sa.Column("error", sa.JSON, comment="the error that ended the run"),
    sa.Index("runs_by_state", "state", "created"),
    sa.Index("runs_by_pipeline", "pipeline", "created"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", _Number, primary_key=True),
    _run(),
    sa.Column("chunk", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.String(120), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("worker", sa.String(200), nullable=False),
    sa.Column("outcome", sa.String(30), nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("rows_in", sa.BigInteger, nullable=False),
    sa.Column("rows_out", sa.BigInteger, nullable=False),
    sa.Column("key", sa.BigInteger, comment="of what the chunk holds, the same in every run"),
    sa.Column("peak_memory", sa.BigInteger),
    sa.Column("error_type", sa.String(400)),
    sa.Column("error", sa.Text),
    sa.Column("traceback", sa.Text),
    sa.Column("signature", sa.String(600)),
    sa.Column("cause", sa.String(40), comment="why it did not end by itself"),
    sa.Column("decision", sa.String(40), comment="what recovery decided"),
    sa.Column("next_step", sa.Text, comment="what happened because of it"),
    sa.Column("objective", sa.Float, comment="of its last incumbent, as is bound"),
    sa.Column("bound", sa.Float),
    sa.Column("incumbents", sa.JSON(none_as_null=True), comment="list of seconds, objective, bound"),
    sa.Index("attempts_by_chunk", "run", "chunk"),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("number", _Number, primary_key=True),
    _run(),
    sa.Column("path", sa.Text, nullable=False),
    comment="that hold results, or rows that were set apart",
)

chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("run", _Number, sa.ForeignKey("runs.number"), primary_key=True, autoincrement=False),
    sa.Column("chunk", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("outcome", sa.String(30), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("rows_out", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False, comment="of all attempts together"),
    sa.Column("file", _Number, sa.ForeignKey("files.number"), comment="that holds the result"),
    sa.Column("first_batch", sa.Integer),
    sa.Column("batches", sa.Integer, comment="-1 for all that follow"),
    sa.Column("first_row", sa.BigInteger, comment="within these batches"),
    sa.Column("nbytes", sa.BigInteger),
    sa.Column("objective", sa.Float, comment="of its answer, as is bound"),
    sa.Column("bound", sa.Float),
    comment="settled chunks only; the others are in the plan",
    sqlite_with_rowid=False,
)

succeeded = sa.literal("succeeded", literal_execute=True)
"""In the text of a query, not beside it: only so a database sees that an index below will do."""


def _index_few(name: str, *columns: sa.Column[Any], where: sa.ColumnElement[bool]) -> None:
    """An index of few rows, which costs nothing for all the others.

    That it is one is said to the databases by the migrations alone. Here it is only noted: an argument for a
    kind of database would load what SQLAlchemy has for that kind, with each command, whatever the store is.
    """
    sa.Index(name, *columns, info={"where": where})


_index_few("attempts_measured", attempts.c.stage, attempts.c.id, where=attempts.c.peak_memory.is_not(None))
_index_few(
    "attempts_other", attempts.c.run, attempts.c.chunk, where=attempts.c.outcome != sa.text("'succeeded'")
)

logs = sa.Table(
    "logs",
    metadata,
    sa.Column("id", _Number, primary_key=True),
    _run(),
    sa.Column("chunk", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.String(120), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("logs_by_chunk", "run", "chunk"),
    comment="of attempts that printed or logged something",
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("id", _Number, primary_key=True),
    _run(),
    sa.Column("chunk", sa.BigInteger, comment="null for the whole run"),
    sa.Column("keep_best", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("taken", sa.Float, comment="when the run's driver read it"),
    sa.Index("requests_by_run", "run"),
    comment="to cancel a run or a chunk of it",
)

live = sa.Table(
    "live",
    metadata,
    sa.Column("run", _Number, sa.ForeignKey("runs.number"), primary_key=True, autoincrement=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
    comment="how a run that is driven is doing; a row goes when its run ends",
)


programs = sa.Table(
    "programs",
    metadata,
    sa.Column("number", _Number, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("program", sa.LargeBinary, nullable=False),
    comment="pickled pipelines of queued runs, each once; who may write here runs code in the service",
)

queue = sa.Table(
    "queue",
    metadata,
    sa.Column("run", _Number, sa.ForeignKey("runs.number"), primary_key=True, autoincrement=False),
    sa.Column("priority", sa.Integer, nullable=False, default=0),
    sa.Column("queued", sa.Float, nullable=False, comment="since when it waits for its turn"),
    sa.Column("not_before", sa.Float),
    sa.Column("after", sa.JSON, nullable=False, comment="ids of runs that must have ended well"),
    sa.Column("input_from", sa.String(120), comment="id of the run whose results are the input"),
    sa.Column("lock", sa.String(200), comment="of runs with the same one, one at a time is driven"),
    sa.Column("unique_key", sa.String(64), comment="of runs that would give the same result"),
    sa.Column("max_slots", sa.Integer),
    sa.Column("max_quarantined", sa.String(20)),
    sa.Column("schedule", sa.String(120), comment="that it was made by"),
    sa.Column("submission", sa.JSON(none_as_null=True), comment="what was asked for; see Submission"),
    sa.Column("prepared", sa.Boolean, nullable=False, comment="whether its input is planned"),
    sa.Column("program", _Number, sa.ForeignKey("programs.number")),
    sa.Column("only", sa.JSON(none_as_null=True), comment="the chunks to run again; null for all unsolved"),
    sa.Column("owner", sa.String(40), comment="the service that holds it"),
    sa.Column("lease_until", sa.Float, comment="when others may take it from its owner"),
    sa.Column("fruitless", sa.Integer, nullable=False, default=0, comment="sessions that settled nothing"),
    sa.Column("hook", sa.String(20), comment="pending, done or failed; null before there is one"),
    sa.Index("queue_by_unique_key", "unique_key"),
    sa.Index("queue_by_owner", "owner"),
    comment="runs that services drive",
)

services = sa.Table(
    "services",
    metadata,
    sa.Column("service", sa.String(40), primary_key=True),
    sa.Column("process", sa.String(200), nullable=False, comment="host, process and its start time"),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("heartbeat", sa.Float, nullable=False),
    sa.Column("lease", sa.Float, nullable=False, comment="seconds of silence after which it is gone"),
    sa.Column("state", sa.String(20), nullable=False, comment="starting, running or stopping"),
    sa.Column("asked", sa.String(20), comment="how it was asked to stop: leave, finish or cancel"),
    sa.Column("cluster", sa.Text, nullable=False, default="", comment="what it runs on, in a few words"),
    sa.Column("dashboard", sa.Text, nullable=False, default=""),
    sa.Column("workers", sa.JSON, nullable=False, comment="the workers that it has"),
    sa.Column("log", sa.Text, comment="path of its log, on its host"),
)

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("name", sa.String(120), primary_key=True),
    sa.Column("cron", sa.String(120), nullable=False),
    sa.Column("timezone", sa.String(60), nullable=False),
    sa.Column("missed", sa.String(10), nullable=False, comment="once or skip"),
    sa.Column("overlap", sa.String(10), nullable=False, comment="skip, queue or allow"),
    sa.Column("submission", sa.JSON, nullable=False, comment="what to run; see Submission"),
    sa.Column("paused", sa.Boolean, nullable=False, default=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("next_fire", sa.Float, comment="null while it is paused or will never fire"),
    sa.Column("last_fire", sa.Float),
    sa.Column("last_run", sa.String(120)),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", _Number, primary_key=True, comment="in the order in which they were committed"),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("run", _Number, sa.ForeignKey("runs.number")),
    sa.Column("chunk", sa.BigInteger),
    sa.Column("data", sa.JSON(none_as_null=True)),
    sa.Index("events_by_run", "run"),
    comment="changes of state",
    sqlite_autoincrement=True,
)


def number_of(run_id: str | sa.BindParameter[str]) -> sa.ScalarSelect[int]:
    """The number of a run."""
    return sa.select(runs.c.number).where(runs.c.run_id == run_id).scalar_subquery()


def of_run(table: sa.Table, run_id: str | sa.BindParameter[str]) -> sa.ColumnElement[bool]:
    """Whether a row is of that run."""
    return table.c.run == number_of(run_id)
