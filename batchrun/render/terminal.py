"""What the terminal shows, as rich renderables: pure functions from plain values, printed by ``console``.

Text from users goes in as ``Text`` or escaped, so that brackets in it are never read as markup.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from batchrun.outcome import Outcome, RunState
from batchrun.render.account import (
    STATE_COLORS,
    advice,
    attempts_line,
    chunks_line,
    conservation,
    count,
    headline,
    moment,
    peak_memory,
    queue_lines,
    sizing_lines,
    stage_accounts,
    state_color,
    stopped_line,
    work_line,
)
from batchrun.render.running import running_line, running_table
from batchrun.render.wording import one_line
from batchrun.resources import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from batchrun.outcome import ErrorRecord
    from batchrun.report import RunReport
    from batchrun.store.live import LiveState
    from batchrun.store.records import RunFailures, StoredRun

__all__ = [
    "STATE_SYMBOLS",
    "STOPPED",
    "CheckLine",
    "FailedLine",
    "RunLine",
    "checks_table",
    "details",
    "failed_runs_table",
    "failures_block",
    "pipelines_table",
    "prune_table",
    "runs_table",
    "settings_table",
    "summary",
    "table_of",
]

STATE_SYMBOLS = {
    RunState.QUEUED: "·",
    RunState.RUNNING: "▸",
    RunState.SUCCEEDED: Outcome.SUCCEEDED.symbol,
    RunState.PARTIAL: Outcome.STOPPED_WITH_SOLUTION.symbol,
    RunState.FAILED: Outcome.FAILED.symbol,
    RunState.CANCELLED: Outcome.CANCELLED.symbol,
}
"""One character a state."""
STOPPED = "◦"
"""The character of a run that has not ended and that no process drives."""
MOST_FAILURES = 3
"""Distinct failures that a summary shows; the reports have all."""
MOST_OF_AN_ERROR = 200
"""Characters of an error that a line of a table shows."""
MOST_ADVICE = 2
"""Things to ask for otherwise that the details show; the reports have all."""
MOST_OF_ADVICE = 400
"""Characters of one of them."""
MOST_RUNNING = 20
"""Running chunks that the details show."""


class RunLine(Protocol):
    """What the table of runs reads of a run."""

    @property
    def run_id(self) -> str:
        """The run."""
        ...

    @property
    def state(self) -> RunState:
        """Where it stands."""
        ...

    @property
    def rows_in(self) -> int:
        """Rows of the input."""
        ...

    @property
    def rows_solved(self) -> int:
        """Rows in chunks with a result."""
        ...

    @property
    def created(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        ...


class FailedLine(RunLine, Protocol):
    """What the table of failed runs reads of a run beside that."""

    @property
    def error(self) -> ErrorRecord | None:
        """The error that ended it."""
        ...


class CheckLine(Protocol):
    """What the table of ``doctor`` reads of a check."""

    @property
    def name(self) -> str:
        """What was checked."""
        ...

    @property
    def ok(self) -> bool | None:
        """Whether all is well; None if that may or may not matter."""
        ...

    @property
    def detail(self) -> str:
        """What was found."""
        ...

    @property
    def advice(self) -> str:
        """What to do if it is not well; empty otherwise."""
        ...


def summary(report: RunReport, files: Sequence[str] = ()) -> Group:
    """How a run ended: the verdict, the law of conservation, times, failures, and where everything is."""
    from rich.console import Group
    from rich.text import Text

    facts = _facts()
    facts.add_row("run", Text(report.run_id))
    facts.add_row("rows", Text(conservation(report)))
    facts.add_row("chunks", Text(chunks_line(report)))
    if stopped_line(report):
        facts.add_row("stopped", Text(stopped_line(report), style=Outcome.STOPPED_WITH_SOLUTION.color))
    facts.add_row("attempts", Text(attempts_line(report)))
    facts.add_row("time", Text(_times(report)))
    for file in files:
        facts.add_row("report", Text(file, overflow="fold"))
    facts.add_row("folder", Text(str(report.folder), overflow="fold"))
    blocks: list[RenderableType] = [_verdict(report), facts]
    if report.error is not None or report.failure_kinds:
        blocks += [Text(), failures_block(report)]
    if advice(report):
        blocks += [Text(), Text(advice(report), style="bold")]
    return Group(*blocks)


def details(report: RunReport) -> Group:
    """All that ``show`` tells of a run: the summary, what ran on what, the stages, and what runs now."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    facts = _facts()
    facts.add_row("pipeline", Text(report.target or f"{report.pipeline} (not importable by name)"))
    facts.add_row("input", Text(f"{report.input.get('description', '')}, {count(report.rows_in, 'row')}"))
    facts.add_row("split", Text(str(report.split)))
    facts.add_row("cluster", Text(str(report.cluster)))
    for name, said in queue_lines(report):
        facts.add_row(name, Text(said))
    facts.add_row("started", Text(moment(report.started)))
    facts.add_row("ended", Text(moment(report.ended)))
    for name, value in report.params.items():
        facts.add_row("parameter", Text(f"{name} = {value!r}"))
    table = table_of(
        "stage", "needs", "attempts", "failed", "median", "longest", "in all", right=(2, 3, 4, 5, 6)
    )
    for stage in stage_accounts(report):
        table.add_row(
            Text(stage.name),
            Text(stage.demand),
            f"{stage.attempts:,}",
            f"{stage.failed:,}",
            format_seconds(stage.median),
            format_seconds(stage.longest),
            format_seconds(stage.seconds),
        )
    blocks: list[RenderableType] = [summary(report), Text(), facts, Text(), table]
    lines = sizing_lines(report, MOST_ADVICE)
    if lines:
        blocks += [Text(), Text("next time", style="bold")]
        blocks += [Padding(Text(one_line(line, MOST_OF_ADVICE)), (0, 0, 0, 2)) for line in lines]
    live = report.live
    if live is not None:
        blocks += [Text(), *_live_block(live, time.time())]
    return Group(*blocks)


