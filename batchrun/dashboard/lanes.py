"""What each worker did when: the attempts of a run as bars over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bokeh.models import ColumnDataSource, CustomJSTickFormatter, FixedTicker, InlineStyleSheet, Range1d

from batchrun.dashboard.chart import Chart
from batchrun.dashboard.difference import send_difference
from batchrun.dashboard.looks import elapsed_axis, hover, quietly
from batchrun.outcome import Outcome
from batchrun.render.timeline import bars_of, columns_of, lane_names

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LaneBars", "Lanes"]

_MOST_BARS: Final = 1_500
_MOST_LANES: Final = 40
_LANE_HEIGHT: Final = 15
_LEAST_HEIGHT: Final = 84
_AXIS_HEIGHT: Final = 30
_SHORTEST: Final = 5.0
"""Seconds that the axis shows at least."""
_COLUMNS: Final = ("left", "right", "top", "bottom", "what", "outcome", "took", "more", "color")
_NAME: Final = """\
const lane = names.data.at.indexOf(tick)
return lane < 0 ? "" : names.data.name[lane]
"""
_UNKNOWN: Final = "Nothing is known of attempts yet."
_COLOR: Final = {outcome.value: outcome.color for outcome in Outcome}


@dataclass(frozen=True)
class LaneBars:
    """What the figure shows of some attempts; made where it may take a while."""

    columns: dict[str, Any]
    """A bar each, as columns of equal length."""
    lanes: list[tuple[str, int]]
    """The workers from the top, and how many lanes each has."""
    note: str
    """What was merged or left out, or that no attempt has ended; empty if there is nothing to say."""

    @classmethod
    def of(cls, attempts: pd.DataFrame, started: float | None) -> LaneBars:
        """The bars of attempts; it takes about a second for each 100,000.

        Args:
            attempts: One row an attempt that ended, the columns being those of ``RunReport.attempts``.
            started: When the run began, in seconds since the epoch; None if that is not known.
        """
        if attempts.empty:
            return cls({name: [] for name in (*_COLUMNS, "color")}, [], "No attempt has ended yet.")
        bars, lanes, told = bars_of(attempts, started, most_bars=_MOST_BARS, most_lanes=_MOST_LANES)
        columns = columns_of(bars, scale=1.0)
        columns["color"] = [_COLOR[outcome] for outcome in bars["outcome"]]
        return cls(columns, lanes, told)


class Lanes(Chart):
    """The timeline by worker, in the colours of the outcomes; bars that changed are sent."""

    def __init__(self, css: InlineStyleSheet | None = None) -> None:
        ranges = {"x_range": Range1d(0, _SHORTEST), "y_range": Range1d(1, 0)}
        super().__init__(css, _LEAST_HEIGHT + _AXIS_HEIGHT, "Attempts by worker over time", **ranges)
        self._shown: LaneBars | None = None
        self._source = ColumnDataSource({name: [] for name in _COLUMNS})
        self._names = ColumnDataSource({"at": [], "name": []})
        self._draw()

    def _draw(self) -> None:
        plot = self.figure
        bars = plot.quad(
            left="left",
            right="right",
            top="top",
            bottom="bottom",
            source=self._source,
            fill_color="color",
            line_color="color",
            fill_alpha=0.8,
            # The line keeps bars visible that are narrower than a pixel.
            line_width=0.8,
        )
        hover(plot, bars, [("", "what"), ("outcome", "outcome"), ("took", "took"), ("", "more")])
        elapsed_axis(plot)
        plot.yaxis.ticker = FixedTicker(ticks=[])
        # Not as overrides: these would have to be models, for which Bokeh goes through all that the page has.
        plot.yaxis.formatter = CustomJSTickFormatter(args={"names": self._names}, code=_NAME)
        plot.ygrid.grid_line_color = None

    def update(self, bars: LaneBars | None) -> None:
        """Show *bars*, which may be those of another run than before; the same ones are drawn once."""
        if bars is self._shown and bars is not None:
            return
        self._shown = bars
        if bars is None or not bars.lanes:
            self.hide(bars.note if bars is not None else _UNKNOWN)
            return
        self.show(quietly(bars.note))
        send_difference(self._source, bars.columns)
        self.figure.x_range.end = max(_SHORTEST, 1.005 * float(max(bars.columns["right"])))
        self._name_lanes(bars.lanes)

    def _name_lanes(self, lanes: list[tuple[str, int]]) -> None:
        height = sum(count for _, count in lanes)
        self.figure.y_range.start = height
        self.figure.height = max(_LEAST_HEIGHT, _LANE_HEIGHT * height) + _AXIS_HEIGHT
        names = lane_names(lanes)
        send_difference(self._names, {"at": list(names), "name": list(names.values())})
        self.figure.yaxis[0].ticker.ticks = list(names)
