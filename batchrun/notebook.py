"""The notebook: live progress in one output cell, and how a report shows itself.

What is shown is HTML with inline styles that takes its colours from the page, so that it reads on light and
dark; it loads nothing and runs no script.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from batchrun.events import Event, RunEnded, RunStopping, RunWaiting
from batchrun.outcome import Outcome, RunState
from batchrun.progress import Progress, describe_share
from batchrun.render.account import (
    STATE_COLORS,
    advice,
    chunks_line,
    conservation,
    count,
    headline,
    law,
    stage_accounts,
    state_color,
    stopped_line,
    work_line,
)
from batchrun.render.pulse import Pulse
from batchrun.render.running import MOST_RUNNING, running_html
from batchrun.render.wording import (
    describe_rate,
    describe_slot,
    describe_stop,
    describe_stopped,
    describe_time,
)
from batchrun.resources import format_bytes, format_seconds

if TYPE_CHECKING:
    from batchrun.report import RunReport

__all__ = ["NotebookProgress", "in_notebook", "progress_html", "report_html"]

SHOW_EVERY = 0.25
"""Seconds between two updates of the live display that events cause."""
REDRAW_EVERY = 1.0
"""Seconds between two updates while nothing happens, so that the clock in the display goes on."""
MOST_FAILURES = 5
"""Distinct failures on a report's card; the HTML report has all."""

