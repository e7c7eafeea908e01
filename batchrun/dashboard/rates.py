"""Throughput over the time of a run, as two small figures."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, NumeralTickFormatter, Range1d

from batchrun.dashboard.board import RunView
from batchrun.dashboard.looks import elapsed_axis, plain_figure

__all__ = ["Rates"]

_SHORTEST = 10.0
"""Seconds that the axis shows at least."""


class Rates:
    """Chunks and rows a second; the browser is sent the bins that are new."""

    def __init__(self) -> None:
        self._source = ColumnDataSource({"left": [], "right": [], "chunks": [], "rows": []})
        self._key = ("", 0.0, 0.0)
        self._sent = 0
        self.chunks = self._figure("chunks", "#2a9d5c")
        """The figure of chunks a second."""
        self.rows = self._figure("rows", "#4c8fd6")
        """The figure of rows a second."""
        self.rows.x_range = self.chunks.x_range

    def _figure(self, column: str, color: str) -> Any:
        label = f"{column} a second over the time of the run"
        plot = plain_figure(128, label, x_range=Range1d(0, _SHORTEST), y_range=Range1d(0, 1))
        plot.quad(
            left="left",
            right="right",
            top=column,
            bottom=0,
            fill_color=color,
            fill_alpha=0.8,
            line_color=None,
            source=self._source,
        )
        elapsed_axis(plot)
        plot.yaxis.formatter = NumeralTickFormatter(format="0.[00]a")
        return plot

    def update(self, view: RunView) -> None:
        """Show the throughput of *view*, which may be another run than before."""
        starts, chunks, rows = view.throughput.rates()
        message, width = view.message, view.throughput.width
        full = len(starts) if message.ended else max(0, len(starts) - 1)  # the last bin is still filling
        key, before = (message.run_id, message.started, width), self._key
        new = slice(self._sent if key == before else 0, full)
        self._key, self._sent = key, full
        columns = {
            "left": starts[new],
            "right": starts[new] + width,
            "chunks": chunks[new],
            "rows": rows[new],
        }
        if key != before:
            self._source.data = columns
        elif new.start < new.stop:
            self._source.stream(columns)
        else:
            return
        self.chunks.x_range.end = max(_SHORTEST, full * width)
        for plot, rates in ((self.chunks, chunks), (self.rows, rows)):
            plot.y_range.end = 1.1 * max(0.1, float(rates[:full].max(initial=0.0)))
