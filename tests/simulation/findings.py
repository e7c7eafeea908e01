"""What a simulation found, as numbers, as a table and as JSON."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter, process_time

from batchrun.resources import format_seconds
from tests.simulation.engine import Simulation
from tests.simulation.model import Bound, bound_of


@dataclass(frozen=True)
class Findings:
    """One simulation in numbers. Seconds are virtual where nothing else is said."""

    name: str
    workers: int
    slots: int
    """Threads of all workers."""
    chunks: int
    makespan: float
    bound: Bound
    ratio: float
    """Makespan over the lower bound."""
    tasks: int
    """Decisions: each placed one task, with one chunk or with several."""
    tries: int
    recalled: int
    """Chunks that were taken back before they began."""
    failed: dict[str, int]
    """Tries that failed, by cause."""
    losses: int
    """Workers that were lost."""
    cut: int
    rows: int
    rows_solved: int
    rows_apart: int
    decisions_per_second: float
    """Of processor time in choosing, packing, and giving slots back."""
    chunks_per_second: float
    """The same, in chunks."""
    policy_seconds: float
    """That processor time: time by the clock, less the share of it that other processes had."""
    workers_seconds: float
    """Processor time in taking note of workers that come and go."""
    cpu_seconds: float
    """Processor time of the whole simulation."""
    driver_share: float
    """The share of the time in which the driver was at work."""
    busy_share: float
    """The share of all slots that ran chunks whose results counted."""
    most_states: int
    """Different states of workers at one time, among which a slot is searched."""
    jain: float | None
    """Fairness between runs: 1 if all had the same slots while they wanted more, 1/runs if one had all."""
    elapsed: dict[str, float]
    """Of each run, from its start to its end."""
    peak_rss: int
    """Bytes of memory that the process had at most so far."""


def simulate(name: str, simulation: Simulation) -> Findings:
    """Run a simulation and say what it found."""
    cpu_start, start = process_time(), perf_counter()
    runs = simulation.run().runs
    cpu = process_time() - cpu_start
    had = min(1.0, cpu / (perf_counter() - start))
    policy = had * simulation.policy_seconds
    bound = bound_of([run.work for run in runs], simulation.fleet)
    shares = [run.slot_seconds for run in runs]
    tasks, tries = sum(run.tasks for run in runs), sum(run.placed for run in runs)
    failed: dict[str, int] = {}
    for run in runs:
        for cause, number in run.failed.items():
            failed[cause.value] = failed.get(cause.value, 0) + number
    return Findings(
        name=name,
        workers=len(simulation.fleet.workers),
        slots=simulation.fleet.threads,
        chunks=sum(len(run.work.rows) for run in runs),
        makespan=simulation.makespan,
        bound=bound,
        ratio=simulation.makespan / bound.most,
        tasks=tasks,
        tries=tries,
        recalled=sum(run.recalled for run in runs),
        failed=failed,
        losses=simulation.losses,
        cut=sum(run.cut for run in runs),
        rows=sum(int(run.work.rows.sum()) for run in runs),
        rows_solved=sum(run.rows_solved for run in runs),
        rows_apart=sum(run.rows_apart for run in runs),
        decisions_per_second=tasks / policy,
        chunks_per_second=tries / policy,
        policy_seconds=policy,
        workers_seconds=had * simulation.workers_seconds,
        cpu_seconds=cpu,
        driver_share=simulation.driver_busy / simulation.makespan,
        busy_share=simulation.busy / (simulation.fleet.threads * simulation.makespan),
        most_states=simulation.most_states,
        jain=sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) if any(shares) else None,
        elapsed={run.work.name: run.ended - run.work.begins for run in runs},
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


HEADINGS = (
    "simulation", "workers", "chunks", "makespan", "bound", "ratio", "tasks", "decisions/s", "chunks/s",
    "driver", "slots", "states", "CPU",
)  # fmt: skip


def table(findings: Sequence[Findings]) -> str:
    """The findings as a table of text, one row each."""
    rows = [HEADINGS]
    rows += [
        (
            one.name,
            f"{one.workers:,}",
            f"{one.chunks:,}",
            format_seconds(one.makespan),
            format_seconds(one.bound.most),
            f"{one.ratio:.3f}",
            f"{one.tasks:,}",
            f"{one.decisions_per_second:,.0f}",
            f"{one.chunks_per_second:,.0f}",
            f"{one.driver_share:.1%}",
            f"{one.busy_share:.1%}",
            f"{one.most_states:,}",
            f"{one.cpu_seconds:.1f} s",
        )
        for one in findings
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )


def as_json(findings: Sequence[Findings]) -> str:
    """The findings as one JSON document."""
    return json.dumps([asdict(one) for one in findings], indent=2)
