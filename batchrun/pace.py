"""How long the tasks of a leg take, by those that ended. Values in, values out.

What usually happens, and what happens on average, are far apart where durations have a heavy tail: of solves
that mostly take a tenth of a second, a few of a minute are all of the work. Where a forecast tells chunks
apart, the usual ratio to it is what counts. Where nothing does, what is to wait goes by the average, and by
how many were short before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from statistics import median

from batchrun.waiting import Waiting

__all__ = ["LegPace"]

USUAL = 9
"""What is usual is the median of so many tasks, so that one slow start does not hide it."""
REMEMBERED = 64
"""What is average is that of so many tasks."""


@dataclass(frozen=True, slots=True)
class _Took:
    """How long a task took."""

    seconds: float
    chunks: int
    cost: float
    """What stood for that time beforehand."""
    long: bool
    """Whether nothing should have had to wait for it."""


@dataclass
class LegPace:
    """How long the latest tasks of a leg took."""

    task: float | None = None
    """Seconds of a task, on average; None before the first."""
    chunk: float = 0.0
    """Seconds of a chunk, on average."""
    usual: float = 0.0
    """Seconds of a chunk, usually."""
    cost: float = 0.0
    """What stood for the time of a chunk beforehand, usually."""
    trust: int = 0
    """One in so many chunks may be a long one: the chunks by the long tasks among them, and one more."""
    _latest: deque[_Took] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def add(self, seconds: float, chunks: int, cost: float, *, long: bool) -> None:
        """A task of so many chunks took so long.

        Args:
            seconds: Of all its chunks together.
            chunks: How many.
            cost: That of the chunks together.
            long: Whether nothing should have had to wait for it.
        """
        latest = self._latest
        latest.append(_Took(seconds, chunks, cost, long))
        together, number = sum(took.seconds for took in latest), sum(took.chunks for took in latest)
        self.task, self.chunk = together / len(latest), together / number
        self.trust = number // (1 + sum(took.long for took in latest))
        last = list(islice(reversed(latest), USUAL))
        self.usual = median(took.seconds / took.chunks for took in last)
        self.cost = median(took.cost / took.chunks for took in last)

    def expect(self, item: Waiting, *, usual: bool = False) -> float | None:
        """Seconds that a chunk will take; None if nothing is known. Without a forecast those of an average
        one, or of a *usual* one."""
        if self.task is None:
            return item.seconds
        more = item.cost / self.cost if self.cost else 1.0
        if item.seconds is not None:
            return self.usual * more
        return (self.usual if usual else self.chunk) * max(1.0, more)
