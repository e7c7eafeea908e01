"""Types that must agree: of the files of one input, and of the results of the chunks of one run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from batchrun.data.table import rows_without_columns

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["common_type", "conform", "convert", "plain_type", "row_bytes"]


def common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """A type that holds the values of both; None if there is none short of text.

    Numbers widen (an integer and a float give a float), null gives way to anything, a dictionary and its
    values give the values, dates and times give times.
    """
    import pyarrow as pa

    if first == second:
        return first
    pair = [pa.schema([("x", first)]), pa.schema([("x", second)])]
    try:
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except pa.ArrowException:
        plain = plain_type(first), plain_type(second)
    if plain != (first, second):
        return common_type(*plain)
    if {pa.types.is_date(kind) for kind in plain} == {True, False}:
        time = next(kind for kind in plain if not pa.types.is_date(kind))
        return time if pa.types.is_timestamp(time) and time.tz is None else None
    return None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding: the values of a dictionary, ordinary strings for string views."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    return kind


def conform(table: pa.Table, schema: pa.Schema, *, fill: bool = False) -> pa.Table:
    """The table with the columns and types of *schema*, column order and metadata included.

    A missing column is filled with nulls if *fill* says so.

    Raises KeyError for a missing column and a pyarrow error for a value that does not fit.
    """
    import pyarrow as pa

    if table.schema.equals(schema, check_metadata=True):
        return table
    columns = []
    for field in schema:
        position = table.schema.get_field_index(field.name)
        if position >= 0:
            columns.append(convert(table.column(position), field.type))
        elif fill:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
        else:
            raise KeyError(f"there is no column {field.name!r}")
    if not columns:
        return rows_without_columns(table.num_rows, schema.metadata)
    return pa.Table.from_arrays(columns, schema=schema)


def convert(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column in another type that can hold its values."""
    import pyarrow as pa

    if column.type == kind:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type).dictionary_encode().cast(kind)
    # Large integers lose digits as floats, as they do in pandas; that is no reason to lose the run.
    return column.cast(kind, safe=not pa.types.is_floating(kind))


def row_bytes(types: Iterable[pa.DataType], text: float = 16.0) -> float:
    """Bytes that a row of these types takes in memory; *text* is the guess for a value of no fixed size."""
    total = 0.0
    for kind in types:
        try:
            total += kind.bit_width / 8 + 1 / 8
        except ValueError:
            total += 4 + text
    return total
