"""A store as a full screen of the terminal: its runs, who has slots, what runs now, what failed.

All is laid out in lines that are as wide as the screen at most, so that it is known how many fit.
"""

from __future__ import annotations

import math
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from batchrun.outcome import Outcome, RunState
from batchrun.progress import describe_share
from batchrun.render.account import STATE_COLORS, count, moment
from batchrun.render.running import running_line, running_texts
from batchrun.render.sections import Section, fit, join, line_of, lines_of
from batchrun.render.terminal import STATE_SYMBOLS, STOPPED
from batchrun.render.wording import describe_left, describe_slot, one_line
from batchrun.resources import MEMORY, format_bytes

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from batchrun.events import SlotUse
    from batchrun.overview import Failure, Overview, Place, RunStanding

__all__ = ["overview_screen", "overview_view", "run_screen"]

BAR = "#4c8fd6"
BARS = 8
"""Characters of the bar of a slot."""
LEAST_BAR = 8
"""Characters of the bar of a run, at least."""
LEFT = 24
"""Characters beside it that say how far the run is and how long it takes."""
MOST_ID = 44
"""Characters of a run's id."""
MOST_WHY = 2
"""Lines about what a run does or waits for."""
MOST_SHOWN = 50
"""Running chunks, or failures, that are laid out at all."""


def overview_screen(
    overview: Overview,
    now: float,
    size: tuple[int, int],
    *,
    chosen: str = "",
    keys: bool = True,
    said: str = "",
) -> Group:
    """The store on a screen.

    Args:
        overview: The store as it was at the last look.
        now: Seconds since the epoch.
        size: Columns and lines of the screen.
        chosen: The run that the keys are at; empty without keys.
        keys: Whether keys can be pressed.
        said: What is wrong, if anything is.
    """
    width, height = size
    room = height - 4
    sections = _sections(overview, now, width, chosen, most=height)
    if lines_of(sections) > room:
        sections = _sections(overview, now, width, chosen, most=height, compact=True)
    footer = _footer(said, _keys(keys))
    return join([_header(overview, now, width), _text(""), *fit(sections, room), _text(""), footer], height)


def overview_view(overview: Overview, now: float, width: int) -> Group:
    """All of the store that the screen would show, however many lines that takes."""
    return join([_header(overview, now, width), _text(""), *fit(_sections(overview, now, width, ""), None)])


def run_screen(
    overview: Overview, run: RunStanding, now: float, size: tuple[int, int], *, said: str = ""
) -> Group:
    """One run of the store on a screen; see ``overview_screen``."""
    width, height = size
    record = run.record
    failures = [one for one in overview.failures if one.run_id == record.run_id]
    mine = [place for place in overview.places if run.driven and place.process == record.driver]
    head = [*_run_lines(run, width, "", most_why=6), _outcomes(run, overview)]
    traceback = next((one.traceback for one in failures if one.traceback), "").rstrip().splitlines()

    def sections(*, compact: bool) -> list[Section]:
        slots = [item for place in mine for item in _place_items(place, compact=compact)]
        trace = [[_text(f"  {_indented(line)}", "dim")] for line in traceback]
        return [
            Section("", [[line] for line in head], weight=9),
            Section("Slots", slots),
            Section("Running now", _running_items([run], now), weight=2),
            Section("Failures", _failure_items(failures, {}), weight=2),
            Section("Traceback of the first", trace, keep=len(trace) - 1),
            Section("About the run", [[line] for line in _facts(run)]),
        ]

    room = height - 4
    shown = sections(compact=False)
    if lines_of(shown) > room:
        shown = sections(compact=True)
    footer = _footer(said, "Esc back   q leave")
    return join([_header(overview, now, width), _text(""), *fit(shown, room), _text(""), footer], height)


# Lines around the sections


def _header(overview: Overview, now: float, width: int) -> Text:
    from rich.text import Text

    driven = sum(run.driven for run in overview.runs)
    queued = sum(run.queued for run in overview.runs)
    said = [count(driven, "run") + " under way"] + ([f"{queued:,} queued"] if queued else [])
    right = f"{', '.join(said)}   {time.strftime('%H:%M:%S', time.localtime(now))}"
    place = one_line(overview.place, max(8, width - len(right) - 13))
    left = f"batchrun  {place}"
    line = Text.assemble(("batchrun", "bold"), (left[8:], "dim"))
    line.append(" " * max(2, width - len(left) - len(right)) + right)
    return line_of(line)


def _keys(keys: bool) -> str:
    return "↑ ↓ choose   Enter look at it   q leave" if keys else "Ctrl-C leaves"


def _footer(said: str, keys: str) -> Text:
    from rich.text import Text

    return line_of(Text(one_line(said), style="bold #d1495b") if said else Text(keys, style="dim"))


# Runs


