"""The chunks of one run, written down wave by wave before any of them is dispatched.

A chunk that fails is cut into parts, which are chunks of their own and take its place. They have the numbers
that follow those of all chunks planned before, so numbers are in input order only among chunks that are no
parts; first rows always tell the order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchrun.data import files
from batchrun.data.load import load, write_table
from batchrun.data.source import Source
from batchrun.data.table import Stored
from batchrun.split import AutoSizer, ByGroup, ByRows, ChunkPlan, Split, halve, plan_chunks
from batchrun.store.artifacts import RunFolder
from batchrun.store.records import SettledChunks

__all__ = ["Plan", "PlannedChunks", "from_here_on", "read_plan", "rows_to_do"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Forecaster = Callable[[Integers, Integers], list[Floats | None]]

NO_PARENT = -1


@dataclass(frozen=True)
class PlannedChunks:
    """The chunks that were written down so far, as columns of equal length."""

    starts: Integers
    """First row of each chunk."""
    stops: Integers
    """One past the last row of each chunk."""
    parents: Integers
    """The chunk that each is a part of; -1 for one that is no part."""
    waves: int
    """In how many files they are written down."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def is_cut(self) -> npt.NDArray[np.bool_]:
        """Whether each chunk was cut into parts, which take its place."""
        cut = np.zeros(len(self), bool)
        cut[self.parents[self.parents != NO_PARENT]] = True
        return cut

    @property
    def rows(self) -> int:
        """Rows of the input that are in chunks, each counted once."""
        whole = self.parents == NO_PARENT
        return int((self.stops[whole] - self.starts[whole]).sum())

    def family(self, chunk: int) -> Integers:
        """A chunk, the parts that it was cut into, and theirs, by number; empty if there is no such chunk."""
        found = new = np.array([chunk] if 0 <= chunk < len(self) else [], np.int64)
        while len(new):
            new = np.flatnonzero(np.isin(self.parents, new))
            found = np.concatenate([found, new])
        return found

    def then(self, wave: ChunkPlan, parents: Integers | None = None) -> PlannedChunks:
        """These chunks and those of one more wave."""
        if parents is None:
            parents = np.full(len(wave), NO_PARENT, np.int64)
        return PlannedChunks(
            np.concatenate([self.starts, wave.starts]),
            np.concatenate([self.stops, wave.stops]),
            np.concatenate([self.parents, parents]),
            self.waves + 1,
        )


