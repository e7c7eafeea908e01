"""How a table is cut into chunks. Everything here is pure: numbers in, arrays out.

A chunk is a range of consecutive rows of the planned input; where a split needs rows to lie otherwise,
as whole groups do, the input is laid out anew first (see ``batchrun.data.regroup``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from batchrun.errors import PipelineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "AutoSizer",
    "ByFile",
    "ByGroup",
    "ByRows",
    "ChunkPlan",
    "Split",
    "by_file",
    "by_group",
    "by_rows",
    "halve",
    "plan_chunks",
]


@dataclass(frozen=True)
class ByRows:
    """Chunks of so many consecutive rows."""

    rows: int | Literal["auto"]

    def __str__(self) -> str:
        return f'by_rows("{self.rows}")' if self.rows == "auto" else f"by_rows({self.rows})"


@dataclass(frozen=True)
class ByGroup:
    """Chunks of whole groups."""

    columns: tuple[str, ...]
    max_rows: int | None = None

    def __str__(self) -> str:
        packed = f", max_rows={self.max_rows}" if self.max_rows else ""
        return f"by_group({', '.join(map(repr, self.columns))}{packed})"


@dataclass(frozen=True)
class ByFile:
    """One chunk for each file."""

    def __str__(self) -> str:
        return "by_file()"


Split = ByRows | ByGroup | ByFile


def by_rows(rows: int | Literal["auto"]) -> ByRows:
    """Split into chunks of *rows* consecutive rows, the last one shorter.

    With ``"auto"`` the chunks are sized while the run goes on, from the bytes of a row, the memory of a
    worker and the seconds that the first chunks take; see AutoSizer.

    Raises PipelineError if *rows* is neither "auto" nor a whole number above zero.

    >>> by_rows(10_000)
    ByRows(rows=10000)
    """
    whole = isinstance(rows, int) and not isinstance(rows, bool) and rows > 0
    if not whole and rows != "auto":
        raise PipelineError(f'by_rows({rows!r}): give a whole number of rows above zero, or "auto"')
    return ByRows(rows)


def by_group(*columns: str, max_rows: int | None = None) -> ByGroup:
    """Split into whole groups: rows with equal values in *columns* stay in one chunk.

    Without *max_rows* each group is a chunk. With it, neighbouring small groups share a chunk of at most
    that many rows; a group that is larger than that by itself is still one chunk. Missing values form a
    group of their own.

    Raises PipelineError without a column, or with a *max_rows* below one.

    >>> by_group("pit", max_rows=500)
    ByGroup(columns=('pit',), max_rows=500)
    """
    if not columns or not all(isinstance(column, str) for column in columns):
        raise PipelineError('by_group needs the names of the columns that make a group: by_group("pit")')
    if max_rows is not None and max_rows < 1:
        raise PipelineError(f"by_group(max_rows={max_rows}): give a number of rows above zero")
    return ByGroup(tuple(dict.fromkeys(columns)), max_rows)


def by_file() -> ByFile:
    """Split into one chunk for each input file; the input must be files.

    >>> by_file()
    ByFile()
    """
    return ByFile()


@dataclass(frozen=True)
class ChunkPlan:
    """The chunks of a run as columns: chunk *i* holds rows ``starts[i]`` up to ``stops[i]``."""

    starts: npt.NDArray[np.int64]
    """First row of each chunk, shape (chunks,)."""
    stops: npt.NDArray[np.int64]
    """One past the last row of each chunk, shape (chunks,)."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def rows(self) -> int:
        """Rows in all chunks together."""
        return int((self.stops - self.starts).sum())

    @classmethod
    def of_boundaries(cls, boundaries: npt.NDArray[np.int64]) -> ChunkPlan:
        """Chunks between neighbouring *boundaries*, shape (chunks + 1,)."""
        return cls(boundaries[:-1], boundaries[1:])


def plan_chunks(
    split: Split,
    rows: int,
    *,
    group_starts: npt.NDArray[np.int64] | None = None,
    file_starts: npt.NDArray[np.int64] | None = None,
) -> ChunkPlan:
    """Cut *rows* rows as *split* says; no rows give no chunks, except that an empty file is left out.

    *group_starts* and *file_starts* are the first rows of the groups and of the files, shape (n,), rising
    from 0. ``by_rows("auto")`` has no plan of this kind: AutoSizer makes it wave by wave.
    """
    import numpy as np

    if isinstance(split, ByRows):
        if split.rows == "auto":
            raise PipelineError('by_rows("auto") is planned while the run goes on')
        starts = np.arange(0, rows, split.rows, dtype=np.int64)
    elif isinstance(split, ByGroup):
        if group_starts is None:
            raise PipelineError(f"{split} needs to know where groups start")
        starts = _pack(group_starts, rows, split.max_rows)
    else:
        if file_starts is None:
            raise PipelineError(
                "by_file() needs files: give a path, a glob or a folder, not a frame in memory"
            )
        starts = np.unique(file_starts[file_starts < rows])
    return ChunkPlan.of_boundaries(
        np.append(starts, rows).astype(np.int64) if rows else np.zeros(1, np.int64)
    )


