"""Records to rows of the tables, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from batchrun.outcome import Attempt, ErrorRecord, Outcome, RunState
from batchrun.store.records import RunRecord, SettledChunk

__all__ = [
    "attempt_rows",
    "chunk_rows",
    "finite",
    "log_rows",
    "run_from_row",
    "run_row",
    "settled_from_row",
    "storable",
]


def finite(number: float | None) -> float | None:
    """The number as JSON and every database hold it; one that is infinite or none at all is not known.

    >>> finite(2), finite(float("-inf")), finite(None)
    (2.0, None, None)
    """
    return float(number) if number is not None and math.isfinite(number) else None


def storable(text: str) -> str:
    r"""The text without what a database refuses: zero bytes and halves of surrogate pairs.

    >>> storable("5 \N{EURO SIGN}"), storable("a\0b \udc80")
    ('5 €', 'a\ufffdb ?')
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def run_row(record: RunRecord) -> dict[str, Any]:
    """The row of a run."""
    row = {item.name: getattr(record, item.name) for item in fields(record)}
    row["state"] = record.state.value
    row["error"] = asdict(record.error) if record.error else None
    json.dumps(row["params"])
    return row


def run_from_row(row: Any) -> RunRecord:
    """The run that a row records."""
    values = dict(row._mapping)
    error = values.pop("error")
    record = RunRecord(**{**values, "state": RunState(values["state"])})
    if error:
        record = replace(record, error=ErrorRecord(**{**error, "classes": tuple(error["classes"])}))
    return record


def attempt_rows(run_id: str, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """The rows of attempts, without their logs.

    Where all of them ended well and published nothing, as most do, columns that would be empty are left out:
    that makes writing them a third cheaper.
    """
    rows = [_attempt_row(run_id, attempt) for attempt in attempts]
    if any(_has_story(attempt) for attempt in attempts):
        for row, attempt in zip(rows, attempts, strict=True):
            row.update(_story(attempt))
    return rows


def _has_story(attempt: Attempt) -> bool:
    return bool(attempt.cause or attempt.decision or attempt.next_step or attempt.incumbents)


def _story(attempt: Attempt) -> dict[str, Any]:
    """The columns of why an attempt ended, what came of it, and which answers it found on the way."""
    best = attempt.best
    points = [[point.seconds, finite(point.objective), finite(point.bound)] for point in attempt.incumbents]
    return {
        "cause": attempt.cause.value if attempt.cause else None,
        "decision": attempt.decision or None,
        "next_step": storable(attempt.next_step) or None,
        "objective": finite(best.objective) if best else None,
        "bound": finite(best.bound) if best else None,
        "incumbents": points or None,
    }


def _attempt_row(run_id: str, attempt: Attempt) -> dict[str, Any]:
    error = attempt.error
    return {
        "run_id": run_id,
        "chunk": attempt.chunk,
        "stage": attempt.stage,
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "outcome": attempt.outcome.value,
        "started": attempt.started,
        "seconds": attempt.seconds,
        "rows_in": attempt.rows_in,
        "rows_out": attempt.rows_out,
        "peak_memory": attempt.peak_memory,
        "error_type": error.type if error else None,
        "error": storable(error.message) if error else None,
        "traceback": storable(error.traceback) if error else None,
        "signature": error.signature if error else None,
    }


def log_rows(run_id: str, attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    """The rows of the logs of those attempts that have one."""
    return [
        {
            "run_id": run_id,
            "chunk": attempt.chunk,
            "stage": attempt.stage,
            "attempt": attempt.attempt,
            "text": storable(attempt.log),
        }
        for attempt in attempts
        if attempt.log
    ]


def chunk_rows(run_id: str, chunks: Sequence[SettledChunk]) -> list[dict[str, Any]]:
    """The rows of settled chunks; columns that would be empty for all of them are left out."""
    rows = [_chunk_row(run_id, chunk) for chunk in chunks]
    if any(chunk.objective is not None or chunk.bound is not None for chunk in chunks):
        for row, chunk in zip(rows, chunks, strict=True):
            row.update(objective=finite(chunk.objective), bound=finite(chunk.bound))
    return rows


def _chunk_row(run_id: str, chunk: SettledChunk) -> dict[str, Any]:
    result = chunk.result
    return {
        "run_id": run_id,
        "chunk": chunk.chunk,
        "outcome": chunk.outcome.value,
        "rows": chunk.rows,
        "rows_out": chunk.rows_out,
        "seconds": chunk.seconds,
        "path": result.path if result else None,
        "first_batch": result.first_batch if result else None,
        "batches": result.batches if result else None,
        "nbytes": result.nbytes if result else None,
    }


def settled_from_row(row: Any) -> SettledChunk:
    """The settled chunk that a row records."""
    from batchrun.data.results import ResultRef

    outcome = Outcome(row.outcome)
    result = None
    if row.path is not None:
        # A chunk that was given up has no result; what lies there are the rows that it was given.
        rows = row.rows_out if outcome.solved else row.rows
        result = ResultRef(row.path, row.first_batch, row.batches, rows, row.nbytes)
    return SettledChunk(
        row.chunk, outcome, row.rows, row.rows_out, row.seconds, result, row.objective, row.bound
    )