def _live_block(live: LiveState, now: float) -> list[RenderableType]:
    """What runs in a run that goes on, the longest first, and what waits."""
    from rich.padding import Padding
    from rich.text import Text

    said = [f"{count(live.chunks, 'chunk')} running on {count(len(live.workers), 'worker')}"]
    for waiting in live.waiting:
        chunks = f"{waiting.chunks:,} {'waits' if waiting.chunks == 1 else 'wait'}"
        said.append(f"{chunks} for {waiting.demand} at {one_line(waiting.stage, 40)}")
    if live.delayed:
        said.append(f"{len(live.delayed):,} before the next try")
    if live.stopping:
        said.append("stopping")
    blocks: list[RenderableType] = [Text("; ".join(said), style="bold")]
    running = sorted(live.running, key=lambda chunk: (chunk.started, chunk.chunk))
    lines = [running_line(chunk, now) for chunk in running[:MOST_RUNNING]]
    if lines:
        blocks.append(Padding(running_table(lines), (0, 0, 0, 2)))
    if len(running) > len(lines):
        blocks.append(Text(f"  … and {len(running) - len(lines):,} more", style="dim"))
    return blocks


def failures_block(report: RunReport) -> Group:
    """The error that ended the run with its traceback, or the distinct failures, each in a line."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    color = Outcome.FAILED.color
    if report.error is not None:
        lines = [Text(str(report.error), style=f"bold {color}")]
        if report.error.traceback:
            lines.append(Text(report.error.traceback.rstrip(), style="dim", overflow="fold"))
        return Group(*[Padding(line, (0, 0, 0, 2)) for line in lines])
    lines = []
    for kind in report.failure_kinds[:MOST_FAILURES]:
        where = f"{count(kind.chunks, 'chunk')}, {count(kind.rows, 'row')}"
        message = " ".join(kind.error.split())
        lines.append(
            Text.assemble((f"{Outcome.FAILED.symbol} {kind.error_type}: ", color), message, f" ({where})")
        )
    more = len(report.failure_kinds) - MOST_FAILURES
    if more > 0:
        lines.append(Text(f"… and {count(more, 'other error')}; the reports have them all", style="dim"))
    return Group(*[Padding(line, (0, 0, 0, 2)) for line in lines])


def runs_table(
    runs: Iterable[RunLine],
    abandoned: Collection[str] = (),
    queued: Collection[str] = (),
    hosts: Mapping[str, str] = MappingProxyType({}),
) -> RenderableType:
    """One line a run, in the order given; below it, how to go on with those whose driver is gone.

    Args:
        runs: The runs.
        abandoned: Those whose driver is gone.
        queued: Those that wait for a service, also if they have begun.
        hosts: The machine that drives a run, for those that one drives.
    """
    from rich.console import Group
    from rich.text import Text

    # The id begins with the pipeline's name and the time, so neither needs a column at 80 characters.
    more = ["driven on"] if hosts else []
    table = table_of("run", "state", "rows solved", "submitted", *more, right=(2,))
    for column in table.columns[1:]:
        column.no_wrap = True
    gone = []
    for run in runs:
        state = RunState.QUEUED if run.run_id in queued else RunState(run.state)
        shown = Text(f"{STATE_SYMBOLS[state]} {state.value}", style=STATE_COLORS[state])
        if run.run_id in abandoned:
            shown = Text(f"{STOPPED} stopped", style=STATE_COLORS[RunState.PARTIAL])
            gone.append(Text(f"  {state.value}, but its driver is gone:\n    batchrun resume {run.run_id}"))
        table.add_row(
            Text(run.run_id),
            shown,
            f"{run.rows_solved:,} of {run.rows_in:,}",
            moment(run.created)[5:16],
            *([Text(one_line(hosts.get(run.run_id, ""), 16))] if hosts else []),
        )
    if not table.row_count:
        return Text("There is no run yet. Start one: batchrun submit module:pipeline --input FILE")
    return Group(table, Text(), *gone) if gone else table


def failed_runs_table(runs: Iterable[FailedLine], failures: Mapping[str, RunFailures]) -> RenderableType:
    """One line a run: how many chunks were given up, and the error of most of them."""
    from rich.console import Group
    from rich.text import Text

    table = table_of("run", "state", "failed", "commonest error", right=(2,))
    for column in table.columns[:3]:
        column.no_wrap = True
    last = None
    for run in runs:
        state, last = RunState(run.state), last or run.run_id
        failed = failures.get(run.run_id)
        error = failed.error if failed else str(run.error) if run.error else ""
        chunks = f"{failed.alike:,} of {failed.chunks:,}" if failed else "0"
        shown = Text(f"{STATE_SYMBOLS[state]} {state.value}", style=STATE_COLORS[state])
        table.add_row(Text(run.run_id), shown, chunks, Text(one_line(error, MOST_OF_AN_ERROR)))
    if last is None:
        return Text("No run has failed.")
    return Group(
        table, Text(), Text(f"  once mended: batchrun requeue {last}, or batchrun requeue --all-failed")
    )


def prune_table(
    runs: Sequence[StoredRun], sizes: Mapping[str, int], leftovers: Sequence[str], nbytes: int
) -> RenderableType:
    """What would be removed, oldest first, and what that frees."""
    from rich.console import Group
    from rich.text import Text

    table = table_of("run", "state", "ended", "size", right=(4,))
    for run in runs:
        state = Text(f"{STATE_SYMBOLS[run.state]} {run.state.value}", style=STATE_COLORS[run.state])
        table.add_row(Text(run.run_id), state, moment(run.since)[:16], format_bytes(sizes[run.run_id]))
    shown: list[RenderableType] = [table, Text()] if runs else []
    shown += [Text(f"left over from before: {path}") for path in leftovers]
    return Group(*shown, Text(f"{count(len(runs), 'run')}, {format_bytes(nbytes)} of files"))


def settings_table(settings: Iterable[tuple[str, object, str]]) -> Table:
    """Every setting, its effective value, and where that came from."""
    from rich.text import Text

    table = table_of("setting", "value", "from")
    for key, value, source in settings:
        style = "dim" if source == "default" else ""
        shown = value if isinstance(value, str) else repr(value)
        table.add_row(Text(key), Text(shown, style=style), Text(str(source), style=style))
    return table


def checks_table(checks: Iterable[CheckLine]) -> RenderableType:
    """What ``doctor`` found, each line with what to do if it is not well."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        found = Text(check.detail)
        if check.advice and not check.ok:
            found.append(f"\n→ {check.advice}", style="bold")
        table.add_row(_check_mark(check.ok), Text(check.name), found)
    return table


