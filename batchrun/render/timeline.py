"""The attempts of a run as a Bokeh plot: a lane for each thread of a worker, a bar for each attempt.

Many attempts are merged, so that the plot stays light. Bars of one outcome in one lane that lie closer
together than an eye can tell become one. Where that is not enough, each lane is cut into slices of time, and
a slice shows how much of it each outcome took. A merged bar says how many attempts it stands for.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from batchrun.outcome import Outcome
from batchrun.resources import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

__all__ = [
    "INK",
    "Plot",
    "bars_of",
    "columns_of",
    "embedded",
    "lane_names",
    "natural",
    "quiet",
    "time_scale",
    "timeline",
]

MOST_BARS = 5_000
"""Bars in the plot."""
MOST_LANES = 120
"""Lanes in the plot; the workers that did most are kept."""
LANE_HEIGHT = 18
"""Pixels of a lane; a plot of few lanes takes more."""
LEAST_HEIGHT = 84
"""Pixels of all lanes together."""
MOST_HEIGHT = 1_080
"""Pixels of all lanes together."""
FINEST = 500
"""Gaps are closed up to this part of the whole time; an eye can tell wider ones."""
MERGED = ("left", "right", "seconds", "count", "peak_memory")
"""What a merged bar has of its own."""
LABEL = 28
"""Characters of a worker's name."""
INK = "#7d8794"
"""Reads on white and on black."""


@dataclass(frozen=True)
class Plot:
    """A plot to be put into a page."""

    head: Markup
    """The library, for the page's head."""
    body: Markup
    """The place of the plot."""
    script: Markup
    """What draws it."""
    note: str
    """What was merged or left out; empty if nothing was."""


def timeline(attempts: pd.DataFrame, started: float | None) -> Plot | None:
    """The plot of *attempts*, the columns being those of RunReport; None if there are none.

    Times are shown since *started*, in seconds since the epoch.
    """
    if attempts.empty:
        return None
    from bokeh.resources import Resources
    from markupsafe import Markup

    bars, lanes, note = bars_of(attempts, started)
    script, [body] = embedded([_figure(bars, lanes)])
    library = Resources(mode="inline", components=["bokeh"], minified=True).render_js()
    # Bokeh escapes the data that it embeds; the library is its own.
    return Plot(Markup(library), Markup(body), Markup(script), note)  # noqa: S704


def embedded(figures: Sequence[Any]) -> tuple[str, Sequence[str]]:
    """The script that draws Bokeh figures, and the place of each, as HTML."""
    from bokeh.document import Document
    from bokeh.embed import components

    # Else Bokeh looks for a current document, which may be one that a page of this process just gave up.
    document = Document()
    for figure in figures:
        document.add_root(figure)
    script, bodies = components(tuple(figures))
    return script, bodies