def _sections(
    overview: Overview,
    now: float,
    width: int,
    chosen: str = "",
    *,
    most: int | None = None,
    compact: bool = False,
) -> list[Section]:
    """What the screen of a store has.

    Args:
        overview: The store as it was at the last look.
        now: Seconds since the epoch.
        width: Columns.
        chosen: The run that the keys are at.
        most: Runs before and after that one that are laid out; None for all.
        compact: Whether there is a line each only, but for the run that is chosen, and for a place.
    """
    runs = overview.runs
    at = next((n for n, run in enumerate(runs) if run.record.run_id == chosen), None)
    first = max(0, (at or 0) - (most or len(runs)))
    seen = runs[first : (at or 0) + 1 + (most or len(runs))]
    lines = []
    for number, run in enumerate(seen, first):
        why = MOST_WHY if not compact else 1 if number == (at or 0) else 0
        lines.append(_run_lines(run, width, ">" if number == at else "", why))
    labels = _labels(runs)
    none = [[_text("There is no run yet. Start one: batchrun submit module:pipeline --input FILE")]]
    slots = [item for place in overview.places for item in _place_items(place, compact=compact)]
    return [
        Section(
            "", lines or none, weight=3, keep=None if at is None else at - first, more=len(runs) - len(seen)
        ),
        Section("Slots", slots),
        Section("Running now", _running_items(runs, now, labels)),
        Section("Failures", _failure_items(overview.failures, labels)),
    ]


def _labels(runs: Sequence[RunStanding]) -> dict[str, str]:
    """A short name of each run: its pipeline, and the end of its id where there are several of that."""
    pipelines = Counter(run.record.pipeline for run in runs)
    return {
        run.record.run_id: one_line(run.record.pipeline, 20)
        + (f"…{run.record.run_id[-4:]}" if pipelines[run.record.pipeline] > 1 else "")
        for run in runs
    }


def _run_lines(run: RunStanding, width: int, mark: str, most_why: int = MOST_WHY) -> list[Text]:
    """A run with its bar, its rows, and what it does or waits for, if that is to be said; one line of one
    that has ended."""
    line = _title(run, width, mark)
    if run.record.state.ended:
        return [_ended(run, line, width)]
    left = "" if run.seconds_left is None else describe_left(max(0.0, run.seconds_left))
    end = f"{describe_share(run.share):>5}  {left}".rstrip()
    why = run.why.partition(" and ")[2] if run.why.startswith("is queued for ") else run.why
    if run.driven or most_why:
        line.append_text(_bar(run.share, min(40, width - line.cell_len - LEFT), BAR if run.driven else "dim"))
        line.append(end)
    else:
        line.append(one_line(why))
    if not most_why:
        return [line_of(line)]
    said = textwrap.wrap(one_line(run.why, 1_000), max(20, width - 4))
    shown = said[:most_why]
    if len(said) > most_why:
        shown[-1] = one_line(f"{shown[-1]} …", width - 4)
    return [line_of(line), _text(f"    {_account(run)}", "dim"), *(_text(f"    {one}") for one in shown)]


def _ended(run: RunStanding, line: Text, width: int) -> Text:
    record = run.record
    when = moment(record.ended)[5:16] if record.ended else ""
    parts = [count(record.rows_in, "row")]
    if record.rows_solved != record.rows_in:
        parts[0] = f"{record.rows_solved:,} of {parts[0]}"
    parts += [f"{rows:,} {fate}" for fate, rows in _fates(run) if rows]
    line.append(one_line(", ".join(parts), max(8, width - line.cell_len - len(when) - 2)), "dim")
    line.append(f"{when:>{max(0, width - line.cell_len)}}", "dim")
    return line_of(line)


def _title(run: RunStanding, width: int, mark: str) -> Text:
    """The state and the id of a run, as wide for all."""
    from rich.text import Text

    state = RunState.PARTIAL if run.abandoned else run.state
    symbol, word = (STOPPED, "stopped") if run.abandoned else (STATE_SYMBOLS[state], state.value)
    line = Text.assemble((f"{mark:<2}", "bold"))
    line.append(f"{symbol} {word:<9} ", STATE_COLORS[state])
    room = max(12, min(MOST_ID, width - line.cell_len - LEAST_BAR - LEFT - 1))
    name = one_line(run.record.run_id, 200)
    if len(name) > room:
        name = f"{name[: room - 9]}…{name[-8:]}"
    line.append(f"{name:<{room}} ", "bold" if mark or not run.record.state.ended else "default")
    return line


def _fates(run: RunStanding) -> list[tuple[str, int]]:
    return [("quarantined", run.record.rows_quarantined), ("cancelled", run.record.rows_cancelled)]


def _account(run: RunStanding) -> str:
    """Rows by what became of them."""
    record = run.record
    parts = [f"{record.rows_solved:,} of {count(record.rows_in, 'row')} solved"]
    parts += [f"{rows:,} {fate}" for fate, rows in _fates(run) if rows]
    if run.host:
        service = f" by {one_line(run.entry.owner, 40)}" if run.entry is not None and run.entry.owner else ""
        parts.append(f"driven on {one_line(run.host, 30)}{service}")
    return ", ".join(parts)


