"""A report as a card with tabs: what came of the run, its results, what failed, and how it was run."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from batchrun.errors import BatchrunError
from batchrun.notebook.card import FAILED, MUTED, card, clip, line, rows_bar, table
from batchrun.notebook.tabs import Tab, tabs
from batchrun.outcome import Outcome
from batchrun.render.account import (
    STAGE_COLUMNS,
    advice,
    chunks_line,
    conservation,
    count,
    headline,
    moment,
    stage_accounts,
    stage_cells,
    standing,
    state_color,
    stopped_line,
    work_line,
)
from batchrun.render.excerpts import shorten
from batchrun.render.grid import Grid, grid_of, grid_of_frame, preview

if TYPE_CHECKING:
    from batchrun.report import RunReport
    from batchrun.store.records import FailureKind

__all__ = ["report_html"]

RESULT_ROWS = 10
"""Rows of the result that are shown."""
QUARANTINE_ROWS = 10
"""Quarantined rows that are shown."""
READ_CHUNKS = 100_000
"""Chunks above which no result is looked for: a card has to be there at once."""
READ_QUARANTINED = 20_000
"""Quarantined rows above which none is read for a look at the first."""
MOST_FAILURES = 5
"""Distinct failures that are shown; the HTML report has all."""
TRACEBACK = 4 * 2**10
"""Characters of a traceback."""
PRE = (
    "margin:4px 0 8px;padding:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px;background:none;"
    "color:inherit"
)


def report_html(report: RunReport) -> str:
    """A report as a card, what ``_repr_html_`` gives to a notebook.

    What is not in the store but in files, as the results, is replaced by the reason where they are gone.
    """
    color = state_color(report)
    described = str(report.input.get("description", ""))
    about = [report.pipeline, report.run_id, described, str(report.cluster)]
    top = (
        f"<div style='font-size:15px'><span style='color:{color}'>●</span>"
        f" <b>{escape(headline(report))}</b></div>"
    )
    shown = [
        Tab("Summary", _summary(report)),
        Tab("Results", _or_reason(_results, report)),
        Tab("Figures", _or_reason(_figures, report)),
        Tab("Failures", _failures(report)),
        Tab("Quarantined", _or_reason(_quarantined, report)),
        Tab("Chunks", _chunks(report)),
        Tab("Settings", _settings(report)),
    ]
    lines = [
        top,
        line(" · ".join(part for part in about if part), MUTED),
        rows_bar(report),
        line(conservation(report)),
        tabs(shown),
    ]
    return card(color, lines)


def _summary(report: RunReport) -> str:
    attempts = sum(report.counts.attempts.values())
    stopped, outcome = stopped_line(report), Outcome.STOPPED_WITH_SOLUTION
    return "".join(
        [
            line(f"{chunks_line(report)}; {count(attempts, 'attempt')}, {work_line(report)}"),
            line(f"{outcome.symbol} {stopped}" if stopped else "", f"color:{outcome.color}"),
            _stages(report),
            _error(report),
            "".join(_failure_line(kind) for kind in _worst(report)),
            line(_others(report), MUTED),
            line(advice(report), "margin-top:6px"),
            "".join(line(f"Next time: {one}") for one in report.sizing),
            line(str(report.folder), f"{MUTED};margin-top:6px;overflow-wrap:anywhere"),
        ]
    )


def _stages(report: RunReport) -> str:
    rows = [stage_cells(stage) for stage in stage_accounts(report)]
    used = STAGE_COLUMNS if any(row[-1] for row in rows) else STAGE_COLUMNS[:-1]
    return table(used, [row[: len(used)] for row in rows], (False, False, *[True] * (len(used) - 2)))


def _error(report: RunReport) -> str:
    """What ended the run, the frames of the user's code first."""
    error = report.error
    return "" if error is None else line(str(error), FAILED) + _trace(error.traceback)


def _worst(report: RunReport) -> list[FailureKind]:
    return list(report.failure_kinds[:MOST_FAILURES])


def _others(report: RunReport) -> str:
    more = len(report.failure_kinds) - MOST_FAILURES
    return f"and {count(more, 'other error')}" if more > 0 else ""


