"""How much memory a chunk will need, from what chunks of the same stage used before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from batchrun.definition import Pipeline
from batchrun.resources import Worker, format_bytes
from batchrun.stage import Stage

__all__ = ["MemoryEstimate", "estimate_memory", "fit_memory"]

LEAST = 256 * 2**20
"""Bytes below which no estimate goes: Python, pandas and Arrow alone take more than half of it."""
MARGIN = 1.2
"""An estimate is so many times the peak that the line through earlier peaks gives."""
STEPS = 8
"""Estimates are rounded up to one of so many steps between a power of two and the next, so that chunks of
similar size share a queue."""


@dataclass(frozen=True)
class MemoryEstimate:
    """A line through the peaks of earlier attempts: bytes against rows."""

    base: float
    """Bytes that a chunk needs whatever its rows."""
    per_row: float
    """Bytes that each row adds."""
    seen: int
    """Attempts that the line was drawn through."""
    largest: int
    """The highest peak among them, in bytes."""

    def memory(self, rows: int) -> int:
        """Bytes to ask for, for a chunk of so many rows."""
        need = max(LEAST, MARGIN * (self.base + self.per_row * rows))
        step: int = 2 ** math.floor(math.log2(need)) // STEPS
        return math.ceil(need / step) * step

    def __str__(self) -> str:
        line = f", about {format_bytes(self.base)} and {format_bytes(self.per_row * 1000)} for 1,000 rows"
        grows = line if self.per_row else ""
        attempts = "1 earlier attempt" if self.seen == 1 else f"{self.seen:,} earlier attempts"
        return f"from {attempts}, at most {format_bytes(self.largest)}{grows}"


def estimate_memory(peaks: Sequence[tuple[int, int]]) -> MemoryEstimate | None:
    """The line that no earlier peak lies above: least squares, shifted up to the highest.

    *peaks* has rows and peak bytes of each earlier attempt. None if there is none. Peaks at one number of
    rows give no slope; then larger chunks than were seen before are thought to need as much as those.

    >>> estimate_memory([(1000, 300 * 2**20), (2000, 500 * 2**20)]).memory(4000) >= 900 * 2**20
    True
    """
    if not peaks:
        return None
    rows, used = np.array(peaks, float).T
    slope = 0.0
    if np.ptp(rows) > 0:
        slope = max(0.0, float(np.polyfit(rows, used, 1)[0]))
    base = float((used - slope * rows).max())
    return MemoryEstimate(max(0.0, base), slope, len(peaks), int(used.max()))


def fit_memory(
    pipeline: Pipeline, peaks: Callable[[str], Sequence[tuple[int, int]]], workers: Sequence[Worker]
) -> tuple[Pipeline, dict[str, MemoryEstimate], dict[str, str]]:
    """Give the stages with ``memory="auto"`` a memory, from the *peaks* of a stage in earlier runs.

    A stage that was never seen gets what a thread of the smallest worker has that can run it.

    Returns the pipeline, the estimate of each stage that has one, and for each stage where its memory is
    from, as text.
    """
    stages: list[Stage] = []
    estimates: dict[str, MemoryEstimate] = {}
    reasons: dict[str, str] = {}
    for stage in pipeline.stages:
        if not stage.auto_memory:
            stages.append(stage)
            continue
        able = [worker for worker in workers if worker.can_ever_run(stage.demand)]
        most = max((worker.memory for worker in able), default=LEAST)
        found = estimate_memory(peaks(stage.name))
        if found is not None:
            estimates[stage.name] = found
            memory = min(most, found.memory(0))
            reasons[stage.name] = str(found)
        else:
            memory = min((worker.memory // worker.threads for worker in able), default=LEAST)
            reasons[stage.name] = "what the smallest worker has for a thread, because no earlier run is known"
        stages.append(stage.with_memory(memory))
    if not reasons:
        return pipeline, {}, {}
    return pipeline.with_stages(stages), estimates, reasons
