"""A run as one self-contained web page: it needs no network, reads on light and dark, and prints well.

The template escapes whatever it is given; only the plot of the timeline comes as markup, from Bokeh.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.bokeh_checks import checks_on
from batchrun.outcome import Outcome
from batchrun.render.account import (
    StageAccount,
    advice,
    chunks_line,
    conservation,
    count,
    headline,
    moment,
    stage_accounts,
    standing,
    state_color,
    stopped_line,
    work_line,
)
from batchrun.render.best_answers import answers_grid, stopped_solves
from batchrun.render.excerpts import excerpts, shorten
from batchrun.render.exhibits import shown_exhibits
from batchrun.render.gap_curve import ANSWER, BOUND, gap_curves
from batchrun.render.grid import Grid, grid_of_frame, preview, show
from batchrun.resources import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd

    from batchrun.report import RunReport

__all__ = ["render_html", "write_html"]

PREVIEW_ROWS = 20
"""Rows of the result that the page shows."""
QUARANTINE_ROWS = 100
"""Quarantined rows that the page shows."""
ATTEMPT_ROWS = 50
"""Attempts that the page lists; the timeline has them all."""
FAILURE_ROWS = 20
"""Distinct failures that the page shows with their traceback."""
TRACEBACK = 4 * 2**10
"""Characters of the traceback of a quarantined row."""
BINS = 24
"""Bars of the small histogram of a stage."""


@dataclass(frozen=True)
class Portion:
    """A part of a bar and its line in the legend."""

    name: str
    """What it counts."""
    number: int
    """How many."""
    share: float
    """Per cent of the bar."""
    color: str
    """Its colour."""
    description: str = ""
    """What the name means."""


@dataclass(frozen=True)
class Gauge:
    """What a stage used, beside what it asked for."""

    stage: StageAccount
    """The stage."""
    median: float
    """The median peak, in per cent of the bar."""
    largest: float
    """The largest peak, in per cent of the bar."""
    limit: float | None
    """The limit, in per cent of the bar; None if it has none."""


@checks_on()
def render_html(report: RunReport) -> str:
    """*report* as the text of one HTML page without external resources.

    Reads only the first rows of the results. Raises StoreError if the run's files cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from batchrun.render.timeline import timeline

    environment = Environment(
        loader=PackageLoader("batchrun.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plot = timeline(report.attempts, report.started)
    solves = stopped_solves(report)
    return environment.get_template("report.html").render(
        css=Markup(environment.get_template("report.css").render()),  # noqa: S704  a file of ours
        report=report,
        state_color=state_color(report),
        headline=headline(report),
        conservation=conservation(report),
        advice=advice(report),
        rows=_row_portions(report),
        rows_left=report.rows_in - report.rows_solved - report.rows_quarantined - report.rows_cancelled,
        facts=_facts(report),
        params=[(name, json.dumps(value, ensure_ascii=False)) for name, value in report.params.items()],
        stages=[(stage, histogram) for stage, histogram in _stages(report)],
        gauges=[_gauge(stage) for stage in stage_accounts(report)],
        measured=sum(stage.peak_memory is not None for stage in stage_accounts(report)),
        sizing=report.sizing,
        chunks=_chunk_portions(standing(report)),
        chunks_line=chunks_line(report),
        plot=plot,
        stopped=stopped_line(report),
        answers=answers_grid(solves),
        curves=gap_curves(solves, report.incumbents),
        answer_color=ANSWER,
        bound_color=BOUND,
        result=preview(report, PREVIEW_ROWS),
        exhibits=shown_exhibits(report.exhibits),
        exhibits_error=report.exhibits.error,
        failures=_failures(report.failures),
        failures_left=max(0, len(report.failures) - FAILURE_ROWS),
        quarantined=_quarantined(report),
        attempts=_attempts(report),
        excerpts=excerpts(report),
        written=moment(datetime.now().timestamp()),
        bytes=format_bytes,
        seconds=format_seconds,
        count=count,
    )


def write_html(report: RunReport, path: str | Path) -> Path:
    """Write *report* to *path* as one page and give the path back; the file appears whole or not at all.

    Raises StoreError if the file cannot be written.
    """
    from batchrun.data.files import write_atomically

    page = render_html(report).encode()
    with write_atomically(str(path)) as file:
        file.write(page)
    return Path(path)


def _facts(report: RunReport) -> list[tuple[str, str]]:
    """What ran on what, label and value."""
    per_row = report.input.get("bytes_per_row")
    size = (
        f", {format_bytes(float(per_row) * report.rows_in)} in memory" if per_row and report.rows_in else ""
    )
    return [
        ("Pipeline", report.target or report.pipeline),
        ("Run", report.run_id),
        ("Input", f"{report.input.get('description', '')}: {count(report.rows_in, 'row')}{size}"),
        ("Split", str(report.split)),
        ("Cluster", str(report.cluster)),
        ("Started", moment(report.started)),
        ("Ended", moment(report.ended)),
        ("Wall time", format_seconds(report.seconds)),
        ("Work", work_line(report)),
        ("Folder", str(report.folder)),
    ]


def _row_portions(report: RunReport) -> list[Portion]:
    parts = (
        ("solved", report.rows_solved, Outcome.SUCCEEDED.color),
        ("quarantined", report.rows_quarantined, Outcome.FAILED.color),
        ("cancelled", report.rows_cancelled, Outcome.CANCELLED.color),
    )
    return [
        Portion(name, number, 100 * number / report.rows_in if report.rows_in else 0.0, color)
        for name, number, color in parts
    ]


def _chunk_portions(chunks: Mapping[str, int]) -> list[Portion]:
    known = {outcome.value: outcome for outcome in Outcome}
    portions = []
    for name, number in chunks.items():
        outcome = known.get(name)
        portions.append(
            Portion(
                name.replace("_", " "),
                number,
                100 * number / sum(chunks.values()),
                outcome.color if outcome else "#c3c9d1",
                outcome.description if outcome else "not settled yet",
            )
        )
    return portions


def _stages(report: RunReport) -> Iterable[tuple[StageAccount, list[float]]]:
    """Each stage with a histogram of its durations, on one scale of seconds for all."""
    import numpy as np

    attempts = report.attempts
    seconds = attempts["seconds"].to_numpy(dtype=float, na_value=math.nan)
    seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
    low, high = (float(seconds.min()), float(seconds.max())) if len(seconds) else (1e-3, 1.0)
    edges = np.geomspace(low, max(high, low * 2), BINS + 1)
    for stage in stage_accounts(report):
        own = attempts.loc[attempts["stage"] == stage.name, "seconds"].to_numpy(
            dtype=float, na_value=math.nan
        )
        bars, _ = np.histogram(np.clip(own[np.isfinite(own)], edges[0], edges[-1]), bins=edges)
        yield stage, [float(bar) / max(1, int(bars.max())) for bar in bars]


def _gauge(stage: StageAccount) -> Gauge:
    median, largest = stage.median_peak or 0, stage.peak_memory or 0
    whole = max(stage.limit, largest, 1)
    limit = 100 * stage.limit / whole if stage.limit else None
    return Gauge(stage, 100 * median / whole, 100 * largest / whole, limit)


def _failures(failures: pd.DataFrame) -> list[Mapping[str, Any]]:
    return [dict(row) for _, row in failures.head(FAILURE_ROWS).iterrows()]


def _quarantined(report: RunReport) -> Grid:
    """The first rows that were set apart, with their errors; the tracebacks are folded away."""
    rows = report.quarantined
    # The traceback is the last column, whatever columns the user's rows have.
    grid = grid_of_frame(rows.iloc[:, :-1], QUARANTINE_ROWS, "quarantined row")
    traces = rows.iloc[:, -1].head(QUARANTINE_ROWS)
    folded = [shorten(text.rstrip(), TRACEBACK) if isinstance(text, str) else "" for text in traces]
    return replace(grid, folded=folded)


def _attempts(report: RunReport) -> Grid:
    """The attempts that gave no result, then the longest ones."""
    attempts = report.attempts
    solved = attempts["outcome"].isin([outcome.value for outcome in Outcome if outcome.solved])
    order = (
        attempts.assign(_solved=solved)
        .sort_values(["_solved", "seconds"], ascending=[True, False], kind="stable")
        .head(ATTEMPT_ROWS)
    )
    begin = float(attempts["started"].min()) if len(attempts) else 0.0
    rows = [_attempt_cells(record, begin) for record in order.to_dict("records")]
    note = f"{len(rows)} of {count(len(attempts), 'attempt')}" if len(attempts) > len(rows) else ""
    header = ("chunk", "stage", "try", "worker", "outcome", "started", "took", "peak memory", "error", "then")
    return Grid(header, rows, (True, False, True, False, False, True, True, True, False, False), note)


def _attempt_cells(attempt: Mapping[Hashable, Any], begin: float) -> tuple[str, ...]:
    outcome, peak, error_type = str(attempt["outcome"]), attempt["peak_memory"], attempt["error_type"]
    failed = isinstance(error_type, str) and error_type != ""
    return (
        f"{attempt['chunk']:,}",
        str(attempt["stage"]),
        str(attempt["attempt"]),
        str(attempt["worker"]),
        f"{_symbol(outcome)} {outcome.replace('_', ' ')}{_because(attempt)}",
        f"+ {format_seconds(attempt['started'] - begin)}",
        format_seconds(attempt["seconds"]),
        format_bytes(peak) if isinstance(peak, (int, float)) and peak > 0 else "",
        show(f"{error_type}: {attempt['error']}") if failed else "",
        show(_text(attempt["next_step"]) or _text(attempt["decision"])),
    )


def _because(attempt: Mapping[Hashable, Any]) -> str:
    """The cause, where the outcome does not say it already."""
    cause, outcome = _text(attempt["cause"]), str(attempt["outcome"])
    said = {"failed": "error", "out_of_memory": "memory", "timed_out": "timeout", "cancelled": "cancel"}
    return "" if cause in ("", outcome, said.get(outcome)) else f" ({cause.replace('_', ' ')})"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _symbol(name: str) -> str:
    return next((outcome.symbol for outcome in Outcome if outcome.value == name), "")
