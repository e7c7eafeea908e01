"""Runs and files by number, rows of packs, keys of chunks: a third of the size."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
INDEXES = (
    "ix_runs_state",
    "ix_runs_created",
    "attempts_by_chunk",
    "attempts_measured",
    "logs_by_chunk",
    "requests_by_run",
)
# Foreign keys decide the order: what others refer to comes first.
TABLES = ("runs", "attempts", "chunks", "logs", "requests", "live")

KEPT = {
    "runs": "run_id, pipeline, target, state, created, started, ended, heartbeat, driver, params, settings, "
    "input, split, stages, cluster, versions, folder, rows_in, rows_solved, rows_quarantined, "
    "rows_cancelled, chunks, combined, error",
    "attempts": "id, chunk, stage, attempt, worker, outcome, started, seconds, rows_in, rows_out, "
    "peak_memory, error_type, error, traceback, signature, cause, decision, next_step, objective, bound, "
    "incumbents",
    "chunks": "chunk, outcome, rows, rows_out, seconds, first_batch, batches, nbytes, objective, bound",
    "logs": "id, chunk, stage, attempt, text",
    "requests": "id, chunk, keep_best, created, taken",
    "live": "at, state",
}


def upgrade() -> None:
    """Make all tables anew beside the old ones, take over what those hold, and drop them."""
    for index in INDEXES:
        op.drop_index(index)
    for table in TABLES:
        op.rename_table(table, f"old_{table}")
    _make_tables()
    _take_over()
    for table in reversed(TABLES):
        op.drop_table(f"old_{table}")
    _make_indexes()


def _take_over() -> None:
    run = "JOIN runs ON runs.run_id = old.run_id"
    op.execute(f"INSERT INTO runs ({KEPT['runs']}) SELECT {KEPT['runs']} FROM old_runs ORDER BY created")  # noqa: S608
    op.execute(
        "INSERT INTO files (run, path) SELECT DISTINCT runs.number, old.path "  # noqa: S608
        f"FROM old_chunks AS old {run} WHERE old.path IS NOT NULL"
    )
    for table in ("attempts", "logs", "requests", "live"):
        columns = KEPT[table]
        order = "ORDER BY old.id" if columns.startswith("id") else ""
        op.execute(
            f"INSERT INTO {table} (run, {columns}) SELECT runs.number, {_old(columns)} "  # noqa: S608
            f"FROM old_{table} AS old {run} {order}"
        )
    columns = KEPT["chunks"]
    op.execute(
        f"INSERT INTO chunks (run, file, first_row, {columns}) SELECT runs.number, files.number, "  # noqa: S608
        f"CASE WHEN files.number IS NULL THEN NULL ELSE 0 END, {_old(columns)} FROM old_chunks AS old {run} "
        "LEFT JOIN files ON files.run = runs.number AND files.path = old.path"
    )
    if op.get_bind().dialect.name == "postgresql":
        # Rows that came with their ids did not move the counter on.
        for table in ("attempts", "logs", "requests"):
            op.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), "  # noqa: S608
                f"(SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"
            )


def _old(columns: str) -> str:
    return ", ".join(f"old.{name}" for name in columns.split(", "))


def _run(*, primary_key: bool = False) -> sa.Column[int]:
    reference = sa.ForeignKey("runs.number")
    return sa.Column("run", NUMBER, reference, primary_key=primary_key, autoincrement=False, nullable=False)


def _make_tables() -> None:
    op.create_table(
        "runs",
        sa.Column("number", NUMBER, primary_key=True, comment="what other tables call it"),
        sa.Column("run_id", sa.String(120), nullable=False, unique=True),
        sa.Column("pipeline", sa.String(120), nullable=False),
        sa.Column("target", sa.String(400)),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
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
        sa.Column("rows_solved", sa.BigInteger, nullable=False),
        sa.Column("rows_quarantined", sa.BigInteger, nullable=False),
        sa.Column("rows_cancelled", sa.BigInteger, nullable=False),
        sa.Column("chunks", sa.BigInteger, nullable=False, comment="planned so far"),
        sa.Column("combined", sa.Text, comment="path of the combined result"),
        sa.Column("error", sa.JSON, comment="the error that ended the run"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", NUMBER, primary_key=True),
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
        sa.Column("incumbents", sa.JSON, comment="list of seconds, objective, bound"),
    )
    op.create_table(
        "files",
        sa.Column("number", NUMBER, primary_key=True),
        _run(),
        sa.Column("path", sa.Text, nullable=False),
        comment="that hold results, or rows that were set apart",
    )
    op.create_table(
        "chunks",
        _run(primary_key=True),
        sa.Column("chunk", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("outcome", sa.String(30), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("rows_out", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False, comment="of all attempts together"),
        sa.Column("file", NUMBER, sa.ForeignKey("files.number"), comment="that holds the result"),
        sa.Column("first_batch", sa.Integer),
        sa.Column("batches", sa.Integer, comment="-1 for all that follow"),
        sa.Column("first_row", sa.BigInteger, comment="within these batches"),
        sa.Column("nbytes", sa.BigInteger),
        sa.Column("objective", sa.Float, comment="of its answer, as is bound"),
        sa.Column("bound", sa.Float),
        comment="settled chunks only; the others are in the plan",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "logs",
        sa.Column("id", NUMBER, primary_key=True),
        _run(),
        sa.Column("chunk", sa.BigInteger, nullable=False),
        sa.Column("stage", sa.String(120), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        comment="of attempts that printed or logged something",
    )
    op.create_table(
        "requests",
        sa.Column("id", NUMBER, primary_key=True),
        _run(),
        sa.Column("chunk", sa.BigInteger, comment="null for the whole run"),
        sa.Column("keep_best", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("taken", sa.Float, comment="when the run's driver read it"),
        comment="to cancel a run or a chunk of it",
    )
    op.create_table(
        "live",
        _run(primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        comment="how a run that is driven is doing; a row goes when its run ends",
    )


def _make_indexes() -> None:
    measured, other = sa.text("peak_memory IS NOT NULL"), sa.text("outcome != 'succeeded'")
    op.create_index("ix_runs_state", "runs", ["state"])
    op.create_index("ix_runs_created", "runs", ["created"])
    op.create_index("attempts_by_chunk", "attempts", ["run", "chunk"])
    op.create_index(
        "attempts_measured", "attempts", ["stage", "id"], sqlite_where=measured, postgresql_where=measured
    )
    op.create_index(
        "attempts_other", "attempts", ["run", "chunk"], sqlite_where=other, postgresql_where=other
    )
    op.create_index("logs_by_chunk", "logs", ["run", "chunk"])
    op.create_index("requests_by_run", "requests", ["run"])
