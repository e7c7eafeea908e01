"""How long chunks took: a histogram of the settled ones, with bins that widen with the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from bokeh.core.properties import value
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    FixedTicker,
    InlineStyleSheet,
    Legend,
    LegendItem,
    NumeralTickFormatter,
    Range1d,
)

from batchrun.dashboard.board import RunView
from batchrun.dashboard.chart import Chart
from batchrun.dashboard.difference import send_difference
from batchrun.dashboard.looks import FONT, INK, NEUTRAL, QUIET, hover, quietly
from batchrun.dashboard.spread import Spread
from batchrun.resources import format_seconds

__all__ = ["Durations"]

_LEAST_DECADES: Final = 0.4
"""Powers of ten that the axis shows at least."""
_EVERY: Final = 1.0
"""Seconds between two looks at all chunks of one run."""
_MOST_TICKS: Final = 7
_MARGIN: Final = 1.12
_ROUND_FIRST: Final = ((1, 10, 100), (2, 5, 20, 30, 50, 200, 500), (1.5, 3, 4, 7, 15, 40, 70, 300, 700))
"""How many of a unit a tick may be."""
_UNITS: Final = ((1e-6, 1000), (1e-3, 1000), (1.0, 60), (60.0, 60), (3600.0, 1000))
"""Seconds of each unit of time, and how many of it make the next."""


class Durations(Chart):
    """The histogram of the chunks that a run settled, with its median and what 95 of 100 did not pass."""

    def __init__(
        self, css: InlineStyleSheet | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(css, 150, "How long chunks took", x_axis_type="log", x_range=Range1d(0.1, 10))
        self._clock = clock
        self._key = ("", 0.0, -1)
        self._looked = float("-inf")
        self._bars = ColumnDataSource({"left": [], "right": [], "chunks": [], "range": []})
        self._median, self._high = ColumnDataSource({"x": []}), ColumnDataSource({"x": []})
        self.figure.xaxis.ticker = FixedTicker(ticks=[])
        self.figure.yaxis.ticker = BasicTicker(min_interval=1, desired_num_ticks=3)
        self.figure.yaxis.formatter = NumeralTickFormatter(format="0.[00]a")
        self._items = self._draw()

    def _draw(self) -> tuple[LegendItem, LegendItem]:
        plot = self.figure
        bars = plot.quad(
            left="left",
            right="right",
            top="chunks",
            bottom=0,
            fill_color=NEUTRAL,
            line_color="#ffffff",
            line_width=0.5,
            source=self._bars,
        )
        median = plot.vspan("x", source=self._median, line_color=INK, line_width=1.5)
        high = plot.vspan("x", source=self._high, line_color=INK, line_width=1.5, line_dash=[4, 3])
        items = tuple(LegendItem(label=value(""), renderers=[line]) for line in (median, high))
        legend = Legend(
            items=list(items),
            orientation="horizontal",
            border_line_color=None,
            background_fill_alpha=0,
            label_text_color=QUIET,
            label_text_font=FONT,
            label_text_font_size="11px",
            padding=0,
            margin=0,
            spacing=16,
        )
        plot.add_layout(legend, "above")
        hover(plot, bars, [("chunks", "chunks"), ("took", "range")])
        return items

    def update(self, view: RunView) -> None:
        """Show the chunks of *view*, which may be another run than before; one run once a second at most."""
        key, now = (view.message.run_id, view.message.started, view.version), self._clock()
        if key == self._key or (key[:2] == self._key[:2] and now - self._looked < _EVERY):
            return
        self._key, self._looked = key, now
        spread = view.spread.spread()
        if spread is None:
            self.hide("No chunk is settled yet.")
            return
        many = f"{spread.total:,} settled chunk{'' if spread.total == 1 else 's'}"
        self.show(quietly(many))
        self._show(spread)

    def _show(self, spread: Spread) -> None:
        left, right = spread.edges[:-1], spread.edges[1:]
        ranges = [f"{format_seconds(a)} to {format_seconds(b)}" for a, b in zip(left, right, strict=True)]
        send_difference(self._bars, {"left": left, "right": right, "chunks": spread.chunks, "range": ranges})
        send_difference(self._median, {"x": [spread.median]})
        send_difference(self._high, {"x": [spread.high]})
        self._items[0].label = value(f"median {format_seconds(spread.median)}")
        self._items[1].label = value(f"95 % within {format_seconds(spread.high)}")
        low, high = _shown(float(left[0]), float(right[-1]))
        self.figure.x_range.start, self.figure.x_range.end = low, high
        self.figure.y_range.end = _MARGIN * float(spread.chunks.max())
        ticks = _ticks(low, high)
        if ticks != self.figure.xaxis[0].ticker.ticks:
            self.figure.xaxis.ticker.ticks = ticks
            self.figure.xaxis.major_label_overrides = {
                tick: format_seconds(tick).replace(".0 s", " s") for tick in ticks
            }


def _shown(low: float, high: float) -> tuple[float, float]:
    """The seconds where the axis begins and ends."""
    more = 10 ** max(0.02, (_LEAST_DECADES - math.log10(high / low)) / 2)
    return low / more, high * more


def _ticks(low: float, high: float) -> list[float]:
    """Times that people count in from *low* to *high* seconds, round ones first, as many as have room."""
    apart = math.log(high / low) / _MOST_TICKS
    ticks: list[float] = []
    for steps in _ROUND_FIRST:
        for unit, most in _UNITS:
            for tick in (round(step * unit, 9) for step in steps if step < most):
                if low <= tick <= high and all(abs(math.log(tick / other)) >= apart for other in ticks):
                    ticks.append(tick)
    return sorted(ticks)
