"""What the attempts of all runs tell: how long they took, how much memory, which answers they found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from batchrun.outcome import Incumbent, Outcome, relative_gap
from batchrun.store import schema

if TYPE_CHECKING:
    import pandas as pd

__all__: list[str] = []

_TAKES_WHAT_IT_TAKES = (Outcome.SUCCEEDED, Outcome.STOPPED_WITH_SOLUTION, Outcome.OUT_OF_MEMORY)
"""An attempt that ended otherwise may have ended before it took all that it needs."""


def attempts(connection: sa.Connection, run_id: str) -> pd.DataFrame:
    """One row an attempt of a run, in the order in which they were recorded."""
    import pandas as pd

    table = schema.attempts
    columns = [column for column in table.c if column.name not in ("id", "run_id", "incumbents")]
    query = sa.select(*columns).where(table.c.run_id == run_id).order_by(table.c.id)
    frame = pd.DataFrame(connection.execute(query).all(), columns=[column.name for column in columns])
    types: dict[str, str] = {"peak_memory": "Int64"}
    for column in columns:
        if isinstance(column.type, sa.String):
            types[column.name] = "str"
        elif isinstance(column.type, sa.Float):
            types[column.name] = "float64"
    frame = frame.astype(types)
    for name in ("decision", "next_step"):
        frame[name] = frame[name].fillna("")
    frame["gap"] = float("nan")
    known = frame["objective"].notna() & frame["bound"].notna()
    pairs = zip(frame.loc[known, "objective"], frame.loc[known, "bound"], strict=True)
    frame.loc[known, "gap"] = [relative_gap(objective, bound) for objective, bound in pairs]
    return frame


def incumbents(connection: sa.Connection, run_id: str, chunk: int | None) -> pd.DataFrame:
    """One row an answer that an attempt published."""
    import pandas as pd

    table = schema.attempts
    query = (
        sa.select(table.c.chunk, table.c.stage, table.c.attempt, table.c.incumbents)
        .where(table.c.run_id == run_id, table.c.incumbents.is_not(None))
        .order_by(table.c.chunk, table.c.id)
    )
    if chunk is not None:
        query = query.where(table.c.chunk == chunk)
    points = [
        (number, stage, attempt, *point, Incumbent(*point).gap)
        for number, stage, attempt, listed in connection.execute(query)
        for point in listed
    ]
    numbers = dict.fromkeys(("seconds", "objective", "bound", "gap"), "float64")
    types = {"chunk": "int64", "stage": "str", "attempt": "int64", **numbers}
    return pd.DataFrame(points, columns=list(types)).astype(types)


def peaks(connection: sa.Connection, pipeline: str, stage: str, limit: int) -> list[tuple[int, int]]:
    """Rows given and most bytes used of the latest attempts, newest first."""
    table = schema.attempts
    query = (
        sa.select(table.c.rows_in, table.c.peak_memory)
        .join(schema.runs, schema.runs.c.run_id == table.c.run_id)
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


def durations(connection: sa.Connection, pipeline: str, stage: str) -> tuple[int, float, float] | None:
    """How many attempts were solved, and their median and longest seconds; None if none was."""
    table = schema.attempts
    solved = [outcome.value for outcome in Outcome if outcome.solved]
    these = (
        sa.select(table.c.seconds)
        .join(schema.runs, schema.runs.c.run_id == table.c.run_id)
        .where(schema.runs.c.pipeline == pipeline, table.c.stage == stage, table.c.outcome.in_(solved))
    )
    found = these.subquery()
    attempts, longest = connection.execute(sa.select(sa.func.count(), sa.func.max(found.c.seconds))).one()
    if not attempts:
        return None
    middle = these.order_by(table.c.seconds).offset((attempts - 1) // 2).limit(2 - attempts % 2)
    nearest = [seconds for (seconds,) in connection.execute(middle)]
    return attempts, sum(nearest) / len(nearest), longest


def last_tries(connection: sa.Connection, run_id: str) -> dict[tuple[int, str], int]:
    """How often each chunk was tried at each stage so far."""
    table = schema.attempts
    query = (
        sa.select(table.c.chunk, table.c.stage, sa.func.max(table.c.attempt))
        .where(table.c.run_id == run_id)
        .group_by(table.c.chunk, table.c.stage)
    )
    return {(chunk, stage): tries for chunk, stage, tries in connection.execute(query)}
