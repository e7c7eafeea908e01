"""Which rows of the input a pipeline wants, in the form of pandas' ``read_parquet(filters=...)``.

Everything here is about the form; what columns and values mean is known once the input is
(see ``batchrun.data.filtering``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchrun.errors import PipelineError, near_miss

__all__ = ["OPERATORS", "Condition", "Where", "read_where", "where_columns"]

Condition = tuple[str, str, Any]
"""A column, an operator, a value."""
Where = tuple[tuple[Condition, ...], ...]
"""Rows are wanted for which all conditions of one of the inner tuples hold."""

OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "in", "not in")
"""What a condition can say."""


def read_where(given: Sequence[Any] | None) -> Where | None:
    """Conditions as a user gives them, checked: a list of tuples that must all hold, or a list of such lists
    of which one must.

    ``=`` is read as ``==``. No conditions, as in None or an empty list, want every row.

    Raises PipelineError for any other form and for an unknown operator.

    >>> read_where([("month", ">=", 6)])
    ((('month', '>=', 6),),)
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise PipelineError(f'where={given!r}: give a list of conditions, like [("month", ">=", 6)]')
    if not given:
        return None
    either = given if all(isinstance(item, list) for item in given) else [given]
    if not all(either):
        raise PipelineError(f"where={given!r} has an empty list in it, which would want every row")
    return tuple(tuple(_condition(item) for item in both) for both in either)


def where_columns(where: Where | None) -> tuple[str, ...]:
    """The columns that conditions name, each once."""
    return tuple(dict.fromkeys(column for both in where or () for column, _, _ in both))


def _condition(given: Any) -> Condition:
    if not isinstance(given, (tuple, list)) or len(given) != 3 or not isinstance(given[0], str):
        raise PipelineError(
            f'where: {given!r} is no condition; write (column, operator, value), like ("month", ">=", 6)'
        )
    column, operator, value = given
    operator = "==" if operator == "=" else operator
    if operator not in OPERATORS:
        hint = near_miss(str(operator), OPERATORS)
        raise PipelineError(
            f"where: {operator!r} in {tuple(given)!r} is no operator; there are {', '.join(OPERATORS)}.{hint}"
        )
    if operator in ("in", "not in"):
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise PipelineError(f"where: {tuple(given)!r}: {operator!r} needs a list of values")
        value = tuple(value)
    if value is None and operator not in ("==", "!="):
        raise PipelineError(f"where: {tuple(given)!r}: None can only be compared by == and !=")
    return column, operator, value
