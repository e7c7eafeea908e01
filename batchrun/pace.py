"""How long the tasks of a leg take, by those that ended. Values in, values out.

What usually happens, and what happens on average, are far apart where durations have a heavy tail: of solves
that mostly take a tenth of a second, a few of a minute are all of the work. Where a forecast tells chunks
apart, the usual ratio to it is what counts. Where nothing does, what is to wait goes by the average, and by
how many were short before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from batchrun.waiting import Waiting

__all__ = ["LegPace"]

USUAL = 9
"""What is usual is the median of so many tasks, so that one slow start does not hide it."""
REMEMBERED = 64
"""What is average is that of so many tasks."""


Took = tuple[int, int, bool]
"""Of a task: its nanoseconds, its chunks, and whether nothing should have had to wait for it. Whole
nanoseconds can be added and taken away for ever without an error that grows."""


@dataclass
class LegPace:
    """How long the latest tasks of a leg took. To add one takes as long however many are remembered."""

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
    _latest: deque[Took] = field(default_factory=deque)
    _nanoseconds: int = 0
    """Of all that are remembered together, as are the next two."""
    _chunks: int = 0
    _long: int = 0
    _seconds_a_chunk: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL))
    """Of the very latest tasks, as is the next one."""
    _cost_a_chunk: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL))

    def add(self, seconds: float, chunks: int, cost: float, *, long: bool) -> None:
        """A task of so many chunks took so long.

        Args:
            seconds: Of all its chunks together.
            chunks: How many.
            cost: That of the chunks together.
            long: Whether nothing should have had to wait for it.
        """
        latest = self._latest
        self._count((round(seconds * 1e9), chunks, long))
        together = self._nanoseconds / 1e9
        self.task, self.chunk = together / len(latest), together / self._chunks
        self.trust = self._chunks // (1 + self._long)
        self._seconds_a_chunk.append(seconds / chunks)
        self._cost_a_chunk.append(cost / chunks)
        self.usual, self.cost = _median(self._seconds_a_chunk), _median(self._cost_a_chunk)

    def _count(self, took: Took) -> None:
        """Remember a task, and forget the oldest one if there are enough."""
        latest = self._latest
        latest.append(took)
        gone = latest.popleft() if len(latest) > REMEMBERED else _NOTHING
        self._nanoseconds += took[0] - gone[0]
        self._chunks += took[1] - gone[1]
        self._long += took[2] - gone[2]

    def expect(self, item: Waiting, *, usual: bool = False) -> float | None:
        """Seconds that a chunk will take; None if nothing is known. Without a forecast those of an average
        one, or of a *usual* one."""
        if self.task is None:
            return item.seconds
        more = item.cost / self.cost if self.cost else 1.0
        if item.seconds is not None:
            return self.usual * more
        return (self.usual if usual else self.chunk) * max(1.0, more)


_NOTHING: Took = (0, 0, False)


def _median(values: Sequence[float]) -> float:
    """As that of ``statistics``, which takes several times as long over so few."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
