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

# Built once, since every run begins with these.
_NEWEST = (
    sa.select(schema.runs.c.number, schema.runs.c.ended - schema.runs.c.started)
    .where(schema.runs.c.pipeline == sa.bindparam("pipeline"))
    .order_by(schema.runs.c.created.desc())
    .limit(RUNS)
)
_OF_RUNS = schema.attempts.c.run.in_(sa.bindparam("runs", expanding=True))
_COUNTED = sa.select(schema.attempts.c.run, sa.func.count()).where(_OF_RUNS).group_by(schema.attempts.c.run)
_SOLVED = (
    sa.select(*(schema.attempts.c[name] for name in ("stage", "key", "rows_in", "seconds")))
    .where(schema.attempts.c.outcome.in_(SOLVED))
    .order_by(schema.attempts.c.run.desc(), schema.attempts.c.id.desc())
)
_SOLVED_OF_RUNS = _SOLVED.where(_OF_RUNS)


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
    newest = connection.execute(_NEWEST, {"pipeline": pipeline})
    seconds = {number: took or 0.0 for number, took in newest}
    numbers = list(seconds)
    limit = min(limit, max(FEWEST, int(A_SECOND * max(seconds.values(), default=0.0))))
    if not numbers:
        return []
    counted: dict[int, int] = dict(connection.execute(_COUNTED, {"runs": numbers}).all())
    whole, left = [], limit
    part: Sequence[sa.Row[Any]] = ()
    for run in numbers:
        attempts = counted.get(run, 0)
        if attempts > left:
            if left:
                query = _SOLVED.where(schema.attempts.c.run == run)
                part = sample(connection, query, attempts, left)
            break
        whole.append(run)
        left -= attempts
    return [*connection.execute(_SOLVED_OF_RUNS, {"runs": whole}), *part]
