"""How long tasks take, by what was measured in this run. Values in, values out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from batchrun.waiting import Waiting

__all__ = ["Timing"]

MEASURED = 9
"""The pace of a leg is the median of so many tasks, so that one slow start does not hide it."""


@dataclass
class Timing:
    """How long the latest tasks of a leg took."""

    tasks: deque[float] = field(default_factory=lambda: deque(maxlen=MEASURED))
    chunks: deque[float] = field(default_factory=lambda: deque(maxlen=MEASURED))
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=MEASURED))
    task: float | None = None
    """Seconds of a task; None before the first."""
    chunk: float | None = None
    """Seconds of a chunk."""
    cost: float = 0.0
    """What stood for its time beforehand."""

    def add(self, seconds: float, chunks: int, cost: float) -> None:
        """A task of so many chunks took so long; *cost* is that of all of them together."""
        self.tasks.append(seconds)
        self.chunks.append(seconds / chunks)
        self.costs.append(cost / chunks)
        self.task, self.chunk, self.cost = median(self.tasks), median(self.chunks), median(self.costs)

    def expect(self, item: Waiting) -> float | None:
        """Seconds that a chunk will take; None if nothing is known."""
        if self.chunk is None:
            return item.seconds
        more = item.cost / self.cost if self.cost else 1.0
        return self.chunk * (max(1.0, more) if item.seconds is None else more)
