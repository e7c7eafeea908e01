"""Runs, attempts and chunks to be recorded, and what writes runs as their drivers do."""

from __future__ import annotations

import numpy as np

from batchrun import Outcome, RunState
from batchrun.data.refs import ResultRefs
from batchrun.outcome import Attempt, ErrorRecord, SolvedAttempts
from batchrun.store.records import SettledChunks
from batchrun.store.runs import RunRecord, RunStore
from batchrun.store.writer import RunWriter

__all__ = ["NONE", "attempt", "pack", "packed", "record", "writer"]

NONE = SettledChunks.empty()


def writer(store: RunStore, run_id: str) -> RunWriter:
    """What may write the run, beside whoever writes it already."""
    return RunWriter(store._database, run_id, store.find(run_id).fence)


def record(run_id: str = "delays-1", created: float = 1.0, **values) -> RunRecord:
    """A run of the pipeline `delays`."""
    return RunRecord(run_id, "delays", None, RunState.RUNNING, created, "by_rows(3)", "/runs", 100, **values)


def attempt(chunk: int, outcome: Outcome = Outcome.SUCCEEDED, error: ErrorRecord | None = None) -> Attempt:
    """One try of a chunk of three rows."""
    return Attempt(chunk, "stage", 1, "standard-0", outcome, 5.0, 0.25, rows_in=3, rows_out=2, error=error)


def pack(first: int, chunks: int, seconds: float = 0.25, keys: bool = False) -> SolvedAttempts:
    """Attempts that went well, as columns."""
    numbers = np.arange(first, first + chunks)
    one = np.ones(chunks, np.int64)
    return SolvedAttempts(
        "stage",
        "standard-0",
        numbers,
        one,
        5.0 + numbers,
        one * seconds,
        3 * one,
        2 * one,
        numbers + 1000 if keys else None,
    )


def packed(first: int, chunks: int, path: str = "/runs/0.arrow") -> SettledChunks:
    """Chunks that went well, whose results lie in one file."""
    one = np.ones(chunks, np.int64)
    settled = SettledChunks.succeeded(np.arange(first, first + chunks), 3 * one, 2 * one, one * 0.25)
    places = ResultRefs.of_pack(path, 2 * one, 16 * chunks, first_batch=0, batches=1)
    return settled.placed(settled.chunks, places)
