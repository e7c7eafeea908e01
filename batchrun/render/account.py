"""What every face says about a run, in one wording: the account of its rows, its needs, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchrun.outcome import Cause, Outcome, RunState
from batchrun.render.wording import describe_stopped
from batchrun.resources import Demand, format_bytes, format_seconds

if TYPE_CHECKING:
    from batchrun.report import RunReport
    from batchrun.resources import WorkerKind
    from batchrun.store.records import StageFigures

__all__ = [
    "STAGE_COLUMNS",
    "STATE_COLORS",
    "StageAccount",
    "advice",
    "attempts_line",
    "chunks_line",
    "conservation",
    "count",
    "demand_of",
    "headline",
    "law",
    "list_outcomes",
    "moment",
    "peak_memory",
    "queue_lines",
    "sizing_lines",
    "stage_accounts",
    "stage_cells",
    "standing",
    "state_color",
    "stopped_line",
    "work_line",
]

CUT = "cut"
"""What ``report.chunks`` calls the outcome of a chunk whose parts took its place."""

TIME_LIMITS = {"stop_after": Cause.DEADLINE, "timeout": Cause.TIMEOUT}
"""The limits of time that a stage may have, and why an attempt that reached one ended."""

STAGE_COLUMNS = ("stage", "needs", "attempts", "failed", "median", "longest", "peak memory")
"""What tables say of each stage; from the third on they are numbers."""

STATE_COLORS: Mapping[RunState, str] = {
    RunState.QUEUED: "#8a94a3",
    RunState.RUNNING: "#4c8fd6",
    RunState.SUCCEEDED: "#2a9d5c",
    RunState.PARTIAL: "#e08e2b",
    RunState.FAILED: "#d1495b",
    RunState.CANCELLED: "#8a94a3",
}
"""One colour a state, close to those of the outcomes."""


def count(number: int, noun: str, plural: str = "") -> str:
    """A number and what it counts.

    >>> count(1, "row"), count(336776, "row"), count(2, "retry", "retries")
    ('1 row', '336,776 rows', '2 retries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def conservation(report: RunReport) -> str:
    """The law of conservation with the numbers of this run."""
    return law(report.rows_in, report.rows_solved, report.rows_quarantined, report.rows_cancelled)


def law(rows_in: int, solved: int, quarantined: int, cancelled: int) -> str:
    """Rows in = rows solved + rows quarantined + rows cancelled; what is on its way is named too.

    >>> law(50, 45, 5, 0)
    '50 rows in = 45 solved + 5 quarantined + 0 cancelled'
    """
    parts = f"{solved:,} solved + {quarantined:,} quarantined + {cancelled:,} cancelled"
    left = rows_in - solved - quarantined - cancelled
    if left:
        parts += f" + {left:,} not settled"
    return f"{count(rows_in, 'row')} in = {parts}"


def headline(report: RunReport) -> str:
    """What came of the run, in one sentence without a full stop."""
    took = format_seconds(report.seconds)
    solved = f"{report.rows_solved:,} of {count(report.rows_in, 'row')} solved"
    match report.state:
        case RunState.SUCCEEDED if report.rows_in:
            said = f"All {count(report.rows_in, 'row')} solved in {took}"
        case RunState.SUCCEEDED:
            said = "No rows to solve"
        case RunState.PARTIAL:
            said = f"{solved} in {took}; {_unsolved(report)}"
        case RunState.FAILED:
            said = f"Failed after {took}, with {solved}"
        case RunState.CANCELLED:
            said = f"Cancelled after {took}, with {solved}"
        case _ if report.abandoned:
            said = f"Stopped after {took} as its driver is gone, with {solved}"
        case RunState.RUNNING if report.queued:
            said = f"Waiting for a service to go on, with {solved}"
        case RunState.RUNNING:
            said = f"Running, with {solved} so far"
        case RunState.QUEUED if not report.rows_in:
            said = "Waiting to start"
        case RunState.QUEUED:
            said = f"Waiting to start on {count(report.rows_in, 'row')}"
    return said


def state_color(report: RunReport) -> str:
    """The colour of the state; a run that nobody drives any more wants attention."""
    return STATE_COLORS[RunState.PARTIAL if report.abandoned else report.state]


def advice(report: RunReport) -> str:
    """What to do next if not every row is solved; empty when nothing is left to do."""
    if report.state is RunState.SUCCEEDED or report.driven:
        return ""
    if report.queued:
        return f"It is in the queue; what it waits for: batchrun why {report.run_id}"
    if report.abandoned:
        return (
            f"It is recorded as {report.state.value}, but its driver is gone: batchrun resume {report.run_id}"
        )
    if report.state is RunState.PARTIAL and not report.rows_cancelled:
        return (
            "The rows that failed, each with its error, are in report.quarantined and in the reports; once "
            f"mended: batchrun requeue {report.run_id} --quarantined"
        )
    return f"To go on with the rows that are not solved: batchrun resume {report.run_id}"


def queue_lines(report: RunReport) -> list[tuple[str, str]]:
    """How a run stands in the queue, as names and values; none if it is not there, or has ended."""
    entry = report.queue
    if entry is None or report.state.ended:
        return []
    lines = [("queued", moment(entry.queued)), ("service", entry.owner or "none yet")]
    if entry.priority:
        lines.append(("priority", str(entry.priority)))
    if entry.lock is not None:
        lines.append(("lock", entry.lock))
    if entry.after:
        lines.append(("after", ", ".join(entry.after)))
    if entry.not_before is not None:
        lines.append(("not before", moment(entry.not_before)))
    if entry.max_slots is not None:
        lines.append(("max slots", str(entry.max_slots)))
    return lines


def demand_of(stage: Mapping[str, Any]) -> str:
    """What a stage of ``report.stages`` takes from its worker, for people."""
    demand = _demand(stage)
    return f"{demand} (auto)" if stage.get("memory_from") else str(demand)


def _demand(stage: Mapping[str, Any]) -> Demand:
    return Demand(int(stage.get("memory") or 0), stage.get("resources") or {})


def moment(seconds: float | None) -> str:
    """A point of time in the zone of this machine, or `not yet`."""
    if seconds is None:
        return "not yet"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _unsolved(report: RunReport) -> str:
    parts = []
    if report.rows_quarantined:
        parts.append(f"{report.rows_quarantined:,} quarantined")
    if report.rows_cancelled:
        parts.append(f"{report.rows_cancelled:,} cancelled")
    return ", ".join(parts) or "the rest is not settled"


@dataclass(frozen=True)
class StageAccount:
    """What one stage took, over all attempts of the run."""

    name: str
    """The stage."""
    demand: str
    """What it takes from its worker, for people."""
    attempts: int
    """Attempts, failed ones included."""
    failed: int
    """Attempts that gave no result."""
    seconds: float
    """Seconds of all attempts together."""
    median: float
    """Seconds of the attempt in the middle; 0 without any."""
    longest: float
    """Seconds of the longest attempt; 0 without any."""
    limit: int
    """Bytes that the stage may use; 0 if it asked for none."""
    median_peak: int | None
    """The peak memory of the attempt in the middle, in bytes; None where it was not measured."""
    peak_memory: int | None
    """The most memory that an attempt used, in bytes; None where it was not measured."""
    rows_in: int
    """Rows that the attempts with a result were given."""
    rows_out: int
    """Rows that they gave back."""
    at_once: int = 0
    """How many of it the workers could run at a time; 0 if the workers are not known."""
    time_limits: str = ""
    """Its limits of time, in words; empty if it has none."""
    limits_reached: str = ""
    """How many attempts reached which of them, in words; empty if none did."""


def stage_accounts(report: RunReport) -> list[StageAccount]:
    """One account a stage, in the order of the pipeline."""
    figures = {known.stage: known for known in report.figures}
    named = {str(stage["name"]): stage for stage in report.stages}
    for name in figures:
        # Attempts may name a stage that the pipeline has not, as when its code could not be loaded.
        named.setdefault(name, {"name": name})
    return [_account(stage, figures.get(name), report.workers) for name, stage in named.items()]


def stage_cells(stage: StageAccount) -> tuple[str, ...]:
    """A stage as texts for a table of ``STAGE_COLUMNS``."""
    return (
        stage.name,
        stage.demand,
        f"{stage.attempts:,}",
        f"{stage.failed:,}",
        format_seconds(stage.median),
        format_seconds(stage.longest),
        "" if stage.peak_memory is None else format_bytes(stage.peak_memory),
    )


def _account(
    stage: Mapping[str, Any], figures: StageFigures | None, workers: Sequence[WorkerKind]
) -> StageAccount:
    return StageAccount(
        name=str(stage["name"]),
        demand=demand_of(stage),
        attempts=figures.attempts if figures else 0,
        failed=figures.failed if figures else 0,
        seconds=figures.seconds if figures else 0.0,
        median=figures.median if figures else 0.0,
        longest=figures.longest if figures else 0.0,
        limit=int(stage.get("memory") or 0),
        median_peak=figures.median_peak if figures else None,
        peak_memory=figures.peak_memory if figures else None,
        rows_in=figures.rows_in if figures else 0,
        rows_out=figures.rows_out if figures else 0,
        at_once=sum(kind.slots(_demand(stage)) for kind in workers),
        time_limits=", ".join(
            f"{limit} {format_seconds(stage[limit])}" for limit in TIME_LIMITS if stage.get(limit)
        ),
        limits_reached=", ".join(
            f"{limit} by {count(figures.causes[cause], 'attempt')}"
            for limit, cause in TIME_LIMITS.items()
            if figures and figures.causes.get(cause)
        ),
    )


def sizing_lines(report: RunReport, most: int) -> list[str]:
    """What to ask for next time, a sentence each; the last one says so if there are more than *most*."""
    lines = [str(one) for one in report.sizing]
    left = len(lines) - most
    return lines if left <= 0 else [*lines[:most], f"… and {left:,} more; the reports have them all"]


def work_line(report: RunReport) -> str:
    """How long all stages took together, on how many workers."""
    busy = format_seconds(sum(stage.seconds for stage in report.figures))
    workers = frozenset[str]().union(*(stage.by_worker for stage in report.figures))
    return f"{busy} in stages on {count(len(workers), 'worker')}"


def peak_memory(report: RunReport) -> int | None:
    """The most memory that an attempt used, in bytes; None where it was not measured."""
    peaks = [stage.peak_memory for stage in report.figures if stage.peak_memory is not None]
    return max(peaks, default=None)


def standing(report: RunReport) -> dict[str, int]:
    """How many chunks of each outcome there are among those that have one or will have one: all of
    ``report.chunks`` but those that were cut."""
    return {name: number for name, number in report.outcomes.items() if name != CUT}


def chunks_line(report: RunReport) -> str:
    """How many chunks there are and how they ended, in words."""
    chunks, cut = standing(report), report.outcomes.get(CUT, 0)
    more = f"; {count(cut, 'other one was', 'others were')} cut into parts" if cut else ""
    return f"{count(sum(chunks.values()), 'chunk')}: {list_outcomes(chunks)}{more}"


def attempts_line(report: RunReport) -> str:
    """How many attempts there were and how they ended, in words."""
    attempts = {outcome.value: number for outcome, number in report.counts.attempts.items()}
    return f"{sum(attempts.values()):,}: {list_outcomes(attempts)}"


def stopped_line(report: RunReport) -> str:
    """How many chunks were stopped with a solution, and the worst gap of these; empty if none was."""
    stopped = report.counts.chunks.get(Outcome.STOPPED_WITH_SOLUTION, 0)
    return describe_stopped(stopped, report.counts.worst_gap) if stopped else ""


def list_outcomes(counts: Mapping[str, int]) -> str:
    """Outcomes and how often each occurred, in words.

    >>> list_outcomes({"succeeded": 1200, "worker_lost": 1})
    '1,200 succeeded, 1 worker lost'
    """
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items()) or "none"
