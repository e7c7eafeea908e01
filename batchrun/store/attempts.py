"""Reading the attempts of one run: as a table, as figures, and what is left to know of them on a resume."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from batchrun.outcome import Cause, Incumbent, Outcome, relative_gap
from batchrun.store import schema
from batchrun.store.records import StageFigures, WorkerTime

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SOLVED", "figures", "frame", "incumbents", "sample", "tries"]

Kind = TypeVar("Kind", Outcome, Cause)

AT_A_TIME = 20_000
"""Rows that are Python objects at a time."""
SAMPLE = 20_000
"""Attempts of which a median is taken, about."""

_KEPT_OUT = ("id", "run", "key", "incumbents")
SOLVED = [outcome.value for outcome in Outcome if outcome.solved]
"""The outcomes of attempts with a result, as they are recorded."""


def frame(
    connection: sa.Connection,
    run_id: str,
    chunks: Sequence[int] | None,
    unsolved: bool,
    latest: int | None = None,
) -> pd.DataFrame:
    """One row an attempt, in the order in which they were recorded; see RunStore.attempts.

    Most attempts have nothing to tell but their figures. Those that do are read again for the rest.
    """
    import pandas as pd

    table = schema.attempts
    columns = [column for column in table.c if column.name not in _KEPT_OUT]
    plain = [column for column in columns if not column.nullable or column.name == "peak_memory"]
    story = [column for column in columns if column not in plain]
    these = [schema.of_run(table, run_id)]
    if chunks is not None:
        these.append(table.c.chunk.in_(list(chunks)))
    if unsolved:
        these += [table.c.outcome != schema.succeeded, table.c.outcome.not_in(SOLVED)]
    if latest is not None:
        newest = sa.select(table.c.id).where(*these).order_by(table.c.id.desc()).limit(latest).subquery()
        first = connection.execute(sa.select(sa.func.min(newest.c.id))).scalar()
        these.append(table.c.id >= (first or 0))
    found = _read(connection, [table.c.id, *plain], these)
    told = _read(connection, [table.c.id, *story], [*these, sa.or_(*(c.is_not(None) for c in story))])
    told = told.set_index("id").reindex(found["id"]).reset_index(drop=True)
    whole = pd.concat([found.drop(columns="id"), told], axis=1)[[column.name for column in columns]]
    for name in ("decision", "next_step"):
        whole[name] = whole[name].fillna("")
    whole["gap"] = float("nan")
    known = whole["objective"].notna() & whole["bound"].notna()
    pairs = zip(whole.loc[known, "objective"], whole.loc[known, "bound"], strict=True)
    whole.loc[known, "gap"] = [relative_gap(objective, bound) for objective, bound in pairs]
    return whole


def incumbents(connection: sa.Connection, run_id: str, chunk: int | None) -> pd.DataFrame:
    """One row an answer that an attempt published."""
    import pandas as pd

    table = schema.attempts
    query = (
        sa.select(table.c.chunk, table.c.stage, table.c.attempt, table.c.incumbents)
        .where(schema.of_run(table, run_id), table.c.incumbents.is_not(None))
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


def tries(connection: sa.Connection, run_id: str) -> dict[tuple[int, str], int]:
    """How often each chunk without a result was tried at each stage so far."""
    table, chunks = schema.attempts, schema.chunks
    solved = sa.exists().where(
        chunks.c.run == table.c.run, chunks.c.chunk == table.c.chunk, chunks.c.outcome.in_(SOLVED)
    )
    query = (
        sa.select(table.c.chunk, table.c.stage, sa.func.max(table.c.attempt))
        .where(schema.of_run(table, run_id), ~solved)
        .group_by(table.c.chunk, table.c.stage)
    )
    return {(chunk, stage): number for chunk, stage, number in connection.execute(query)}


def figures(connection: sa.Connection, run_id: str) -> tuple[StageFigures, ...]:
    """What each stage took, in the order of their first attempts."""
    table = schema.attempts
    total, most = sa.func.sum, sa.func.max
    query = (
        sa.select(
            table.c.stage,
            table.c.outcome,
            table.c.cause,
            table.c.worker,
            sa.func.count().label("attempts"),
            sa.func.count(table.c.peak_memory).label("measured"),
            total(table.c.seconds).label("seconds"),
            most(table.c.seconds).label("longest"),
            most(table.c.peak_memory).label("peak"),
            total(table.c.rows_in).label("rows_in"),
            total(table.c.rows_out).label("rows_out"),
            sa.func.min(table.c.started).label("began"),
            most(table.c.started + table.c.seconds).label("ended"),
            sa.func.min(table.c.id).label("first"),
        )
        .where(schema.of_run(table, run_id))
        .group_by(table.c.stage, table.c.outcome, table.c.cause, table.c.worker)
        .order_by("first")
    )
    groups: dict[str, list[sa.Row[Any]]] = {}
    for row in connection.execute(query):
        groups.setdefault(row.stage, []).append(row)
    return tuple(_figures_of(connection, run_id, stage, rows) for stage, rows in groups.items())


def throughput(
    connection: sa.Connection, run_id: str, since: float, width: float
) -> list[tuple[int, int, int]]:
    """Chunks and rows settled over time; see RunStore.throughput."""
    attempts, chunks = schema.attempts, schema.chunks
    number = schema.number_of(run_id)
    ended = sa.func.max(attempts.c.started + attempts.c.seconds).label("ended")
    ends = (
        sa.select(attempts.c.chunk, ended)
        .where(attempts.c.run == number, attempts.c.started >= since)
        .group_by(attempts.c.chunk)
        .subquery()
    )
    # Not every SQLite has floor; a chunk on the line between two bins may go to either.
    rounded = sa.func.round((ends.c.ended - since) / width - 0.5)
    place = sa.cast(rounded, sa.BigInteger).label("place")
    query = (
        sa.select(place, sa.func.count(), sa.func.sum(chunks.c.rows))
        .join(chunks, sa.and_(chunks.c.run == number, chunks.c.chunk == ends.c.chunk))
        .select_from(ends)
        .group_by(place)
        .order_by(place)
    )
    return [(int(place), count, int(rows)) for place, count, rows in connection.execute(query)]


def sample(
    connection: sa.Connection, query: sa.Select[Any], attempts: int, most: int
) -> Sequence[sa.Row[Any]]:
    """What a query of so many attempts gives of *most* of them, about: of those of every so many-th chunk."""
    step = -(-attempts // most)
    if step > 1:
        rows = connection.execute(query.where(schema.attempts.c.chunk % step == 0)).all()
        if rows:
            return rows
    return connection.execute(query.limit(most)).all()


def _figures_of(
    connection: sa.Connection, run_id: str, stage: str, rows: Sequence[sa.Row[Any]]
) -> StageFigures:
    """One stage, from its attempts by outcome, cause and worker."""
    attempts = sum(row.attempts for row in rows)
    solved = [row for row in rows if row.outcome in SOLVED]
    table = schema.attempts
    seen = sa.select(table.c.seconds, table.c.peak_memory).where(
        schema.of_run(table, run_id), table.c.stage == stage
    )
    seconds, peaks = zip(*sample(connection, seen, attempts, SAMPLE), strict=True)
    measured = [peak for peak in peaks if peak is not None]
    return StageFigures(
        stage=stage,
        attempts=attempts,
        failed=attempts - sum(row.attempts for row in solved),
        seconds=sum(row.seconds for row in rows),
        median=statistics.median(seconds),
        longest=max(row.longest for row in rows),
        median_peak=int(statistics.median(measured)) if measured else None,
        peak_memory=max((row.peak for row in rows if row.peak is not None), default=None),
        rows_in=int(sum(row.rows_in for row in solved)),
        rows_out=int(sum(row.rows_out for row in solved)),
        outcomes=_attempts_by((Outcome(row.outcome), row.attempts) for row in rows),
        causes=_attempts_by((Cause(row.cause), row.attempts) for row in rows if row.cause),
        longest_solved=max((row.longest for row in solved), default=0.0),
        measured=sum(row.measured for row in solved),
        by_worker=_by_worker(rows),
    )


def _attempts_by(counted: Iterable[tuple[Kind, int]]) -> dict[Kind, int]:
    numbers: Counter[Kind] = Counter()
    for kind, attempts in counted:
        numbers[kind] += attempts
    return dict(numbers)


def _by_worker(rows: Sequence[sa.Row[Any]]) -> dict[str, WorkerTime]:
    times: dict[str, WorkerTime] = {}
    for row in rows:
        known = times.get(row.worker, WorkerTime(0.0, row.began, row.ended))
        times[row.worker] = WorkerTime(
            known.seconds + row.seconds, min(known.first, row.began), max(known.last, row.ended)
        )
    return times


def _read(
    connection: sa.Connection, columns: Sequence[sa.Column[Any]], where: Sequence[sa.ColumnElement[bool]]
) -> pd.DataFrame:
    """Columns of attempts, in the order in which those were recorded."""
    import pandas as pd
    import pyarrow as pa

    kinds = [
        pa.string()
        if isinstance(column.type, sa.String)
        else pa.float64()
        if isinstance(column.type, sa.Float)
        else pa.int64()
        for column in columns
    ]
    parts: list[list[pa.Array]] = [[] for _ in columns]
    found = connection.execute(sa.select(*columns).where(*where).order_by(schema.attempts.c.id))
    for rows in found.partitions(AT_A_TIME):
        for part, kind, values in zip(parts, kinds, zip(*rows, strict=True), strict=True):
            part.append(pa.array(values, kind))
    series: dict[str, Any] = {}
    for column, kind, part in zip(columns, kinds, parts, strict=True):
        whole = pa.chunked_array(part, kind)
        nullable = column.nullable and kind == pa.int64()
        series[column.name] = whole.to_pandas(types_mapper={kind: pd.Int64Dtype()}.get if nullable else None)
    return pd.DataFrame(series)
