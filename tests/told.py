"""Events as observers are told them, for tests that tell of one chunk at a time."""

from __future__ import annotations

import numpy as np

from batchrun.events import ChunksRecalled, ChunksSettled
from batchrun.outcome import Outcome, SolvedAttempts


def chunk_settled(
    run_id: str,
    at: float,
    chunk: int,
    outcome: Outcome,
    rows: int,
    seconds: float = 1.0,
    gap: float | None = None,
) -> ChunksSettled:
    """One chunk has its outcome; each input row gives a row of the result."""
    return ChunksSettled(
        run_id,
        at,
        np.array([chunk]),
        (outcome,),
        np.array([rows]),
        np.array([rows if outcome.solved else 0]),
        np.array([seconds]),
        np.array([np.nan if gap is None else gap]),
    )


def chunks_recalled(run_id: str, at: float, **rows_by_outcome: dict[int, int]) -> ChunksRecalled:
    """Earlier sessions settled chunks: their rows by number, under the name of the outcome."""
    listed = [
        (chunk, Outcome(outcome), rows)
        for outcome, chunks in rows_by_outcome.items()
        for chunk, rows in chunks.items()
    ]
    chunks, outcomes, rows = zip(*listed, strict=True)
    return ChunksRecalled(run_id, at, np.array(chunks), outcomes, np.array(rows))


def solved_attempts(chunks: range, stage: str = "solve", worker: str = "w-0") -> SolvedAttempts:
    """A pack of chunks of ten rows went well at a stage."""
    numbers, each = np.array(chunks), np.full(len(chunks), 10)
    started, seconds = np.full(len(chunks), 100.0), np.full(len(chunks), 0.001)
    return SolvedAttempts(stage, worker, numbers, np.ones_like(numbers), started, seconds, each, each)
