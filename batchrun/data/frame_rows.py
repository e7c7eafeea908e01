"""A frame in memory as rows that become Arrow tables when they are asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchrun.data.pandas_frame import table_from_pandas
from batchrun.data.planning import missing_column, range_labels
from batchrun.data.table import Labels, labels_of, to_table, with_labels
from batchrun.errors import InputError, ResultError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FrameRows", "input_table", "rows_of_frame", "rows_of_table"]

OWNER = "the input"


@dataclass(frozen=True)
class FrameRows:
    """Rows whose types are known before they are converted."""

    schema: pa.Schema
    """Their columns and types, without labels."""
    rows: int
    """How many there are."""
    nbytes: int
    """Bytes that they take, about."""
    labels: Labels | None
    """The pandas labels of the rows where they are a range; None where they are columns."""
    convert: Callable[[int, int], pa.Table]
    """Gives the rows from a first one up to another, of that schema."""


def rows_of_table(table: pa.Table) -> FrameRows:
    """The rows of an Arrow table."""
    plain = with_labels(table, None)
    if any(pa.types.is_dictionary(field.type) for field in plain.schema):
        plain = plain.unify_dictionaries()
    labels = range_labels(table.schema, table.num_rows)
    return FrameRows(
        plain.schema,
        table.num_rows,
        plain.nbytes,
        labels,
        lambda start, stop: plain.slice(start, stop - start),
    )


def rows_of_frame(data: Any, columns: tuple[str, ...] | None) -> FrameRows:
    """The rows of a pandas, polars or Arrow frame, projected.

    A pandas frame is converted as its rows are asked for, if its types say what Arrow makes of them; any
    other is converted now. What its owner changes in it later is not seen.

    Raises InputError as ``input_table`` does.
    """
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(data, pandas.DataFrame):
        return rows_of_table(input_table(data, columns))
    # While there is a second frame of the same memory, a change in place is made in memory of its own.
    frame = data.copy(deep=False)
    kept = None if columns is None else [_pandas_label(frame, name) for name in columns]
    if not _is_plain(frame, kept):
        return rows_of_table(input_table(frame, columns))

    head = table_from_pandas(frame.iloc[:0], owner=OWNER, columns=kept, error=InputError)
    schema = with_labels(head, None).schema
    series = [frame[name] for name in (frame.columns if kept is None else kept)]
    if len(schema) > len(series):  # labels that are no range are a column too
        series.append(frame.index.to_series())

    def convert(start: int, stop: int) -> pa.Table:
        # Without what `pa.Table.from_pandas` does for each table: threads, and metadata that are known.
        arrays = [
            pa.array(column.iloc[start:stop], type=field.type, from_pandas=True)
            for column, field in zip(series, schema, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    nbytes = sum(column.memory_usage(index=False, deep=False) for column in series)
    return FrameRows(schema, len(frame), int(nbytes), labels_of(head.schema), convert)


def input_table(data: Any, columns: tuple[str, ...] | None) -> pa.Table:
    """A pandas, polars or Arrow frame as an Arrow table, projected before anything is converted.

    Raises InputError for what is no frame, cannot be stored or lacks a column.
    """
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        kept = None if columns is None else [_pandas_label(data, name) for name in columns]
        return table_from_pandas(data, owner=OWNER, columns=kept, error=InputError)
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
                raise missing_column(name, names, OWNER)
        data = data.select(list(columns))
    try:
        return to_table(data, owner=OWNER)
    except ResultError as error:
        raise InputError(str(error)) from error


def _pandas_label(frame: Any, name: str) -> Any:
    """The label of a column, which may be a number that is written as text."""
    if name in frame.columns:
        return name
    for label in frame.columns:
        if str(label) == name:
            return label
    raise missing_column(str(name), [str(label) for label in frame.columns], OWNER)


def _is_plain(frame: pd.DataFrame, kept: list[Any] | None) -> bool:
    """Whether the types of the columns and of the index say what Arrow makes of them, and it can make it."""
    import pandas as pd

    names = list(frame.columns) if kept is None else kept
    if not frame.columns.is_unique or frame.columns.names != [None] or isinstance(frame.index, pd.MultiIndex):
        return False
    if not names or any(type(name) is not str for name in frame.columns):
        return False
    return all(_is_known(kind) for kind in [frame.index.dtype, *(frame[name].dtype for name in names)])


def _is_known(kind: Any) -> bool:
    """Whether Arrow makes the same of any values of a type."""
    import numpy as np
    import pandas as pd

    if isinstance(kind, np.dtype):
        return kind.kind in "iufbmM"
    text = isinstance(kind, pd.StringDtype) and kind.storage == "pyarrow"
    return text or isinstance(kind, pd.DatetimeTZDtype)
