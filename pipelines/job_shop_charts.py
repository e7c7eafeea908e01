"""What the report of a job-shop run shows: schedules as Gantt charts, and how far from the best they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gantt", "gaps"]


MOST_BARS = 40
"""Instances that a chart of gaps shows; of more, those with the largest gaps."""


def gantt(schedule: pd.DataFrame) -> Any:
    """The schedule of one instance: a row a machine, a bar an operation, a colour a job.

    Takes rows of the results of ``schedules``; gives a Bokeh figure.
    """
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.palettes import Category20
    from bokeh.plotting import figure

    machines = [f"machine {number}" for number in sorted(schedule["machine"].unique(), reverse=True)]
    plot = figure(
        y_range=machines, height=70 + 26 * len(machines), x_axis_label="time", tools="xpan,xwheel_zoom,reset"
    )
    jobs = schedule["job"].astype(int)
    bars = {
        "machine": [f"machine {number}" for number in schedule["machine"]],
        "start": schedule["start"].to_numpy(),
        "end": schedule["end"].to_numpy(),
        "job": jobs.to_numpy(),
        "step": schedule["step"].to_numpy(),
        "color": [Category20[20][job % 20] for job in jobs],
    }
    plot.hbar(
        y="machine",
        left="start",
        right="end",
        height=0.76,
        source=ColumnDataSource(bars),
        color="color",
        line_color=None,
    )
    plot.add_tools(
        HoverTool(tooltips=[("job", "@job, step @step"), ("time", "@start to @end"), ("", "@machine")])
    )
    plot.ygrid.grid_line_color = None
    return plot


def gaps(instances: pd.DataFrame) -> Any:
    """How far each makespan is from the proven lower bound, and from the known optimum, in per cent.

    Takes the table of ``by_instance``; gives a Bokeh figure.
    """
    from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
    from bokeh.plotting import figure

    left_out = len(instances) - MOST_BARS
    instances = instances.nlargest(MOST_BARS, "gap") if left_out > 0 else instances
    names = instances["instance"].astype(str).tolist()
    plot = figure(x_range=names, height=280, y_axis_label="above", tools="")
    if left_out > 0:
        plot.xaxis.axis_label = (
            f"the {MOST_BARS} instances with the largest gaps; {left_out:,} have smaller ones"
        )
    columns = {
        "instance": names,
        "gap": instances["gap"].astype(float).to_numpy(),
        "above": instances["above_optimum"].astype("float64").to_numpy(),
        "makespan": instances["makespan"].to_numpy(),
        "bound": instances["bound"].to_numpy(),
    }
    source = ColumnDataSource(columns)
    plot.vbar(
        "instance", top="gap", width=0.7, source=source, color="#4c8fd6", legend_label="the bound (gap)"
    )
    plot.scatter(
        "instance", "above", source=source, size=9, color="#e08e2b", legend_label="the known optimum"
    )
    said = [("", "@instance"), ("makespan", "@makespan"), ("bound", "@bound"), ("gap", "@gap{0.0 %}")]
    plot.add_tools(HoverTool(tooltips=said))
    plot.yaxis.formatter = NumeralTickFormatter(format="0.0 %")
    most = float(instances[["gap", "above_optimum"]].astype("float64").max().max())
    plot.y_range.start, plot.y_range.end = 0, max(0.01, 1.15 * most)
    plot.x_range.range_padding = 0.02
    plot.xaxis.major_label_orientation = 0.9
    plot.xgrid.grid_line_color = None
    plot.add_layout(plot.legend[0], "above")
    plot.legend.orientation = "horizontal"
    return plot
