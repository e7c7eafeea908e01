"""Results of chunks in input order, as record batches of one schema that are read one chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from batchrun.data.joining import common_schema
from batchrun.data.opened import open_arrow
from batchrun.data.results import ResultRef, read_result
from batchrun.data.schema import conform
from batchrun.data.table import to_frame
from batchrun.errors import StoreError

__all__ = ["read_in_order"]


def read_in_order(refs: Sequence[ResultRef]) -> pa.RecordBatchReader:
    """The results at *refs*, in that order.

    Only the footers of their files are read at once, for the schema: columns come in order of first
    appearance, one that a result lacks is filled with nulls, and types widen. A pandas index is a column if
    it has a name, and is left out if it has none.

    Raises ResultError if a column has types that have nothing in common, and StoreError if a file cannot be
    read, then or while reading on.
    """
    schema = _schema(refs)
    return pa.RecordBatchReader.from_batches(schema, _batches(refs, schema))


def _batches(refs: Sequence[ResultRef], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for ref in refs:
        if ref.rows:
            yield from conform(to_frame(read_result(ref), "arrow"), schema, fill=True).to_batches()


def _schema(refs: Sequence[ResultRef]) -> pa.Schema:
    """One schema for all results; those without rows only add columns that no other has."""
    has_rows: dict[str, bool] = {}
    for ref in refs:
        has_rows[ref.path] = has_rows.get(ref.path, False) or ref.rows > 0
    filled: dict[pa.Schema, None] = {}
    rest: dict[pa.Schema, None] = {}
    for path, filling in has_rows.items():
        (filled if filling else rest).setdefault(_plain_schema(path))
    if not filled:
        filled, rest = rest, {}
    return common_schema(list(filled), list(rest))


def _plain_schema(path: str) -> pa.Schema:
    """The columns of a file as a frame of Arrow has them."""
    try:
        schema = open_arrow(path).schema
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    return to_frame(schema.empty_table(), "arrow").schema.remove_metadata()
