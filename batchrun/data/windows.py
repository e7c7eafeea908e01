"""Results of neighbouring chunks read together, because to read and convert each by itself costs far more.

Results of a pack share their record batches, and short results stand side by side in one file. A window takes
as many chunks, in the order asked for, as go into one table: what stands together in a file is one slice of
it, and what does not is put together from several.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchrun.data.opened import ArrowFile, open_arrow
from batchrun.data.refs import TO_THE_END, ResultRef, ResultRefs
from batchrun.data.table import (
    EACH_LABELS_KEY,
    LABELS_KEY,
    Labels,
    each_labels_of,
    labels_of,
    rows_without_columns,
    to_frame,
    with_labels,
    with_metadata,
)
from batchrun.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from batchrun.signature import FrameKind

__all__ = ["Window", "opened", "read_result", "read_windows"]

MOST_CHUNKS = 16_384
"""Chunks of a window."""
MOST_BYTES = 32 * 2**20
"""Bytes of the results of a window, unless the result of one chunk is larger."""
MOST_KEPT = 64 * 2**20
"""Bytes of record batches that are kept for windows to come, which may hold other results of the same."""
MOST_PIECES = 64
"""Slices that a table may consist of; more are copied together."""


@dataclass(frozen=True)
class Window:
    """The results of some chunks, one below the other."""

    table: pa.Table
    """Their rows, without range labels."""
    rows: list[int]
    """Rows of each chunk."""
    labels: Labels | None
    """The range labels of the rows of the first chunk; None if they have none."""
    restarts: bool
    """Whether these labels begin anew with every chunk; else they run through."""

    @property
    def whole(self) -> pa.Table:
        """The table, with its range labels if they run through."""
        return self.table if self.restarts else with_labels(self.table, self.labels)

    def tables(self) -> Iterator[pa.Table]:
        """The result of each chunk with its own range labels."""
        start = 0
        for rows in self.rows:
            yield with_labels(_slice(self.table, start, rows), self._labels_at(start))
            start += rows

    def frames(self, kind: FrameKind) -> Iterator[Any]:
        """The result of each chunk as a frame; converted once, and cut."""
        if len(self.rows) == 1 or not self.table.num_columns or (kind == "pandas" and self._differ()):
            yield from (to_frame(table, kind) for table in self.tables())
            return
        whole, start = to_frame(self.table, kind), 0
        for rows in self.rows:
            if kind == "pandas":
                yield self._cut(whole, start, rows)
            else:
                yield whole.slice(start, rows)
            start += rows

    def _cut(self, whole: Any, start: int, rows: int) -> Any:
        """Rows of a pandas frame, with the labels that they have as a frame of their own."""
        import pandas as pd

        frame = whole.iloc[start : start + rows]
        labels = self._labels_at(start)
        if labels is not None:
            stop = labels.start + rows * labels.step
            frame.index = pd.RangeIndex(labels.start, stop, labels.step, name=labels.name)
        elif isinstance(whole.index, pd.RangeIndex):
            frame.index = pd.RangeIndex(rows)
        return frame

    def _labels_at(self, start: int) -> Labels | None:
        return self.labels if self.labels is None or self.restarts else self.labels.after(start)

    def _differ(self) -> bool:
        """Whether a column is of another type in pandas where a chunk has no missing value in it."""
        from pyarrow import types

        plain = [c for c in self.table.columns if types.is_integer(c.type) or types.is_boolean(c.type)]
        return any(column.null_count for column in plain)


def read_windows(refs: ResultRefs) -> Iterator[Window]:
    """The results at *refs*, each of which is known, in that order and each once.

    Raises StoreError if a file is gone or cannot be read, when it is its turn.
    """
    import numpy as np

    if not len(refs):
        return
    blocks = _Blocks()
    parts = np.arange(len(refs)) // MOST_CHUNKS
    sizes = np.cumsum(refs.nbytes) // MOST_BYTES
    edges = np.flatnonzero((np.diff(parts) != 0) | (np.diff(sizes) != 0)) + 1
    for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(refs)], strict=True):
        yield from _read(refs.take(np.arange(first, last)), blocks)


def read_result(ref: ResultRef) -> pa.Table:
    """The result of one chunk. Raises StoreError if its file is gone or cannot be read."""
    [window] = read_windows(ResultRefs.of([ref]))
    return window.whole


def opened(path: str) -> ArrowFile:
    """A file of results. Raises StoreError if it is gone or cannot be read."""
    import pyarrow as pa

    try:
        return open_arrow(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


_Place = tuple[str, int, int]
"""A file, the first record batch, and how many."""


@dataclass(frozen=True)
class _Block:
    """Record batches that belong together."""

    table: pa.Table
    labels: Labels | None
    each: bool
    """Whether the labels begin anew with every chunk."""
    apart: bool
    """Whether nothing of another file can stand beside it, for it has a dictionary of its own."""
    path: str


@dataclass
class _Span:
    """Chunks that stand one below the other in one block."""

    block: _Block
    table: pa.Table
    rows: list[int]
    labels: Labels | None

    @property
    def restarts(self) -> bool:
        return self.block.each and len(self.rows) > 1


@dataclass
class _Growing:
    """A window that may take in more."""

    last: _Block
    labels: Labels | None
    restarts: bool
    tables: list[pa.Table] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    total: int = 0

    def takes(self, span: _Span) -> bool:
        """Whether the span goes into the same table, and its labels go on or begin anew as the others do."""
        block = span.block
        if block is not self.last and not (
            block.table.num_columns
            and block.table.schema.equals(self.last.table.schema, check_metadata=True)
            and not (block.apart and block.path != self.last.path)
        ):
            return False
        if self.labels is None or span.labels is None:
            return self.labels is span.labels
        if not (self.restarts or span.restarts) and self.labels.after(self.total) == span.labels:
            return True
        anew = (self.restarts or len(self.rows) == 1) and (span.restarts or len(span.rows) == 1)
        if anew and self.labels == span.labels:
            self.restarts = True
            return True
        return False

    def add(self, span: _Span) -> None:
        self.last = span.block
        self.tables.append(span.table)
        self.rows += span.rows
        self.total += span.table.num_rows

    def window(self) -> Window:
        import pyarrow as pa

        table = self.tables[0] if len(self.tables) == 1 else pa.concat_tables(self.tables)
        if len(self.tables) > MOST_PIECES:
            table = table.combine_chunks()
        return Window(table, self.rows, self.labels, self.restarts)


class _Blocks:
    """Reads blocks, and keeps some of them."""

    def __init__(self) -> None:
        self._kept: dict[_Place, _Block] = {}
        self._bytes = 0

    def read(self, places: Collection[_Place]) -> dict[_Place, _Block]:
        """The blocks at these places."""
        found = {place: self._kept[place] for place in places if place in self._kept}
        # Sorted, so that each file is opened once.
        for place in sorted(place for place in places if place not in found):
            block = found[place] = _read_block(*place)
            self._keep(place, block)
        return found

    def _keep(self, place: _Place, block: _Block) -> None:
        nbytes = block.table.nbytes
        if self._bytes + nbytes > MOST_KEPT:
            self._kept, self._bytes = {}, 0
        if nbytes <= MOST_KEPT:
            self._kept[place] = block
            self._bytes += nbytes


def _read(refs: ResultRefs, blocks: _Blocks) -> Iterator[Window]:
    """As few windows as these chunks go into."""
    growing: _Growing | None = None
    for span in _spans(refs, blocks):
        if growing is not None and not growing.takes(span):
            yield growing.window()
            growing = None
        if growing is None:
            growing = _Growing(span.block, span.labels, span.restarts)
        growing.add(span)
    if growing is not None:
        yield growing.window()


def _spans(refs: ResultRefs, blocks: _Blocks) -> Iterator[_Span]:
    """The results in order, what stands together in one piece."""
    import numpy as np

    block_of = np.stack([refs.files, refs.first_batches, refs.batches])
    goes_on = (np.diff(block_of) == 0).all(axis=0) & (np.diff(refs.first_rows) == refs.rows[:-1])
    firsts = [0, *(np.flatnonzero(~goes_on) + 1).tolist()]
    rows, starts = refs.rows.tolist(), refs.first_rows.tolist()
    places: list[_Place] = [
        (refs.paths[file], first_batch, batches)
        for file, first_batch, batches in block_of[:, firsts].T.tolist()
    ]
    found = blocks.read(set(places))
    for first, last, place in zip(firsts, [*firsts[1:], len(refs)], places, strict=True):
        block = found[place]
        table = _slice(block.table, starts[first], sum(rows[first:last]))
        labels = block.labels if block.labels is None or block.each else block.labels.after(starts[first])
        # Of a chunk that is not part of a pack, the table knows best how many rows there are.
        yield _Span(block, table, rows[first:last] if last > first + 1 else [table.num_rows], labels)


def _read_block(path: str, first_batch: int, batches: int) -> _Block:
    import pyarrow as pa

    file = opened(path)
    stop = file.blocks if batches == TO_THE_END else first_batch + batches
    try:
        read = [file.batch_with_note(number) for number in range(first_batch, stop)]
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    table = pa.Table.from_batches([batch for batch, _ in read], schema=file.schema)
    note = read[0][1] if read else {}
    note = {key: note[key] for key in (LABELS_KEY, EACH_LABELS_KEY) if key in note}
    if note:
        table = with_metadata(table, {**(table.schema.metadata or {}), **note})
    each = each_labels_of(table.schema)
    apart = any(pa.types.is_dictionary(column.type) for column in table.schema)
    labels = each or labels_of(table.schema)
    return _Block(with_labels(table, None), labels, each is not None, apart, path)


def _slice(table: pa.Table, start: int, rows: int) -> pa.Table:
    if start == 0 and rows >= table.num_rows:
        return table
    if table.num_columns == 0:  # Arrow would forget the number of rows
        return rows_without_columns(rows, table.schema.metadata)
    return table.slice(start, rows)