def _pack(group_starts: npt.NDArray[np.int64], rows: int, max_rows: int | None) -> npt.NDArray[np.int64]:
    """Keep the group starts at which a new chunk must begin, next-fit in input order."""
    import numpy as np

    if max_rows is None or len(group_starts) == 0:
        return group_starts
    stops = np.append(group_starts[1:], rows)
    kept = [0]
    position = 0
    while True:
        reach = int(np.searchsorted(stops, group_starts[position] + max_rows, side="right"))
        position = max(reach, position + 1)
        if position >= len(group_starts):
            return group_starts[kept]
        kept.append(position)


def halve(start: int, stop: int, group_starts: npt.NDArray[np.int64] | None = None) -> int | None:
    """The row at which a chunk of the rows from *start* to *stop* is cut in two halves; None if it cannot be.

    With *group_starts* the cut is at the start of the group that is nearest to the middle.

    >>> halve(0, 5), halve(3, 4)
    (2, None)
    """
    middle = (start + stop) // 2
    if group_starts is None:
        return middle if stop - start > 1 else None
    import numpy as np

    inside = group_starts[np.searchsorted(group_starts, start, "right") : np.searchsorted(group_starts, stop)]
    if len(inside) == 0:
        return None
    return int(inside[np.argmin(np.abs(inside - middle))])


@dataclass
class AutoSizer:
    """Sizes the chunks of ``by_rows("auto")`` wave by wave while the run goes on.

    Each wave cuts half of the rows that are left into one chunk a slot, so chunks start large and shrink
    towards the end, where an uneven finish would cost most: factoring (S. Hummel, E. Schonberg,
    L. Flynn, "Factoring", CACM 35(8), 1992). The first wave is a small probe. Two bounds hold throughout:
    a chunk never takes more than its share of a worker's memory, and from the measured seconds a row it
    is kept between ``shortest`` and ``longest``.
    """

    rows: int
    """Rows of the input."""
    bytes_per_row: float
    """Bytes that one row takes in memory, projected."""
    slots: int
    """Chunks that can run at once."""
    memory: int
    """Bytes of memory behind one slot."""
    shortest: float = 0.5
    """Seconds; below this the cost of a chunk begins to show."""
    longest: float = 60.0
    """Seconds; above this progress is seldom seen and much is lost with a worker."""
    memory_share: float = 1 / 8
    """The share of a slot's memory that a chunk's input may fill; pandas often copies."""
    probe_bytes: float = 8 * 2**20
    """Bytes in a chunk of the first wave."""
    planned: int = 0
    """Rows cut so far."""
    seconds_per_row: float | None = field(default=None)
    """Measured so far; None before the first chunk has ended."""
    block_starts: npt.NDArray[np.int64] | None = None
    """The first row of each block of rows that are only read together, shape (n,), rising; None where any
    rows are read without others. A chunk ends with a block if one ends in the second half of it."""

    def next_wave(self) -> ChunkPlan:
        """Cut the next wave, at least one chunk while rows are left."""
        import numpy as np

        left = self.rows - self.planned
        if left <= 0:
            return ChunkPlan.of_boundaries(np.zeros(1, np.int64))
        size = self._size(left)
        count = max(1, min(self.slots, math.ceil(left / size)))
        boundaries = [self.planned]
        while len(boundaries) <= count and boundaries[-1] < self.rows:
            boundaries.append(self._end(boundaries[-1], size))
        self.planned = boundaries[-1]
        return ChunkPlan.of_boundaries(np.array(boundaries, np.int64))

    def _end(self, start: int, size: int) -> int:
        """One past the last row of a chunk of at most *size* rows."""
        end = min(start + size, self.rows)
        if self.block_starts is None or end == self.rows:
            return end
        block = int(self.block_starts[self.block_starts.searchsorted(end, side="right") - 1])
        return block if block > start + size // 2 else end

    def _size(self, left: int) -> int:
        slots = max(1, self.slots)
        width = max(1.0, self.bytes_per_row)
        most = max(1.0, self.memory * self.memory_share / width)
        if self.seconds_per_row is None:
            probe = min(self.probe_bytes / width, left / (4 * slots))
            return max(1, math.floor(min(probe, most)))
        pace = max(self.seconds_per_row, 1e-12)
        half = left / (2 * slots)
        size = min(max(half, self.shortest / pace), self.longest / pace, most, math.ceil(left / slots))
        return max(1, math.floor(size))
