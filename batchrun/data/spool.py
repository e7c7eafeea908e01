"""A frame in memory, written block by block where workers can map it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchrun.data.files import join, write_arrow
from batchrun.data.frame_rows import FrameRows
from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.data.table import batches_of, encode
from batchrun.split import ByRows, Split

if TYPE_CHECKING:
    from batchrun.data.source import Integers

__all__ = ["row_cuts", "spool_rows", "write_batches", "write_rows"]

BLOCK_BYTES = 4 * 2**20
"""Bytes of a block of the spool, about; each is a file, and can be read once it is written."""
BATCH_BYTES = 64 * 2**20
"""Bytes of a record batch, at most, where chunks are larger than a block."""
STRETCH = 2**20
"""Rows that are converted at a time, at least: most columns of pandas become Arrow's without a copy, but not
without some work for each of them."""
_MOST_BLOCKS = 1024
"""Blocks grow so that there are no more than so many, about."""
_SAMPLES, _SAMPLE = 4, 256
"""A fingerprint looks at about so many places of a table, and at so many rows in each."""
_MOST_PIECES = 4
"""Pieces of a batch that are written as they are; more are copied together first."""


def spool_rows(
    frame: FrameRows, folder: str, description: str, cuts: Integers, order: Integers | None = None
) -> tuple[Source, Supply]:
    """Plan rows as Arrow IPC files in *folder*, and begin to write them.

    A block begins at one of *cuts*, rising row numbers of which the first is 0, so that no chunk that does
    lies in two. *order* holds row numbers, shape (rows,): the order to write the rows in.
    """
    edges = _block_edges(frame, cuts)
    blocks = len(edges) - 1
    names = tuple(join(folder, f"block-{number:05d}.arrow") for number in range(blocks))
    source = Source(
        format="arrow",
        files=names,
        stamps=("",) * blocks,
        block_files=np.arange(blocks, dtype=np.int64),
        block_numbers=np.zeros(blocks, np.int64),
        block_starts=edges,
        columns=None,
        schema=frame.schema,
        cast=False,
        labels=frame.labels,
        bytes_per_row=frame.nbytes / max(1, frame.rows),
        description=description,
        fingerprint=_fingerprint(frame),
        file_starts=None,
        spool=folder,
    )
    converted = _Converted(frame, frame.rows if order is not None else STRETCH)

    def write(number: int) -> None:
        start, stop = int(edges[number]), int(edges[number + 1])
        if order is None:
            rows = converted.slice(start, stop)
        else:
            rows = _taken(converted.slice(0, frame.rows), order[start:stop])
        rows = rows.combine_chunks() if rows.num_columns else rows
        write_batches(names[number], frame.schema, batches_of(rows))

    return source, Supply(source, write)


def row_cuts(split: Split, rows: int) -> Integers:
    """Where the chunks of a split by rows begin, as far as that is known."""
    size = split.rows if isinstance(split, ByRows) and isinstance(split.rows, int) else 1
    return np.arange(0, max(rows, 1), size, dtype=np.int64)


def _block_edges(frame: FrameRows, cuts: Integers) -> Integers:
    """The first row of each block, and one past the last: at cuts, unless a block would grow too large."""
    rows, width = frame.rows, max(1 / 64, frame.nbytes / max(1, frame.rows))
    least = max(1, int(max(BLOCK_BYTES, frame.nbytes / _MOST_BLOCKS) / width))
    most = max(least, int(BATCH_BYTES / width))
    edges = [0]
    while edges[-1] < rows:
        begin = edges[-1]
        following = int(np.searchsorted(cuts, begin + least))
        cut = int(cuts[following]) if following < len(cuts) else rows
        if cut - begin > most:
            cut = int(cuts[np.searchsorted(cuts, begin + most, side="right") - 1])
        edges.append(min(cut if cut > begin else begin + most, rows))
    # A block without rows still knows the types.
    return np.array(edges if rows or not frame.schema.names else [0, 0], np.int64)


class _Converted:
    """Rows of a frame as Arrow tables, asked for in turn and converted so many at a time."""

    def __init__(self, frame: FrameRows, stretch: int) -> None:
        self._frame = frame
        self._stretch = stretch
        self._start, self._table = 0, frame.convert(0, 0)

    def slice(self, start: int, stop: int) -> pa.Table:
        """The rows from a first one up to another."""
        if not self._start <= start <= stop <= self._start + self._table.num_rows:
            last = min(self._frame.rows, max(stop, start + self._stretch))
            self._start, self._table = start, self._frame.convert(start, last)
        return self._table.slice(start - self._start, stop - start)


def _taken(table: pa.Table, rows: Integers) -> pa.Table:
    return table.take(pa.array(rows))


def write_rows(table: pa.Table, path: str, order: Integers | None) -> list[int]:
    """Write a table as one Arrow IPC file in batches of some 64 MiB, and give back their lengths.

    *order* is as for ``spool_table``. Raises StoreError when the disk refuses.
    """
    if any(pa.types.is_dictionary(field.type) for field in table.schema):
        table = table.unify_dictionaries()
    width = max(1 / 64, table.nbytes / max(1, table.num_rows))
    rows = max(1, int(BATCH_BYTES / width))
    batches = _even_batches(table, rows) if order is None else _taken_batches(table, order, rows)
    return write_batches(path, table.schema, batches)


def _even_batches(table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
    """The table in batches of so many rows, put together where it comes in small pieces."""
    for start in range(0, max(table.num_rows, 1), rows):
        piece = table.slice(start, min(rows, table.num_rows - start))
        if piece.num_columns and piece.column(0).num_chunks > _MOST_PIECES:
            piece = piece.combine_chunks()
        yield from batches_of(piece)


def _taken_batches(table: pa.Table, order: Integers, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a table in another order, some at a time."""
    for start in range(0, max(len(order), 1), rows):
        yield from batches_of(_taken(table, order[start : start + rows]).combine_chunks())


def write_batches(path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> list[int]:
    """Write record batches as one Arrow IPC file, and give back their lengths.

    A spool is not forced to the disk: it can be made again, and waiting for the disk would cost more than
    writing it.
    """
    lengths = []
    with write_arrow(path, schema, durable=False) as writer:
        for batch in batches:
            writer.write_batch(batch)
            lengths.append(batch.num_rows)
    return lengths


def _fingerprint(frame: FrameRows) -> str:
    """A hash of the schema, the size and a thousand rows from all over the frame: cheap, and no proof."""
    digest = hashlib.sha256(bytes(frame.schema.serialize()))
    digest.update(f"{frame.rows} {frame.nbytes}".encode())
    if frame.schema.names:
        for start in range(0, frame.rows, max(_SAMPLE, frame.rows // _SAMPLES)):
            rows = frame.convert(start, min(start + _SAMPLE, frame.rows))
            digest.update(encode(rows.combine_chunks()))
    return digest.hexdigest()[:32]
