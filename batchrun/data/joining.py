"""Tables of one run put together: one schema, one row index."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pyarrow as pa

from batchrun.data.pandas_frame import joined_metadata
from batchrun.data.schema import common_type, conform
from batchrun.data.table import Labels, is_unnamed_index, labelled, labels_of, with_labels
from batchrun.errors import ResultError

__all__ = ["common_schema", "join_tables"]


def join_tables(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables one after the other as one table.

    Columns come in order of first appearance; one that a table lacks is filled with nulls there, and types
    widen. Range labels are kept where they rise from table to table, and are numbered through where they
    begin anew. A table without rows adds its columns, nothing else.

    Raises ResultError if a column has types that have nothing in common.
    """
    given = [table for table in tables if table.num_columns or table.num_rows]
    filled = [table for table in given if table.num_rows] or given[:1]
    if not filled:
        return pa.table({})
    filled, labels = _settle_labels(filled)
    rest = [with_labels(table, None).schema for table in given if not table.num_rows]
    schema = common_schema([table.schema for table in filled], rest)
    return with_labels(pa.concat_tables([conform(table, schema, fill=True) for table in filled]), labels)


def common_schema(filled: Sequence[pa.Schema], rest: Sequence[pa.Schema] = ()) -> pa.Schema:
    """A schema for tables of all these schemas; those in *rest* have no rows and only add what is missing.

    Raises ResultError if a column has types that have nothing in common.
    """
    filled = list(dict.fromkeys(filled))
    types: dict[str, pa.DataType] = {}
    for schema in filled:
        for field in schema:
            known = types.setdefault(field.name, field.type)
            kind = common_type(known, field.type)
            if kind is None:
                raise ResultError(
                    f"column {field.name!r} is {known} in the result of one chunk and {field.type} in that "
                    "of another; give it one type in the stage"
                )
            types[field.name] = kind
    metadata = joined_metadata(filled, types)
    for schema in rest:
        for field in schema:
            if not is_unnamed_index(field.name):
                types.setdefault(field.name, field.type)
    return pa.schema(list(types.items()), metadata=metadata)


def _settle_labels(tables: list[pa.Table]) -> tuple[list[pa.Table], Labels | None]:
    """The tables with their range labels taken off, turned into a column, or left to number through."""
    ranges = [labels_of(table.schema) for table in tables]
    known = [labels for labels in ranges if labels is not None]
    if not known:
        return tables, None
    if len(known) < len(tables):
        explicit = any(is_unnamed_index(name) for table in tables for name in table.column_names)
        return [labelled(table) if explicit else with_labels(table, None) for table in tables], None
    plain = [with_labels(table, None) for table in tables]
    pairs = list(itertools.pairwise(zip(known, tables, strict=True)))
    if all(before.after(table.num_rows) == after for (before, table), (after, _) in pairs):
        return plain, known[0]
    rising = all(
        before.step > 0 and before.after(table.num_rows).start <= after.start
        for (before, table), (after, _) in pairs
    )
    return ([labelled(table) for table in tables], None) if rising else (plain, Labels(0))