def _failure_line(kind: FailureKind) -> str:
    where = f"{count(kind.chunks, 'chunk')}, {count(kind.rows, 'row')}"
    return (
        f"<div><span style='{FAILED}'>{escape(kind.error_type)}</span>: {escape(clip(kind.error))}"
        f" <span style='{MUTED}'>({where})</span></div>"
    )


def _failures(report: RunReport) -> str:
    parts = [_failure_line(kind) + _trace(kind.traceback) for kind in _worst(report)]
    more = line(f"{_others(report)}; report.failures has them all", MUTED) if _others(report) else ""
    return "".join(parts) + more


def _trace(text: str) -> str:
    return f"<pre style='{PRE}'>{escape(shorten(text.rstrip(), TRACEBACK))}</pre>" if text.strip() else ""


def _results(report: RunReport) -> str:
    if sum(standing(report).values()) > READ_CHUNKS:
        return line("report.results() has them; report.scan() too, as a lazy dataset")
    grid = preview(report, RESULT_ROWS)
    return _grid(grid, "There are none." if report.state.ended else "There are none yet.")


def _figures(report: RunReport) -> str:
    """The tables that the pipeline adds to the report; its figures would put a megabyte into the notebook."""
    exhibits = report.exhibits
    if exhibits.error is not None:
        return line(f"The pipeline's report failed: {exhibits.error}", FAILED) + _trace(
            exhibits.error.traceback
        )
    parts = []
    for entry in exhibits.entries:
        parts.append(line(entry.title, "font-weight:600;margin-top:6px"))
        if entry.table is None:
            parts.append(
                line(f"report.exhibits[{entry.title!r}] is a Bokeh figure; report.to_html() draws it", MUTED)
            )
        else:
            shown = entry.table.slice(0, RESULT_ROWS)
            parts.append(_grid(grid_of(shown, entry.table.num_rows, "row"), "It has no rows."))
    return "".join(parts)


def _quarantined(report: RunReport) -> str:
    rows = report.rows_quarantined
    if not rows:
        return ""
    if rows > READ_QUARANTINED:
        return line(f"{count(rows, 'row')}; report.quarantined has them, each with its error")
    found = report.quarantined.iloc[:, :-1]  # the last column is the traceback, which is with the failures
    return _grid(grid_of_frame(found, QUARANTINE_ROWS, "quarantined row"), "")


def _grid(grid: Grid, nothing: str) -> str:
    shown = table(grid.header, grid.rows, grid.numeric, one_line=True) if grid.rows else line(nothing, MUTED)
    return shown + line(grid.note, MUTED)


def _chunks(report: RunReport) -> str:
    """How the chunks ended."""
    known = {outcome.value: outcome for outcome in Outcome}
    rows = [
        (
            f"{known[name].symbol if name in known else '·'} {name.replace('_', ' ')}",
            f"{number:,}",
            known[name].description if name in known else "not settled yet",
        )
        for name, number in standing(report).items()
    ]
    return table(("outcome", "chunks", "what it means"), rows, (False, True, False)) + line(
        "report.chunks has a row for each, report.attempts one for each try", MUTED
    )


def _settings(report: RunReport) -> str:
    facts = [
        ("pipeline", report.target or report.pipeline),
        ("split", str(report.split)),
        ("started", moment(report.started)),
        ("ended", moment(report.ended)),
        *((name, f"{json.dumps(value, ensure_ascii=False)}") for name, value in report.params.items()),
    ]
    return "".join(
        [
            table(("", ""), [(name, clip(value)) for name, value in facts]),
            table(
                ("setting", "value", "from"),
                [(one["key"], clip(str(one["value"])), clip(one["source"])) for one in report.settings],
            )
            if report.settings
            else "",
            line(" · ".join(f"{name} {version}" for name, version in report.versions.items()), MUTED),
        ]
    )


def _or_reason(part: Callable[[RunReport], str], report: RunReport) -> str:
    """A part of the card that is read from files, or why it cannot be."""
    try:
        return part(report)
    except BatchrunError as error:
        return line(str(error), FAILED)
