"""From a reference to a table or a frame: what a worker does first with a chunk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchrun.data.files import is_local, write_arrow
from batchrun.data.opened import open_arrow, open_parquet
from batchrun.data.schema import conform, row_bytes
from batchrun.data.table import (
    Inline,
    Part,
    Slice,
    Stored,
    TableRef,
    batches_of,
    decode,
    rows_without_columns,
    to_frame,
    with_labels,
)
from batchrun.errors import InputError, ResultError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from batchrun.data.filtering import Filter
    from batchrun.signature import FrameKind

__all__ = ["load", "load_frame", "preload", "write_batches", "write_table"]


_MOST_AHEAD = 2
"""Frames that are kept ready."""
_LARGEST_AHEAD = 256 * 2**20
"""Bytes of the largest frame that is read ahead."""

_ahead: OrderedDict[tuple[Slice, FrameKind], Future[Any]] = OrderedDict()
"""Frames that are kept ready or are being read; None in place of one that could not be read."""
_ahead_lock = threading.Lock()


def load(ref: TableRef) -> pa.Table:
    """The table that a reference names.

    Of a slice only the columns and the blocks that hold its rows are read. Local Arrow files are mapped into
    memory, not copied, so the table stays valid while the file's bytes do; files stay open for the
    next slice, and are opened again when they have changed.

    Raises InputError for a slice and StoreError for a stored table that is gone or cannot be read.
    """
    if isinstance(ref, Inline):
        return decode(ref.data)
    if isinstance(ref, Stored):
        return read_stored(ref.path)
    return _load_slice(ref)


def load_frame(ref: TableRef, kind: FrameKind) -> Any:
    """The table that a reference names as the frame that a stage asks for; see ``load`` and ``to_frame``.

    A polars frame of Parquet files is read by polars itself wherever that gives the same frame.

    Raises InputError, StoreError and ResultError as those two do.
    """
    if not isinstance(ref, Slice):
        return to_frame(load(ref), kind)
    with _ahead_lock:
        begun = _ahead.pop((ref, kind), None) if _ahead else None
    frame = begun.result() if begun is not None else None
    return _frame_of_slice(ref, kind) if frame is None else frame


def preload(ref: Slice, kind: FrameKind) -> None:
    """Read a slice in this thread, so that a ``load_frame`` of an equal one finds it ready.

    Local Arrow files are mapped as fast as that, and a large slice would take the memory of the chunk that is
    computed: both are left alone. What goes wrong is raised by the ``load_frame``, which tries again.
    """
    local = all(is_local(part.path) for part in ref.parts)
    if not ref.parts or (local and ref.format == "arrow"):
        return
    key, begun = (ref, kind), Future[Any]()
    with _ahead_lock:
        if key in _ahead:
            return
        _ahead[key] = begun
        while len(_ahead) > _MOST_AHEAD:
            _ahead.popitem(last=False)
    frame = None
    try:
        if _expected_bytes(ref) <= _LARGEST_AHEAD:
            frame = _frame_of_slice(ref, kind)
    except (OSError, InputError, ResultError):
        pass
    finally:
        begun.set_result(frame)
        if frame is None:
            with _ahead_lock:
                _ahead.pop(key, None)


def _frame_of_slice(ref: Slice, kind: FrameKind) -> Any:
    if kind == "polars":
        from batchrun.data.polars_frame import read_polars

        frame = read_polars(ref)
        if frame is not None:
            return frame
    return to_frame(_load_slice(ref), kind)


def _expected_bytes(ref: Slice) -> float:
    """Bytes that a slice takes in memory, about."""
    path = ref.parts[0].path
    schema = (open_parquet(path) if ref.format == "parquet" else open_arrow(path)).schema
    wanted = schema.names if ref.columns is None else ref.columns
    return ref.rows * row_bytes(schema.field(name).type for name in wanted)


def write_table(table: pa.Table, path: str) -> Stored:
    """Write a table as an Arrow IPC file of its own: whole and durable, or not at all.

    Raises StoreError when the disk is full or refuses.
    """

    if _has_dictionaries(table.schema):
        table = table.unify_dictionaries()
    with write_arrow(path, table.schema) as writer:
        for batch in batches_of(table):
            writer.write_batch(batch)
    return Stored(path, table.num_rows, table.nbytes)


def write_batches(reader: pa.RecordBatchReader, path: str) -> None:
    """Write what a reader gives as an Arrow IPC file, batch by batch: whole and durable, or not at all.

    Columns of dictionaries become columns of values, since a file has one dictionary for all its batches.

    Raises StoreError as ``write_table`` does.
    """
    import pyarrow as pa

    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in reader.schema
    ]
    schema = pa.schema(fields, metadata=reader.schema.metadata)
    with write_arrow(path, schema) as writer:
        for batch in reader:
            writer.write_batch(batch if batch.schema == schema else batch.cast(schema))


def read_stored(path: str) -> pa.Table:
    """The table in an Arrow IPC file. Raises StoreError if it is gone or cannot be read."""
    import pyarrow as pa

    try:
        file = open_arrow(path, keep=False)
        batches = [file.batch(number) for number in range(file.blocks)]
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    return pa.Table.from_batches(batches, schema=file.schema)


def _load_slice(ref: Slice) -> pa.Table:
    import pyarrow as pa

    if ref.where is not None:
        return _together([ref.where.apply(_load_slice(piece)) for piece in _wanted_pieces(ref)])
    schema = pa.ipc.read_schema(pa.py_buffer(ref.schema)) if ref.schema is not None else None
    tables = []
    for part in ref.parts:
        try:
            read = _read_parquet if ref.format == "parquet" else _read_arrow
            table = read(part, ref.columns)
            tables.append(table if schema is None else conform(table, schema))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise _unreadable(part.path, error) from error
    if not tables and schema is not None:
        tables.append(schema.empty_table())
    return with_labels(_together(tables), ref.labels)


def _wanted_pieces(ref: Slice) -> list[Slice]:
    """The slice without its filter, in pieces that leave out the row groups of which that takes nothing; at
    least one piece."""
    import pyarrow as pa

    pieces, row = [], 0
    for part in ref.parts:
        try:
            kept = _wanted_parts(part, ref.where) if ref.format == "parquet" and ref.where else [(0, part)]
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(part.path, error) from error
        pieces += [(row + skipped, piece) for skipped, piece in kept]
        row += part.rows
    if not pieces:
        pieces = [(0, replace(part, blocks=1, skip=0, rows=0)) for part in ref.parts[:1]]
    return [
        replace(
            ref,
            parts=(part,),
            first_row=ref.first_row + skipped,
            rows=part.rows,
            labels=None if ref.labels is None else ref.labels.after(skipped),
            where=None,
        )
        for skipped, part in pieces
    ] or [replace(ref, where=None)]


def _wanted_parts(part: Part, where: Filter) -> list[tuple[int, Part]]:
    """The row groups of a part that may hold rows that are wanted, and how many rows lie before each."""
    metadata = open_parquet(part.path).metadata
    kept: list[tuple[int, Part]] = []
    row, skip = 0, part.skip
    for number in range(part.first_block, part.first_block + part.blocks):
        group = metadata.row_group(number)
        rows = min(group.num_rows - skip, part.rows - row)
        if not where.excludes(group):
            kept.append((row, Part(part.path, number, 1, skip, rows)))
        row += rows
        skip = 0
    return kept


def _unreadable(path: str, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read: {error}. If it was changed or removed while the run went on, start a new run"
    )


def _together(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    if len(tables) == 1:
        return tables[0]
    if tables[0].num_columns == 0:
        return rows_without_columns(sum(table.num_rows for table in tables), tables[0].schema.metadata)
    return pa.concat_tables(tables)


def _read_parquet(part: Part, columns: tuple[str, ...] | None) -> pa.Table:
    file = open_parquet(part.path)
    last = part.first_block + part.blocks
    held = file.first_row(last) - file.first_row(part.first_block)
    table = file.read(
        part.first_block, part.blocks, list(columns) if columns is not None else None, partly=held > part.rows
    )
    return table.slice(part.skip, part.rows)


def _read_arrow(part: Part, columns: tuple[str, ...] | None) -> pa.Table:
    import pyarrow as pa

    file = open_arrow(part.path, columns, keep=False)
    batches = [file.batch(part.first_block + number) for number in range(part.blocks)]
    table = _together([pa.Table.from_batches([batch]) for batch in batches])
    if columns is not None and table.column_names != list(columns):
        table = table.select(columns)
    return table.slice(part.skip, part.rows)


def _has_dictionaries(schema: pa.Schema) -> bool:
    import pyarrow as pa

    return any(pa.types.is_dictionary(field.type) for field in schema)
