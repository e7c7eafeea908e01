"""How the seconds of chunks are spread: counted as they are settled, and put into bins to be drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from batchrun.dashboard.message import CUT, RUNNING

__all__ = ["SecondsTally", "Spread"]

_MOST_BINS: Final = 40
_STEPS: Final = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Widths that a bin may have, in powers of ten; its edges are multiples, so that bars stay where they are."""
_INFINITE: Final = 0x7F80
"""The upper half of an infinite float."""


@dataclass(frozen=True)
class Spread:
    """How the seconds of chunks are spread."""

    edges: npt.NDArray[np.float64]
    """Where bins begin and the last one ends, in seconds, shape (bins + 1,)."""
    chunks: npt.NDArray[np.int64]
    """Chunks in each bin, shape (bins,)."""
    median: float
    """Seconds that half of the chunks did not pass."""
    high: float
    """Seconds that 95 of 100 chunks did not pass."""

    @property
    def total(self) -> int:
        """All chunks in it."""
        return int(self.chunks.sum())


class SecondsTally:
    """How many settled chunks took how long, to within a percent.

    A message carries the upper half of each float, and halves can be counted where floats have to be sorted.
    """

    def __init__(self) -> None:
        self._halves: npt.NDArray[np.int64] = np.zeros(_INFINITE, np.int64)
        """Chunks by the upper half of their seconds."""

    def count(self, codes: npt.NDArray[np.uint8], seconds: npt.NDArray[np.float32], times: int = 1) -> None:
        """Count the seconds of those chunks whose code is an outcome, or take them back with -1 *times*.

        Chunks without a time, which earlier sessions settled, are left out.
        """
        halves = seconds[(codes > RUNNING) & (codes < CUT)].view(np.uint32) >> 16
        np.add.at(self._halves, halves[(halves > 0) & (halves < _INFINITE)], times)

    def spread(self) -> Spread | None:
        """How they are spread; None if there are none."""
        used = np.flatnonzero(self._halves > 0)
        if not len(used):
            return None
        values, chunks = (
            (used.astype(np.uint32) << 16).view(np.float32).astype(np.float64),
            self._halves[used],
        )
        up_to = np.cumsum(chunks)
        median, high = values[np.searchsorted(up_to, np.array([0.5, 0.95]) * up_to[-1])].tolist()
        powers = np.log10(values)
        edges = _edges(float(powers[0]), float(powers[-1]), int(up_to[-1]))
        binned, _ = np.histogram(powers, edges, weights=chunks)
        return Spread(10**edges, np.rint(binned).astype(np.int64), median, high)


def _edges(low: float, high: float, chunks: int) -> npt.NDArray[np.float64]:
    """Powers of ten between which the bins lie: fewer bins for fewer *chunks*."""
    most = min(_MOST_BINS, max(10, 2 * math.isqrt(chunks)))
    step = next(step for step in _STEPS if math.floor(high / step) - math.floor(low / step) < most)
    return step * np.arange(math.floor(low / step), math.floor(high / step) + 2, dtype=np.float64)
