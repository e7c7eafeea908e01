"""From a reference to a table: what a worker does first with a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.data.files import write_atomically
from batchrun.data.opened import open_arrow, open_parquet
from batchrun.data.schema import conform
from batchrun.data.table import (
    Inline,
    Part,
    Slice,
    Stored,
    TableRef,
    batches_of,
    decode,
    rows_without_columns,
    with_labels,
)
from batchrun.errors import InputError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["load", "write_table"]


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


def write_table(table: pa.Table, path: str) -> Stored:
    """Write a table as an Arrow IPC file of its own: whole and durable, or not at all.

    Raises StoreError when the disk is full or refuses.
    """
    import pyarrow as pa

    if _has_dictionaries(table.schema):
        table = table.unify_dictionaries()
    with write_atomically(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        for batch in batches_of(table):
            writer.write_batch(batch)
    return Stored(path, table.num_rows, table.nbytes)


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

    schema = pa.ipc.read_schema(pa.py_buffer(ref.schema)) if ref.schema is not None else None
    tables = []
    for part in ref.parts:
        try:
            read = _read_parquet if ref.format == "parquet" else _read_arrow
            table = read(part, ref.columns)
            tables.append(table if schema is None else conform(table, schema))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise InputError(
                f"{part.path} cannot be read: {error}. If it was changed or removed while the run went on, "
                "start a new run"
            ) from error
    if not tables and schema is not None:
        tables.append(schema.empty_table())
    return with_labels(_together(tables), ref.labels)


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
    held = sum(file.metadata.row_group(group).num_rows for group in range(part.first_block, last))
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