def bars_of(
    attempts: pd.DataFrame,
    started: float | None,
    *,
    most_bars: int = MOST_BARS,
    most_lanes: int = MOST_LANES,
) -> tuple[pd.DataFrame, list[tuple[str, int]], str]:
    """The bars of the plot, the workers with their number of lanes, and a note on what was merged.

    A bar has ``left`` and ``right`` in seconds since *started*, ``lane`` from 0 at the top, ``outcome``,
    ``count`` of the attempts that it stands for, and what the hover says.

    Args:
        attempts: At least one, the columns being those of RunReport.
        started: In seconds since the epoch; the first attempt's start if it is None.
        most_bars: Bars at most; not less than 35 for each lane, or else there may be more.
        most_lanes: Lanes at most; the workers that did most are kept.
    """
    frame = attempts.sort_values("started", kind="stable").reset_index(drop=True)
    begin = started if started is not None else float(frame["started"].iloc[0])
    begin = min(begin, float(frame["started"].iloc[0]))
    frame["left"] = frame["started"] - begin
    frame["right"] = frame["left"] + frame["seconds"].clip(lower=0)
    notes = []
    frame["sub"] = _sublanes(frame)
    lanes = [(str(worker), int(subs) + 1) for worker, subs in frame.groupby("worker")["sub"].max().items()]
    lanes.sort(key=lambda lane: natural(lane[0]))
    if sum(height for _, height in lanes) > most_lanes:
        busy = frame.groupby("worker")["seconds"].sum().sort_values(ascending=False)
        kept = set(busy.index[: max(1, most_lanes // max(height for _, height in lanes))].astype(str))
        if len(kept) < len(lanes):
            notes.append(f"the {len(kept)} busiest of {len(lanes):,} workers")
        lanes = [lane for lane in lanes if lane[0] in kept]
        frame = frame[frame["worker"].astype(str).isin(kept)]
        if lanes[0][1] > most_lanes:  # then there is only this one
            notes.append(f"{most_lanes} of its {lanes[0][1]:,} lanes")
            lanes = [(lanes[0][0], most_lanes)]
            frame = frame[frame["sub"] < most_lanes]
    offsets, top = {}, 0
    for worker, height in lanes:
        offsets[worker], top = top, top + height
    frame = frame.assign(lane=frame["worker"].astype(str).map(offsets) + frame["sub"], count=1)
    if len(frame) > most_bars:
        merged = _merge(frame, most_bars)
        notes.append(f"{len(frame):,} attempts merged into {len(merged):,} bars")
        frame = merged
    return frame.reset_index(drop=True), lanes, "; ".join(notes)


def _sublanes(frame: pd.DataFrame) -> list[int]:
    """For each attempt, in order of its start, the first lane of its worker that is free."""
    free: dict[str, list[int]] = {}
    busy: dict[str, list[tuple[float, int]]] = {}
    lanes = []
    for worker, left, right in zip(frame["worker"], frame["left"], frame["right"], strict=True):
        running = busy.setdefault(worker, [])
        idle = free.setdefault(worker, [])
        # A thread takes its next chunk at once, and clocks are coarse: a touch is no overlap.
        while running and running[0][0] <= left + 1e-3:
            heapq.heappush(idle, heapq.heappop(running)[1])
        lane = heapq.heappop(idle) if idle else len(running)
        heapq.heappush(running, (right, lane))
        lanes.append(lane)
    return lanes


def _merge(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Few enough bars for many attempts: neighbours put together, or else shares of slices of time."""
    frame = frame.sort_values(["lane", "left"], kind="stable")
    extent = max(float(frame["right"].max() - frame["left"].min()), 1e-9)
    merged, gap = frame, extent / 4_000
    while len(merged) > most and gap < extent / FINEST:
        merged = _merge_neighbours(merged, gap)
        gap *= 2
    return merged if len(merged) <= most else _share_slices(frame, extent, most)


def _merge_neighbours(frame: pd.DataFrame, gap: float) -> pd.DataFrame:
    """Bars of one lane and outcome that are no more than *gap* seconds apart as one."""
    changed = (frame[["lane", "outcome"]] != frame[["lane", "outcome"]].shift()).any(axis=1)
    far = frame["left"] - frame["right"].shift() > gap
    groups = frame.groupby((changed | far).cumsum(), sort=False)
    return groups.agg(
        **{name: (name, "first") for name in frame.columns if name not in MERGED},
        left=("left", "min"),
        right=("right", "max"),
        seconds=("seconds", "sum"),
        count=("count", "sum"),
        peak_memory=("peak_memory", "max"),
    )


def _share_slices(frame: pd.DataFrame, extent: float, most: int) -> pd.DataFrame:
    """For each lane and slice of time one bar an outcome, as wide as the seconds that the outcome took.

    What begins in a slice ends before the next one of its lane begins, so the bars never overlap.
    """
    slices = max(5, most // (frame["lane"].nunique() * frame["outcome"].nunique()))
    width = extent / slices
    begin = float(frame["left"].min())
    cells = frame.assign(cell=((frame["left"] - begin) // width).astype("int64").clip(upper=slices - 1))
    first = cells.groupby(["lane", "cell"])["left"].transform("min")
    groups = cells.assign(first=first).groupby(["lane", "cell", "outcome"], sort=True)
    bars = groups.agg(
        **{name: (name, "first") for name in frame.columns if name not in {*MERGED, "lane", "outcome"}},
        first=("first", "first"),
        seconds=("seconds", "sum"),
        count=("count", "sum"),
        peak_memory=("peak_memory", "max"),
    ).reset_index()
    after = bars.groupby(["lane", "cell"])["seconds"].cumsum()
    return bars.assign(left=bars["first"] + after - bars["seconds"], right=bars["first"] + after)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``worker-10`` after ``worker-9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _figure(bars: pd.DataFrame, lanes: Sequence[tuple[str, int]]) -> Any:
    """The Bokeh figure."""
    from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, PlainText, Range1d
    from bokeh.plotting import figure

    height = sum(count for _, count in lanes)
    extent = max(float(bars["right"].max()), 1e-3)
    unit, scale = time_scale(extent)
    plot = figure(
        height=min(max(LANE_HEIGHT * height, LEAST_HEIGHT), MOST_HEIGHT) + 78,
        sizing_mode="stretch_width",
        x_range=Range1d(-0.005 * extent / scale, 1.005 * extent / scale),
        y_range=Range1d(height, 0),
        x_axis_label=f"{unit} since the start",
        tools="xpan,xwheel_zoom,box_zoom,reset,save",
        toolbar_location="right",
        output_backend="canvas",
    )
    for outcome in Outcome:
        own = bars[bars["outcome"] == outcome.value]
        if len(own):
            source = ColumnDataSource(columns_of(own, scale))
            plot.quad(
                left="left",
                right="right",
                top="top",
                bottom="bottom",
                source=source,
                fill_color=outcome.color,
                line_color=outcome.color,
                fill_alpha=0.8,
                # The line keeps bars visible that are narrower than a pixel.
                line_width=0.8,
                legend_label=outcome.value.replace("_", " "),
            )
    names = lane_names(lanes)
    plot.yaxis.ticker = FixedTicker(ticks=list(names))
    # Not plain strings: Bokeh would fetch a formula renderer for one between dollar signs.
    plot.yaxis.major_label_overrides = {at: PlainText(text=name) for at, name in names.items()}
    plot.add_tools(
        HoverTool(tooltips=[("", "@what"), ("outcome", "@outcome"), ("took", "@took"), ("", "@more")])
    )
    _style(plot)
    return plot


def lane_names(lanes: Sequence[tuple[str, int]]) -> dict[float, str]:
    """The name of each worker as far as there is room for it, by the middle of its lanes."""
    names, top = {}, 0
    for worker, count in lanes:
        names[top + count / 2] = worker if len(worker) <= LABEL else worker[: LABEL - 1] + "…"
        top += count
    return names


def columns_of(bars: pd.DataFrame, scale: float) -> dict[str, Any]:
    """What Bokeh needs to draw *bars*, and what their hover says; *scale* is the seconds of a unit."""
    return {
        "left": (bars["left"] / scale).to_numpy(),
        "right": (bars["right"] / scale).to_numpy(),
        "top": bars["lane"].to_numpy() + 0.12,
        "bottom": bars["lane"].to_numpy() + 0.88,
        "what": [
            f"{merged:,} attempts" if merged > 1 else f"chunk {chunk:,}, {stage}, try {attempt}"
            for merged, chunk, stage, attempt in zip(
                bars["count"], bars["chunk"], bars["stage"], bars["attempt"], strict=True
            )
        ],
        "outcome": [str(value).replace("_", " ") for value in bars["outcome"]],
        "took": [format_seconds(float(value)) for value in bars["seconds"]],
        "more": [
            _more(error, peak) for error, peak in zip(bars["error_type"], bars["peak_memory"], strict=True)
        ],
    }


def _more(error: object, peak: object) -> str:
    parts = [f"peak memory {format_bytes(float(peak))}"] if isinstance(peak, Real) and float(peak) > 0 else []
    if isinstance(error, str) and error:
        parts.append(error)
    return ", ".join(parts)


def time_scale(extent: float) -> tuple[str, float]:
    """The unit for an axis of so many seconds, and the seconds in it."""
    return ("seconds", 1.0) if extent < 180 else ("minutes", 60.0) if extent < 3 * 3600 else ("hours", 3600.0)


def _style(plot: Any) -> None:
    """The look of the plot, with its legend above it."""
    quiet(plot)
    plot.ygrid.grid_line_color = None
    plot.legend.orientation = "horizontal"
    plot.legend.background_fill_alpha = plot.legend.border_line_alpha = 0
    plot.legend.label_text_color = INK
    plot.legend.label_text_font = "system-ui, sans-serif"
    plot.legend.location = "top_left"
    plot.legend.glyph_width = plot.legend.glyph_height = 12
    plot.legend.spacing = 18
    plot.legend.padding = plot.legend.margin = 0
    plot.add_layout(plot.legend[0], "above")


def quiet(plot: Any) -> None:
    """Quiet lines and text in a grey that reads on white and on black, on no background of its own."""
    plot.background_fill_alpha = plot.border_fill_alpha = 0
    plot.outline_line_color = None
    plot.grid.grid_line_color = INK
    plot.grid.grid_line_alpha = 0.18
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = INK
        axis.minor_tick_line_color = None
        axis.axis_line_alpha = 0.4
        axis.major_label_text_color = axis.axis_label_text_color = INK
        axis.axis_label_text_font_style = "normal"
        axis.major_label_text_font = axis.axis_label_text_font = "system-ui, sans-serif"
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
