"""What every face says about a run, in one wording: the account of its rows, its needs, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchrun.outcome import Outcome, RunState
from batchrun.render.wording import describe_stopped
from batchrun.resources import Demand, format_seconds

if TYPE_CHECKING:
    import pandas as pd

    from batchrun.report import RunReport

__all__ = [
    "STATE_COLORS",
    "StageAccount",
    "advice",
    "chunks_line",
    "conservation",
    "count",
    "demand_of",
    "headline",
    "law",
    "list_outcomes",
    "moment",
    "outcome_counts",
    "stage_accounts",
    "standing",
    "state_color",
    "stopped_line",
]

CUT = "cut"
"""What ``report.chunks`` calls the outcome of a chunk whose parts took its place."""

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
        case RunState.RUNNING:
            said = f"Running, with {solved} so far"
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
    if report.abandoned:
        return (
            f"It is recorded as {report.state.value}, but its driver is gone: batchrun resume {report.run_id}"
        )
    if report.state is RunState.PARTIAL and not report.rows_cancelled:
        return "The rows that failed, each with its error, are in report.quarantined and in the reports."
    return f"To go on with the rows that are not solved: batchrun resume {report.run_id}"


def demand_of(stage: Mapping[str, Any]) -> str:
    """What a stage of ``report.stages`` takes from its worker, for people."""
    demand = Demand(int(stage.get("memory") or 0), stage.get("resources") or {})
    return f"{demand} (auto)" if stage.get("memory_from") else str(demand)


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


def stage_accounts(report: RunReport) -> list[StageAccount]:
    """One account a stage, in the order of the pipeline, from the attempts."""
    attempts = report.attempts
    named = {str(stage["name"]): stage for stage in report.stages}
    for name in attempts["stage"].astype(str).unique():
        # Attempts may name a stage that the pipeline has not, as when its code could not be loaded.
        named.setdefault(name, {"name": name})
    return [_account(stage, attempts[attempts["stage"] == name]) for name, stage in named.items()]


def _account(stage: Mapping[str, Any], attempts: pd.DataFrame) -> StageAccount:
    solved = attempts["outcome"].isin([outcome.value for outcome in Outcome if outcome.solved])
    seconds = attempts["seconds"].dropna()
    peaks = attempts["peak_memory"].dropna()
    return StageAccount(
        name=str(stage["name"]),
        demand=demand_of(stage),
        attempts=len(attempts),
        failed=int((~solved).sum()),
        seconds=float(seconds.sum()),
        median=float(seconds.median()) if len(seconds) else 0.0,
        longest=float(seconds.max()) if len(seconds) else 0.0,
        limit=int(stage.get("memory") or 0),
        median_peak=int(peaks.median()) if len(peaks) else None,
        peak_memory=int(peaks.max()) if len(peaks) else None,
        rows_in=int(attempts.loc[solved, "rows_in"].sum()),
        rows_out=int(attempts.loc[solved, "rows_out"].sum()),
    )


def standing(chunks: pd.DataFrame) -> pd.DataFrame:
    """The chunks that have an outcome or will have one: all of ``report.chunks`` but those that were cut."""
    return chunks[chunks["outcome"] != CUT]


def chunks_line(report: RunReport) -> str:
    """How many chunks there are and how they ended, in words."""
    chunks = standing(report.chunks)
    cut = len(report.chunks) - len(chunks)
    more = f"; {count(cut, 'other one was', 'others were')} cut into parts" if cut else ""
    return f"{count(len(chunks), 'chunk')}: {list_outcomes(outcome_counts(chunks))}{more}"


def stopped_line(report: RunReport) -> str:
    """How many chunks were stopped with a solution, and the worst gap of these; empty if none was."""
    stopped = report.chunks[report.chunks["outcome"] == Outcome.STOPPED_WITH_SOLUTION.value]
    gaps = stopped["gap"].dropna()
    return describe_stopped(len(stopped), float(gaps.max()) if len(gaps) else None) if len(stopped) else ""


def outcome_counts(frame: pd.DataFrame) -> dict[str, int]:
    """How often each outcome occurs in the column ``outcome``, in the order of Outcome, ``pending`` last."""
    counted = frame["outcome"].astype(str).value_counts()
    order = [*(outcome.value for outcome in Outcome), *counted.index]
    return {name: int(counted[name]) for name in dict.fromkeys(order) if name in counted.index}


def list_outcomes(counts: Mapping[str, int]) -> str:
    """Outcomes and how often each occurred, in words.

    >>> list_outcomes({"succeeded": 1200, "worker_lost": 1})
    '1,200 succeeded, 1 worker lost'
    """
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items()) or "none"
