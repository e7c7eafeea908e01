"""The tables of the store. A change here needs a migration in ``migrations/versions``."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["REVISION", "attempts", "chunks", "live", "logs", "metadata", "requests", "runs"]

REVISION = "0002"
"""The migration that these tables correspond to."""

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(120), primary_key=True),
    sa.Column("pipeline", sa.String(120), nullable=False),
    sa.Column("target", sa.String(400)),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False, index=True),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("heartbeat", sa.Float, comment="when its driver was last known to be at work"),
    sa.Column("driver", sa.String(200), comment="host, process and its start time"),
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
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("run_id", sa.String(120), sa.ForeignKey("runs.run_id"), nullable=False),
    sa.Column("chunk", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.String(120), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("worker", sa.String(200), nullable=False),
    sa.Column("outcome", sa.String(30), nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("rows_in", sa.BigInteger, nullable=False),
    sa.Column("rows_out", sa.BigInteger, nullable=False),
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
    sa.Index("attempts_by_chunk", "run_id", "chunk"),
)

# Few attempts have their memory measured: the index costs nothing where it is of no use.
_measured = attempts.c.peak_memory.is_not(None)
sa.Index(
    "attempts_measured",
    attempts.c.stage,
    attempts.c.id,
    sqlite_where=_measured,
    postgresql_where=_measured,
)

chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("run_id", sa.String(120), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("chunk", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("outcome", sa.String(30), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("rows_out", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False, comment="of all attempts together"),
    sa.Column("path", sa.Text, comment="the file that holds the result"),
    sa.Column("first_batch", sa.Integer),
    sa.Column("batches", sa.Integer),
    sa.Column("nbytes", sa.BigInteger),
    sa.Column("objective", sa.Float, comment="of its answer, as is bound"),
    sa.Column("bound", sa.Float),
    comment="settled chunks only; the others are in the plan",
)

logs = sa.Table(
    "logs",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("run_id", sa.String(120), sa.ForeignKey("runs.run_id"), nullable=False),
    sa.Column("chunk", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.String(120), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("logs_by_chunk", "run_id", "chunk"),
    comment="of attempts that printed or logged something",
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("run_id", sa.String(120), sa.ForeignKey("runs.run_id"), nullable=False),
    sa.Column("chunk", sa.BigInteger, comment="null for the whole run"),
    sa.Column("keep_best", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("taken", sa.Float, comment="when the run's driver read it"),
    sa.Index("requests_by_run", "run_id"),
    comment="to cancel a run or a chunk of it",
)

live = sa.Table(
    "live",
    metadata,
    sa.Column("run_id", sa.String(120), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
    comment="how a run that is driven is doing; a row goes when its run ends",
)
