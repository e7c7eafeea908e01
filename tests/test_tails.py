"""Solves of which nothing is known, in virtual time, beside what raw Dask does with them at best.

At best a worker that is free takes the first solve in the given order that it can run, and nothing costs
anything. Dask does that for solves that it is told to need the tag; where every solve passes both stages, it
is told of none.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest

from batchrun.resources import Demand, Worker
from tests.benchmarks.solves import Solves
from tests.simulation.engine import Simulation
from tests.simulation.model import Costs, Fleet, Work

SEEDS, SOLVES = 60, 60
PLAIN, TAGGED = Demand(), Demand(tags={"HIGHMEM": 1})
FREE = Costs(latency=0, place=0, take=0, record=0, start=0, row_bytes=0)
PASSING = 1e-6
"""Seconds of a stage that a solve only passes through."""
WORKERS = (
    *(Worker(f"tcp://standard-{n}", f"standard-{n}", 1, 2**30) for n in range(3)),
    Worker("tcp://highmem", "highmem", 1, 2**30, {"HIGHMEM": 1.0}),
)


def drawn(*, tagged: bool = True) -> list[Solves]:
    """Those of the benchmark."""
    solves = [Solves.drawn(SOLVES, seed, ideal=5.0) for seed in range(SEEDS)]
    return solves if tagged else [replace(one, tagged=(False,) * SOLVES) for one in solves]


def by_batchrun(solves: Solves, *, passing: float = 0.0) -> float:
    """Times the lower bound; a solve takes *passing* seconds at the stage that is not its own, or skips it if
    none."""
    seconds, tagged = np.array(solves.seconds), np.array(solves.tagged)
    stages = np.maximum([seconds * ~tagged, seconds * tagged], passing)
    work = Work(stages, np.ones(SOLVES, np.int64), (PLAIN, TAGGED))
    fleet = Fleet(WORKERS, (1.0,) * len(WORKERS))
    return Simulation(fleet, [work], costs=FREE).run().makespan / solves.bound


def by_dask(solves: Solves) -> float:
    """Times the lower bound, where Dask is told which solves need the tag."""
    waiting, end = list(range(SOLVES)), 0.0
    free = [(0.0, worker) for worker in range(len(WORKERS))]
    while free and waiting:
        now, worker = heapq.heappop(free)
        tagged = [solve for solve in waiting if solves.tagged[solve]]
        plain = [solve for solve in waiting if not solves.tagged[solve]]
        turn = (tagged if WORKERS[worker].tags else []) + plain
        if turn:
            waiting.remove(turn[0])
            ends = now + solves.seconds[turn[0]]
            end = max(end, ends)
            heapq.heappush(free, (ends, worker))
    return end / solves.bound


def by_dask_in_two_stages(solves: Solves) -> float:
    """Times the lower bound, where every solve is a task that runs anywhere, and then one with the tag."""
    firsts, seconds = list(range(SOLVES)), list[int]()
    idle, running, now = list(range(len(WORKERS))), list[tuple[float, int, int, bool]](), 0.0
    while firsts or seconds or running:
        for worker in list(idle):
            second = bool(WORKERS[worker].tags and seconds)
            if second or firsts:
                solve = (seconds if second else firsts).pop(0)
                ends = now + solves.seconds[solve] * (solves.tagged[solve] is second)
                heapq.heappush(running, (ends, worker, solve, second))
                idle.remove(worker)
        now, worker, solve, second = heapq.heappop(running)
        idle.append(worker)
        idle.sort()
        if not second:
            seconds.append(solve)
    return now / solves.bound


@pytest.mark.parametrize("tagged", [True, False], ids=["a quarter tagged", "none tagged"])
def test_solves_of_unknown_length_end_as_soon_as_in_the_given_order_without_any_cost(tagged):
    solves = drawn(tagged=tagged)

    mine, theirs = [by_batchrun(one) for one in solves], [by_dask(one) for one in solves]

    assert np.mean(mine) <= 1.01 * np.mean(theirs)
    assert max(mine) <= 1.01 * max(theirs)


def test_solves_of_which_nobody_says_who_needs_the_tag_end_as_soon_as_those_of_two_tasks_each():
    solves = drawn()

    mine = [by_batchrun(one, passing=PASSING) for one in solves]
    theirs = [by_dask_in_two_stages(one) for one in solves]

    assert np.mean(mine) <= 1.01 * np.mean(theirs)
    assert max(mine) <= 1.01 * max(theirs)
