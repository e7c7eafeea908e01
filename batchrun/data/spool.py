"""A frame in memory, written once where workers can map it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchrun.data.files import stamp, write_atomically
from batchrun.data.pandas_frame import table_from_pandas
from batchrun.data.planning import missing_column, range_labels
from batchrun.data.source import Source
from batchrun.data.table import batches_of, encode, to_table, with_labels
from batchrun.errors import InputError, ResultError

if TYPE_CHECKING:
    from batchrun.data.source import Integers

__all__ = ["BATCH_BYTES", "input_table", "rows_per_batch", "spool_table", "write_batches"]

BATCH_BYTES = 64 * 2**20
"""Bytes of a record batch in the spool, about."""
_MOST_PIECES = 4
"""Pieces of a batch that are written as they are; more are copied together first."""


def input_table(data: Any, columns: tuple[str, ...] | None) -> pa.Table:
    """A pandas, polars or Arrow frame as an Arrow table, projected before anything is converted.

    Raises InputError for what is no frame, cannot be stored or lacks a column.
    """
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    owner = "the input"
    if pandas is not None and isinstance(data, pandas.DataFrame):
        kept = None if columns is None else [_pandas_label(data, name) for name in columns]
        return table_from_pandas(data, owner=owner, columns=kept, error=InputError)
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if not isinstance(data, pa.Table) and not (polars is not None and isinstance(data, polars.DataFrame)):
        raise InputError(
            f"the input is {type(data).__name__}; give a pandas, polars or Arrow frame, or the path of "
            "Parquet, CSV or Arrow files"
        )
    if columns is not None:
        names = data.column_names if isinstance(data, pa.Table) else data.columns
        for name in columns:
            if name not in names:
                raise missing_column(name, names, owner)
        data = data.select(list(columns))
    try:
        return to_table(data, owner=owner)
    except ResultError as error:
        raise InputError(str(error)) from error


def _pandas_label(frame: Any, name: str) -> Any:
    """The label of a column, which may be a number that is written as text."""
    if name in frame.columns:
        return name
    for label in frame.columns:
        if str(label) == name:
            return label
    raise missing_column(str(name), [str(label) for label in frame.columns], "the input")


def spool_table(table: pa.Table, path: str, description: str, order: Integers | None = None) -> Source:
    """Write a table as an Arrow IPC file in batches of some 64 MiB and plan it.

    *order* holds row numbers, shape (rows,): the order to write the rows in. Raises StoreError when the disk
    refuses.
    """
    labels = range_labels(table.schema, table.num_rows)
    plain = with_labels(table, None)
    if any(pa.types.is_dictionary(field.type) for field in plain.schema):
        plain = plain.unify_dictionaries()
    rows = rows_per_batch(plain)
    batches = _even_batches(plain, rows) if order is None else _taken(plain, order, rows)
    lengths = np.array(write_batches(path, plain.schema, batches), np.int64)
    # The first batch is kept though it may have no rows: it knows the categories.
    held = (lengths > 0) | ((np.arange(len(lengths)) == 0) & (lengths.sum() == 0))
    return Source(
        format="arrow",
        files=(path,),
        stamps=(stamp(path),),
        block_files=np.zeros(int(held.sum()), np.int64),
        block_numbers=np.flatnonzero(held).astype(np.int64),
        block_starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[held])]),
        columns=None,
        schema=plain.schema,
        cast=False,
        labels=labels,
        bytes_per_row=plain.nbytes / max(1, plain.num_rows),
        description=description,
        fingerprint=_fingerprint(plain),
        file_starts=None,
    )


def rows_per_batch(table: pa.Table) -> int:
    """Rows of the table in a batch of some 64 MiB."""
    width = max(1 / 64, table.nbytes / max(1, table.num_rows))
    return max(1, int(BATCH_BYTES / width))


def _even_batches(table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
    """The table in batches of so many rows, put together where it comes in small pieces."""
    for start in range(0, max(table.num_rows, 1), rows):
        piece = table.slice(start, min(rows, table.num_rows - start))
        if piece.num_columns and piece.column(0).num_chunks > _MOST_PIECES:
            piece = piece.combine_chunks()
        yield from batches_of(piece)


def _taken(table: pa.Table, order: Integers, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of a table in another order, some at a time."""
    for start in range(0, max(len(order), 1), rows):
        yield from batches_of(table.take(pa.array(order[start : start + rows])).combine_chunks())


def write_batches(path: str, schema: pa.Schema, batches: Any) -> list[int]:
    """Write record batches as one Arrow IPC file, and give back their lengths.

    A spool is not forced to the disk: it can be made again, and waiting for the disk would cost more than
    writing it.
    """
    lengths = []
    with write_atomically(path, durable=False) as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            lengths.append(batch.num_rows)
    return lengths


def _fingerprint(table: pa.Table) -> str:
    """A hash of the schema, the size and a thousand rows spread over the table: cheap, and no proof."""
    digest = hashlib.sha256(bytes(table.schema.serialize()))
    digest.update(f"{table.num_rows} {table.nbytes}".encode())
    if table.num_rows and table.num_columns:
        picked = np.unique(np.linspace(0, table.num_rows - 1, 1024).astype(np.int64))
        digest.update(encode(table.take(pa.array(picked))))
    return digest.hexdigest()[:32]
