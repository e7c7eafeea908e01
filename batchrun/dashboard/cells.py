"""The chunks of a run as tiles of a map: one a chunk, or one for several neighbours where they are many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from batchrun.dashboard.message import CUT, RUNNING, WAITING, code_of
from batchrun.outcome import Outcome

__all__ = ["MOST_CELLS", "Cells", "ChunkState"]

MOST_CELLS: Final = 4_000
"""Tiles of a map."""

_MILD_TO_BAD: Final = np.array(
    [
        WAITING,
        RUNNING,
        *map(
            code_of,
            (
                Outcome.SUCCEEDED,
                Outcome.STOPPED_WITH_SOLUTION,
                Outcome.CANCELLED,
                Outcome.WORKER_LOST,
                Outcome.TIMED_OUT,
                Outcome.OUT_OF_MEMORY,
                Outcome.FAILED,
            ),
        ),
    ],
    dtype=np.uint8,
)
_BADNESS: Final = np.argsort(_MILD_TO_BAD).astype(np.uint8)
_SOLVED: Final = np.isin(np.arange(CUT + 1), [code_of(outcome) for outcome in Outcome if outcome.solved])


@dataclass(frozen=True)
class ChunkState:
    """How some chunks stand, as columns of equal length, shape (chunks,)."""

    codes: npt.NDArray[np.uint8]
    """Condition of each chunk."""
    rows: npt.NDArray[np.int64]
    """Input rows of each that is settled."""
    seconds: npt.NDArray[np.float32]
    """Seconds of each that is settled."""

    def of(self, chunks: npt.NDArray[np.int64]) -> ChunkState:
        """Some of them."""
        return ChunkState(self.codes[chunks], self.rows[chunks], self.seconds[chunks])


class Cells:
    """Tiles of the map as columns, shape (cells,) each; they take as long to change as few chunks change.

    Args:
        order: Numbers of the run's chunks in the order of the map, shape (chunks,).
        state: How all chunks stand, by number.
        version: Of the run, at present.
        most: How many tiles there may be.
    """

    def __init__(
        self, order: npt.NDArray[np.int64], state: ChunkState, version: int = 0, most: int = MOST_CELLS
    ) -> None:
        self.numbers = order
        """Numbers of the run's chunks in the order of the map, shape (chunks,)."""
        self.size = max(1, math.ceil(len(order) / most))
        """Chunks in a cell; the last cell may have fewer."""
        cells = math.ceil(len(order) / self.size)
        self._cell: npt.NDArray[np.int64] | None = None
        if len(order) < len(state.codes):  # else they stand as they are numbered, and a million need no table
            self._cell = np.full(len(state.codes), -1)
            self._cell[order] = np.arange(len(order)) // self.size
            state = state.of(order)
        self._codes: npt.NDArray[np.int64] = np.zeros((cells, CUT + 1), np.int64)
        self.rows: npt.NDArray[np.int64] = np.zeros(cells, np.int64)
        """Input rows of the settled chunks."""
        self.seconds: npt.NDArray[np.float64] = np.zeros(cells)
        """Seconds of those together."""
        if cells:
            firsts = np.arange(0, len(order), self.size)
            # Code by code: of a million chunks, fresh memory for larger numbers takes longer than to count.
            for code in np.flatnonzero(np.bincount(state.codes)):
                self._codes[:, code] = np.add.reduceat(state.codes == code, firsts, dtype=np.int64)
            self.rows = np.add.reduceat(state.rows, firsts)
            self.seconds = np.add.reduceat(state.seconds, firsts, dtype=np.float64)
        self.changed: npt.NDArray[np.int64] = np.full(cells, version)
        """The version of the run with which each changed last."""

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def chunks(self) -> int:
        """Chunks of the run."""
        return len(self.numbers)

    @property
    def code(self) -> npt.NDArray[np.uint8]:
        """Condition of the chunk, or the worst one among the chunks of the cell."""
        there = self._codes[:, _MILD_TO_BAD] > 0
        worst = there.shape[1] - 1 - np.argmax(there[:, ::-1], axis=1)
        code: npt.NDArray[np.uint8] = _MILD_TO_BAD[worst]
        return code

    @property
    def settled(self) -> npt.NDArray[np.int64]:
        """How many of the cell's chunks are settled."""
        settled: npt.NDArray[np.int64] = self._codes[:, RUNNING + 1 : CUT].sum(axis=1)
        return settled

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """The number of the first chunk of each cell."""
        return self.numbers[:: self.size]

    @property
    def last(self) -> npt.NDArray[np.int64]:
        """The number of the last chunk of each cell."""
        lasts = np.minimum(np.arange(1, len(self) + 1) * self.size, self.chunks) - 1
        last: npt.NDArray[np.int64] = self.numbers[lasts]
        return last

    @property
    def alpha(self) -> npt.NDArray[np.float64]:
        """How opaque each cell is: a solved cell fills as its chunks are settled."""
        share = self.settled / np.minimum(self.size, self.chunks - np.arange(len(self)) * self.size)
        return np.where(_SOLVED[self.code], 0.3 + 0.7 * share, 1.0)

    def worst(self, number: int, codes: npt.NDArray[np.uint8]) -> int:
        """The number of the chunk that a cell has its colour from; the first one, of several.

        *codes* holds the condition of each chunk, by number.
        """
        chunks = self.numbers[number * self.size : (number + 1) * self.size]
        return int(chunks[np.argmax(_BADNESS[codes[chunks]])])

    def changed_since(self, version: int) -> npt.NDArray[np.int64]:
        """Numbers of the cells that changed after a version of the run."""
        return np.flatnonzero(self.changed > version)

    def change(
        self, chunks: npt.NDArray[np.int64], before: ChunkState, now: ChunkState, version: int
    ) -> None:
        """These chunks stood so, and stand otherwise as of that version of the run; each is named once."""
        cells = chunks // self.size if self._cell is None else self._cell[chunks]
        codes, first = self._codes.reshape(-1), cells * (CUT + 1)
        np.subtract.at(codes, first + before.codes, 1)
        np.add.at(codes, first + now.codes, 1)
        np.add.at(self.rows, cells, now.rows - before.rows)
        np.add.at(self.seconds, cells, now.seconds.astype(np.float64) - before.seconds)
        self.changed[cells] = version
