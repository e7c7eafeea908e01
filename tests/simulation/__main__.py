"""``python -m tests.simulation`` simulates runs on many workers, and prints what it found."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.simulation.engine import Simulation
from tests.simulation.findings import Findings, as_json, simulate, table
from tests.simulation.model import DURATIONS, FLEETS, KNOWN, Costs, Fleet, work


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate what the command line asks for."""
    parser = argparse.ArgumentParser("python -m tests.simulation", description=__doc__)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--durations", choices=DURATIONS, nargs="+", default=["lognormal"])
    parser.add_argument("--known", choices=KNOWN, nargs="+", default=["known"], help="what earlier runs tell")
    parser.add_argument("--fleet", choices=FLEETS, default="mixed")
    parser.add_argument("--tagged", type=float, default=0.1, help="share of chunks that need a tagged worker")
    parser.add_argument(
        "--chain",
        action="store_true",
        help="chunks pass three legs, with that share of their work at the second",
    )
    parser.add_argument("--mean", type=float, default=60.0, help="seconds of a chunk")
    parser.add_argument("--life", type=float, help="mean seconds until a worker is lost; never by default")
    parser.add_argument("--flaky", type=float, default=0.0, help="share of tries that fail by chance")
    parser.add_argument("--slice", type=int, help="tasks that are submitted at once; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--grow", action="store_true", help="from 10 workers and 1,000 chunks to as many, tenfold by tenfold"
    )
    parser.add_argument("--fair", action="store_true", help="also runs beside each other, on 100 workers")
    parser.add_argument("--json", type=Path, help="a file for the JSON document; standard output by default")
    options = parser.parse_args(arguments)
    found: list[Findings] = []
    for one in itertools.chain(_asked(options), _beside_each_other(options) if options.fair else ()):
        print(f"{one.name}: {one.cpu_seconds:.1f} s", file=sys.stderr, flush=True)
        found.append(one)
    print(table(found), end="\n\n")
    document = as_json(found)
    if options.json:
        options.json.write_text(document)
    else:
        print(document)


def _asked(options: argparse.Namespace) -> Iterator[Findings]:
    """One run alone, of each kind that was asked for."""
    workers, chunks = [options.workers], [options.chunks]
    if options.grow:
        workers, chunks = _tenfold(10, options.workers), _tenfold(1_000, options.chunks)
    for many, count, kind, known in itertools.product(workers, chunks, options.durations, options.known):
        fleet = Fleet.of(FLEETS[options.fleet], many, life=options.life)
        rng = np.random.default_rng(options.seed)
        tagged = options.tagged if any(worker.tags for worker in fleet.workers) else 0.0
        one = work(
            kind,
            count,
            rng,
            slots=fleet.threads,
            known=known,
            mean=options.mean,
            tagged=tagged,
            chained=options.chain,
            flaky=options.flaky,
        )
        costs = Costs(slice=options.slice)
        yield simulate(f"{kind}, {known}", Simulation(fleet, [one], costs=costs, seed=options.seed))


def _beside_each_other(options: argparse.Namespace) -> Iterator[Findings]:
    """Three like runs at once; three solves alone, and beside a run of very many short chunks."""
    fleet = Fleet.of(FLEETS["alike"], 100)
    rng = np.random.default_rng(options.seed)
    alike = [
        work("lognormal", 1_000 * number, rng, slots=100, name=f"run {number}", mean=10.0)
        for number in (1, 2, 4)
    ]
    yield simulate("three runs", Simulation(fleet, alike))
    solves = work("lognormal", 3, rng, slots=100, known="unknown", mean=30.0, name="solves", begins=1.0)
    yield simulate("three solves alone", Simulation(fleet, [solves]))
    short = work("short", 100_000, rng, slots=100, name="short")
    yield simulate("three solves beside 100,000", Simulation(fleet, [short, solves]))


def _tenfold(least: int, most: int) -> list[int]:
    return [number for number in (10**power for power in range(1, 8)) if least <= number <= most]


if __name__ == "__main__":
    main()