class Plan:
    """Cuts the input into chunks and hands out those that are not settled, longest first.

    Args:
        source: The planned input.
        split: How to cut it.
        folder: Where waves are written, and found again when the run is resumed.
        slots: Chunks that can run at once; for ``by_rows("auto")``.
        memory: Bytes of memory behind a slot; for ``by_rows("auto")``.
        settled: The chunks that earlier sessions of the run settled, and are not to be handed out.
        whole: Whether to cut all of the input; else nothing is cut that is not written down already.
        forecast: What chunks may well take at each leg, in seconds, from their keys and rows; None for a leg
            where that is not known.
        scarcity: How many times as many slots there are as slots for each leg; 1 for every leg by default.
        fence: That of the driver. What an earlier one may still write is not read, see ``read_plan``.
    """

    def __init__(
        self,
        source: Source,
        split: Split,
        folder: RunFolder,
        *,
        slots: int,
        memory: int,
        settled: Integers | None = None,
        whole: bool = True,
        forecast: Forecaster | None = None,
        scarcity: Sequence[float] = (),
        fence: int = 0,
    ) -> None:
        self._source = source
        self._split = split
        self._folder = folder
        self._whole = whole
        self._settled = np.zeros(0, np.int64) if settled is None else settled
        self._keys = np.zeros(0, np.int64)
        self._forecast = forecast
        self._scarcity = scarcity
        self._costs: list[Floats | None] = []
        self._left: list[Floats] = []
        self._sizer = (
            AutoSizer(
                source.rows,
                source.bytes_per_row,
                slots,
                memory,
                block_starts=source.block_starts if source.format == "parquet" else None,
            )
            if isinstance(split, ByRows) and split.rows == "auto"
            else None
        )
        self._fence = fence
        self._chunks = read_plan(folder)
        self._settled_rows = int((self._chunks.stops - self._chunks.starts)[self._settled].sum())
        self._learn_keys()
        self._foresee()
        self._rows = self._chunks.rows
        self._cut = int(self._chunks.is_cut.sum())
        self._seconds = 0.0
        self._measured = 0
        self._order: Integers = self._longest_first(0)
        self._given = 0
        if fence > 1 and self._chunks.waves:
            self._write(ChunkPlan(np.zeros(0, np.int64), np.zeros(0, np.int64)))

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def standing(self) -> int:
        """Chunks that have an outcome or will have one: all but those that were cut."""
        return len(self._chunks) - self._cut

    @property
    def rows(self) -> int:
        """Rows cut into chunks so far."""
        return self._rows

    @property
    def complete(self) -> bool:
        """Whether all rows of the input are cut into chunks, or no more are to be."""
        return self._rows == self._source.rows or not self._whole

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
        return self._settled_rows

    @property
    def chunks(self) -> PlannedChunks:
        """The chunks that were written down so far."""
        return self._chunks

    def bounds(self, chunk: int) -> tuple[int, int]:
        """The first row of a chunk and one past its last."""
        return int(self._chunks.starts[chunk]), int(self._chunks.stops[chunk])

    def size(self, chunk: int) -> int:
        """Rows of a chunk."""
        start, stop = self.bounds(chunk)
        return stop - start

    def is_part(self, chunk: int) -> bool:
        """Whether a chunk is a part of one that was cut."""
        return bool(self._chunks.parents[chunk] != NO_PARENT)

    def parts_of(self, chunk: int) -> set[int]:
        """The parts that a chunk was cut into, and theirs."""
        found: set[int] = set()
        new = {chunk}
        while new and self._cut:
            parents = np.fromiter(new, np.int64, len(new))
            new = {int(part) for part in np.flatnonzero(np.isin(self._chunks.parents, parents))}
            found |= new
        return found

    def cuts(self) -> dict[int, tuple[int, ...]]:
        """The parts of each chunk that was cut, in the order in which they were."""
        found: dict[int, tuple[int, ...]] = {}
        for part in np.flatnonzero(self._chunks.parents != NO_PARENT).tolist():
            parent = int(self._chunks.parents[part])
            found[parent] = (*found.get(parent, ()), part)
        return found

    def seconds(self, leg: int, chunk: int) -> float | None:
        """What a chunk may well take at a leg; None if that is not known, as of a part."""
        costs = self._costs[leg] if leg < len(self._costs) else None
        return float(costs[chunk]) if costs is not None and not self.is_part(chunk) else None

    def work_left(self, leg: int, chunk: int) -> float | None:
        """Stands for what a chunk has to do from a leg on; None if that is not known.

        In seconds, of which those at a scarce leg count for more: a chunk whose work is where there are few
        slots must be there in time.
        """
        return float(self._left[leg][chunk]) if self._left and not self.is_part(chunk) else None

    @property
    def work(self) -> list[float]:
        """Seconds that all chunks that are not handed out may well take at each leg; empty if a leg is not
        known."""
        chunks = self._order[self._given :]
        known = [costs for costs in self._costs if costs is not None] if self._left else []
        return [float(costs[chunks].sum()) for costs in known]

    def key(self, chunk: int) -> int:
        """By what a chunk is known in other runs."""
        return int(self._keys[chunk])

    def keys(self, chunks: Integers) -> Integers:
        """The same of many chunks, shape (chunks,)."""
        found: Integers = self._keys[chunks]
        return found

    def every(self, chunks: int) -> Integers:
        """The first row of every so many chunks in input order, parts not counted."""
        whole = self._chunks.parents == NO_PARENT
        starts: Integers = self._chunks.starts[whole][::chunks]
        return starts

    def bounds_of(self, chunks: Integers) -> tuple[Integers, Integers]:
        """The first rows of chunks and one past their last ones."""
        return self._chunks.starts[chunks], self._chunks.stops[chunks]

    @property
    def not_handed_out(self) -> set[int]:
        """The chunks that ``take`` has yet to give."""
        return {int(chunk) for chunk in self._order[self._given :]}

    def take(self, most: int, *, ready: int | None = None) -> list[int]:
        """The numbers of the next chunks, at most so many; empty if all that are cut were handed out.

        With *ready*, chunks with a row from there on are passed over, since they cannot be read yet.
        """
        chunks = self._order[self._given : self._given + most]
        if ready is not None and ready < self._source.rows:
            left = self._order[self._given :]
            there = np.flatnonzero(self._chunks.stops[left] <= ready)[:most]
            chunks, self._order, self._given = left[there], np.delete(left, there), 0
        else:
            self._given += len(chunks)
        return chunks.tolist()  # type: ignore[no-any-return]

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
        first = len(self._chunks)
        self._write(wave)
        self._rows += wave.rows
        self._order = np.concatenate([self._order[self._given :], self._longest_first(first)])
        self._given = 0

    def can_cut(self, chunk: int) -> bool:
        """Whether a chunk has parts that mean something by themselves: independent rows, or whole groups."""
        return self._middle(chunk) is not None

    def cut(self, chunks: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Cut each of *chunks* in two and write the parts down.

        Returns the numbers of the parts of each; they are handed out here, not by ``take``.
        """
        starts, stops, parents = [], [], []
        for chunk in chunks:
            (start, stop), middle = self.bounds(chunk), self._middle(chunk)
            if middle is None:
                raise ValueError(f"chunk {chunk} cannot be cut")
            starts += [start, middle]
            stops += [middle, stop]
            parents += [chunk, chunk]
        first = len(self._chunks)
        wave = ChunkPlan(np.array(starts, np.int64), np.array(stops, np.int64))
        self._write(wave, np.array(parents, np.int64))
        self._cut += len(chunks)
        return {chunk: (first + 2 * i, first + 2 * i + 1) for i, chunk in enumerate(chunks)}

    def measured(self, rows: int, seconds: float) -> None:
        """A chunk of so many rows took so long in all its stages."""
        self._measured += rows
        self._seconds += seconds

    def _middle(self, chunk: int) -> int | None:
        start, stop = self.bounds(chunk)
        if isinstance(self._split, ByRows):
            return halve(start, stop)
        if isinstance(self._split, ByGroup):
            return halve(start, stop, self._source.group_starts)
        return None

    def _write(self, wave: ChunkPlan, parents: Integers | None = None) -> None:
        table = pa.table({"start": wave.starts, "stop": wave.stops})
        if parents is not None:
            table = table.append_column("parent", pa.array(parents))
        write_table(table, self._folder.plan(self._chunks.waves, self._fence))
        self._chunks = self._chunks.then(wave, parents)
        self._learn_keys()
        if parents is None:
            self._foresee()

    def _learn_keys(self) -> None:
        """Learn by what the new chunks are known in other runs."""
        new = slice(len(self._keys), None)
        keys = self._source.keys(self._chunks.starts[new], self._chunks.stops[new])
        self._keys = np.concatenate([self._keys, keys])

    def _foresee(self) -> None:
        """Learn what the chunks may take."""
        if self._forecast is not None and len(self._chunks):
            self._costs = self._forecast(self._keys, self._chunks.stops - self._chunks.starts)
            self._left = from_here_on(self._costs, self._scarcity)

    def _longest_first(self, first: int) -> Integers:
        """Chunks from *first* on that are neither settled nor cut: longest first, then in input order."""
        left = ~self._chunks.is_cut
        left[self._settled[self._settled < len(left)]] = False
        left[:first] = False
        numbers = np.flatnonzero(left)
        costs = self._left[0] if self._left else self._costs[0] if self._costs else None
        if costs is None:
            costs = (self._chunks.stops - self._chunks.starts).astype(np.float64)
        return numbers[np.argsort(-costs[numbers], kind="stable")]


def from_here_on(costs: Sequence[Floats | None], scarcity: Sequence[float]) -> list[Floats]:
    """What stands for the work of chunks from each leg on; empty if it is not known of one of the legs."""
    left: list[Floats] = []
    for leg in reversed(range(len(costs))):
        known = costs[leg]
        if known is None:
            return []
        weighted = known * (scarcity[leg] if scarcity else 1.0)
        left.append(weighted + left[-1] if left else weighted)
    return left[::-1]


def read_plan(folder: RunFolder) -> PlannedChunks:
    """The chunks that were written down so far.

    A driver that goes on with a run begins with a wave without chunks. One that was silent meanwhile may
    still write waves, and does not know better: of two with the same number that of the later driver counts,
    and after a wave of a later driver those of earlier ones do not.
    """
    empty = np.zeros(0, np.int64)
    columns: dict[str, list[Integers]] = {"start": [empty], "stop": [empty], "parent": [empty]}
    waves = 0
    for path in _waves(folder):
        table = load(Stored(path, rows=-1, nbytes=-1))
        columns["start"] += _numbers(table.column("start"))
        columns["stop"] += _numbers(table.column("stop"))
        if "parent" in table.column_names:
            columns["parent"] += _numbers(table.column("parent"))
        else:
            columns["parent"].append(np.full(table.num_rows, NO_PARENT, np.int64))
        waves += 1
    starts, stops, parents = (np.concatenate(arrays) for arrays in columns.values())
    return PlannedChunks(starts, stops, parents, waves)


def _numbers(column: pa.ChunkedArray) -> list[Integers]:
    """A column of integers without gaps as arrays; Arrow's own ``to_numpy`` would import pandas."""
    return [np.asarray(np.from_dlpack(part), np.int64) for part in column.chunks]


def _waves(folder: RunFolder) -> Iterator[str]:
    """The files of the waves, in order."""
    latest: dict[int, int] = {}
    for name in files.names(folder.plans):
        if match := re.fullmatch(r"(\d{6})(?:-(\d{6}))?\.arrow", name):
            wave, fence = int(match[1]), int(match[2] or 0)
            latest[wave] = max(fence, latest.get(wave, 0))
    before = 0
    for wave in range(len(latest)):
        if latest.get(wave, -1) < before:
            return
        before = latest[wave]
        yield folder.plan(wave, before)


def rows_to_do(source: Source, chunks: PlannedChunks, solved: SettledChunks) -> tuple[Integers, Integers]:
    """The rows that a run has yet to solve, as ranges: first rows, and one past the last."""
    left = ~chunks.is_cut
    left[solved.chunks[solved.solved]] = False
    starts, stops = chunks.starts[left], chunks.stops[left]
    if chunks.rows < source.rows:
        starts, stops = np.append(starts, chunks.rows), np.append(stops, source.rows)
    return starts, stops