def pipelines_table(pipelines: Iterable[tuple[str, str, str, str]]) -> RenderableType:
    """Each pipeline as ``(module:name, split, stages, what it is for)``."""
    from rich.text import Text

    table = table_of("pipeline", "split", "stages", "")
    for target, split, stages, purpose in pipelines:
        table.add_row(
            Text(target, overflow="fold"),
            Text(split),
            Text(stages),
            Text(purpose.partition("\n")[0], style="dim"),
        )
    return (
        table
        if table.row_count
        else Text("No pipeline was found. Name a module: batchrun pipelines my.module")
    )


def _check_mark(ok: bool | None) -> Text:
    from rich.text import Text

    if ok is None:
        return Text("!", style=STATE_COLORS[RunState.PARTIAL])
    outcome = Outcome.SUCCEEDED if ok else Outcome.FAILED
    return Text(outcome.symbol, style=outcome.color)


def _verdict(report: RunReport) -> Text:
    from rich.text import Text

    symbol = STOPPED if report.abandoned else STATE_SYMBOLS[report.state]
    return Text(f"{symbol} {headline(report)}", style=f"bold {state_color(report)}")


def _times(report: RunReport) -> str:
    most = peak_memory(report)
    peak = f", peak memory {format_bytes(most)}" if most is not None else ""
    return f"{format_seconds(report.seconds)} on the clock, {work_line(report)}{peak}"


def _facts() -> Table:
    from rich.table import Table

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    return facts


def table_of(*headers: str, right: Sequence[int] = ()) -> Table:
    """An empty table in the style of all listings; *right* are the columns that are aligned there."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number in right else "left", overflow="fold")
    return table
