"""How the gap of a solve that runs closes: its best answer and its bound over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from bokeh.models import BasicTickFormatter, ColumnDataSource, InlineStyleSheet, Range1d

from batchrun.dashboard.board import RunView
from batchrun.dashboard.chart import Chart
from batchrun.dashboard.difference import send_difference
from batchrun.dashboard.looks import elapsed_axis, hover
from batchrun.dashboard.solves import Known, Solve, of_chunk, together, widest
from batchrun.outcome import relative_gap
from batchrun.progress import describe_gap
from batchrun.render.gap_curve import ANSWER, BOUND
from batchrun.resources import format_seconds

__all__ = ["Gaps"]

_SHORTEST: Final = 1.0
"""Seconds that the axis shows at least."""
_ROOM: Final = 0.08
"""Of the height of the curves, what is left free above and below them."""
_NONE: Final = "No solve has told an answer yet."
_STEPS: Final = ("time", "objective", "bound")


class Gaps(Chart):
    """The curves of one solve: of the chunk that was chosen, or else the one with the largest gap."""

    def __init__(self, css: InlineStyleSheet | None = None) -> None:
        label = "Best answer and bound of a solve over time"
        super().__init__(css, 150, label, x_range=Range1d(0, _SHORTEST))
        self._key: tuple[object, ...] = ()
        self._recorded: Sequence[Solve] = ()
        self._curves = ColumnDataSource(_columns([]))
        self._steps = ColumnDataSource({name: [] for name in _STEPS})
        self._area = ColumnDataSource({name: [] for name in _STEPS})
        self._draw()

    def _draw(self) -> None:
        plot, steps = self.figure, self._steps
        # Not Bokeh's own steps, which never end in the browser as long as there is no point (3.9).
        plot.varea("time", "bound", "objective", source=self._area, fill_color=ANSWER, fill_alpha=0.14)
        plot.line("time", "bound", source=steps, color=BOUND, line_width=1.5, line_dash=[5, 3])
        plot.line("time", "objective", source=steps, color=ANSWER, line_width=2)
        # Dots, since a solve that was heard of once has no line; the hover finds them.
        points = plot.scatter("time", "objective", source=self._curves, size=4, color=ANSWER)
        plot.scatter("time", "bound", source=self._curves, size=4, color=BOUND)
        facts = [("after", "after"), ("answer", "said"), ("bound", "proved"), ("gap", "gap")]
        hover(plot, points, facts, mode="vline")
        elapsed_axis(plot)
        plot.yaxis.formatter = BasicTickFormatter(use_scientific=True, power_limit_high=6)
        plot.yaxis.ticker.desired_num_ticks = 4

    def update(self, view: RunView, recorded: Sequence[Solve] = (), chunk: int | None = None) -> None:
        """Show a solve of *view*, which may be another run than before.

        Args:
            view: The run, and what it told of its solves.
            recorded: What the store has of them; the same sequence is looked at once.
            chunk: The chunk whose solve is shown, if one is chosen that has one.
        """
        message = view.message
        key = (message.run_id, message.started, view.version, chunk)
        if key == self._key and recorded is self._recorded:
            return
        self._key, self._recorded = key, recorded
        known = together(view.solves, recorded)
        solve = of_chunk(known, chunk) if chunk is not None else None
        solve = solve or widest(known)
        if solve is None:
            self.hide(_NONE)
            return
        self.show(_title(solve))
        self._draw_solve(solve)

    def _draw_solve(self, solve: Solve) -> None:
        last = solve.history[-1]
        end = max(solve.line.seconds, last.seconds)
        points = [*solve.history, Known(end, last.objective, last.bound)]
        closed = [point for point in points if point.objective is not None and point.bound is not None]
        send_difference(self._curves, _columns(points))
        send_difference(self._steps, _steps(points))
        send_difference(self._area, _steps(closed))
        self.figure.x_range.end = max(_SHORTEST, 1.02 * end)
        values = [value for point in points for value in (point.objective, point.bound) if value is not None]
        low, high = min(values), max(values)
        room = _ROOM * (high - low) or _ROOM * abs(low) or 1.0
        self.figure.y_range.start, self.figure.y_range.end = low - room, high + room


def _title(solve: Solve) -> str:
    line = solve.line
    facts = [escape(line.stage), "no gap is known" if solve.gap is None else f"gap {describe_gap(solve.gap)}"]
    if not solve.runs:
        facts.append("runs no more")
    said = f' · <span class="quiet">{escape(line.message)}</span>' if line.message else ""
    return (
        f'<div class="b clip num" title="{escape(line.message)}"><b>chunk {line.chunk:,}</b> '
        f"{' · '.join(filter(None, facts))}{said}</div>"
    )


def _steps(points: list[Known]) -> dict[str, list[float]]:
    """The corners of steps: what is known at a point holds until the next one."""
    columns = _columns([point for point in points for _ in range(2)])
    times = columns["time"]
    return {"time": [*times[1:], *times[-1:]], **{name: columns[name] for name in _STEPS[1:]}}


def _columns(points: list[Known]) -> dict[str, list[Any]]:
    gaps = [relative_gap(point.objective, point.bound) for point in points]
    return {
        "time": [point.seconds for point in points],
        "objective": [math.nan if point.objective is None else point.objective for point in points],
        "bound": [math.nan if point.bound is None else point.bound for point in points],
        "after": [format_seconds(point.seconds) for point in points],
        "said": [_text(point.objective) for point in points],
        "proved": [_text(point.bound) for point in points],
        "gap": ["not known" if gap is None else describe_gap(gap) for gap in gaps],
    }


def _text(value: float | None) -> str:
    return "none yet" if value is None else f"{value:,.6g}"
