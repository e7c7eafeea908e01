"""How long each chunk will take, from how long others took. Values in, values out.

Before a run, ``forecast`` gives two columns for all of its chunks, from the attempts of earlier runs that
succeeded: what each is expected to take, and an upper estimate of what it may well take.

- A chunk whose key ran before is expected to take the median of its latest tries: the same rows take about
  the same time, and a median forgives one try on a bad day. The latest few, because functions change.
- Any other chunk is told from its rows, by a curve: attempts are sorted into bins of equal count by rows, and
  the medians of the bins joined. Medians, because durations of solves have heavy tails, through which least
  squares would chase a few huge ones. The curve never falls, since more rows are more work; a dip is chance
  and is levelled out (pool adjacent violators: M. Ayer and others, 1955). It is straight between bins where
  both axes are logarithmic, since sizes and times range over decades. Beyond the bins it goes on with the
  power of rows that its two ends show: flat where durations do not depend on rows, in proportion where they
  do. Where the rows seen are too alike to show a power, proportion is assumed, as rows alone would order.
- The upper estimate is what orders the work, longest first (R. Graham, 1969; with uncertain times the longest
  expected first is best for exponential ones: J. Bruno, P. Downey, G. Frederickson, 1981). A chunk that was
  started too early costs nothing; a long one that was started last costs its whole length. So a chunk about
  which little is known ranks by how far chunks lay above the curve, nine of ten of them, and one that ran
  before by the longest of its tries.

Other machines and other parameters change all durations by a common factor, so only the order and the
proportions of a forecast are to be relied on. ``Pace`` learns that factor, or where there is no forecast the
durations themselves, while a run goes on.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from batchrun.outcome import Floats, Integers

__all__ = ["DurationHistory", "Forecast", "Pace", "forecast"]

FEWEST = 3
"""Earlier attempts without which there is no forecast, and chunks that must have ended in this run before one
is called a straggler by it."""
LATEST = 5
"""Tries of one key that count."""
MOST_BINS = 32
"""Bins that the attempts are sorted into by rows; fewer of them, the square root, where attempts are few."""
MARGIN = 1.1
"""The upper estimate is at least so many times the expected duration."""
SHARE = 0.9
"""So many of the attempts end within the upper estimate."""
WIDE = 2.0
"""The rows of the outermost bins must differ by this factor to show how durations grow with rows."""
SHORTEST = 1e-6
"""Seconds below which durations are not told apart."""

WINDOW = 40
"""Chunks of about one size by which a Pace tells what such chunks take; older ones are forgotten."""
ENOUGH = 10
"""Chunks of about its size that must have ended before one without a forecast is called a straggler."""
STRAGGLING = 3.0
"""A straggler has run so many times as long as nine of ten comparable chunks took."""


@dataclass(frozen=True)
class DurationHistory:
    """Attempts at one stage in earlier runs that succeeded, newest first; columns of equal length, shape
    (attempts,)."""

    keys: Integers
    """What each chunk held, as a hash; 0 where it has none."""
    rows: Integers
    """Rows of the frame that the stage was given."""
    seconds: Floats
    """How long each took."""

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True)
class Forecast:
    """What the chunks of a run will take; columns of equal length, shape (chunks,)."""

    seconds: Floats
    """Expected."""
    upper: Floats
    """What each may well take; the work is ordered by this, longest first."""

    def __add__(self, other: Forecast) -> Forecast:
        """What two stages will take one after the other."""
        return Forecast(self.seconds + other.seconds, self.upper + other.upper)


def forecast(history: DurationHistory, keys: Integers | None, rows: Integers) -> Forecast | None:
    """Tell what each chunk will take at a stage; None if too little is known of the stage.

    *keys* (0 for none) and *rows* are columns of the chunks, shape (chunks,).

    >>> history = DurationHistory(np.array([7, 8, 9]), np.array([10, 20, 40]), np.array([1.0, 2.0, 4.0]))
    >>> forecast(history, np.array([9, 0]), np.array([40, 80])).seconds.round(3).tolist()
    [4.0, 8.0]
    """
    if len(history) < FEWEST:
        return None
    curve = _Curve.through(history.rows, history.seconds)
    expected = curve.at(rows)
    spread = np.quantile(np.maximum(history.seconds, SHORTEST) / curve.at(history.rows), SHARE)
    upper = expected * max(MARGIN, float(spread))
    if keys is not None and len(tries := _Tries.of(history)):
        place = np.minimum(np.searchsorted(tries.keys, keys), len(tries) - 1)
        seen = tries.keys[place] == keys
        expected = np.where(seen, tries.median[place], expected)
        upper = np.where(seen, np.maximum(tries.longest, MARGIN * tries.median)[place], upper)
    return Forecast(expected, upper)


@dataclass(frozen=True)
class _Tries:
    """What is known by key; columns of equal length, sorted by key."""

    keys: Integers
    median: Floats
    longest: Floats

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, history: DurationHistory) -> _Tries:
        """The latest tries of each key that is one."""
        order = np.argsort(history.keys, kind="stable")
        order = order[history.keys[order] != 0]
        keys, first = np.unique(history.keys[order], return_index=True)
        age = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
        latest = order[age < LATEST]
        latest = latest[np.lexsort((history.seconds[latest], history.keys[latest]))]
        _, first, count = np.unique(history.keys[latest], return_index=True, return_counts=True)
        seconds = history.seconds[latest]
        if not len(keys):
            return cls(keys, seconds, seconds)
        median = (seconds[first + (count - 1) // 2] + seconds[first + count // 2]) / 2
        return cls(keys, median, seconds[first + count - 1])


@dataclass(frozen=True)
class _Curve:
    """Seconds against rows: a line through points whose coordinates are logarithms, none lower than the one
    before it."""

    rows: Floats
    seconds: Floats
    power: float
    """How the curve goes on beyond its ends: seconds grow as rows to this power."""

    @classmethod
    def through(cls, rows: Integers, seconds: Floats) -> _Curve:
        """The curve through the medians of bins of equal count."""
        x, y = np.log(np.maximum(rows, 1)), np.log(np.maximum(seconds, SHORTEST))
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
        bins = min(MOST_BINS, max(2, math.isqrt(len(x))))
        edges = np.searchsorted(x, x[np.arange(1, bins) * len(x) // bins])
        edges = np.unique(np.concatenate(([0], edges, [len(x)])))
        spans = list(pairwise(edges))
        middle = np.array([np.median(x[first:last]) for first, last in spans])
        level = _rising([float(np.median(y[first:last])) for first, last in spans], np.diff(edges).tolist())
        wide = middle[-1] - middle[0] >= math.log(WIDE)
        power = float((level[-1] - level[0]) / (middle[-1] - middle[0])) if wide else 1.0
        return cls(middle, level, power)

    def at(self, rows: Integers) -> Floats:
        """Seconds that chunks of so many rows are expected to take, shape of *rows*."""
        x = np.log(np.maximum(rows, 1))
        beyond = x - np.clip(x, self.rows[0], self.rows[-1])
        found: Floats = np.exp(np.interp(x, self.rows, self.seconds) + self.power * beyond)
        return found


def _rising(levels: list[float], weights: list[int]) -> Floats:
    """The nearest levels that never fall: neighbours that do are pooled into their mean."""
    pools: list[tuple[float, int, int]] = []
    for level, weight in zip(levels, weights, strict=True):
        pool = (level, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            before, heavy, count = pools.pop()
            total = heavy + pool[1]
            pool = ((before * heavy + pool[0] * pool[1]) / total, total, count + pool[2])
        pools.append(pool)
    return np.repeat([level for level, _, _ in pools], [count for _, _, count in pools])


@dataclass
class _Recent:
    """The latest values of a series, sorted."""

    _arrived: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _sorted: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> None:
        """A value arrives; the oldest of many is forgotten."""
        if len(self._arrived) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._arrived[0])]
        self._arrived.append(value)
        insort(self._sorted, value)

    def quantile(self, share: float) -> float:
        """The value that this share of them does not exceed."""
        return self._sorted[math.ceil(share * len(self._sorted)) - 1]


@dataclass
class Pace:
    """What chunks take at one leg of the run in progress, learned from those that ended.

    Chunks are compared with those of about as many rows, within a factor of two. Where none of these ended,
    the nearest size stands in: larger chunks are taken to need more in proportion, smaller ones no less,
    so that nothing is thought short that may not be. A chunk with a forecast is compared with its
    forecast, after the common factor by which forecasts are off in this run.
    """

    _by_size: dict[int, _Recent] = field(default_factory=dict)
    _factors: _Recent = field(default_factory=_Recent)

    def ended(self, rows: int, seconds: float, forecast: float | None = None) -> None:
        """A chunk ended well after so many seconds; *forecast* is what it was expected to take."""
        self._by_size.setdefault(rows.bit_length(), _Recent()).add(seconds)
        if forecast is not None:
            self._factors.add(max(seconds, SHORTEST) / max(forecast, SHORTEST))

    def expect(self, rows: int, forecast: float | None = None) -> float | None:
        """Seconds that a chunk will take; None while nothing is known."""
        if forecast is not None:
            return forecast * (self._factors.quantile(0.5) if len(self._factors) else 1.0)
        return self._comparable(rows, 1, 0.5)

    def straggling(self, rows: int, elapsed: float, forecast: float | None = None) -> bool:
        """Whether a chunk that has run for *elapsed* seconds takes far longer than it should.

        Not before others have ended: all of them may be slower than they were in earlier runs.
        """
        if forecast is None:
            usual = self._comparable(rows, ENOUGH, SHARE)
            return usual is not None and elapsed > STRAGGLING * usual
        if len(self._factors) < FEWEST:
            return False
        return elapsed > STRAGGLING * forecast * max(1.0, self._factors.quantile(SHARE))

    def _comparable(self, rows: int, fewest: int, share: float) -> float | None:
        """What this *share* of the chunks of the nearest size took at most, of which *fewest* ended."""
        size = rows.bit_length()
        recent = self._by_size.get(size)
        if recent is not None and len(recent) >= fewest:
            return recent.quantile(share)
        known = [other for other, recent in self._by_size.items() if len(recent) >= fewest]
        if not known:
            return None
        nearest = min(known, key=lambda other: (abs(other - size), -other))
        return self._by_size[nearest].quantile(share) * 2.0 ** max(0, size - nearest)
