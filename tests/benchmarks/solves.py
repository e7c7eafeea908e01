"""Solves of very different length, some of which only one of four workers can run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from batchrun import Pipeline, RunReport, RunState, Stage, by_group, run_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Record, compete

WORKERS = 4
SECONDS = 10.0
"""What all solves would take if no slot were ever idle."""
DASK = "dask, submit"
DASK_IN_STAGES = "dask, two tasks each"


@dataclass(frozen=True)
class Solves:
    """Log-normal sleeps, two long ones among them; a quarter needs the one worker with HIGHMEM."""

    seconds: tuple[float, ...]
    """How long each takes."""
    tagged: tuple[bool, ...]
    """Whether it needs HIGHMEM."""

    @classmethod
    def drawn(cls, solves: int, seed: int, ideal: float) -> Solves:
        """So many, scaled to take *ideal* seconds on all workers together."""
        random = np.random.default_rng(seed)
        seconds = random.lognormal(0.0, 1.0, solves)
        seconds[random.choice(solves, 2, replace=False)] = 0.12 * seconds.sum()
        tagged = np.zeros(solves, bool)
        tagged[random.permutation(solves)[: solves // 4]] = True
        seconds *= ideal * WORKERS / seconds.sum()
        return cls(tuple(seconds.tolist()), tuple(tagged.tolist()))

    @property
    def bound(self) -> float:
        """Nothing can be faster: the longest, what one tagged worker has to do, what all have to do."""
        tagged = sum(seconds for seconds, needs in zip(self.seconds, self.tagged, strict=True) if needs)
        return max(*self.seconds, tagged, sum(self.seconds) / WORKERS)

    @property
    def frame(self) -> pd.DataFrame:
        """A row each."""
        return pd.DataFrame(
            {"solve": range(len(self.seconds)), "seconds": self.seconds, "tagged": self.tagged}
        )


def known_solves(arena: Arena, size: int, rounds: int) -> Record:
    """Solves whose durations are known from an earlier run, against the lower bound: the longest, the tagged
    work on the tagged worker, or all work on all workers, whichever is most.

    A tagged solve is a stage that needs HIGHMEM, and a chunk passes through all stages; so every solve sleeps
    in one of two stages and passes through the other one at once. Raw Dask submits each solve once.
    """
    ideal = SECONDS * size / 60
    solves = Solves.drawn(size, seed=0, ideal=ideal)
    record = Record("known_solves", {"solves": size, "workers": WORKERS, "rounds": rounds})
    client = arena.tagged_client
    runs: dict[str, Callable[[], object]] = {
        "batchrun, lengths known": partial(_by_batchrun, solves, client, "known"),
        DASK: partial(_by_dask, solves, client),
    }
    compete(record, runs, rounds)  # the first turn, which is not timed, is the earlier run
    for name, median in record.medians.items():
        record.measure(f"{name}: over the lower bound", median / solves.bound, "times")
    reached = record.medians["batchrun, lengths known"] / solves.bound
    record.want_at_most("batchrun, lengths known: over the lower bound", reached, "times", 1.03)
    return record


def unknown_solves(arena: Arena, size: int, rounds: int) -> Record:
    """The same of twenty seeds when nothing is known, in the given order, against raw Dask on the same
    seeds.

    Raw Dask is told which solves need the tag; batchrun finds that out when a solve is at its second stage.
    So raw Dask with two tasks for each solve, as batchrun has, is measured too.
    """
    record = Record("unknown_solves", {"solves": size, "workers": WORKERS, "seeds": rounds})
    over: dict[str, list[float]] = {"batchrun, nothing known": [], DASK: [], DASK_IN_STAGES: []}
    client = arena.tagged_client
    for seed in range(rounds):
        solves = Solves.drawn(size, seed, SECONDS / 2 * size / 60)
        for turn in range(len(over)):
            name = list(over)[(seed + turn) % len(over)]
            began = time.perf_counter()
            if name == DASK:
                _by_dask(solves, client)
            elif name == DASK_IN_STAGES:
                _by_dask_in_stages(solves, client)
            else:
                _by_batchrun(solves, client, f"unknown-{seed}")
            seconds = time.perf_counter() - began
            record.seconds.setdefault(name, []).append(seconds)
            over[name].append(seconds / solves.bound)
    mine, theirs, in_stages = over.values()
    for name, ratios in over.items():
        record.measure(f"{name}: over the lower bound, mean", statistics.mean(ratios), "times")
        record.measure(f"{name}: over the lower bound, worst", max(ratios), "times")
    same = statistics.mean(mine) / statistics.mean(in_stages)
    record.measure(f"mean of batchrun by mean of {DASK_IN_STAGES}", same, "times")
    mean = statistics.mean(mine) / statistics.mean(theirs)
    record.want_at_most("mean of batchrun by mean of Dask", mean, "times", 1.0)
    record.want_at_most("worst of batchrun by worst of Dask", max(mine) / max(theirs), "times", 1.0)
    return record


def solve_plain(chunk: pd.DataFrame) -> pd.DataFrame:
    """Sleep for those that run anywhere."""
    _sleep(chunk.loc[~chunk["tagged"], "seconds"])
    return chunk


def solve_tagged(chunk: pd.DataFrame) -> pd.DataFrame:
    """Sleep for those that need HIGHMEM."""
    _sleep(chunk.loc[chunk["tagged"], "seconds"])
    return chunk


def _sleep(seconds: pd.Series[float]) -> None:
    if len(seconds):
        time.sleep(float(seconds.sum()))


def _by_batchrun(solves: Solves, client: Any, name: str) -> RunReport:
    """The name tells which earlier runs count."""
    pipeline = Pipeline(
        name, split=by_group("solve"), stages=[solve_plain, Stage(solve_tagged, resources={"HIGHMEM": 1})]
    )
    report = run_pipeline(pipeline, solves.frame, cluster=client, progress=False)
    assert report.state is RunState.SUCCEEDED
    return report


def _by_dask(solves: Solves, client: Any) -> None:
    futures = [
        client.submit(time.sleep, seconds, pure=False, resources={"HIGHMEM": 1} if tagged else None)
        for seconds, tagged in zip(solves.seconds, solves.tagged, strict=True)
    ]
    client.gather(futures)


def _by_dask_in_stages(solves: Solves, client: Any) -> None:
    """A task that runs anywhere and one with the tag for each solve, which sleeps in one of them."""
    futures = []
    for seconds, tagged in zip(solves.seconds, solves.tagged, strict=True):
        first = client.submit(sleep_after, None, 0.0 if tagged else seconds, pure=False)
        second = client.submit(
            sleep_after, first, seconds if tagged else 0.0, pure=False, resources={"HIGHMEM": 1}
        )
        futures.append(second)
    client.gather(futures)


def sleep_after(before: None, seconds: float) -> None:
    """Sleep once the task before is done."""
    time.sleep(seconds)
