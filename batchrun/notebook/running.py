"""A run that goes on, as a notebook shows it: as HTML, and as text where that cannot be shown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from batchrun.notebook.card import FAILED, MUTED, bar, card, clip, line, link, rows_bar
from batchrun.outcome import Outcome, RunState
from batchrun.progress import Progress, StageLine, describe_share
from batchrun.render.account import STATE_COLORS, count, law
from batchrun.render.running import MOST_RUNNING, running_html
from batchrun.render.wording import (
    describe_rate,
    describe_slot,
    describe_stop,
    describe_stopped,
    describe_time,
)
from batchrun.resources import format_bytes, format_seconds

__all__ = ["progress_html", "progress_text"]

MOST_STAGES = 8
"""Stages of a run that are shown one by one."""
TITLE = "display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px"
STAGE_CELL = "text-align:left;padding:1px 12px 1px 0;border:0;background:none;white-space:nowrap"


def progress_html(progress: Progress, now: float, *, hints: Sequence[str] = ()) -> str:
    """The live block of a run as HTML; after its end, the summary that stays.

    Args:
        progress: What is known of the run.
        now: Seconds since the epoch.
        hints: How it can be stopped, for people.
    """
    color = STATE_COLORS[progress.state]
    lines = [_title(progress, now)]
    if progress.waits:
        lines.append(line(progress.waits))
    elif progress.ended is not None:
        lines += _ended(progress, now)
    else:
        lines += [bar([(progress.share, color)]), *_going_on(progress, now, hints)]
    return card(color, lines)


def progress_text(progress: Progress, now: float) -> str:
    """The same in two lines of text, where HTML is not shown."""
    name = f"{progress.pipeline} ({progress.run_id})"
    if progress.waits:
        return f"{name}: {progress.waits}"
    counts = " · ".join(text for text, _ in _counts(progress, now))
    error = progress.ended.error if progress.ended else None
    return "\n".join([f"{name}: {_state(progress, now)}", counts, *([str(error)] if error else [])])


def _title(progress: Progress, now: float) -> str:
    where = f" on {progress.cluster}" if progress.cluster and not progress.waits else ""
    state = "" if progress.waits else f" <span>{escape(_state(progress, now))}</span>"
    about = f"<span style='{MUTED}'>{escape(progress.run_id + where)}</span>"
    return f"<div style='{TITLE}'><span><b>{escape(progress.pipeline)}</b> {about}</span>{state}</div>"


def _state(progress: Progress, now: float) -> str:
    if progress.ended is None:
        return f"{describe_share(progress.share)} · {describe_time(progress, now)}"
    return f"{progress.ended.state.value} after {format_seconds(progress.ended.seconds)}"


def _going_on(progress: Progress, now: float, hints: Sequence[str]) -> list[str]:
    lines = [_counts_html(progress, now), _stages(progress)]
    if progress.slots:
        running = f"{count(len(progress.running), 'chunk')} running"
        lines.append(line(" · ".join([running, *map(describe_slot, progress.telling_slots)]), MUTED))
    lines.append(running_html(progress.running_lines(now, MOST_RUNNING)))
    if progress.last_error is not None:
        lines.append(line(f"latest error: {clip(str(progress.last_error))}", FAILED))
    if progress.stopping is not None:
        said = describe_stop(progress, now, again="interrupt again to stop at once")
        lines.append(line(said, f"color:{STATE_COLORS[RunState.PARTIAL]};font-weight:600"))
    lines += [line(note, MUTED) for note in progress.notes]
    below = [link(progress.dashboard, "dashboard")] if progress.dashboard else []
    if progress.stopping is None:
        below += [f"<span style='{MUTED}'>{escape(hint)}</span>" for hint in hints]
    return [*lines, f"<div>{' · '.join(below)}</div>" if below else ""]


def _ended(progress: Progress, now: float) -> list[str]:
    lines = [] if progress.ended is None else [rows_bar(progress.ended)]
    lines.append(_counts_html(progress, now))
    if progress.ended is not None and progress.ended.error is not None:
        lines.append(line(str(progress.ended.error), FAILED))
    return lines + [line(note, MUTED) for note in progress.notes]


def _stages(progress: Progress) -> str:
    """A bar a stage, if there are several."""
    stages = progress.stage_lines
    if not 1 < len(stages) <= MOST_STAGES or not progress.chunks_planned:
        return ""
    rows = "".join(_stage(stage, progress.chunks_planned) for stage in stages)
    style = "margin:6px 0;table-layout:auto;border-collapse:collapse;border:0;font-size:12px;color:inherit"
    return f"<table style='{style}'>{rows}</table>"


def _stage(stage: StageLine, chunks: int) -> str:
    color = STATE_COLORS[RunState.RUNNING if stage.passed < chunks else RunState.SUCCEEDED]
    gauge = (
        "<span style='display:inline-block;vertical-align:middle;width:120px;height:5px;border-radius:3px;"
        "overflow:hidden;background:rgba(128,128,128,.25)'><span style='display:block;height:5px;"
        f"width:{100 * stage.passed / chunks:.1f}%;background:{color}'></span></span>"
    )
    running = f", {stage.running:,} running" if stage.running else ""
    said = f"{stage.passed:,} of {chunks:,}{running}"
    cells = (escape(clip(stage.name, 60)), gauge, escape(said))
    shown = "".join(f"<td style='{STAGE_CELL}'>{cell}</td>" for cell in cells)
    return f"<tr style='background:none'>{shown}</tr>"


def _counts_html(progress: Progress, now: float) -> str:
    parts = [
        f"<span style='color:{color}'>{escape(text)}</span>" if color else escape(text)
        for text, color in _counts(progress, now)
    ]
    return f"<div>{' · '.join(parts)}</div>"


def _counts(progress: Progress, now: float) -> list[tuple[str, str]]:
    """Figures of the run, each with its colour, which may be empty."""
    so_far = "" if progress.planned_in_full else " so far"
    end = progress.ended
    if end is not None:
        parts = [(law(end.rows_in, end.rows_solved, end.rows_quarantined, end.rows_cancelled), "")]
    else:
        parts = [
            (f"{progress.rows_settled:,} of {count(progress.rows, 'row')}", ""),
            (describe_rate(progress.rows_per_second(now)), ""),
        ]
    parts.append((f"{progress.chunks_settled:,} of {count(progress.chunks_planned, 'chunk')}{so_far}", ""))
    parts += [
        (f"{outcome.symbol} {number:,} {outcome.replace('_', ' ')}", outcome.color)
        for outcome, number in sorted(progress.outcomes.items())
        if not outcome.solved
    ]
    stopped = Outcome.STOPPED_WITH_SOLUTION
    if progress.outcomes[stopped]:
        said = describe_stopped(progress.outcomes[stopped], progress.worst_gap)
        parts.append((f"{stopped.symbol} {said}", stopped.color))
    if progress.chunks_cut:
        parts.append((f"{progress.chunks_cut:,} cut into parts", ""))
    if progress.retries:
        parts.append((count(progress.retries, "retry", "retries"), ""))
    if progress.chunks_recalled:
        parts.append((f"{progress.chunks_recalled:,} settled before", ""))
    if end is not None and progress.peak_memory is not None:
        parts.append((f"peak memory {format_bytes(progress.peak_memory)}", ""))
    return parts
