"""What a Bokeh figure shows, as series that a spreadsheet can draw by itself.

Lines, steps, points, bars and their stacks, histograms, bars from a start to an end, as in a Gantt chart, and
maps of tiles have a native form. Anything else has none, and is left to the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["ChartKind", "NativeChart", "NativeTiles", "Series", "native_charts"]

ChartKind = Literal["scatter", "column", "bar", "spans"]
"""Points and lines over numbers; standing bars; lying bars; bars from a start to an end."""

MOST_POINTS = 20_000
"""Points of a series; a spreadsheet of more can hardly be moved."""
GRAY = "#7f7f7f"


@dataclass(frozen=True)
class Series:
    """One line, one set of points, or one set of bars."""

    name: str
    """What the legend calls it; empty for no entry."""
    places: Sequence[float | str]
    """Where each value is: x of a scatter, else a category."""
    values: Sequence[float | None]
    """What is there: y of a scatter, the length of a bar, the start of a span; None for nothing."""
    ends: Sequence[float | None] = ()
    """Where each span ends; empty for other kinds."""
    color: str = GRAY
    """As ``#rrggbb``."""
    line: bool = False
    """Whether the points of a scatter are joined."""
    points: bool = False
    """Whether they are marked."""


@dataclass(frozen=True)
class NativeChart:
    """One chart of one kind."""

    kind: ChartKind
    """How its series are drawn."""
    title: str
    """What stands above it; may be empty."""
    x_label: str
    """What runs to the right."""
    y_label: str
    """What runs up."""
    series: Sequence[Series]
    """At least one."""
    stacked: bool = False
    """Whether bars stand on each other."""
    over: Sequence[Series] = ()
    """Lines and points that are drawn over standing bars, at the same categories."""
    dates: bool = False
    """Whether x is a time, in milliseconds since the epoch."""
    shares: bool = False
    """Whether the values are shares, to be read in per cent."""


@dataclass(frozen=True)
class NativeTiles:
    """A table of numbers that are coloured by their size."""

    title: str
    """What stands above it; may be empty."""
    columns: Sequence[str]
    """Names of the columns."""
    rows: Sequence[str]
    """Names of the rows."""
    values: Sequence[Sequence[float | None]]
    """The numbers, row by row."""
    colors: tuple[str, str, str]
    """Of the least, of the middle, and of the largest."""
    range: tuple[float, float] | None = None
    """The numbers of the first and the last colour; None for the least and the largest."""


def native_charts(figure: Any) -> list[NativeChart | NativeTiles]:
    """The charts of a Bokeh figure, or of all figures of a layout, that have a native form."""
    from bokeh.models import Plot

    plots = sorted((model for model in figure.references() if isinstance(model, Plot)), key=lambda m: m.id)
    return [chart for plot in plots if (chart := _tiles(plot) or _chart(plot)) is not None]


def _chart(plot: Any) -> NativeChart | None:
    """The chart of one plot, of the kind that the first glyph with a native form asks for."""
    names = _legend_names(plot)
    found: dict[ChartKind, list[Series]] = {}
    stacked = False
    for renderer in plot.renderers:
        read = _READERS.get(type(getattr(renderer, "glyph", None)).__name__)
        if read is None or not renderer.visible or not hasattr(renderer.data_source, "data"):
            continue
        kind, series = read(renderer.glyph, renderer.data_source.data, names.get(renderer.id, ""))
        found.setdefault(kind, []).extend(one for one in series if 0 < len(one.values) <= MOST_POINTS)
        stacked = stacked or _is_stacked(renderer.glyph)
    kinds = [kind for kind, series in found.items() if series]
    if not kinds:
        return None
    over = found["scatter"] if kinds[0] == "column" and "scatter" in found else ()
    return NativeChart(
        kinds[0],
        _title(plot),
        _label(plot.below),
        _label(plot.left),
        _joined(found[kinds[0]]),
        stacked,
        _joined(over),
        dates=any(type(axis).__name__ == "DatetimeAxis" for axis in plot.below),
        shares=any("%" in str(getattr(axis.formatter, "format", "")) for axis in plot.left),
    )


