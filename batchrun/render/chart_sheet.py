"""The sheets of a workbook that show figures: as native charts, with the numbers that they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from batchrun.render.cells import clip
from batchrun.render.native_charts import NativeChart, NativeTiles, Series
from batchrun.render.timeline import natural

__all__ = ["FIGURES", "add_figures"]

FIGURES = "figures"
"""The sheet of the charts."""
DATA = "figure data"
"""The sheet of the numbers."""
WIDTH = 900
"""Pixels of a chart."""
HEIGHT = 340
"""Pixels of a chart, unless it has many bars that lie."""
ROW = 20
"""Pixels of a row of the sheet."""
BAR = 26
"""Pixels of a bar that lies."""
EPOCH = 25_569
"""The day of 1970-01-01 in a spreadsheet."""
DAY = 86_400_000
"""Milliseconds of a day."""
HIDDEN = {"marker": {"type": "none"}, "line": {"none": True}}
"""Points that only carry something."""
NO_NATIVE_FORM = "This figure has no form that a spreadsheet can draw; the HTML report shows it."

Columns = list[tuple[str, Sequence[float | str | None]]]


def add_figures(book: Any, figures: Sequence[tuple[str, Sequence[NativeChart | NativeTiles]]]) -> None:
    """Add a sheet with the charts of each figure below its title, and one with their numbers.

    *book* is a workbook of XlsxWriter, which may be one that streams its rows.
    """
    sheet = book.add_worksheet(FIGURES)
    sheet.hide_gridlines(2)
    sheet.set_landscape()
    sheet.fit_to_pages(1, 0)
    heading = book.add_format({"bold": True, "font_size": 13})
    note = book.add_format({"font_color": "#5B6675"})
    data: Columns = []
    row = 0
    for title, charts in figures:
        sheet.write_string(row, 0, clip(title), heading)
        row += 2
        if not charts:
            sheet.write_string(row, 0, NO_NATIVE_FORM, note)
            row += 2
        for chart in charts:
            if isinstance(chart, NativeTiles):
                row += _write_tiles(book, sheet, row, chart) + 2
            else:
                height = _height(chart)
                drawn = _chart(book, chart, data)
                drawn.set_size({"width": WIDTH, "height": height})
                sheet.insert_chart(row, 0, drawn, {"object_position": 2})
                row += height // ROW + 2
    if data:
        _write_data(book, data)


def _height(chart: NativeChart) -> int:
    lying = (
        {place for series in chart.series for place in series.places}
        if chart.kind in ("bar", "spans")
        else ()
    )
    return max(HEIGHT, 90 + BAR * len(lying))


def _chart(book: Any, chart: NativeChart, data: Columns) -> Any:
    """The chart; its numbers are put into *data*, as columns."""
    if chart.kind == "spans":
        return _spans(book, chart, data)
    named = any(isinstance(place, str) for series in chart.series for place in series.places)
    kind = "line" if chart.kind == "scatter" and named else chart.kind
    options = {
        "type": kind,
        **({"subtype": "stacked"} if chart.stacked and kind in ("column", "bar") else {}),
    }
    drawn = book.add_chart(options)
    for series in chart.series:
        drawn.add_series(_options(series, data, chart, points=kind in ("line", "scatter")))
    if chart.over:
        lines = book.add_chart({"type": "line"})
        for series in chart.over:
            lines.add_series(_options(series, data, chart, points=True))
        drawn.combine(lines)
    _label(drawn, chart, lies=kind == "bar")
    if len(chart.series) + len(chart.over) == 1 or not any(series.name for series in chart.series):
        drawn.set_legend({"none": True})
    return drawn


def _options(series: Series, data: Columns, chart: NativeChart, *, points: bool) -> dict[str, Any]:
    places = [_day(place) for place in series.places] if chart.dates else list(series.places)
    columns: Columns = [
        (chart.x_label or "x", places),
        (series.name or chart.y_label or "value", list(series.values)),
    ]
    categories, values = _add(data, columns)
    options: dict[str, Any] = {"name": series.name or "values", "categories": categories, "values": values}
    if not points:
        return {**options, "fill": {"color": series.color}, "gap": 40}
    line = {"color": series.color, "width": 2} if series.line else {"none": True}
    fill = {"fill": {"color": series.color}, "border": {"color": series.color}}
    marker = {"type": "circle", "size": 5, **fill} if series.points else {"type": "none"}
    return {**options, "line": line, "marker": marker}


def _spans(book: Any, chart: NativeChart, data: Columns) -> Any:
    """Bars from a start to an end: points at the starts, with thick error bars to the ends.

    Stacked bars could not leave a different gap before each bar of a row.
    """
    rows = sorted({str(place) for series in chart.series for place in series.places}, key=natural)
    drawn = book.add_chart({"type": "scatter"})
    for series in chart.series:
        lengths = [
            None if start is None or end is None else end - start
            for start, end in zip(series.values, series.ends, strict=True)
        ]
        lanes = [float(len(rows) - rows.index(str(place))) for place in series.places]
        starts, heights, sizes = _add(
            data, [("start", series.values), ("row", lanes), (f"length {series.name}".rstrip(), lengths)]
        )
        bars = {
            "type": "custom",
            "plus_values": _formula(sizes),
            "minus_values": [0],
            "direction": "plus",
            "end_style": 0,
            "line": {"color": series.color, "width": BAR / 2},
        }
        drawn.add_series(
            {
                "name": series.name or "spans",
                "categories": starts,
                "values": heights,
                **HIDDEN,
                "x_error_bars": bars,
            }
        )
    _name_rows(drawn, rows, data)
    _label(drawn, chart, lies=False)
    drawn.set_x_axis({"name": chart.x_label, "min": 0})
    # Else the names of the rows would stick out of the chart.
    drawn.set_plotarea({"layout": {"x": 0.15, "y": 0.06, "width": 0.82, "height": 0.74}})
    no_lines = {"major_gridlines": {"visible": False}, "line": {"none": True}}
    drawn.set_y_axis(
        {"min": 0, "max": len(rows) + 1, "label_position": "none", "major_tick_mark": "none", **no_lines}
    )
    drawn.set_legend({"none": True})
    return drawn


def _name_rows(drawn: Any, rows: Sequence[str], data: Columns) -> None:
    """Write the name of each row of spans beside it: an axis of numbers has no names."""
    heights = [float(len(rows) - number) for number in range(len(rows))]
    zeros, lanes, _ = _add(data, [("zero", [0.0] * len(rows)), ("row", heights), ("name", list(rows))])
    labels = {"custom": [{"value": clip(name)} for name in rows], "position": "left", "value": True}
    drawn.add_series({"name": "rows", "categories": zeros, "values": lanes, **HIDDEN, "data_labels": labels})


def _formula(place: list[Any]) -> str:
    """A range as XlsxWriter wants it where a list would be taken for values."""
    from xlsxwriter.utility import xl_range_abs

    return f"='{place[0]}'!{xl_range_abs(*place[1:])}"


def _label(drawn: Any, chart: NativeChart, *, lies: bool) -> None:
    drawn.set_title({"name": clip(chart.title)} if chart.title else {"none": True})
    across: dict[str, Any] = {"name": chart.x_label, "label_position": "low"}
    if chart.dates:
        across["num_format"] = "yyyy-mm-dd"
    up: dict[str, Any] = {"name": chart.y_label}
    up["major_gridlines"] = {"visible": True, "line": {"color": "#E2E6EB"}}
    if chart.shares:
        up["num_format"] = "0%"
    # The axis of the categories is x for XlsxWriter, also where it runs up.
    drawn.set_x_axis({**up, "name": chart.y_label} if lies else across)
    drawn.set_y_axis(across if lies else up)
    drawn.set_legend({"position": "right"})


def _add(data: Columns, columns: Columns) -> list[list[Any]]:
    """Put columns beside those there are; gives where each of them is, as XlsxWriter wants it."""
    at = len(data)
    data.extend(columns)
    return [
        [DATA, 1, at + number, max(1, len(values)), at + number] for number, (_, values) in enumerate(columns)
    ]


def _write_data(book: Any, data: Columns) -> None:
    sheet = book.add_worksheet(DATA)
    sheet.freeze_panes(1, 0)
    header = book.add_format({"bold": True, "bottom": 1, "bg_color": "#EEF1F5"})
    for at, (name, _) in enumerate(data):
        sheet.write_string(0, at, clip(name), header)
    for row, values in enumerate(zip_longest(*(values for _, values in data)), start=1):
        for at, value in enumerate(values):
            _write(sheet, row, at, value)


def _write_tiles(book: Any, sheet: Any, row: int, tiles: NativeTiles) -> int:
    """Write a table whose cells are coloured by their numbers; gives how many rows it took."""
    bold = book.add_format({"bold": True})
    number = book.add_format({"num_format": "0.0"})
    for at, name in enumerate(tiles.columns, start=1):
        sheet.write_string(row, at, clip(name), bold)
    for down, (name, values) in enumerate(zip(tiles.rows, tiles.values, strict=True), start=1):
        sheet.write_string(row + down, 0, clip(name), bold)
        for at, value in enumerate(values, start=1):
            _write(sheet, row + down, at, value, number)
    low, middle, high = (_pale(color) for color in tiles.colors)
    scale: dict[str, Any] = {
        "type": "3_color_scale",
        "min_color": low,
        "mid_color": middle,
        "max_color": high,
    }
    if tiles.range is not None:
        least, largest = tiles.range
        ends = {"min": least, "mid": (least + largest) / 2, "max": largest}
        scale |= {f"{end}_type": "num" for end in ends} | {
            f"{end}_value": value for end, value in ends.items()
        }
    sheet.conditional_format(row + 1, 1, row + len(tiles.rows), len(tiles.columns), scale)
    return len(tiles.rows) + 1


def _write(sheet: Any, row: int, at: int, value: float | str | None, style: Any = None) -> None:
    if isinstance(value, str):
        sheet.write_string(row, at, clip(value), style)
    elif value is not None:
        sheet.write_number(row, at, value, style)


def _pale(color: str) -> str:
    """The colour with half of it white, so that numbers can be read on it."""
    parts = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{(part + 255) // 2:02x}" for part in parts)


def _day(place: float | str) -> float | str:
    return place if isinstance(place, str) else place / DAY + EPOCH
