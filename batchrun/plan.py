"""The chunks of one run, written down wave by wave before any of them is dispatched."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchrun.data import files
from batchrun.data.load import load, write_table
from batchrun.data.source import Source
from batchrun.data.table import Stored
from batchrun.split import AutoSizer, ByRows, ChunkPlan, Split, plan_chunks
from batchrun.store.artifacts import RunFolder

__all__ = ["Plan", "read_plan"]


class Plan:
    """Cuts the input into chunks and hands out those that are not settled, longest first.

    Args:
        source: The planned input.
        split: How to cut it.
        folder: Where waves are written, and found again when the run is resumed.
        slots: Chunks that can run at once; for ``by_rows("auto")``.
        memory: Bytes of memory behind a slot; for ``by_rows("auto")``.
        settled: Rows of the chunks that earlier sessions of the run settled, by chunk number.
    """

    def __init__(
        self,
        source: Source,
        split: Split,
        folder: RunFolder,
        *,
        slots: int,
        memory: int,
        settled: Mapping[int, int] | None = None,
    ) -> None:
        self._source = source
        self._split = split
        self._folder = folder
        self._settled = dict(settled or {})
        self._sizer = (
            AutoSizer(source.rows, source.bytes_per_row, slots, memory)
            if isinstance(split, ByRows) and split.rows == "auto"
            else None
        )
        self._chunks, self._waves = read_plan(folder)
        self._rows = self._chunks.rows
        self._seconds = 0.0
        self._measured = 0
        self._order: npt.NDArray[np.int64] = self._longest_first(0)
        self._given = 0

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def rows(self) -> int:
        """Rows cut into chunks so far."""
        return self._rows

    @property
    def complete(self) -> bool:
        """Whether all rows of the input are cut into chunks."""
        return self._rows == self._source.rows

    @property
    def left(self) -> int:
        """Chunks that are cut and not yet handed out."""
        return len(self._order) - self._given

    @property
    def settled_chunks(self) -> int:
        """Chunks that were settled before this session of the run."""
        return len(self._settled)

    @property
    def settled_rows(self) -> int:
        """Rows in them."""
        return sum(self._settled.values())

    def bounds(self, chunk: int) -> tuple[int, int]:
        """The first row of a chunk and one past its last."""
        return int(self._chunks.starts[chunk]), int(self._chunks.stops[chunk])

    def size(self, chunk: int) -> int:
        """Rows of a chunk."""
        start, stop = self.bounds(chunk)
        return stop - start

    def take(self, most: int) -> list[int]:
        """The numbers of the next chunks, at most so many; empty if all that are cut were handed out."""
        chunks = self._order[self._given : self._given + most]
        self._given += len(chunks)
        return [int(chunk) for chunk in chunks]

    def extend(self) -> None:
        """Cut the next wave and write it down; all of the input at once unless chunks are sized by time."""
        if self.complete:
            return
        if self._sizer is None:
            wave = plan_chunks(
                self._split,
                self._source.rows,
                group_starts=self._source.group_starts,
                file_starts=self._source.file_starts,
            )
        else:
            self._sizer.planned = self._rows
            if self._measured:
                self._sizer.seconds_per_row = self._seconds / self._measured
            wave = self._sizer.next_wave()
        table = pa.table({"start": wave.starts, "stop": wave.stops})
        write_table(table, self._folder.plan(self._waves))
        first = len(self._chunks)
        self._waves += 1
        self._rows += wave.rows
        self._chunks = self._chunks.then(wave)
        self._order = np.concatenate([self._order[self._given :], self._longest_first(first)])
        self._given = 0

    def measured(self, rows: int, seconds: float) -> None:
        """A chunk of so many rows took so long in all its stages."""
        self._measured += rows
        self._seconds += seconds

    def _longest_first(self, first: int) -> npt.NDArray[np.int64]:
        """Chunks from *first* on that are not settled: longest first, then in input order."""
        numbers = np.arange(first, len(self._chunks), dtype=np.int64)
        if self._settled:
            numbers = numbers[~np.isin(numbers, np.fromiter(self._settled, np.int64, len(self._settled)))]
        sizes = (self._chunks.stops - self._chunks.starts)[numbers]
        return numbers[np.argsort(-sizes, kind="stable")]


def read_plan(folder: RunFolder) -> tuple[ChunkPlan, int]:
    """The chunks that were written down so far, and in how many waves."""
    starts, stops = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    waves = 0
    while files.exists(folder.plan(waves)):
        table = load(Stored(folder.plan(waves), rows=-1, nbytes=-1))
        starts.append(table.column("start").to_numpy())
        stops.append(table.column("stop").to_numpy())
        waves += 1
    return ChunkPlan(np.concatenate(starts), np.concatenate(stops)), waves
