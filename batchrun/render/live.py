"""A run on its way, for the terminal: the live block, and the lines of a log that is no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.outcome import Outcome
from batchrun.progress import Progress, describe_share
from batchrun.render.account import count, law
from batchrun.render.running import MOST_RUNNING, running_table
from batchrun.render.wording import (
    describe_rate,
    describe_slot,
    describe_stop,
    describe_stopped,
    describe_time,
    one_line,
)
from batchrun.resources import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

__all__ = ["ended_line", "progress_block", "progress_line", "resumed_line", "started_line", "stopping_line"]

MOST_CAUSES = 3
"""Causes of failures that the live display shows."""


def progress_block(progress: Progress, now: float) -> Group:
    """The live display of a run: title, bar, counts and slots; what failed, three causes at most; running
    chunks that have something to show, five at most; and what happens while it stops. Of a run that waits,
    what for."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    title = Text.assemble((progress.pipeline or "run", "bold"), (f"  {progress.run_id}", "dim"))
    if progress.cluster:
        title.append(f"  on {progress.cluster}", "dim")
    if progress.waits:
        return Group(_one_line(title), Text(progress.waits))
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    bar.add_row(
        ProgressBar(total=1.0, completed=progress.share, complete_style="#4c8fd6", finished_style="#2a9d5c"),
        Text(f"{describe_share(progress.share):>5}  {describe_time(progress, now)}"),
    )
    lines: list[RenderableType] = [_one_line(title), bar, _one_line(_counts_line(progress, now))]
    if progress.slots:
        lines.append(_one_line(_slots_line(progress)))
    lines += _failure_lines(progress)
    running = progress.running_lines(now, MOST_RUNNING)
    if running:
        lines.append(running_table(running))
    if progress.stopping is not None:
        said = describe_stop(progress, now, again="Ctrl-C again stops at once")
        lines.append(_one_line(Text(said, style="bold #e08e2b")))
    return Group(*lines)


def _one_line(text: Text) -> Text:
    """The text, cut where the terminal ends."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _counts_line(progress: Progress, now: float) -> Text:
    from rich.text import Text

    line = Text("   ".join(_counts(progress, now)))
    for outcome in Outcome:
        if not outcome.solved and progress.outcomes[outcome]:
            name = outcome.value.replace("_", " ")
            line.append(f"   {outcome.symbol} {progress.outcomes[outcome]:,} {name}", outcome.color)
    stopped = Outcome.STOPPED_WITH_SOLUTION
    if progress.outcomes[stopped]:
        line.append(f"   {stopped.symbol} {_stopped(progress)}", stopped.color)
    if progress.chunks_cut:
        line.append(f"   ✂ {progress.chunks_cut:,} cut", "#e08e2b")
    if progress.decisions["more_memory"]:
        line.append(f"   ▲ {progress.decisions['more_memory']:,} to more memory", "#e08e2b")
    if progress.retries:
        line.append(f"   ↻ {count(progress.retries, 'retry', 'retries')}", "#e08e2b")
    if progress.chunks_recalled:
        line.append(f"   {progress.chunks_recalled:,} settled before", "dim")
    return line


def _stopped(progress: Progress) -> str:
    return describe_stopped(progress.outcomes[Outcome.STOPPED_WITH_SOLUTION], progress.worst_gap)


def _slots_line(progress: Progress) -> Text:
    from rich.text import Text

    slots = [describe_slot(slot) for slot in progress.telling_slots]
    parts = [count(progress.workers, "worker"), f"{count(len(progress.running), 'chunk')} running", *slots]
    return Text("   ".join(parts), style="dim")


def _failure_lines(progress: Progress) -> list[Text]:
    """What failed, a line for each cause, the one that was met last first."""
    from rich.text import Text

    latest = list(progress.failures.values())[::-1]
    lines = []
    for one in latest[:MOST_CAUSES]:
        at = f" at {one_line(one.stage, 40)}" if one.stage else ""
        line = Text.assemble((f"{Outcome.FAILED.symbol} {one.times:,} × ", Outcome.FAILED.color))
        line.append(one_line(one.error_type, 80), "bold").append(f"{at}: {one_line(one.error)}")
        lines.append(_one_line(line))
    if len(latest) > MOST_CAUSES:
        more = count(len(latest) - MOST_CAUSES, "other cause")
        lines.append(Text(f"… and {more}; batchrun show {progress.run_id} has them", style="dim"))
    return lines


def _counts(progress: Progress, now: float) -> list[str]:
    """Rows, rate and chunks."""
    of = "" if progress.planned_in_full else " so far"
    return [
        f"{progress.rows_settled:,} of {count(progress.rows, 'row')}",
        describe_rate(progress.rows_per_second(now)),
        f"{progress.chunks_settled:,} of {count(progress.chunks_planned, 'chunk')}{of}",
    ]


def started_line(progress: Progress) -> str:
    """The first line about a run in a log that is no terminal."""
    where = f" on {progress.cluster}" if progress.cluster else ""
    return f"run {progress.run_id}: {progress.pipeline}{where}, {count(progress.rows, 'row')}"


def resumed_line(progress: Progress) -> str:
    """The line of a log about what earlier sessions of the run had settled."""
    chunks = count(progress.chunks_recalled, "chunk")
    rows = f"{progress.rows_resumed:,} of {count(progress.rows, 'row')}"
    return f"run {progress.run_id}: goes on; {rows} in {chunks} were settled before"


def progress_line(progress: Progress, now: float) -> str:
    """A line about a run on its way in a log that is no terminal."""
    parts = [describe_share(progress.share), *_counts(progress, now), f"{len(progress.running):,} running"]
    if progress.unsolved:
        parts.append(f"{progress.unsolved:,} without a result")
    if progress.outcomes[Outcome.STOPPED_WITH_SOLUTION]:
        parts.append(_stopped(progress))
    if progress.chunks_cut:
        parts.append(f"{progress.chunks_cut:,} cut into parts")
    return f"run {progress.run_id}: {', '.join(parts)}, {describe_time(progress, now)}"


def stopping_line(progress: Progress, now: float) -> str:
    """The line of a log about a run that was asked to stop."""
    return f"run {progress.run_id}: {describe_stop(progress, now, again='a second interrupt stops at once')}"


def ended_line(progress: Progress) -> str:
    """The last line about a run in a log that is no terminal."""
    end = progress.ended
    if end is None:
        return f"run {progress.run_id}: interrupted"
    account = law(end.rows_in, end.rows_solved, end.rows_quarantined, end.rows_cancelled)
    said = f"run {progress.run_id}: {end.state.value} after {format_seconds(end.seconds)}, {account}"
    if progress.outcomes[Outcome.STOPPED_WITH_SOLUTION]:
        said += f"; {_stopped(progress)}"
    if progress.peak_memory is not None:
        said += f"; peak memory {format_bytes(progress.peak_memory)}"
    return said
