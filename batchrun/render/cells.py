"""Arrow columns as cells of a workbook: a header, a number format, a width, and values that Excel can hold.

Excel keeps numbers as doubles, times without a zone, to the millisecond and from 1900 on, and 32,767
characters in a cell. What does not fit such a cell is written as text, so that nothing changes unseen.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Cell", "Column", "clip", "column_of", "python_values", "table_of"]

MOST_CHARACTERS = 32_767
"""Characters that a cell can hold."""
EXACT = 10**15
"""Whole numbers up to this are exact in Excel, which shows 15 digits."""
FIRST_YEAR = 1900
"""Excel knows no earlier day."""
CUT = " … (cut)"
"""Ends a text that was too long for its cell."""

Cell = str | float | bool | dt.datetime | dt.date | dt.time | dt.timedelta | None
"""What a cell may be given; None leaves it empty."""


@dataclass(frozen=True)
class Column:
    """How one Arrow column becomes cells."""

    header: str
    """The column's name, and its time zone if it has one."""
    number_format: str
    """Excel's number format; empty for the general one."""
    width: int
    """Characters that the column is wide enough for, unless its values are wider."""
    convert: Callable[[Any], Cell]
    """Turns one Python value of the column, never None, into a cell."""

    def cells(self, array: pa.Array | pa.ChunkedArray) -> list[Cell]:
        """The cells of a piece of the column."""
        convert = self.convert
        return [None if value is None else convert(value) for value in python_values(array)]


def column_of(name: str, kind: pa.DataType) -> Column:
    """How a column of that name and Arrow type becomes cells.

    An index of pandas without a name, which Arrow calls ``__index_level_0__``, is headed ``index``.
    """
    from pyarrow import types

    name = "index" if re.fullmatch(r"__index_level_\d+__", name) else name or "(no name)"
    if types.is_dictionary(kind):
        return column_of(name, kind.value_type)
    if types.is_timestamp(kind) and kind.tz:
        name += " (UTC)" if kind.tz == "UTC" else f" (UTC, from {kind.tz})"
    if types.is_decimal(kind):
        return Column(name, "0." + "0" * kind.scale if kind.scale > 0 else "0", 12, _decimal)
    known: tuple[tuple[Callable[[pa.DataType], bool], str, int, Callable[[Any], Cell]], ...] = (
        (types.is_boolean, "", 8, bool),
        (types.is_integer, "0", 10, _whole),
        (types.is_floating, "", 12, _real),
        (types.is_timestamp, "yyyy-mm-dd hh:mm:ss", 20, _datetime),
        (types.is_date, "yyyy-mm-dd", 12, _date),
        (types.is_time, "hh:mm:ss", 10, _same),
        (types.is_duration, "[h]:mm:ss", 12, _duration),
        (types.is_nested, "", 30, _nested),
    )
    for test, number_format, width, convert in known:
        if test(kind):
            return Column(name, number_format, width, convert)
    return Column(name, "", 12, _text)


def table_of(frame: pd.DataFrame) -> pa.Table:
    """A DataFrame as an Arrow table; a column that Arrow cannot hold becomes text."""
    import pyarrow as pa

    columns = {}
    for position, name in enumerate(frame.columns):
        series = frame.iloc[:, position]
        try:
            columns[str(name)] = pa.Array.from_pandas(series)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            columns[str(name)] = pa.array([None if value is None else str(value) for value in series])
    return pa.table(columns)


def python_values(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Python values; times without zone in UTC, nanoseconds cut off, what Python has no value for as text."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = array.type
    if types.is_dictionary(kind):
        array, kind = array.cast(kind.value_type), kind.value_type
    if types.is_timestamp(kind):
        # Not by to_pylist: it needs the time zone's data, and refuses nanoseconds without pandas.
        array = array.cast(pa.timestamp(kind.unit)) if kind.tz else array
        target = pa.timestamp("us")
    elif types.is_duration(kind):
        target = pa.duration("us")
    elif types.is_time64(kind):
        target = pa.time64("us")
    elif types.is_date(kind):
        target = kind
    else:
        return list(array.to_pylist())
    # Nanoseconds lose digits, and may; coarser units may not fit, and must not wrap around.
    try:
        return list(array.cast(target, safe=getattr(kind, "unit", "") != "ns").to_pylist())
    except (OverflowError, ValueError, pa.ArrowInvalid):
        return list(pc.cast(array, pa.string()).to_pylist())


def _same(value: Cell) -> Cell:
    return value


def _whole(value: int) -> Cell:
    return value if abs(value) <= EXACT else str(value)


def _real(value: float) -> Cell:
    if math.isfinite(value):
        return value
    # Excel has no word for these; not-a-number is how pandas says that a value is missing.
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"


def _decimal(value: Decimal) -> Cell:
    if not value.is_finite():
        return str(value)
    return float(value) if len(value.as_tuple().digits) <= 15 else str(value)


def _datetime(value: dt.datetime | str) -> Cell:
    if isinstance(value, str):
        return value
    return value if value.year >= FIRST_YEAR else value.isoformat(sep=" ")


def _date(value: dt.date | str) -> Cell:
    if isinstance(value, str):
        return value
    return value if value.year >= FIRST_YEAR else value.isoformat()


def _duration(value: dt.timedelta | str) -> Cell:
    if isinstance(value, str) or value >= dt.timedelta(0):
        return value
    return f"-{-value}"


def _nested(value: Any) -> Cell:
    return clip(json.dumps(value, ensure_ascii=False, default=str))


def _text(value: Any) -> Cell:
    return clip(value.hex() if isinstance(value, bytes) else str(value))


def clip(text: str) -> str:
    """The text, cut where a cell ends."""
    if _units(text) <= MOST_CHARACTERS:
        return text
    most = MOST_CHARACTERS - len(CUT)
    units = text[:most].encode("utf-16-le", "replace")[: 2 * most]
    return units.decode("utf-16-le", "ignore") + CUT


def _units(text: str) -> int:
    """The length of a text as Excel counts it, which takes what lies beyond U+FFFF for two characters."""
    if len(text) <= MOST_CHARACTERS // 2 or text.isascii():
        return len(text)
    return len(text.encode("utf-16-le", "replace")) // 2
