"""How much memory attempts used, against what their stage asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from bokeh.core.properties import value
from bokeh.models import AdaptiveTicker, ColumnDataSource, CustomJSTickFormatter, InlineStyleSheet, Range1d

from batchrun.dashboard.chart import Chart
from batchrun.dashboard.difference import send_difference
from batchrun.dashboard.looks import FONT, INK, QUIET, elapsed_axis, hover, quietly
from batchrun.outcome import Outcome
from batchrun.resources import format_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Peaks"]

_MOST_DOTS: Final = 1_500
_SHORTEST: Final = 5.0
"""Seconds that the axis shows at least."""
_STAGES_IN_LABEL: Final = 3
_COLUMNS: Final = ("time", "peak", "color", "what", "outcome", "used")
_COLOR: Final = {outcome.value: outcome.color for outcome in Outcome}

_BYTES: Final = """
const units = ["B", "KiB", "MiB", "GiB", "TiB"]
let amount = tick, unit = 0
while (Math.round(amount) >= 1024 && unit < 4) { amount /= 1024; unit += 1 }
return tick ? `${Number(amount.toPrecision(3))} ${units[unit]}` : "0"
"""


class Peaks(Chart):
    """A dot for each attempt whose memory was measured, and a line for what its stage asked for."""

    def __init__(self, css: InlineStyleSheet | None = None) -> None:
        label = "Peak memory of attempts against what was asked for"
        super().__init__(css, 150, label, x_range=Range1d(0, _SHORTEST))
        self._shown: tuple[pd.DataFrame | None, Mapping[str, int], float | None] | None = None
        self._dots = ColumnDataSource({name: [] for name in _COLUMNS})
        self._asked = ColumnDataSource({"bytes": [], "text": [], "end": []})
        self._draw()

    def _draw(self) -> None:
        plot = self.figure
        plot.hspan("bytes", source=self._asked, line_color=INK, line_width=1.2, line_dash=[4, 3])
        dots = plot.scatter("time", "peak", source=self._dots, size=5, color="color", alpha=0.7)
        plot.text(
            "end",
            "bytes",
            text="text",
            source=self._asked,
            text_align="right",
            text_baseline="bottom",
            text_color=QUIET,
            text_font=value(FONT),
            text_font_size="11px",
            y_offset=-2,
        )
        hover(plot, dots, [("", "what"), ("outcome", "outcome"), ("peak memory", "used")])
        elapsed_axis(plot)
        mantissas = [2**power for power in range(10)]
        plot.yaxis.ticker = AdaptiveTicker(base=1024, mantissas=mantissas, desired_num_ticks=4)
        plot.yaxis.formatter = CustomJSTickFormatter(code=_BYTES)

    def update(
        self, attempts: pd.DataFrame | None, asked: Mapping[str, int], started: float | None = None
    ) -> None:
        """Show *attempts*, which may be those of another run than before; the same frame is drawn once.

        Args:
            attempts: One row an attempt that ended, the columns being those of ``RunReport.attempts``.
            asked: Bytes that each stage asked for, by its name; stages that asked for none are left out.
            started: When the run began, in seconds since the epoch; None if that is not known.
        """
        before = self._shown
        if before is not None and before[0] is attempts and before[1:] == (asked, started):
            return
        self._shown = attempts, dict(asked), started
        if attempts is None or not attempts["peak_memory"].notna().any():
            self.hide("No attempt whose memory was measured has ended yet.")
            return
        begin = float(attempts["started"].min())
        self._show(
            attempts.dropna(subset=["peak_memory"]), asked, begin if started is None else min(started, begin)
        )

    def _show(self, measured: pd.DataFrame, asked: Mapping[str, int], begin: float) -> None:
        dots = _highest(measured, _MOST_DOTS)
        left_out = len(measured) - len(dots)
        told = f"the highest {len(dots):,} of {len(measured):,} attempts, over all of the time"
        self.show(quietly(told if left_out else ""))
        columns = _columns(dots, begin)
        send_difference(self._dots, columns)
        end = max(_SHORTEST, 1.02 * float(columns["time"].max()))
        lines: dict[int, list[str]] = {}
        for stage, size in asked.items():
            if size > 0:
                lines.setdefault(size, []).append(stage)
        texts = [_asked_text(stages, size) for size, stages in lines.items()]
        send_difference(self._asked, {"bytes": list(lines), "text": texts, "end": [0.995 * end] * len(lines)})
        self.figure.x_range.end = end
        self.figure.y_range.end = 1.2 * max(1.0, float(columns["peak"].max()), *lines)


def _highest(measured: pd.DataFrame, most: int) -> pd.DataFrame:
    """*most* attempts at most, in the order of their ends: the highest peak of each few neighbours."""
    ordered = measured.iloc[np.argsort((measured["started"] + measured["seconds"]).to_numpy(), kind="stable")]
    size = -(-len(ordered) // most)
    if size <= 1:
        return ordered
    peaks = ordered["peak_memory"].to_numpy(np.float64)
    firsts = range(0, len(peaks), size)
    return ordered.iloc[[first + int(peaks[first : first + size].argmax()) for first in firsts]]


def _columns(dots: pd.DataFrame, begin: float) -> dict[str, Any]:
    keys = zip(dots["chunk"], dots["stage"], dots["attempt"], strict=True)
    peaks = dots["peak_memory"].to_numpy(np.float64)
    return {
        "time": (dots["started"] + dots["seconds"] - begin).to_numpy(np.float64),
        "peak": peaks,
        "color": [_COLOR[outcome] for outcome in dots["outcome"]],
        "what": [f"chunk {chunk:,}, {stage}, try {attempt}" for chunk, stage, attempt in keys],
        "outcome": [str(outcome).replace("_", " ") for outcome in dots["outcome"]],
        "used": [format_bytes(peak) for peak in peaks.tolist()],
    }


def _asked_text(stages: list[str], size: int) -> str:
    more = len(stages) - _STAGES_IN_LABEL
    names = ", ".join(stages[:_STAGES_IN_LABEL]) + (f" and {more} more" if more > 0 else "")
    return f"{names}: {format_bytes(size)} asked for"
