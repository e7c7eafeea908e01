"""Reading settled chunks, a million of them as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.outcome import Outcome, relative_gap
from batchrun.store import schema
from batchrun.store.attempts import SOLVED
from batchrun.store.records import SettledChunks

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrun.data.refs import ResultRefs

__all__ = ["count", "settled", "worst_gap"]

AT_A_TIME = 20_000
"""Rows that are Python objects at a time."""
MOST_NAMED = 500
"""Chunks that a query names one by one."""

_OUTCOMES = tuple(Outcome)
_CODES = {outcome.value: code for code, outcome in enumerate(_OUTCOMES)}

_SETTLED = (
    sa.select(
        *(schema.chunks.c[name] for name in ("chunk", "outcome", "rows", "rows_out", "seconds")),
        *(sa.func.coalesce(schema.chunks.c[name], -1) for name in ("file", "first_batch", "batches")),
        *(sa.func.coalesce(schema.chunks.c[name], 0) for name in ("first_row", "nbytes")),
        *(schema.chunks.c[name] for name in ("objective", "bound")),
    )
    .where(schema.of_run(schema.chunks, sa.bindparam("run_id")))
    .order_by(schema.chunks.c.chunk)
)
_HAS_RESULT = schema.chunks.c.outcome.in_(SOLVED)
_ASKED = {None: _SETTLED, True: _SETTLED.where(_HAS_RESULT), False: _SETTLED.where(~_HAS_RESULT)}
"""What is asked for settled chunks, by whether they are to have a result; built once, since it is long."""


def settled(
    connection: sa.Connection, run_id: str, solved: bool | None, chunks: Sequence[int] | None
) -> SettledChunks:
    """Settled chunks of a run, by number; see RunStore.settled."""
    import numpy as np

    from batchrun.data.refs import ResultRefs

    if chunks is not None and len(chunks) > MOST_NAMED:
        every = settled(connection, run_id, solved, None)
        return every.where(np.isin(every.chunks, np.fromiter(chunks, np.int64, len(chunks))))
    query = _ASKED[solved]
    if chunks is not None:
        query = query.where(schema.chunks.c.chunk.in_(list(chunks)))
    found = connection.execute(query, {"run_id": run_id})
    parts = [_columns(listed) for listed in found.partitions(AT_A_TIME)]
    if not parts:
        return SettledChunks.empty()
    number, code, rows, rows_out, seconds, file, *place, objectives, bounds = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    del parts
    outcomes = tuple(map(_OUTCOMES.__getitem__, code.tolist()))
    # A chunk that was given up has no result; what lies there are the rows that it was given.
    first_batches, batches, first_rows, nbytes = place
    held = np.where(np.array([outcome.solved for outcome in _OUTCOMES])[code], rows_out, rows)
    results = ResultRefs((), file, first_batches, batches, first_rows, held, nbytes)
    results = _with_paths(connection, results)
    return SettledChunks(number, outcomes, rows, rows_out, seconds, results, objectives, bounds)


def count(connection: sa.Connection, table: sa.Table, run_id: str) -> dict[Outcome, int]:
    """How many chunks or attempts of a run there are of each outcome that occurs."""
    here = schema.of_run(table, run_id)
    total = connection.execute(sa.select(sa.func.count()).select_from(table).where(here)).scalar_one()
    others = (
        sa.select(table.c.outcome, sa.func.count())
        .where(here, table.c.outcome != schema.succeeded)
        .group_by(table.c.outcome)
    )
    counts = {Outcome(name): number for name, number in connection.execute(others)}
    counts[Outcome.SUCCEEDED] = total - sum(counts.values())
    return {outcome: counts[outcome] for outcome in Outcome if counts.get(outcome)}


def worst_gap(connection: sa.Connection, run_id: str) -> float | None:
    """The largest gap of the chunks that were stopped with a solution; None if none is known."""
    table = schema.chunks
    query = sa.select(table.c.objective, table.c.bound).where(
        schema.of_run(table, run_id),
        table.c.outcome == Outcome.STOPPED_WITH_SOLUTION.value,
    )
    gaps = [relative_gap(objective, bound) for objective, bound in connection.execute(query)]
    return max((gap for gap in gaps if gap is not None), default=None)


def _columns(rows: Sequence[Any]) -> list[npt.NDArray[Any]]:
    """Rows of the query as columns, outcomes as positions in _OUTCOMES."""
    import numpy as np

    number, outcome, *columns, objectives, bounds = zip(*rows, strict=True)
    codes = np.array([_CODES[name] for name in outcome], np.int8)
    types = (np.int64, np.int64, np.float64) + 5 * (np.int64,)
    typed = [np.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    numbers = [np.array(column, np.float64) for column in (objectives, bounds)]
    return [np.array(number, np.int64), codes, *typed, *numbers]


def _with_paths(connection: sa.Connection, results: ResultRefs) -> ResultRefs:
    """The places with the paths of their files, which are numbers of the store yet."""
    import numpy as np

    numbers = results.files[results.known]
    if not len(numbers):
        return results
    files = schema.files
    query = (
        sa.select(files.c.number, files.c.path)
        .where(files.c.number.between(int(numbers.min()), int(numbers.max())))
        .order_by(files.c.number)
    )
    found = connection.execute(query).all()
    order = np.array([row.number for row in found], np.int64)
    positions = np.where(results.known, np.searchsorted(order, results.files), results.files)
    return replace(results, paths=tuple(row.path for row in found), files=positions)
