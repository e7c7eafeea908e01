"""Tables of the page: names, cells as text, and what was left out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.errors import ResultError
from batchrun.render.account import count

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from batchrun.report import RunReport

__all__ = ["Grid", "grid_of", "grid_of_frame", "preview", "show"]

MOST_COLUMNS = 40
"""Columns that a table of user data shows."""
MOST_CHARACTERS = 300
"""Characters of one value of user data."""


@dataclass(frozen=True)
class Grid:
    """A table as the template shows it."""

    header: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[str]]
    """The cells as text."""
    numeric: Sequence[bool]
    """Which columns are numbers, and so stand to the right."""
    note: str = ""
    """What was left out; empty if nothing was."""
    folded: Sequence[str] = ()
    """A long text for each row that is folded away at its end; none if empty."""


def grid_of_frame(frame: pd.DataFrame, most: int, noun: str) -> Grid:
    """The first *most* rows of a DataFrame."""
    from batchrun.render.cells import table_of

    return grid_of(table_of(frame.head(most)), len(frame), noun)


def grid_of(table: pa.Table, total: int, noun: str) -> Grid:
    """A small Arrow table as text, with a note on what is not shown of *total* rows."""
    from pyarrow import types

    from batchrun.render.cells import column_of, python_values

    wide = table.num_columns
    table = table.select(list(range(min(wide, MOST_COLUMNS))))
    columns = [[show(value) for value in python_values(column)] for column in table.columns]
    note = [f"the first {table.num_rows} of {count(total, noun)}"] if total > table.num_rows else []
    if wide > MOST_COLUMNS:
        note.append(f"the first {MOST_COLUMNS} of {count(wide, 'column')}")
    kinds = [field.type for field in table.schema]
    return Grid(
        header=[column_of(field.name, field.type).header for field in table.schema],
        rows=list(zip(*columns, strict=True)),
        numeric=[types.is_integer(k) or types.is_floating(k) or types.is_decimal(k) for k in kinds],
        note=", ".join(note),
    )


def preview(report: RunReport, most: int) -> Grid:
    """The first *most* rows of the results; results that do not fit one table give their reason instead."""
    import pyarrow as pa

    try:
        results = report.batches()
    except ResultError as error:
        return Grid((), (), (), str(error))
    batches, rows = [], 0
    for batch in results:
        batches.append(batch.slice(0, most - rows))
        rows += batches[-1].num_rows
        if rows == most:
            break
    return grid_of(pa.Table.from_batches(batches, results.schema), report.rows_out, "row")


def show(value: Any) -> str:
    """A value of user data as text to read.

    >>> show(0.1 + 0.2), show(12345678.9), show(None), show([1, 2])
    ('0.3', '12345678.9', '', '[1, 2]')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.10g}"
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
