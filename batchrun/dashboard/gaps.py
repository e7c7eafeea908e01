"""How the gap of a solve that runs closes: its best answer and its bound over time."""

from __future__ import annotations

import math
from html import escape
from typing import Any, Final

from bokeh.models import BasicTickFormatter, ColumnDataSource, InlineStyleSheet, Range1d

from batchrun.dashboard.board import RunView
from batchrun.dashboard.difference import send_difference
from batchrun.dashboard.looks import elapsed_axis, hover, note, plain_figure, quietly
from batchrun.dashboard.solves import Known, Solve
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


class Gaps:
    """The curves of one solve: of the chunk that was chosen, or else the one with the largest gap."""

    def __init__(self, css: InlineStyleSheet | None = None) -> None:
        self._key: tuple[str, float, int, int | None] = ("", 0.0, -1, None)
        self._curves = ColumnDataSource(_columns([]))
        self._steps = ColumnDataSource({name: [] for name in _STEPS})
        self._area = ColumnDataSource({name: [] for name in _STEPS})
        self.note = note(css)
        """Which solve it is and what it said last, or that there is none; belongs above the figure."""
        self.figure = plain_figure(
            150,
            "Best answer and bound of a solve over time",
            x_range=Range1d(0, _SHORTEST),
            y_range=Range1d(0, 1),
            visible=False,
        )
        """The Bokeh figure; hidden while there is no solve."""
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

    def update(self, view: RunView, chunk: int | None = None) -> None:
        """Show a solve of *view*, which may be another run than before: that of *chunk*, if one is chosen."""
        message = view.message
        key = (message.run_id, message.started, view.version, chunk)
        if key == self._key:
            return
        self._key = key
        solve = view.solves.widest() if chunk is None else view.solves.of(chunk)
        if solve is None:
            self.figure.visible = False
            known = len(view.solves) and chunk is not None
            text = f"Nothing is known of answers of chunk {chunk:,}." if known else _NONE
            self.note.text = quietly(text)
            return
        self.note.text = _title(solve)
        self._show(solve)
        self.figure.visible = True

    def _show(self, solve: Solve) -> None:
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