CARD = (
    "font-family:system-ui,sans-serif;font-size:13px;line-height:1.5;max-width:760px;padding:12px 16px;"
    "border:1px solid rgba(128,128,128,.35);border-radius:8px;border-left:4px solid {color};"
    "font-variant-numeric:tabular-nums"
)
MUTED = "opacity:.65"
CELL = "text-align:left;padding:2px 14px 2px 0;border:0;background:none;vertical-align:top"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, where a display can be updated."""
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    shell = ipython.get_ipython()
    return shell is not None and shell.has_trait("kernel")


class NotebookProgress:
    """Shows a run in one output cell while it goes on, and leaves a summary there: an observer, used as a
    context manager.

    Args:
        display: Shows HTML the first time and gives back what replaces it; IPython's own by default.
        clock: Seconds since the epoch.
        redraw_every: Seconds between two updates while nothing happens.
    """

    def __init__(
        self,
        *,
        display: Callable[[str], Callable[[str], None]] | None = None,
        clock: Callable[[], float] = time.time,
        redraw_every: float = REDRAW_EVERY,
    ) -> None:
        self.progress = Progress()
        self._redraw_every = redraw_every
        self._pulse = Pulse(self._tick, redraw_every)
        self._lock = threading.Lock()
        self._display = display or _display
        self._clock = clock
        self._replace: Callable[[str], None] | None = None
        self._shown = float("-inf")

    def __enter__(self) -> Self:
        self._pulse.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pulse.stop()

    def __call__(self, event: Event) -> None:
        """Take an event in, and show what changed, four times a second at most."""
        with self._lock:
            self.progress.tell(event)
            now = self._clock()
            if now - self._shown >= SHOW_EVERY or isinstance(event, (RunStopping, RunEnded, RunWaiting)):
                self._show(now)

    def _tick(self) -> None:
        """Let the clock in the display go on."""
        with self._lock:
            now = self._clock()
            going_on = self.progress.run_id and self.progress.ended is None and not self.progress.waits
            if going_on and now - self._shown >= self._redraw_every:
                self._show(now)

    def _show(self, now: float) -> None:
        self._shown = now
        block = progress_html(self.progress, now)
        if self._replace is None:
            self._replace = self._display(block)
        else:
            self._replace(block)


def progress_html(progress: Progress, now: float) -> str:
    """The live block of a run as HTML; after its end, the summary that stays."""
    ended = progress.ended
    color = STATE_COLORS[progress.state]
    if ended is None:
        state = f"{describe_share(progress.share)} · {describe_time(progress, now)}"
    else:
        state = f"{ended.state.value} after {format_seconds(ended.seconds)}"
    if progress.waits:
        title = f"<b>{escape(progress.pipeline)}</b> <span style='{MUTED}'>{escape(progress.run_id)}</span>"
        return _card(color, [f"<div>{title}</div>", f"<div>{escape(progress.waits)}</div>"])
    lines = [
        f"<div><b>{escape(progress.pipeline)}</b> <span style='{MUTED}'>{escape(progress.run_id)}"
        f" on {escape(progress.cluster)}</span><span style='float:right'>{escape(state)}</span></div>",
        _bar([(progress.share, color)]) if ended is None else _rows_bar(ended),
        f"<div>{_counts(progress, now)}</div>",
    ]
    if ended is None and progress.slots:
        running = f"{count(len(progress.running), 'chunk')} running"
        slots = " · ".join([running, *(describe_slot(slot) for slot in progress.telling_slots)])
        lines.append(f"<div style='{MUTED}'>{escape(slots)}</div>")
    if ended is None:
        lines.append(running_html(progress.running_lines(now, MOST_RUNNING)))
    if ended is None and progress.stopping is not None:
        said = describe_stop(progress, now, again="interrupt again to stop at once")
        lines.append(f"<div style='color:{STATE_COLORS[RunState.PARTIAL]}'><b>{escape(said)}</b></div>")
    if ended is not None and ended.error is not None:
        lines.append(f"<div style='color:{Outcome.FAILED.color}'>{escape(str(ended.error))}</div>")
    lines += [f"<div style='{MUTED}'>{escape(note)}</div>" for note in progress.notes]
    if progress.dashboard and ended is None:
        lines.append(f"<div>{_link(progress.dashboard, 'dashboard')}</div>")
    return _card(color, lines)


def report_html(report: RunReport) -> str:
    """A report as a compact card, what ``_repr_html_`` gives to a notebook."""
    color = state_color(report)
    lines = [
        f"<div style='font-size:15px'><span style='color:{color}'>●</span>"
        f" <b>{escape(headline(report))}</b></div>",
        f"<div style='{MUTED}'>{escape(report.pipeline)} · {escape(report.run_id)} ·"
        f" {escape(str(report.input.get('description', '')))} · {escape(str(report.cluster))}</div>",
        _rows_bar(report),
        f"<div>{escape(conservation(report))}</div>",
        f"<div>{escape(_chunks_line(report))}</div>",
        _stopped_html(report),
        _stages_html(report),
        _failures_html(report),
    ]
    if advice(report):
        lines.append(f"<div style='margin-top:6px'>{escape(advice(report))}</div>")
    lines.append(
        f"<div style='{MUTED};margin-top:6px;overflow-wrap:anywhere'>{escape(str(report.folder))}</div>"
    )
    return _card(color, lines)


def _counts(progress: Progress, now: float) -> str:
    so_far = "" if progress.planned_in_full else " so far"
    end = progress.ended
    if end is not None:
        parts = [law(end.rows_in, end.rows_solved, end.rows_quarantined, end.rows_cancelled)]
    else:
        parts = [f"{progress.rows_settled:,} of {count(progress.rows, 'row')}"]
        parts.append(describe_rate(progress.rows_per_second(now)))
    parts.append(f"{progress.chunks_settled:,} of {count(progress.chunks_planned, 'chunk')}{so_far}")
    parts += [
        f"<span style='color:{outcome.color}'>{outcome.symbol} {number:,} {outcome.replace('_', ' ')}</span>"
        for outcome, number in sorted(progress.outcomes.items())
        if not outcome.solved
    ]
    stopped = Outcome.STOPPED_WITH_SOLUTION
    if progress.outcomes[stopped]:
        said = describe_stopped(progress.outcomes[stopped], progress.worst_gap)
        parts.append(f"<span style='color:{stopped.color}'>{stopped.symbol} {said}</span>")
    if progress.chunks_cut:
        parts.append(f"{progress.chunks_cut:,} cut into parts")
    if progress.retries:
        parts.append(count(progress.retries, "retry", "retries"))
    if progress.chunks_recalled:
        parts.append(f"{progress.chunks_recalled:,} settled before")
    if end is not None and progress.peak_memory is not None:
        parts.append(f"peak memory {format_bytes(progress.peak_memory)}")
    return " · ".join(parts)


def _chunks_line(report: RunReport) -> str:
    attempts = sum(report.counts.attempts.values())
    return f"{chunks_line(report)}; {count(attempts, 'attempt')}, {work_line(report)}"


def _stopped_html(report: RunReport) -> str:
    outcome, said = Outcome.STOPPED_WITH_SOLUTION, stopped_line(report)
    return f"<div style='color:{outcome.color}'>{outcome.symbol} {escape(said)}</div>" if said else ""


def _stages_html(report: RunReport) -> str:
    stages = stage_accounts(report)
    head = "".join(
        f"<th style='{CELL};font-weight:600'>{name}</th>"
        for name in ("stage", "needs", "attempts", "failed", "median", "longest")
    )
    body = "".join(
        _row(
            stage.name,
            stage.demand,
            f"{stage.attempts:,}",
            f"{stage.failed:,}",
            format_seconds(stage.median),
            format_seconds(stage.longest),
        )
        for stage in stages
    )
    return (
        "<table style='margin:8px 0;table-layout:auto;border-collapse:collapse;border:0;font-size:inherit;"
        "color:inherit'>"
        f"<tr style='background:none'>{head}</tr>{body}</table>"
    )


def _failures_html(report: RunReport) -> str:
    if report.error is not None:
        trace = report.error.traceback
        detail = f"<pre style='margin:4px 0 0;white-space:pre-wrap'>{escape(trace)}</pre>" if trace else ""
        return f"<div style='color:{Outcome.FAILED.color}'>{escape(str(report.error))}</div>{detail}"
    failures = report.failures
    lines = [
        f"<div><span style='color:{Outcome.FAILED.color}'>{escape(str(failure['error_type']))}</span>:"
        f" {escape(_clip(str(failure['error'])))} <span style='{MUTED}'>("
        f"{count(int(failure['chunks']), 'chunk')}, {count(int(failure['rows']), 'row')})</span></div>"
        for _, failure in failures.head(MOST_FAILURES).iterrows()
    ]
    if len(failures) > MOST_FAILURES:
        lines.append(f"<div style='{MUTED}'>and {count(len(failures) - MOST_FAILURES, 'other error')}</div>")
    return "".join(lines)


def _row(*values: str) -> str:
    return (
        "<tr style='background:none'>"
        + "".join(f"<td style='{CELL}'>{escape(value)}</td>" for value in values)
        + "</tr>"
    )


def _rows_bar(ended: RunEnded | RunReport) -> str:
    """The rows of a run by what became of them."""
    rows = max(ended.rows_in, 1)
    return _bar(
        [
            (ended.rows_solved / rows, Outcome.SUCCEEDED.color),
            (ended.rows_quarantined / rows, Outcome.FAILED.color),
            (ended.rows_cancelled / rows, Outcome.CANCELLED.color),
        ]
    )


def _bar(parts: Iterable[tuple[float, str]]) -> str:
    pieces = "".join(
        f"<div style='width:{100 * share:.2f}%;background:{color}'></div>"
        for share, color in parts
        if share > 0
    )
    return (
        "<div style='display:flex;height:6px;border-radius:3px;overflow:hidden;margin:8px 0;"
        f"background:rgba(128,128,128,.25)'>{pieces}</div>"
    )


def _card(color: str, lines: Iterable[str]) -> str:
    return f"<div style='{CARD.format(color=color)}'>{''.join(lines)}</div>"


def _link(address: str, text: str) -> str:
    if not address.startswith(("http://", "https://")):
        return escape(address)
    return f"<a href='{escape(address)}' target='_blank' rel='noopener'>{escape(text)}</a>"


def _clip(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _display(html: str) -> Callable[[str], None]:
    """Show HTML in the present cell, and give back what replaces it."""
    from IPython.display import HTML, display

    handle: Any = display(HTML(html), display_id=True)
    return lambda newer: handle.update(HTML(newer))