def _outcomes(run: RunStanding, overview: Overview) -> Text:
    """The chunks of a run that is looked at by their outcomes."""
    settled = sum(overview.outcomes.values())
    line = _text(f"    {settled:,} of {count(run.record.chunks, 'chunk')} settled")
    for outcome, number in overview.outcomes.items():
        line.append(f"   {outcome.symbol} {number:,} {outcome.value.replace('_', ' ')}", outcome.color)
    return line


def _facts(run: RunStanding) -> list[Text]:
    """What else there is to say of it."""
    from rich.text import Text

    record = run.record
    facts = [("started", moment(record.started))]
    if record.ended:
        facts.append(("ended", moment(record.ended)))
    facts += [("pipeline", record.target or record.pipeline), ("split", record.split)]
    facts += [("cluster", record.cluster), ("folder", record.folder)]
    named = [(name, one_line(str(value))) for name, value in facts if value]
    return [line_of(Text.assemble((f"  {name:<9}", "dim"), value)) for name, value in named]


# Slots, chunks that run, failures


def _place_items(place: Place, *, compact: bool = False) -> list[list[Text]]:
    from rich.text import Text

    if compact:
        slots = [describe_slot(replace(slot, tag=one_line(slot.tag, 20))) for slot in place.slots]
        return [[_text(f"  {one_line(place.name, 40)}: {'   '.join(slots) or 'no worker'}")]]
    said = [count(place.workers, "worker"), count(place.runs, "run")]
    title = Text(f"  {one_line(place.name, 40)} on {one_line(place.host, 40)}: {', '.join(said)}")
    if place.silent:
        title.append("  silent for longer than its lease", "bold #d1495b")
    names = max((len(slot.tag) for slot in place.slots), default=0)
    return [[line_of(title)], *([_slot(slot, min(20, names))] for slot in place.slots)]


def _slot(slot: SlotUse, names: int) -> Text:
    from rich.text import Text

    used, capacity, waiting = slot.used, slot.capacity, slot.waiting
    form = format_bytes if slot.tag == MEMORY else "{:g}".format
    line = Text(f"    {one_line(slot.tag, 20):<{names}}  ")
    line.append_text(_bar(min(1.0, used / capacity) if capacity else 0.0, BARS, BAR))
    line.append(f"  {form(used)} of {form(capacity)} in use")
    if waiting:
        line.append(f", {form(waiting)} waiting", "#e08e2b")
    return line_of(line)


def _running_items(
    runs: Sequence[RunStanding], now: float, labels: Mapping[str, str] = MappingProxyType({})
) -> list[list[Text]]:
    running = [(chunk, run.record.run_id) for run in runs if run.live for chunk in run.live.running]
    running.sort(key=lambda pair: (pair[0].started, pair[0].chunk))
    shown = running[:MOST_SHOWN]
    several = sum(run.live is not None for run in runs) > 1
    names = [labels[run_id] for _, run_id in shown] if several else []
    items = [[line] for line in running_texts([running_line(chunk, now) for chunk, _ in shown], names)]
    if len(running) > len(shown):
        items.append([_text(f"  … and {len(running) - len(shown):,} more", "dim")])
    return items


def _failure_items(failures: Sequence[Failure], labels: Mapping[str, str]) -> list[list[Text]]:
    items: list[list[Text]] = []
    several = len({failure.run_id for failure in failures}) > 1
    names = max((len(labels[failure.run_id]) for failure in failures), default=0) if several else 0
    for failure in failures[:MOST_SHOWN]:
        line = _text(f"  {Outcome.FAILED.symbol} ", Outcome.FAILED.color)
        if several:
            line.append(f"{labels[failure.run_id]:<{names}}  ", "default dim")
        if failure.chunks:
            where = f" at {one_line(failure.stage, 40)}" if failure.stage else ""
            line.append(f"{count(failure.chunks, 'chunk')}, {count(failure.rows, 'row')}{where}: ", "default")
        line.append(one_line(failure.error_type, 80), "default bold")
        said = one_line(failure.error, 400)
        line.append(f": {said}" if said else "", "default")
        items.append([line])
    if len(failures) > MOST_SHOWN:
        items.append([_text(f"  … and {len(failures) - MOST_SHOWN:,} more", "dim")])
    return items


def _indented(line: str) -> str:
    """A line of a traceback, its indentation kept."""
    return " " * (len(line) - len(line.lstrip(" "))) + one_line(line)


def _bar(share: float, width: int, style: str) -> Text:
    """A bar that can be read without colours."""
    from rich.text import Text

    full = math.floor(width * share + 1e-9)
    return Text.assemble(("▇" * full, style), ("▁" * (width - full), "dim"))


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return line_of(Text(text, style=style))
