"""The written parts of the page, as HTML. Whatever comes from users is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from batchrun.dashboard.board import RunView
from batchrun.dashboard.chunk_map import COLORS, INKS, LABELS, LABELS_AT_THE_END, SYMBOLS
from batchrun.dashboard.message import CUT, RUNNING, WAITING, FailureLine, Message
from batchrun.outcome import Outcome, RunState
from batchrun.progress import RunningLine, describe_gap, describe_share
from batchrun.resources import MEMORY, format_bytes, format_seconds

__all__ = ["EMPTY", "failures", "headline", "outcomes", "running", "slots", "spoken", "which"]

EMPTY: Final = """<div class="b empty"><h1 class="name">No run yet</h1>
<p class="quiet">This page shows the runs on this cluster while they go on. Start one:</p>
<pre class="mono">batchrun submit pipelines.flights:delays --input flights.parquet</pre>
<p class="quiet">or call <code>run_pipeline(…)</code> in a notebook that uses this cluster.</p></div>"""
"""What the page says before the first run."""

_SILENT_AFTER: Final = 30.0
_COLOR: Final = {outcome.value: outcome.color for outcome in Outcome}


def headline(view: RunView, now: float, why: str = "") -> str:
    """Which run it is, how far it is, the law of conservation so far, and *why* it stands as it does."""
    message = view.message
    solved, quarantined, cancelled = message.fates
    before = 0 if message.ended else message.rows_before
    state = RunState(message.state)
    left = max(0, message.rows_in - solved - quarantined - cancelled - before)
    parts = (
        (solved, "#2a9d5c", "solved"),
        (before, "#7fc6a0", "of an earlier session"),
        (quarantined, "#d1495b", "quarantined"),
        (cancelled, "#8a94a3", "cancelled"),
    )
    settled = _percent(message)
    bar = "".join(
        f'<i style="width:{100 * rows / message.rows_in:.3f}%;background:{color}"></i>'
        for rows, color, _ in parts
        if rows and message.rows_in
    )
    sums = " + ".join(
        f"<span><b>{rows:,}</b> {name}</span>"
        for rows, _, name in parts
        if rows or name in ("solved", "quarantined")
    )
    sums += f" + <span><b>{left:,}</b> to come</span>" if left or not state.ended else ""
    because = f'<div class="quiet why">{escape(why)}</div>' if why else ""
    return (
        f'<div class="b"><div class="head"><h1 class="name clip">{escape(message.pipeline)}</h1>'
        f'<span class="pill {escape(state.value)}">{escape(state.value)}</span>'
        f'<span class="where quiet clip" title="{escape(message.cluster)}">{escape(message.cluster)}</span>'
        f'<span class="num">{_timing(view, now)}</span></div>'
        f'<div class="bar" {_progress("Rows settled", settled, f"{settled} %")}>{bar}</div>'
        '<div class="facts num">'
        f"<span><b>{message.rows_in:,}</b> rows in = {sums}</span></div>"
        f"{because}</div>"
    )


def spoken(view: RunView) -> str:
    """What a screen reader says by itself: the state, and the share of rows in whole tenths.

    It is said anew when it changes, and so must not change twice a second.
    """
    message = view.message
    tenths = 10 * (_percent(message) // 10)
    return f"{escape(message.pipeline)} {escape(message.state)}, {tenths} % of the rows settled"


def _percent(message: Message) -> int:
    """Whole percents of the rows that are settled."""
    before = 0 if message.ended else message.rows_before
    return min(100, 100 * (sum(message.fates) + before) // message.rows_in) if message.rows_in else 0


def _progress(label: str, percent: int, text: str, role: str = "progressbar") -> str:
    """The attributes of a bar that is full at 100."""
    return (
        f'role="{role}" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-valuetext="{escape(text)}"'
    )


def _timing(view: RunView, now: float) -> str:
    elapsed = math.floor(view.elapsed(now))
    if view.message.ended:
        return f"took {format_seconds(view.message.seconds)}"
    if view.message.state == RunState.QUEUED:
        return f"queued for {format_seconds(max(1, round(now - view.message.started)))}"
    silent = now - view.heard
    if silent > _SILENT_AFTER:
        return f'<span class="alarm">no word from the runner for {format_seconds(round(silent))}</span>'
    left = view.seconds_left(now)
    hint = (
        "" if left is None else f' · <span class="quiet">about {format_seconds(math.ceil(left))} left</span>'
    )
    return f"{format_seconds(elapsed) if elapsed else '0 s'}{hint}"


def which(view: RunView, runs: int, trouble: str = "") -> str:
    """The id of the run, how many there are to choose from, and why the store cannot be read, if so."""
    run_id = escape(view.message.run_id)
    many = f"{runs} runs · " if runs > 1 else ""
    alarm = (
        f'<div class="b alarm" role="alert">The store cannot be read now: {escape(trouble)}</div>'
        if trouble
        else ""
    )
    return f'<div class="b clip quiet" title="{run_id}">{many}<code>{run_id}</code></div>{alarm}'


def outcomes(view: RunView) -> str:
    """Chunks and attempts by outcome; it is the key to the colours of the map too."""
    message = view.message
    chunks = view.counts.tolist()
    labels = LABELS_AT_THE_END if message.ended else LABELS
    lines = [_outcome_line(code, labels[code], chunks[code], None) for code in (WAITING, RUNNING)]
    for code, outcome in enumerate(Outcome, start=2):
        tries = message.attempts.get(outcome.value, 0)
        lines.append(_outcome_line(code, labels[code], chunks[code], tries))
    if cut := chunks[CUT]:
        lines.append(
            f'<tr><th scope="row">{_swatch("cut", "✂")}cut into parts</th><td>{cut:,}</td><td></td></tr>'
        )
    return (
        f'<div class="b"><h2>{len(view.order):,} chunks</h2><table class="table num"><thead><tr>'
        '<th scope="col">outcome</th><th scope="col">chunks</th><th scope="col">attempts</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _outcome_line(code: int, label: str, chunks: int, attempts: int | None) -> str:
    none = "" if chunks or attempts else ' class="none"'
    tried = "" if attempts is None else f"{attempts:,}"
    swatch = _swatch("", SYMBOLS[code], COLORS[code], INKS[code])
    return (
        f'<tr{none}><th scope="row">{swatch}{label}</th>'
        f'<td>{chunks:,}</td><td class="quiet">{tried}</td></tr>'
    )


def _swatch(kind: str, symbol: str, color: str = "", ink: str = "") -> str:
    style = f' style="background:{color};color:{ink}"' if color else ""
    return f'<span class="swatch {kind}" aria-hidden="true"{style}>{symbol}</span>'


def slots(message: Message) -> str:
    """Supply and demand by tag: what is used, what there is, and what waits beyond it.

    Of a run that has ended, what there was: nobody tells of its workers any more.
    """
    workers = f"{message.workers:,} worker{'' if message.workers == 1 else 's'}"
    lines = "".join(
        _supply_line(tag, capacity) if message.ended else _slot_line(tag, capacity, used, waiting)
        for tag, capacity, used, waiting in message.slots
    )
    title = f"Slots on {workers}" if message.workers else "Slots"
    none = "None is in use: the run has ended." if message.ended else "Nothing is known of the slots yet."
    lines = lines or f'<p class="quiet">{none}</p>'
    return f'<div class="b"><h2>{title}</h2>{lines}</div>'


def _supply_line(tag: str, capacity: float) -> str:
    return (
        f'<div class="slot"><div class="line num"><span class="clip tag">{escape(tag)}</span>'
        f"<span>{_amount(tag, capacity)}</span></div></div>"
    )


def _slot_line(tag: str, capacity: float, used: float, waiting: float) -> str:
    # The scale ends at three times the capacity: a long queue must not shrink what there is to nothing.
    scale = max(capacity, min(used + waiting, 3 * capacity)) or max(used + waiting, 1.0)

    def share(amount: float) -> str:
        return f"{100 * min(1.0, amount / scale):.2f}%"

    edge = f'<i class="edge" style="left:calc({share(capacity)} - 2px)"></i>' if waiting else ""
    told = f"{_amount(tag, used)} of {_amount(tag, capacity)} in use"
    percent = round(100 * min(1.0, used / capacity)) if capacity else 0
    meter = _progress(f"{tag} slots", percent, f"{told}, {_amount(tag, waiting)} waiting", "meter")
    wants = f'<span class="wants">{_amount(tag, waiting)} waiting</span>' if waiting else "none waiting"
    return (
        f'<div class="slot"><div class="line num"><span class="clip"><span class="tag">{escape(tag)}</span> '
        f"{told}</span>"
        f'<span class="quiet">{wants}</span></div><div class="track" {meter}>'
        f'<i class="have" style="width:{share(capacity)}"></i>'
        f'<i class="used" style="width:{share(used)}"></i>'
        f'<i class="want" style="left:{share(used)};width:{share(waiting)}"></i>{edge}</div></div>'
    )


def _amount(tag: str, amount: float) -> str:
    if tag == MEMORY:
        return format_bytes(amount) if amount else "0"
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"


_NOTHING_RUNS_LONG: Final = "No chunk has run long enough to show, or said something."


def running(view: RunView, now: float) -> str:
    """Chunks that run and have something to show: how far they are, and what they say."""
    passed = 0.0 if view.message.ended else max(0.0, now - view.running_heard)
    lines = [_running_line(line, passed) for line in view.running]
    none = "No chunk runs: the run has ended." if view.message.ended else _NOTHING_RUNS_LONG
    return _list("running", lines, none)


def _running_line(line: RunningLine, passed: float) -> str:
    where = " on ".join(filter(None, (line.stage, line.worker)))
    others = f" and {line.others:,} more" if line.others else ""
    figures = [format_seconds(math.floor(line.seconds + passed) or 1)]
    if line.memory is not None:
        figures.insert(0, format_bytes(line.memory))
    if line.gap is not None:
        figures.insert(0, f"gap {describe_gap(line.gap)}")
    if line.share is not None:
        figures.insert(0, describe_share(line.share))
    share = 0.0 if line.share is None else line.share
    name = f"chunk {line.chunk:,}"
    meter = 'class="meter none" aria-hidden="true"'
    if line.share is not None:
        meter = f'class="meter" {_progress(name, math.floor(100 * share), describe_share(share))}'
    return (
        '<div class="run num" role="listitem">'
        f'<span class="clip"><b>{name}</b>{others} {escape(where)}</span>'
        f'<span {meter}><i style="width:{100 * share:.1f}%"></i></span>'
        f'<span class="r">{" · ".join(figures)}</span>'
        f'<span class="quiet clip said" title="{escape(line.message)}">{escape(line.message)}</span></div>'
    )


def failures(message: Message) -> str:
    """The latest kinds of failure; the error that ended the run first."""
    lines = [*map(_failure_line, message.failures)]
    if message.error:
        lines.insert(
            0, f'<div class="failure" role="listitem"><b>The run ended</b> {_text(message.error)}</div>'
        )
    return _list("failures", lines, "Nothing has failed.")


def _list(kind: str, lines: Sequence[str], none: str) -> str:
    if not lines:
        return f'<div class="b {kind}"><p class="quiet">{none}</p></div>'
    return f'<div class="b {kind}" role="list">{"".join(lines)}</div>'


def _failure_line(line: FailureLine) -> str:
    color = _COLOR.get(line.outcome, COLORS[WAITING])
    attempts = f"{line.attempts:,} attempt{'' if line.attempts == 1 else 's'}"
    return (
        f'<div class="failure" role="listitem" style="border-color:{color}">'
        f'<b class="mono">{escape(line.type)}</b> '
        f'<span class="quiet">stage {escape(line.stage)} · {attempts} · {_chunks(line.chunks)}</span>'
        f"{_text(line.message)}</div>"
    )


def _text(text: str) -> str:
    return f'<div class="text mono">{escape(text)}</div>'


def _chunks(chunks: Sequence[int]) -> str:
    return f"chunk{'' if len(chunks) == 1 else 's'} {', '.join(map(str, chunks))}"
