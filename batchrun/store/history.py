"""What the attempts of all runs of a pipeline tell: how long they took, and how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.outcome import Outcome
from batchrun.store import schema
from batchrun.store.attempts import SOLVED, sample

if TYPE_CHECKING:
    from batchrun.forecast import DurationHistory

__all__ = ["durations", "history", "peaks"]

RUNS = 20
"""Runs that are looked at, the newest."""
A_SECOND = 5_000
"""Attempts that are read for each second that the longest of these runs took: that is a hundredth of it."""
FEWEST = 2_000
"""Attempts that are read however short they were."""

_TAKES_WHAT_IT_TAKES = (Outcome.SUCCEEDED, Outcome.STOPPED_WITH_SOLUTION, Outcome.OUT_OF_MEMORY)
"""An attempt that ended otherwise may have ended before it took all that it needs."""


def peaks(connection: sa.Connection, pipeline: str, stage: str, limit: int) -> list[tuple[int, int]]:
    """Rows given and most bytes used of the latest attempts, newest first."""
    table = schema.attempts
    query = (
        sa.select(table.c.rows_in, table.c.peak_memory)
        .join(schema.runs, schema.runs.c.number == table.c.run)
        .where(
            table.c.stage == stage,
            table.c.peak_memory.is_not(None),
            table.c.outcome.in_([outcome.value for outcome in _TAKES_WHAT_IT_TAKES]),
            schema.runs.c.pipeline == pipeline,
        )
        .order_by(table.c.id.desc())
        .limit(limit)
    )
    return [(rows, peak) for rows, peak in connection.execute(query)]


def history(connection: sa.Connection, pipeline: str, limit: int) -> dict[str, DurationHistory]:
    """How long each stage took in the newest runs; see RunStore.history."""
    import numpy as np

    from batchrun.forecast import DurationHistory

    stages: dict[str, list[Any]] = {}
    for row in _latest(connection, pipeline, limit):
        stages.setdefault(row.stage, []).append(row)
    return {
        stage: DurationHistory(
            np.array([row.key or 0 for row in rows], np.int64),
            np.array([row.rows_in for row in rows], np.int64),
            np.array([row.seconds for row in rows], np.float64),
        )
        for stage, rows in stages.items()
    }


def durations(connection: sa.Connection, pipeline: str, limit: int) -> dict[str, tuple[int, float, float]]:
    """How many solved attempts of each stage were seen, and their median and longest seconds."""
    import numpy as np

    return {
        stage: (len(seen), float(np.median(seen.seconds)), float(seen.seconds.max()))
        for stage, seen in history(connection, pipeline, limit).items()
    }


def _latest(connection: sa.Connection, pipeline: str, limit: int) -> list[sa.Row[Any]]:
    """Solved attempts, newest first: all of the newest runs as far as they are no more than *limit*."""
    runs, table = schema.runs, schema.attempts
    newest = (
        sa.select(runs.c.number, runs.c.ended - runs.c.started)
        .where(runs.c.pipeline == pipeline)
        .order_by(runs.c.created.desc())
        .limit(RUNS)
    )
    seconds = {number: took or 0.0 for number, took in connection.execute(newest)}
    numbers = list(seconds)
    limit = min(limit, max(FEWEST, int(A_SECOND * max(seconds.values(), default=0.0))))
    counted: dict[int, int] = dict(
        connection.execute(
            sa.select(table.c.run, sa.func.count()).where(table.c.run.in_(numbers)).group_by(table.c.run)
        ).all()
    )
    whole, left = [], limit
    query = (
        sa.select(table.c.stage, table.c.key, table.c.rows_in, table.c.seconds)
        .where(table.c.outcome.in_(SOLVED))
        .order_by(table.c.run.desc(), table.c.id.desc())
    )
    part: Sequence[sa.Row[Any]] = ()
    for run in numbers:
        attempts = counted.get(run, 0)
        if attempts > left:
            if left:
                part = sample(connection, query.where(table.c.run == run), attempts, left)
            break
        whole.append(run)
        left -= attempts
    return [*connection.execute(query.where(table.c.run.in_(whole))), *part]
