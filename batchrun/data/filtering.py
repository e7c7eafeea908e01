"""Row conditions, bound to the columns of an input and carried out where rows are read.

A condition holds for no row whose value is missing, except where it asks for missing values:
``== None``, or None in the list of ``in``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from batchrun.data.table import decode, encode, labelled
from batchrun.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

    from batchrun.where import Where

__all__ = ["Filter", "bind_where"]


@dataclass(frozen=True)
class Filter:
    """Which of the rows that are read are passed on."""

    conditions: bytes
    """The conditions as an Arrow IPC stream, a row for each: its alternative, column, operator and value."""
    hidden: tuple[str, ...] = ()
    """Columns that are read for the conditions only."""

    def apply(self, table: pa.Table) -> pa.Table:
        """The rows for which the conditions hold, without the hidden columns; rows keep their labels."""
        kept = labelled(table).filter(_expression(self.conditions))
        return kept.drop_columns(list(self.hidden)) if self.hidden else kept

    def excludes(self, group: Any) -> bool:
        """Whether what a Parquet file says of a row group excludes every row of it."""
        columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
        return all(
            any(_excluded(columns.get(column), operator, value) for column, operator, value in both)
            for both in _alternatives(self.conditions)
        )


def bind_where(where: Where, schema: pa.Schema, description: str, hidden: tuple[str, ...] = ()) -> Filter:
    """The filter of conditions on a table of that schema.

    Raises InputError for a column that is not there and for a value that its column cannot be compared with.
    """
    import pyarrow as pa

    from batchrun.data.planning import missing_column

    empty = schema.empty_table()
    rows: dict[str, list[Any]] = {"either": [], "column": [], "operator": [], "value": []}
    for number, both in enumerate(where):
        for column, operator, value in both:
            if column not in schema.names:
                raise missing_column(column, schema.names, description)
            kind = schema.field(column).type
            values = _comparable(empty, column, operator, value, kind)
            rows["either"].append(number)
            rows["column"].append(column)
            rows["operator"].append(operator)
            rows["value"].append(encode(pa.table({"value": values})))
    return Filter(encode(pa.table(rows)), hidden)


def _comparable(empty: pa.Table, column: str, operator: str, value: Any, kind: pa.DataType) -> pa.Array:
    """The value, or values, as an array that Arrow compares with the column."""
    import pyarrow as pa

    problem: Exception | None = None
    for turn in (_as_it_is, _as_the_column):
        try:
            values = turn(value if operator in ("in", "not in") else [value], kind)
            empty.filter(_holds(column, operator, values))
            return values
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            problem = problem or error
    raise InputError(
        f"where: ({column!r}, {operator!r}, {value!r}) cannot be told: the column is {kind}; give a value of "
        f"that kind ({str(problem).splitlines()[0]})"
    ) from problem


def _as_it_is(values: Any, kind: pa.DataType) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    plain = any(isinstance(value, np.generic) for value in values)
    return pa.array(np.asarray(values)) if plain else pa.array(list(values))


def _as_the_column(values: Any, kind: pa.DataType) -> pa.Array:
    """Text that names a time, or a whole number beside decimal ones."""
    import pyarrow as pa

    found = _as_it_is(values, kind)
    time = pa.types.is_string(found.type) and pa.types.is_temporal(kind)
    if not time and not (pa.types.is_integer(found.type) and pa.types.is_decimal(kind)):
        raise TypeError(f"{found.type} is of another kind")
    return found.cast(kind)


@lru_cache(maxsize=8)
def _alternatives(conditions: bytes) -> tuple[tuple[tuple[str, str, Any], ...], ...]:
    """The conditions as values of Python."""
    return tuple(
        tuple((column, operator, tuple(values.to_pylist())) for column, operator, values in both)
        for both in _read(conditions)
    )


@lru_cache(maxsize=8)
def _expression(conditions: bytes) -> pc.Expression:
    whole = None
    for both in _read(conditions):
        joined = None
        for column, operator, values in both:
            one = _holds(column, operator, values)
            joined = one if joined is None else joined & one
        whole = joined if whole is None else whole | joined
    return whole


def _read(conditions: bytes) -> Iterator[list[tuple[str, str, pa.Array]]]:
    table = decode(conditions)
    rows = table.to_pylist()
    for number in range(rows[-1]["either"] + 1):
        yield [
            (row["column"], row["operator"], decode(row["value"])["value"].combine_chunks())
            for row in rows
            if row["either"] == number
        ]


def _holds(column: str, operator: str, values: pa.Array) -> pc.Expression:
    """The Arrow expression of one condition."""
    import operator as operators

    import pyarrow.compute as pc

    field = pc.field(column)
    if operator in ("in", "not in"):
        return field.isin(values) if operator == "in" else field.is_valid() & ~field.isin(values)
    if values.null_count:
        return field.is_null() if operator == "==" else field.is_valid()
    compare = {
        "==": operators.eq,
        "!=": operators.ne,
        "<": operators.lt,
        "<=": operators.le,
        ">": operators.gt,
        ">=": operators.ge,
    }
    return compare[operator](field, values[0])


def _excluded(column: Any, operator: str, values: tuple[Any, ...]) -> bool:
    """Whether the statistics of a column of a row group say that the condition holds for none of its rows."""
    statistics = column.statistics if column is not None and column.is_stats_set else None
    if statistics is None or not statistics.has_min_max or None in values:
        return False
    try:
        low, high = statistics.min, statistics.max
        if operator in ("==", "in"):
            return all(bool(value < low or value > high) for value in values)
        return {
            "<": lambda value: bool(low >= value),
            "<=": lambda value: bool(low > value),
            ">": lambda value: bool(high <= value),
            ">=": lambda value: bool(high < value),
        }[operator](values[0])
    except (KeyError, TypeError, ValueError, NotImplementedError):
        return False  # what cannot be compared here is compared row by row
