"""What lies behind a chunk, and the list of runs, as HTML. Whatever comes from users is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final
from urllib.parse import urlencode

from batchrun.dashboard.archive import Archive, AttemptLine, ChunkStory, RunLine
from batchrun.resources import format_bytes, format_seconds

__all__ = ["run_list", "story"]

_MOST_RUNS: Final = 60
_ATTEMPT: Final = ("stage", "try", "outcome", "worker", " took", " peak", "then")
_RUN: Final = ("state", "pipeline", "run", "rows", " solved", " quarantined", " cancelled", " slots", " age")
_CLICK: Final = (
    "Click a chunk, or type its number, to see its attempts, its log and why it stands as it does."
)
_NO_ARCHIVE: Final = (
    "The scheduler of this page cannot read the store of the run. <code>batchrun dashboard</code>, where the "
    "store can be reached, shows attempts, logs and why."
)


def story(archive: Archive | None, run_id: str, chunk: int | None) -> str:
    """What is known of a chunk, or how to find out."""
    if archive is None:
        return _panel(f'<p class="quiet">{_NO_ARCHIVE}</p>')
    if chunk is None:
        return _panel(f'<p class="quiet">{_CLICK}</p>')
    found = archive.story(run_id, chunk)
    if found is None:
        trouble = archive.trouble()
        said = f"It cannot be read now: {escape(trouble)}" if trouble else "Reading the store…"
        return _panel(f'<p class="quiet">{said}</p>')
    return _panel(_told(found))


def _panel(body: str) -> str:
    return f'<div class="b story">{body}</div>'


def _told(found: ChunkStory) -> str:
    table = _table(_ATTEMPT, map(_attempt, found.attempts)) if found.attempts else ""
    failed = [one for one in found.attempts if one.traceback or one.error]
    error = ""
    if failed:
        last = failed[-1]
        title = f"Error of stage {last.stage}, try {last.attempt}"
        error = _details(title, last.traceback or last.error, shown=True)
    log = _details("Log", found.log, shown=not failed) if found.log else ""
    return f"<p>{escape(found.why)}</p>{table}{error}{log}"


def _details(title: str, text: str, *, shown: bool) -> str:
    return (
        f"<details{' open' if shown else ''}><summary>{escape(title)}</summary>"
        f'<pre class="mono">{escape(text)}</pre></details>'
    )


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """A table; heads that begin with a blank stand on the right, as numbers do."""
    cells = "".join(f"<th{' class=r' if head[0] == ' ' else ''}>{head.strip()}</th>" for head in heads)
    return f'<table class="list num"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _attempt(one: AttemptLine) -> str:
    peak = "" if one.peak_memory is None else format_bytes(one.peak_memory)
    return (
        f'<tr><td>{escape(one.stage)}</td><td>{one.attempt}</td><td><i class="dot" style="background:'
        f'{one.outcome.color}"></i>{escape(one.outcome.value.replace("_", " "))}</td>'
        f'<td class="clip" title="{escape(one.worker)}">{escape(one.worker)}</td>'
        f'<td class="r">{format_seconds(one.seconds)}</td><td class="r">{peak}</td>'
        f'<td class="quiet">{escape(one.next_step)}</td></tr>'
    )


def run_list(lines: Sequence[RunLine], shown: str, now: float) -> str:
    """The runs, newest first; each leads to its page.

    *shown* is the run that the page shows, *now* the time in seconds since the epoch.
    """
    table = _table(_RUN, (_run(line, line.run_id == shown, now) for line in lines[:_MOST_RUNS]))
    more = len(lines) - _MOST_RUNS
    rest = f'<p class="quiet">and {more:,} older ones: <code>batchrun runs</code></p>' if more > 0 else ""
    return f'<div class="b runs">{table}{rest}</div>'


def _run(line: RunLine, shown: bool, now: float) -> str:
    parts = (
        (line.rows_solved, "#2a9d5c"),
        (line.rows_quarantined, "#d1495b"),
        (line.rows_cancelled, "#8a94a3"),
    )
    bar = "".join(
        f'<i style="width:{100 * rows / line.rows_in:.2f}%;background:{color}"></i>'
        for rows, color in parts
        if rows and line.rows_in
    )
    figures = "".join(f'<td class="r">{rows:,}</td>' for rows, _ in parts)
    slots = "" if line.slots is None else f"{line.slots:,}"
    state = line.state.value
    here = ' aria-current="page"' if shown else ""
    link = escape(f"?{urlencode({'run': line.run_id})}")
    return (
        f'<tr{" class=shown" if shown else ""}><td><span class="pill {state}">{state}</span></td>'
        f'<td class="clip">{escape(line.pipeline)}</td>'
        f'<td><a href="{link}"{here}><code>{escape(line.run_id)}</code></a></td>'
        f'<td><span class="bar">{bar}</span></td>{figures}<td class="r">{slots}</td>'
        f'<td class="r quiet">{format_seconds(max(1, round(now - line.created)))}</td></tr>'
    )
