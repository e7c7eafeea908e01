"""Causes, incumbents and logs of attempts; requests to cancel; the live state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns that may be empty, and three tables; what 0001 recorded stays as it is."""
    op.add_column("attempts", sa.Column("cause", sa.String(40), comment="why it did not end by itself"))
    op.add_column("attempts", sa.Column("decision", sa.String(40), comment="what recovery decided"))
    op.add_column("attempts", sa.Column("next_step", sa.Text, comment="what happened because of it"))
    op.add_column("attempts", sa.Column("objective", sa.Float, comment="of its last incumbent, as is bound"))
    op.add_column("attempts", sa.Column("bound", sa.Float))
    op.add_column("attempts", sa.Column("incumbents", sa.JSON, comment="list of seconds, objective, bound"))
    measured = sa.text("peak_memory IS NOT NULL")
    op.create_index(
        "attempts_measured", "attempts", ["stage", "id"], sqlite_where=measured, postgresql_where=measured
    )
    op.add_column("chunks", sa.Column("objective", sa.Float, comment="of its answer, as is bound"))
    op.add_column("chunks", sa.Column("bound", sa.Float))
    op.create_table(
        "logs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("run_id", sa.String(120), sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("chunk", sa.BigInteger, nullable=False),
        sa.Column("stage", sa.String(120), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Index("logs_by_chunk", "run_id", "chunk"),
        comment="of attempts that printed or logged something",
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("run_id", sa.String(120), sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("chunk", sa.BigInteger, comment="null for the whole run"),
        sa.Column("keep_best", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("taken", sa.Float, comment="when the run's driver read it"),
        sa.Index("requests_by_run", "run_id"),
        comment="to cancel a run or a chunk of it",
    )
    op.create_table(
        "live",
        sa.Column("run_id", sa.String(120), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        comment="how a run that is driven is doing; a row goes when its run ends",
    )
