"""What dispatch and recovery do on up to 10,000 workers, by the simulation in tests/simulation."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median

import numpy as np

from batchrun.resources import format_seconds
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Figure, Record
from tests.simulation.engine import Simulation
from tests.simulation.findings import Findings, simulate
from tests.simulation.model import FLEETS, GIB, Fleet, work

EACH = 100
"""Chunks for each worker."""
ENOUGH = 30_000
"""Chunks over which a decision is timed; smaller simulations are repeated with other seeds."""
TAILS = ("lognormal", "pareto", "two_huge")
SEEDS = 5


def _seeds(size: int) -> int:
    """With how many seeds each is tried: one where nothing is measured, which is how the tests go."""
    return SEEDS if size >= ENOUGH else 1


def simulation(arena: Arena, size: int, rounds: int) -> Record:
    """A discrete-event simulation of up to 10,000 workers, in one process. Choosing chunks and workers, and
    what becomes of chunks that fail, is the code of production. The rest is a model: a driver that does one
    thing at a time (0.3 ms to place a task, 0.3 ms to take it back, 0.05 ms to record a chunk), 2 ms to a
    worker and back, 2 ms to start, 1 GB/s to read the rows, workers that are lost with all that is on them
    and come back, chunks that fail by chance, by a bad row or by memory. Tasks do not slow each other.

    Durations are log-normal unless a line says otherwise: a minute on average, 1.6 times the median. Earlier
    runs took 1.3 times as long, give or take 15 %. The bound of the makespan is the largest of the longest
    chunk, all work over all slots, and the work that needs a tag over the slots that have it. Fairness is
    that of R. Jain (1984) over the slots of three runs, of one, two and four times as many chunks, while all
    three want more: 1 where all have the same; 10 slots can be shared no more evenly than 4, 3 and 3, which
    is 0.9804. The times are those of a decision, which is to pick chunks and a worker, to take the slot and
    to give it back, less what other processes had of the processor.
    """
    fleets = [workers for workers in (10, 100, 1_000, 10_000) if workers * EACH <= size]
    record = Record("simulation", {"chunks": size, "workers": f"{fleets[0]:,} to {fleets[-1]:,}"})
    record.work = Figure(1, "decisions")
    grown = []
    for workers in fleets:
        began = time.perf_counter()
        grown.append(_alike(record, workers, workers * EACH, _seeds(size)))
        took = time.perf_counter() - began
    crowded = _alike(record, fleets[0], size, _seeds(size))
    fair = [_three_runs(workers) for workers in fleets]
    record.table = [_row(tries, beside) for tries, beside in zip(grown, fair, strict=True)]
    record.want_at_most(f"{size:,} chunks on {fleets[-1]:,} workers, simulated in", took, "s", 600)
    _judge(record, [*grown, crowded], fair)
    _several_legs(record, fleets)
    _heavy_tails(record, min(100, fleets[-1]), _seeds(size))
    _trouble(record, fleets[-1], size // 10)
    return record


def _alike(record: Record, workers: int, chunks: int, seeds: int) -> list[Findings]:
    """A run that has workers of one kind for itself, with as many seeds as it takes to time a decision."""
    fleet, tries = Fleet.of(FLEETS["alike"], workers), []
    for seed in range(max(1, min(seeds, ENOUGH // chunks))):
        rng = np.random.default_rng(seed)
        one = work("lognormal", chunks, rng, slots=fleet.threads)
        gc.collect()
        tries.append(simulate("alone", Simulation(fleet, [one], seed=seed)))
    record.seconds[f"{workers:,} workers, {chunks:,} chunks"] = [
        1 / one.decisions_per_second for one in tries
    ]
    return tries


def _three_runs(workers: int) -> Findings:
    """Three runs that begin together, with 5, 10 and 20 chunks for each worker."""
    fleet, rng = Fleet.of(FLEETS["alike"], workers), np.random.default_rng(0)
    runs = [
        work("lognormal", 5 * more * workers, rng, slots=fleet.threads, name=f"run {more}")
        for more in (1, 2, 4)
    ]
    return simulate("three runs", Simulation(fleet, runs))


def _row(tries: Sequence[Findings], beside: Findings) -> dict[str, str]:
    """A line of the table: the first of the tries, and the median of what the processor took."""
    alone = tries[0]
    return {
        "workers": f"{alone.workers:,}",
        "chunks": f"{alone.chunks:,}",
        "makespan": format_seconds(alone.makespan),
        "by the bound": f"{alone.ratio:.4f}",
        "decisions a second": f"{median(one.decisions_per_second for one in tries):,.0f}",
        "driver at work": f"{alone.driver_share:.1%}",
        "slots at work": f"{alone.busy_share:.1%}",
        "fairness": f"{beside.jain or 0:.4f}",
        "simulated in": format_seconds(median(one.cpu_seconds for one in tries)),
    }


def _judge(record: Record, tries: Sequence[Sequence[Findings]], fair: Sequence[Findings]) -> None:
    """What must hold at every size, and how a decision grows with workers and with chunks."""
    rates = [median(one.decisions_per_second for one in several) for several in tries]
    *grown, crowded = rates
    record.want_at_least("decisions, at the slowest size", min(rates), "a second", 20_000)
    workers = "time of a decision with most workers, by that with fewest"
    record.want_at_most(workers, grown[0] / grown[-1], "times", 3)
    record.want_at_most(
        "time of a decision with most chunks, by that with fewest", grown[0] / crowded, "times", 3
    )
    ratios = [one.ratio for several in tries for one in several]
    record.want_at_most("makespan, durations known, worst", max(ratios), "times the bound", 1.03)
    fairness = min((one.jain or 0.0) / _fairest(one.slots, 3) for one in fair)
    record.want_at_least("fairness, by what whole slots allow, least", fairness, "times", 0.99)


def _fairest(slots: int, runs: int) -> float:
    """The fairness of slots that are shared as evenly as whole ones can be."""
    few, more = divmod(slots, runs)
    squares = (runs - more) * few**2 + more * (few + 1) ** 2
    return slots**2 / (runs * squares)


def _several_legs(record: Record, fleets: Sequence[int]) -> None:
    """Chunks that pass a plain leg, one that needs a tag, and a plain one: the tag is had by a seventh of all
    slots, and needed for a tenth or for a quarter of all work."""
    ratios = []
    for workers in fleets[:3]:
        for tagged in (0.1, 0.25):
            fleet, rng = Fleet.of(FLEETS["mixed"], workers), np.random.default_rng(0)
            one = work("lognormal", EACH * workers, rng, slots=fleet.threads, tagged=tagged, chained=True)
            ratios.append(simulate("legs", Simulation(fleet, [one])).ratio)
    what = "makespan, a tagged leg between two plain ones, worst"
    record.want_at_most(what, max(ratios), "times the bound", 1.05)


def _heavy_tails(record: Record, workers: int, seeds: int) -> None:
    """Nothing is known of the durations, some of which are huge, but by the rows; and not even by these."""
    fleet = Fleet.of(FLEETS["alike"], workers)
    for told in ("but by rows", "at all"):
        ratios = []
        for kind in TAILS:
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                one = work(kind, EACH * workers, rng, slots=fleet.threads, known="unknown")
                if told == "at all":
                    one = replace(one, rows=np.full_like(one.rows, 1_000))
                ratios.append(simulate(kind, Simulation(fleet, [one], seed=seed)).ratio)
        record.measure(f"heavy tails, unknown {told}, mean", fmean(ratios), "times the bound")
        worst = 2 - 1 / fleet.threads
        record.want_at_most(f"heavy tails, unknown {told}, worst", max(ratios), "times the bound", worst)


def _trouble(record: Record, workers: int, chunks: int) -> None:
    """Workers are lost; chunks fail by chance, by memory or by a bad row; two take their workers along."""
    fleet, rng = Fleet.of(FLEETS["mixed"], workers, life=20_000.0), np.random.default_rng(0)
    one = work(
        "lognormal",
        chunks,
        rng,
        slots=fleet.threads,
        tagged=0.1,
        flaky=0.01,
        killers=frozenset({3, 5}),
        memory=np.where(rng.random(chunks) < 0.01, 24 * GIB, GIB),
        asks=np.full(chunks, 2 * GIB),
    )
    one = replace(one, bad_row=np.where(rng.random(chunks) < 0.01, one.rows // 3, -1))
    found = simulate("trouble", Simulation(fleet, [one]))
    record.measure("workers lost, where workers are lost", found.losses, "workers")
    record.measure("tries that failed there", sum(found.failed.values()), "tries")
    record.measure("rows there", found.rows, "rows")
    record.measure("rows given up there", found.rows_apart, "rows")
    missing = abs(found.rows - found.rows_solved - found.rows_apart)
    record.want_at_most("rows neither solved nor given up, or both", missing, "rows", 0)
