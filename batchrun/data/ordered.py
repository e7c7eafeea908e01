"""Results of chunks in input order, as record batches of one schema that are read a few at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from batchrun.data.joining import common_schema
from batchrun.data.refs import ResultRefs
from batchrun.data.schema import conform
from batchrun.data.table import to_frame
from batchrun.data.windows import opened, read_windows

__all__ = ["read_in_order"]


def read_in_order(refs: ResultRefs) -> pa.RecordBatchReader:
    """The results at *refs*, in that order.

    Only the footers of their files are read at once, for the schema: columns come in order of first
    appearance, one that a result lacks is filled with nulls, and types widen. A pandas index is a column if
    it has a name, and is left out if it has none.

    Raises ResultError if a column has types that have nothing in common, and StoreError if a file cannot be
    read, then or while reading on.
    """
    schema = _schema(refs)
    return pa.RecordBatchReader.from_batches(schema, _batches(refs, schema))


def _batches(refs: ResultRefs, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for window in read_windows(refs.where(refs.rows > 0)):
        yield from conform(to_frame(window.table, "arrow"), schema, fill=True).combine_chunks().to_batches()


def _schema(refs: ResultRefs) -> pa.Schema:
    """One schema for all results; those without rows only add columns that no other has."""
    files, firsts = np.unique(refs.files, return_index=True)
    has_rows = np.bincount(refs.files, weights=refs.rows) > 0
    filled: dict[pa.Schema, None] = {}
    rest: dict[pa.Schema, None] = {}
    for file in files[np.argsort(firsts)].tolist():
        (filled if has_rows[file] else rest).setdefault(_plain_schema(refs.paths[file]))
    if not filled:
        filled, rest = rest, {}
    return common_schema(list(filled), list(rest))


def _plain_schema(path: str) -> pa.Schema:
    """The columns of a file as a frame of Arrow has them."""
    schema = opened(path).schema
    return to_frame(schema.empty_table(), "arrow").schema.remove_metadata()
