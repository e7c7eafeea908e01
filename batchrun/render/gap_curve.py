"""How the gap of stopped solves closed over time: a small plot each of the best answer and of the bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.outcome import Outcome
from batchrun.progress import describe_gap
from batchrun.render.best_answers import StoppedSolve
from batchrun.render.timeline import INK, embedded, quiet, time_scale
from batchrun.resources import format_seconds

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

__all__ = ["ANSWER", "BOUND", "Curve", "Curves", "gap_curves", "steps_of"]

MOST_CURVES = 12
"""Curves on the page."""
MOST_DOTS = 60
"""Points of a curve that are drawn as dots too."""
HEIGHT = 190
"""Pixels of a plot."""
ANSWER = Outcome.STOPPED_WITH_SOLUTION.color
"""The colour of the best answer."""
BOUND = "#e08e2b"
"""The colour of the bound."""


@dataclass(frozen=True)
class Curve:
    """The plot of one solve."""

    solve: StoppedSolve
    """The solve."""
    caption: str
    """Which one it is, and how it ended, in words."""
    body: Markup
    """The place of the plot."""


@dataclass(frozen=True)
class Curves:
    """Plots to be put into a page that has Bokeh."""

    curves: Sequence[Curve]
    """The plots, the hardest solves first."""
    script: Markup
    """What draws them."""
    left_out: int
    """Solves with a history that are not shown."""


def gap_curves(solves: Sequence[StoppedSolve], incumbents: pd.DataFrame) -> Curves | None:
    """The curves of the first of *solves* that published answers; *incumbents* has the columns of RunReport.

    None if none of them did.
    """
    groups = incumbents.groupby(["chunk", "stage", "attempt"], sort=False)
    known = groups.groups
    told = [solve for solve in solves if (solve.chunk, solve.stage, solve.attempt) in known]
    drawn: list[tuple[StoppedSolve, pd.DataFrame]] = []
    for solve in told:
        steps = steps_of(groups.get_group((solve.chunk, solve.stage, solve.attempt)), solve)
        if len(steps):
            drawn.append((solve, steps))
        if len(drawn) == MOST_CURVES:
            break
    if not drawn:
        return None
    from markupsafe import Markup

    script, bodies = embedded([_figure(steps) for _, steps in drawn])
    curves = [
        Curve(solve, _caption(solve), Markup(body))  # noqa: S704  Bokeh escapes what it embeds
        for (solve, _), body in zip(drawn, bodies, strict=True)
    ]
    return Curves(curves, Markup(script), max(0, len(told) - len(curves)))  # noqa: S704


def steps_of(history: pd.DataFrame, solve: StoppedSolve) -> pd.DataFrame:
    """What was known at each time, until the solve ended: seconds, objective, bound, gap, in order.

    A value that was told once holds until another is told. Empty if no value was ever told.
    """
    import pandas as pd

    columns = ["objective", "bound"]
    steps = history.sort_values("seconds", kind="stable")[["seconds", *columns]].astype("float64")
    steps[columns] = steps[columns].ffill()
    steps = steps.dropna(subset=columns, how="all")
    if steps.empty:
        return steps.assign(gap=[])
    end = max(solve.seconds, float(steps["seconds"].iloc[-1]))
    last = steps.iloc[[-1]].assign(seconds=end)
    steps = pd.concat([steps, last], ignore_index=True)
    # As in outcome.relative_gap, for columns; the plot only says it in words.
    gap = (steps["objective"] - steps["bound"]).abs() / steps["objective"].abs()
    return steps.assign(gap=gap.where(steps["objective"] != steps["bound"], 0.0))


def _caption(solve: StoppedSolve) -> str:
    gap = "no gap is known" if solve.gap is None else f"gap {describe_gap(solve.gap)}"
    return f"chunk {solve.chunk:,}, {solve.stage}: {gap} after {format_seconds(solve.seconds)}"


def _figure(steps: pd.DataFrame) -> Any:
    """The Bokeh figure of one solve."""
    from bokeh.models import BasicTickFormatter, ColumnDataSource, HoverTool, Range1d
    from bokeh.plotting import figure

    extent = max(float(steps["seconds"].iloc[-1]), 1e-3)
    unit, scale = time_scale(extent)
    plot = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        x_range=Range1d(-0.012 * extent / scale, 1.02 * extent / scale),
        x_axis_label=unit,
        tools="",
        toolbar_location=None,
        output_backend="canvas",
    )
    source = ColumnDataSource(_columns(steps, scale))
    both = steps.dropna()
    if len(both) > 1:
        shade = ColumnDataSource(_columns(both, scale))
        plot.varea_step(
            "time", "bound", "objective", step_mode="after", source=shade, fill_color=ANSWER, fill_alpha=0.14
        )
    plot.step("time", "bound", mode="after", source=source, color=BOUND, line_width=1.5, line_dash=[5, 3])
    plot.step("time", "objective", mode="after", source=source, color=ANSWER, line_width=2)
    for name, color in (("bound", BOUND), ("objective", ANSWER)):
        # The points are what the hover finds; many of them would hide the line.
        alpha = 0.9 if len(steps) <= MOST_DOTS else 0
        plot.scatter("time", name, source=source, size=5, color=color, alpha=alpha)
    tooltips = [("after", "@after"), ("answer", "@said"), ("bound", "@proved"), ("gap", "@gap")]
    plot.add_tools(HoverTool(tooltips=tooltips, mode="vline", renderers=[plot.renderers[-1]]))
    quiet(plot)
    plot.yaxis.formatter = BasicTickFormatter(use_scientific=True, power_limit_high=6)
    plot.yaxis.ticker.desired_num_ticks = 4
    plot.xaxis.ticker.desired_num_ticks = 5
    plot.axis.major_label_text_font_size = plot.axis.axis_label_text_font_size = "11px"
    plot.axis.axis_label_text_color = INK
    plot.min_border_left = 8
    plot.min_border_right = 14
    return plot


def _columns(steps: pd.DataFrame, scale: float) -> dict[str, Any]:
    """What Bokeh needs of the steps."""
    return {
        "time": (steps["seconds"] / scale).to_numpy(),
        "objective": steps["objective"].to_numpy(),
        "bound": steps["bound"].to_numpy(),
        "after": [format_seconds(value) for value in steps["seconds"]],
        "said": [_text(value) for value in steps["objective"]],
        "proved": [_text(value) for value in steps["bound"]],
        "gap": ["" if math.isnan(value) else describe_gap(value) for value in steps["gap"]],
    }


def _text(value: float) -> str:
    return "none yet" if math.isnan(value) else f"{value:,.6g}"
