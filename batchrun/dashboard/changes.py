"""How the chunks of a run stand, and which of them a page has yet to be told of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batchrun.dashboard.message import RUNNING, WAITING, ChunkColumns

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrun.outcome import Integers

__all__ = ["Changes"]


class Changes:
    """The present condition of every chunk in columns, 14 bytes a chunk, so that a chunk that changes three
    times between two messages is told once, and a message that was lost costs nothing but another try."""

    def __init__(self) -> None:
        self._codes: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._rows: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._seconds: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self._untold: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)

    @property
    def left(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._untold.any())

    def mark(
        self,
        chunks: Integers,
        codes: int | npt.NDArray[np.uint8],
        rows: int | Integers = 0,
        seconds: float | npt.NDArray[np.float64] = 0.0,
    ) -> None:
        """These chunks are now as said, each or all of them; columns are as in ChunkColumns."""
        self._grow(int(chunks.max(initial=-1)) + 1)
        self._codes[chunks] = codes
        self._rows[chunks] = rows
        self._seconds[chunks] = seconds
        self._untold[chunks] = True

    def wait(self, chunks: Integers) -> None:
        """These chunks are with no worker; the settled ones stay so, as after the later of two tries."""
        self._grow(int(chunks.max(initial=-1)) + 1)
        self.mark(chunks[self._codes[chunks] <= RUNNING], WAITING)

    def take(self, most: int) -> ChunkColumns:
        """Chunks that changed, *most* at most, lowest numbers first; they count as told."""
        chunks = np.flatnonzero(self._untold)[:most]
        self._untold[chunks] = False
        return ChunkColumns(chunks, self._codes[chunks], self._rows[chunks], self._seconds[chunks])

    def tell_again(self, columns: ChunkColumns) -> None:
        """What was taken did not arrive."""
        self._untold[columns.chunks] = True

    def _grow(self, chunks: int) -> None:
        """Make room for so many; an eighth more, because parts of chunks come a few at a time."""
        if chunks > len(self._codes):
            more = chunks + chunks // 8 - len(self._codes)
            self._codes = np.append(self._codes, np.zeros(more, np.uint8))
            self._rows = np.append(self._rows, np.zeros(more, np.int64))
            self._seconds = np.append(self._seconds, np.zeros(more, np.float32))
            self._untold = np.append(self._untold, np.zeros(more, np.bool_))