def _tiles(plot: Any) -> NativeTiles | None:
    """A map of tiles at categories whose colour tells a number."""
    for renderer in plot.renderers:
        glyph: Any = getattr(renderer, "glyph", None)
        mapper: Any = getattr(getattr(glyph, "fill_color", None), "transform", None)
        palette, factors = getattr(mapper, "palette", None), (_factors(plot.x_range), _factors(plot.y_range))
        if type(glyph).__name__ != "Rect" or not palette or not all(factors):
            continue
        columns, rows = factors[0], factors[1][::-1]
        data = renderer.data_source.data
        found = {
            (str(y), str(x)): value
            for x, y, value in zip(
                *(_values(spec, data) for spec in (glyph.x, glyph.y)),
                _numbers(_values(glyph.fill_color, data)),
                strict=True,
            )
        }
        values = [[found.get((row, column)) for column in columns] for row in rows]
        colors = (_hex(palette[0]), _hex(palette[len(palette) // 2]), _hex(palette[-1]))
        low, high = _number(mapper.low), _number(mapper.high)
        ends = None if low is None or high is None else (low, high)
        return NativeTiles(_title(plot), columns, rows, values, colors, ends)
    return None


def _factors(range_: Any) -> list[str]:
    """The categories of an axis; none of one of numbers."""
    return [str(factor) for factor in getattr(range_, "factors", None) or ()]


def _title(plot: Any) -> str:
    return str(getattr(plot.title, "text", "") or "")


def _scatter(glyph: Any, data: Mapping[str, Any], name: str, *, line: bool) -> tuple[ChartKind, list[Series]]:
    x, y = _values(glyph.x, data), _values(glyph.y, data)
    color = _color(glyph, "line_color" if line else "fill_color")
    return "scatter", [Series(name, _places(x), _numbers(y), color=color, line=line, points=not line)]


def _line(glyph: Any, data: Mapping[str, Any], name: str) -> tuple[ChartKind, list[Series]]:
    return _scatter(glyph, data, name, line=True)


def _points(glyph: Any, data: Mapping[str, Any], name: str) -> tuple[ChartKind, list[Series]]:
    return _scatter(glyph, data, name, line=False)


def _columns(glyph: Any, data: Mapping[str, Any], name: str) -> tuple[ChartKind, list[Series]]:
    return "column", [
        Series(
            name,
            _places(_values(glyph.x, data)),
            _lengths(glyph.bottom, glyph.top, data),
            color=_color(glyph),
        )
    ]


def _bars(glyph: Any, data: Mapping[str, Any], name: str) -> tuple[ChartKind, list[Series]]:
    places = _places(_values(glyph.y, data))
    if not isinstance(_named(glyph.left), str):
        return "bar", [Series(name, places, _lengths(glyph.left, glyph.right, data), color=_color(glyph))]
    starts, ends = _numbers(_values(glyph.left, data)), _numbers(_values(glyph.right, data))
    colors = (
        _values(glyph.fill_color, data) if _named(glyph.fill_color) in data else [_color(glyph)] * len(starts)
    )
    groups: dict[str, list[int]] = {}
    for number, color in enumerate(colors):
        groups.setdefault(_hex(color), []).append(number)
    return "spans", [
        Series(name, [places[n] for n in of], [starts[n] for n in of], [ends[n] for n in of], color)
        for color, of in groups.items()
    ]


def _histogram(glyph: Any, data: Mapping[str, Any], name: str) -> tuple[ChartKind, list[Series]]:
    left, right = _numbers(_values(glyph.left, data)), _numbers(_values(glyph.right, data))
    places = [f"{a:g} to {b:g}" for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    values = _lengths(glyph.bottom, glyph.top, data)
    return "column", [Series(name, places, values, color=_color(glyph))] if len(places) == len(values) else []


_READERS = {
    "Line": _line,
    "Step": _line,
    "Scatter": _points,
    "VBar": _columns,
    "HBar": _bars,
    "Quad": _histogram,
}
"""What reads a glyph, by its type."""


def _joined(series: Iterable[Series]) -> list[Series]:
    """A line and its points as one series, where a figure draws both."""
    joined: list[Series] = []
    for one in series:
        before = joined[-1] if joined else None
        alike = before is not None and (before.name, before.color) == (one.name, one.color)
        if (
            before is not None
            and alike
            and before.line != one.line
            and list(before.values) == list(one.values)
        ):
            joined[-1] = Series(one.name, one.places, one.values, one.ends, one.color, line=True, points=True)
        else:
            joined.append(one)
    return joined


def _legend_names(plot: Any) -> dict[str, str]:
    """What the legends of the plot call each renderer, by its id."""
    names = {}
    for legend in plot.legend:
        for item in legend.items:
            label = (
                item.label.get("value") if isinstance(item.label, dict) else getattr(item.label, "value", "")
            )
            names.update({renderer.id: str(label or "") for renderer in item.renderers})
    return names


def _label(axes: Sequence[Any]) -> str:
    return next((str(axis.axis_label) for axis in axes if getattr(axis, "axis_label", None)), "")


def _named(spec: Any) -> Any:
    """The column, stack or value that a property of a glyph is given by."""
    return getattr(spec, "field", None) or getattr(spec, "expr", None) or getattr(spec, "value", spec)


def _values(spec: Any, data: Mapping[str, Any]) -> Sequence[Any]:
    """The values of a property of a glyph, one a row of its data."""
    named = _named(spec)
    if isinstance(named, str) and named in data:
        return list(data[named])
    rows = max((len(column) for column in data.values()), default=0)
    return [named] * rows


def _lengths(start: Any, end: Any, data: Mapping[str, Any]) -> list[float | None]:
    """How long bars are; of a stack, the part that is each bar's own."""
    stack = getattr(_named(end), "fields", None)
    if stack:
        return _numbers(data[stack[-1]]) if stack[-1] in data else []
    starts, ends = _numbers(_values(start, data)), _numbers(_values(end, data))
    return [None if a is None or b is None else b - a for a, b in zip(starts, ends, strict=True)]


def _is_stacked(glyph: Any) -> bool:
    ends = (getattr(glyph, "top", None), getattr(glyph, "right", None))
    return any(len(getattr(_named(end), "fields", ())) > 1 for end in ends if end is not None)


def _places(values: Sequence[Any]) -> list[float | str]:
    places: list[float | str] = []
    for value in values:
        if isinstance(value, (tuple, list)):
            places.append(", ".join(map(str, value)))
        else:
            number = None if isinstance(value, str) else _number(value)
            places.append(str(value) if number is None else number)
    return places


def _numbers(values: Iterable[Any]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _color(glyph: Any, name: str = "fill_color") -> str:
    return _hex(_named(getattr(glyph, name, None)))


def _hex(color: Any) -> str:
    """A colour as ``#rrggbb``; grey where it depends on the data, or is none that is known."""
    from bokeh.colors import named

    text = str(color).lower()
    if len(text) in (7, 9) and text.startswith("#"):
        return text[:7]
    known = getattr(named, text, None)
    return str(known.to_hex()) if known is not None and hasattr(known, "to_hex") else GRAY
