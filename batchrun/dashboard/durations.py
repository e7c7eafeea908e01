"""How long chunks took: a histogram of the settled ones, with bins that widen with the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
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
from batchrun.dashboard.difference import send_difference
from batchrun.dashboard.looks import FONT, INK, NEUTRAL, QUIET, hover, note, plain_figure, quietly
from batchrun.dashboard.message import CUT, RUNNING
from batchrun.resources import format_seconds

__all__ = ["Durations", "Spread", "spread_of"]

_MOST_BINS: Final = 40
_STEPS: Final = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Widths that a bin may have, in powers of ten; its edges are multiples, so that bars stay where they are."""
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

_INFINITE: Final = 0x7F80
"""The upper half of an infinite float."""


@dataclass(frozen=True)
class Spread:
    """How the seconds of chunks are spread."""

    edges: npt.NDArray[np.float64]
    """Where bins begin and the last one ends, in seconds, shape (bins + 1,)."""
    chunks: npt.NDArray[np.int64]
    """Chunks in each bin, shape (bins,)."""
    median: float
    """Seconds that half of the chunks did not pass."""
    high: float
    """Seconds that 95 of 100 chunks did not pass."""

    @property
    def total(self) -> int:
        """All chunks in it."""
        return int(self.chunks.sum())


def spread_of(codes: npt.NDArray[np.uint8], seconds: npt.NDArray[np.float32]) -> Spread | None:
    """The spread of the *seconds* of those chunks whose code is an outcome; None if there are none.

    Chunks without a time, which earlier sessions settled, are left out. Values are read to within a percent:
    a message carries the upper half of each float, and halves can be counted quicker than floats sorted.
    """
    halves = seconds[(codes > RUNNING) & (codes < CUT)].view(np.uint32) >> 16
    counts = np.bincount(halves, minlength=_INFINITE)
    used = np.flatnonzero(counts[1:_INFINITE]) + 1
    if not len(used):
        return None
    values, chunks = (used.astype(np.uint32) << 16).view(np.float32).astype(np.float64), counts[used]
    up_to = np.cumsum(chunks)
    median, high = values[np.searchsorted(up_to, np.array([0.5, 0.95]) * up_to[-1])].tolist()
    powers = np.log10(values)
    edges = _edges(float(powers[0]), float(powers[-1]), int(up_to[-1]))
    binned, _ = np.histogram(powers, edges, weights=chunks)
    return Spread(10**edges, np.rint(binned).astype(np.int64), median, high)


def _edges(low: float, high: float, chunks: int) -> npt.NDArray[np.float64]:
    """Powers of ten between which the bins lie: fewer bins for fewer *chunks*."""
    most = min(_MOST_BINS, max(10, 2 * math.isqrt(chunks)))
    step = next(step for step in _STEPS if math.floor(high / step) - math.floor(low / step) < most)
    return step * np.arange(math.floor(low / step), math.floor(high / step) + 2, dtype=np.float64)


class Durations:
    """The histogram of the chunks that a run settled, with its median and what 95 of 100 did not pass."""

    def __init__(
        self, css: InlineStyleSheet | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._key = ("", 0.0, -1)
        self._looked = float("-inf")
        self._bars = ColumnDataSource({"left": [], "right": [], "chunks": [], "range": []})
        self._median, self._high = ColumnDataSource({"x": []}), ColumnDataSource({"x": []})
        self.note = note(css)
        """How many chunks the figure shows, or that there are none."""
        self.figure = plain_figure(
            150,
            "How long chunks took",
            x_axis_type="log",
            x_range=Range1d(0.1, 10),
            y_range=Range1d(0, 1),
            visible=False,
        )
        """The Bokeh figure; hidden while no chunk is settled."""
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
        spread = spread_of(view.codes, view.seconds)
        self.figure.visible = spread is not None
        if spread is None:
            self.note.text = quietly("No chunk is settled yet.")
            return
        many = f"{spread.total:,} settled chunk{'' if spread.total == 1 else 's'}"
        self.note.text = quietly(many)
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
