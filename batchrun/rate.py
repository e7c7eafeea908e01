"""How fast rows are settled, and when the last one will be. Values in, values out; nothing reads a clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["RowRate"]

SAMPLE_EVERY = 0.2
"""Seconds between two points of the row count that are kept for the rate."""
SHORTEST_WINDOW = 5.0
"""Seconds; the rate is never taken over less, unless the session is younger."""


@dataclass
class RowRate:
    """The rate of a session of a run.

    >>> rate = RowRate(began=0.0)
    >>> rate.settle(2.0, 25)
    >>> rate.per_second(2.0), rate.seconds_left(2.0, rows=100)
    (12.5, 6.0)
    """

    began: float = 0.0
    """When the session began, in seconds since the epoch."""
    before: int = 0
    """Rows that were settled by then."""
    settled: int = 0
    """Rows that are settled now, those included."""
    settled_at: float = field(init=False)
    """When rows were settled last; when the session began if none were."""
    _samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=4_000))

    def __post_init__(self) -> None:
        self.settled_at = self.began

    def settle(self, at: float, settled: int) -> None:
        """Since that moment so many rows are settled, in all."""
        self.settled, self.settled_at = settled, at
        if not self._samples or at - self._samples[-1][0] >= SAMPLE_EVERY:
            if len(self._samples) == self._samples.maxlen:
                # Half the points are enough for the past; a run may take days.
                self._samples = deque(list(self._samples)[::2], maxlen=self._samples.maxlen)
            self._samples.append((at, settled))

    def per_second(self, now: float) -> float:
        """Rows settled a second over the later half of the session; 0 before the first.

        The first chunks are often small probes, so that a mean from the start would stay low for long. Where
        no row was settled in the later half, it is the mean from the start all the same.
        """
        elapsed = max(now - self.began, 1e-9)
        begin = now - max(elapsed / 2, min(SHORTEST_WINDOW, elapsed))
        rows_then, then = self.before, self.began
        if self.settled_at <= begin:
            begin = then
        for at, rows in self._samples:
            if at > begin:
                break
            rows_then, then = rows, at
        return max(0.0, (self.settled - rows_then) / max(now - then, 1e-9))

    def seconds_left(self, now: float, rows: int) -> float | None:
        """Seconds until the last of so many rows; None while there is no rate, and 0 when it takes longer
        than estimated.

        The estimate is made whenever rows were settled, at the rate of that moment, and counts down between.
        """
        rate = self.per_second(self.settled_at)
        left = max(0, rows - self.settled)
        return max(0.0, left / rate - (now - self.settled_at)) if rate > 0 else None
