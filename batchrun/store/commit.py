"""Writing many records at once: columns and tuples go to the driver of the database as they are.

A commit holds thousands of rows; a dictionary for each, checked column by column, would cost several times
what the database does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.outcome import Attempt, Outcome, SolvedAttempts
from batchrun.store import schema
from batchrun.store.rows import finite, storable

if TYPE_CHECKING:
    from batchrun.data.refs import ResultRefs
    from batchrun.outcome import Floats
    from batchrun.store.records import SettledChunks

__all__ = ["insert_attempts", "insert_into", "insert_logs", "insert_solved", "upsert_chunks"]

_ALWAYS = (
    "run",
    "chunk",
    "stage",
    "attempt",
    "worker",
    "outcome",
    "started",
    "seconds",
    "rows_in",
    "rows_out",
)
_MEASURED = (*_ALWAYS, "key", "peak_memory")
_STORY = (
    "error_type",
    "error",
    "traceback",
    "signature",
    "cause",
    "decision",
    "next_step",
    "objective",
    "bound",
    "incumbents",
)

_ARRAYS = {int: "bigint[]", float: "double precision[]", str: "text[]"}
"""What PostgreSQL calls columns of values of a kind."""


def insert_attempts(connection: sa.Connection, run: int, attempts: Sequence[Attempt]) -> None:
    """Record attempts without their logs; columns that would be empty for all of them are left out."""
    if not attempts:
        return
    rows: list[tuple[Any, ...]] = [_measured(run, attempt) for attempt in attempts]
    columns: tuple[str, ...] = _MEASURED
    if any(_has_story(attempt) for attempt in attempts):
        columns += _STORY
        rows = [row + _story(attempt) for row, attempt in zip(rows, attempts, strict=True)]
    connection.exec_driver_sql(insert_into(connection, schema.attempts, columns), rows)


def insert_solved(connection: sa.Connection, run: int, solved: SolvedAttempts) -> None:
    """Record attempts in which nothing happened but success."""
    number = len(solved)
    if not number:
        return
    values: tuple[list[Any], ...] = (
        [run] * number,
        solved.chunks.tolist(),
        [solved.stage] * number,
        solved.attempts.tolist(),
        [solved.worker] * number,
        [Outcome.SUCCEEDED.value] * number,
        solved.started.tolist(),
        solved.seconds.tolist(),
        solved.rows_in.tolist(),
        solved.rows_out.tolist(),
    )
    columns = dict(zip(_ALWAYS, values, strict=True))
    if solved.keys is not None:
        columns["key"] = [key or None for key in solved.keys.tolist()]
    _insert_columns(connection, schema.attempts, columns)


def insert_logs(connection: sa.Connection, run: int, attempts: Iterable[Attempt]) -> None:
    """Record the logs of those attempts that have one."""
    rows = [
        (run, attempt.chunk, attempt.stage, attempt.attempt, storable(attempt.log))
        for attempt in attempts
        if attempt.log
    ]
    if rows:
        columns = ("run", "chunk", "stage", "attempt", "text")
        connection.exec_driver_sql(insert_into(connection, schema.logs, columns), rows)


def upsert_chunks(connection: sa.Connection, run: int, settled: SettledChunks) -> None:
    """Record settled chunks, each in place of what was recorded of it before."""
    if not len(settled):
        return
    results = settled.results
    columns: dict[str, list[Any]] = {
        "run": [run] * len(settled),
        "chunk": settled.chunks.tolist(),
        "outcome": [outcome.value for outcome in settled.outcomes],
        "rows": settled.rows.tolist(),
        "rows_out": settled.rows_out.tolist(),
        "seconds": settled.seconds.tolist(),
    }
    if results.known.any():
        numbers = _insert_files(connection, run, results)
        columns["file"] = [numbers.get(file) for file in results.files.tolist()]
        columns["first_batch"] = results.first_batches.tolist()
        columns["batches"] = results.batches.tolist()
        columns["first_row"] = results.first_rows.tolist()
        columns["nbytes"] = results.nbytes.tolist()
    for name, numbers_of in (("objective", settled.objectives), ("bound", settled.bounds)):
        told = _finite(numbers_of)
        if told is not None:
            columns[name] = told
    keys = ("run", "chunk")
    rest = [column.name for column in schema.chunks.c if column.name not in keys]
    change = ", ".join(f"{name} = excluded.{name}" for name in rest)
    replacing = f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {change}"
    _insert_columns(connection, schema.chunks, columns, replacing)


def _insert_files(connection: sa.Connection, run: int, results: ResultRefs) -> dict[int, int]:
    """Record the files that hold results; their numbers by their positions."""
    import numpy as np

    used = np.unique(results.files[results.known]).tolist()
    statement = schema.files.insert().returning(schema.files.c.number, sort_by_parameter_order=True)
    rows = [{"run": run, "path": results.paths[file]} for file in used]
    return dict(zip(used, connection.execute(statement, rows).scalars(), strict=True))


def _insert_columns(
    connection: sa.Connection, table: sa.Table, columns: dict[str, list[Any]], ending: str = ""
) -> None:
    """Insert rows that are at hand as columns, of values that are short."""
    if connection.dialect.name != "postgresql":
        rows = list(zip(*columns.values(), strict=True))
        connection.exec_driver_sql(f"{insert_into(connection, table, list(columns))} {ending}", rows)
        return
    # One statement with an array for each column; COPY could not replace rows.
    arrays = ", ".join(f"%s::{_ARRAYS[table.c[name].type.python_type]}" for name in columns)
    insert = f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM unnest({arrays})"  # noqa: S608
    connection.exec_driver_sql(f"{insert} {ending}", tuple(columns.values()))


def insert_into(connection: sa.Connection, table: sa.Table, columns: Sequence[str]) -> str:
    """A statement that inserts rows as the driver of the database takes them."""
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    return f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))})"  # noqa: S608


def _measured(run: int, attempt: Attempt) -> tuple[Any, ...]:
    return (
        run,
        attempt.chunk,
        attempt.stage,
        attempt.attempt,
        attempt.worker,
        attempt.outcome.value,
        attempt.started,
        attempt.seconds,
        attempt.rows_in,
        attempt.rows_out,
        attempt.key or None,
        attempt.peak_memory,
    )


def _has_story(attempt: Attempt) -> bool:
    return bool(attempt.error or attempt.cause or attempt.decision or attempt.next_step or attempt.incumbents)


def _story(attempt: Attempt) -> tuple[Any, ...]:
    """Why an attempt ended, what came of it, and which answers it found on the way."""
    error, best = attempt.error, attempt.best
    points = [[point.seconds, finite(point.objective), finite(point.bound)] for point in attempt.incumbents]
    return (
        _fitting(error.type, schema.attempts.c.error_type) if error else None,
        storable(error.message) if error else None,
        storable(error.traceback) if error else None,
        _fitting(error.signature, schema.attempts.c.signature) if error else None,
        attempt.cause.value if attempt.cause else None,
        attempt.decision or None,
        storable(attempt.next_step) or None,
        finite(best.objective) if best else None,
        finite(best.bound) if best else None,
        json.dumps(points) if points else None,
    )


def _fitting(text: str, column: sa.Column[Any]) -> str:
    """As much of a text as the column holds; PostgreSQL takes no more."""
    text, most = storable(text), column.type.length  # type: ignore[attr-defined]
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _finite(numbers: Floats) -> list[float | None] | None:
    """The numbers as every database holds them; None if none of them is known."""
    import numpy as np

    if not np.isfinite(numbers).any():
        return None
    return [number if math.isfinite(number) else None for number in numbers.tolist()]
