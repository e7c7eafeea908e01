"""What is told of a run when it changes: never an event for each chunk, since there may be a million."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchrun.outcome import Attempt, ErrorRecord, Outcome, RunState
from batchrun.store.event_record import EventKind, News

if TYPE_CHECKING:
    from batchrun.store.records import SettledChunks

__all__ = ["MOST", "ROWS", "chunk_cut", "end_of", "news_of_commit", "run_stopping"]

MOST = 100
"""Events of single chunks, of each kind, that one commit tells; the rest are counted."""
SHORT = 200
"""Characters of an error that are told."""
ROWS = ("rows_in", "rows_solved", "rows_quarantined", "rows_cancelled")
"""Columns of a run that account for its rows."""


def news_of_commit(
    attempts: Sequence[Attempt], settled: SettledChunks, planned: int | None, news: Sequence[News] = ()
) -> list[News]:
    """What a commit of attempts and settled chunks tells.

    Args:
        attempts: The attempts, those that went well among them.
        settled: The chunks that are settled.
        planned: How many chunks are planned now; None if no more are than before.
        news: What else happened since the last commit.
    """
    told = [] if planned is None else [News(EventKind.CHUNKS_PLANNED, {"chunks": planned})]
    told += _some([*map(_chunk_failed, filter(_is_failure, attempts)), *news])
    if len(settled):
        told.append(News(EventKind.CHUNKS_SETTLED, _by_outcome(settled)))
    return told


def end_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a run at its end, from fields of its record."""
    error = record.get("error")
    if isinstance(error, Mapping):  # as the tables hold it
        error = ErrorRecord(error["type"], error["message"])
    return {
        "state": RunState(record["state"]).value,
        **{name: record[name] for name in ROWS},
        "error": _in_short(error) if error else None,
    }


def chunk_cut(chunk: int, parts: Sequence[int], rows: Sequence[int]) -> News:
    """A chunk was cut into *parts* with so many *rows* each."""
    return News(EventKind.CHUNK_CUT, {"parts": list(parts), "rows": list(rows)}, chunk=chunk)


def run_stopping(running: int) -> News:
    """A run starts nothing new; so many chunks run and may still end."""
    return News(EventKind.RUN_STOPPING, {"running": running})


def _is_failure(attempt: Attempt) -> bool:
    return not attempt.outcome.solved and attempt.outcome is not Outcome.CANCELLED


def _chunk_failed(attempt: Attempt) -> News:
    data = {
        "stage": attempt.stage,
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "outcome": attempt.outcome.value,
        "decision": attempt.decision,
    }
    if attempt.error:
        data["error"] = _in_short(attempt.error)
    return News(EventKind.CHUNK_FAILED, data, chunk=attempt.chunk)


def _in_short(error: ErrorRecord) -> str:
    """The first line of an error, or the beginning of it."""
    line = next(iter(str(error).splitlines()), "")
    return line if len(line) <= SHORT else f"{line[: SHORT - 1]}…"


def _some(news: Sequence[News]) -> Iterator[News]:
    """The first of each kind, then how many there are beside them."""
    counts: Counter[EventKind] = Counter()
    for one in news:
        counts[one.kind] += 1
        if counts[one.kind] <= MOST:
            yield one
    for kind, number in counts.items():
        if number > MOST:
            yield News(kind, {"more": number - MOST})


def _by_outcome(settled: SettledChunks) -> dict[str, Any]:
    """How many chunks and rows there are of each outcome."""
    counts: dict[Outcome, int] = {}
    for outcome in Outcome:  # the first one nearly always accounts for all
        if number := settled.outcomes.count(outcome):
            counts[outcome] = number
        if sum(counts.values()) == len(settled):
            break
    rows = dict.fromkeys(counts, 0)
    if len(counts) == 1:
        rows = dict.fromkeys(counts, int(settled.rows.sum()))
    else:
        for outcome, number in zip(settled.outcomes, settled.rows.tolist(), strict=True):
            rows[outcome] += number
    return {
        "chunks": {outcome.value: number for outcome, number in counts.items()},
        "rows": {outcome.value: number for outcome, number in rows.items()},
    }
