"""Runs in a queue, the services that drive them, schedules, events, and the fence of a run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add a column, two indexes and five tables; what was recorded stays as it is."""
    op.drop_index("ix_runs_state", "runs")
    op.create_index("runs_by_state", "runs", ["state", "created"])
    op.create_index("runs_by_pipeline", "runs", ["pipeline", "created"])
    op.add_column(
        "runs",
        sa.Column(
            "fence",
            sa.Integer,
            nullable=False,
            server_default="0",
            comment="of the one that may write the run",
        ),
    )
    _make_queue()
    _make_services()
    _make_schedules()
    op.create_table(
        "events",
        sa.Column("id", NUMBER, primary_key=True, comment="in the order in which they were committed"),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("run", NUMBER, sa.ForeignKey("runs.number")),
        sa.Column("chunk", sa.BigInteger),
        sa.Column("data", sa.JSON),
        sa.Index("events_by_run", "run"),
        comment="changes of state",
        sqlite_autoincrement=True,
    )


def _make_queue() -> None:
    op.create_table(
        "programs",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("program", sa.LargeBinary, nullable=False),
        comment="pickled pipelines of queued runs, each once; who may write here runs code in the service",
    )
    op.create_table(
        "queue",
        sa.Column("run", NUMBER, sa.ForeignKey("runs.number"), primary_key=True, autoincrement=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("queued", sa.Float, nullable=False, comment="since when it waits for its turn"),
        sa.Column("not_before", sa.Float),
        sa.Column("after", sa.JSON, nullable=False, comment="ids of runs that must have ended well"),
        sa.Column("input_from", sa.String(120), comment="id of the run whose results are the input"),
        sa.Column("lock", sa.String(200), comment="of runs with the same one, one at a time is driven"),
        sa.Column("unique_key", sa.String(64), comment="of runs that would give the same result"),
        sa.Column("max_slots", sa.Integer),
        sa.Column("max_quarantined", sa.String(20)),
        sa.Column("schedule", sa.String(120), comment="that it was made by"),
        sa.Column("submission", sa.JSON, comment="what was asked for; see Submission"),
        sa.Column("prepared", sa.Boolean, nullable=False, comment="whether its input is planned"),
        sa.Column("program", NUMBER, sa.ForeignKey("programs.number")),
        sa.Column("only", sa.JSON, comment="the chunks to run again; null for all unsolved"),
        sa.Column("owner", sa.String(40), comment="the service that holds it"),
        sa.Column("lease_until", sa.Float, comment="when others may take it from its owner"),
        sa.Column("fruitless", sa.Integer, nullable=False, comment="sessions that settled nothing"),
        sa.Column("hook", sa.String(20), comment="pending, done or failed; null before there is one"),
        sa.Index("queue_by_unique_key", "unique_key"),
        sa.Index("queue_by_owner", "owner"),
        comment="runs that services drive",
    )


def _make_services() -> None:
    op.create_table(
        "services",
        sa.Column("service", sa.String(40), primary_key=True),
        sa.Column("process", sa.String(200), nullable=False, comment="host, process and its start time"),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("heartbeat", sa.Float, nullable=False),
        sa.Column("lease", sa.Float, nullable=False, comment="seconds of silence after which it is gone"),
        sa.Column("state", sa.String(20), nullable=False, comment="starting, running or stopping"),
        sa.Column("asked", sa.String(20), comment="how it was asked to stop: leave, finish or cancel"),
        sa.Column("cluster", sa.Text, nullable=False, comment="what it runs on, in a few words"),
        sa.Column("dashboard", sa.Text, nullable=False),
        sa.Column("workers", sa.JSON, nullable=False, comment="the workers that it has"),
        sa.Column("log", sa.Text, comment="path of its log, on its host"),
    )


def _make_schedules() -> None:
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(120), primary_key=True),
        sa.Column("cron", sa.String(120), nullable=False),
        sa.Column("timezone", sa.String(60), nullable=False),
        sa.Column("missed", sa.String(10), nullable=False, comment="once or skip"),
        sa.Column("overlap", sa.String(10), nullable=False, comment="skip, queue or allow"),
        sa.Column("submission", sa.JSON, nullable=False, comment="what to run; see Submission"),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("next_fire", sa.Float, comment="null while it is paused or will never fire"),
        sa.Column("last_fire", sa.Float),
        sa.Column("last_run", sa.String(120)),
    )
