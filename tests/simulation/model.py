"""What is simulated: workers, runs of chunks and what is true of them, and what everything costs.

Nobody but the simulation knows the true durations. The dispatcher sees rows, and a forecast where earlier
runs are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from batchrun.forecast import DurationHistory, forecast
from batchrun.resources import Demand, Worker
from batchrun.retry import RetryPolicy

if TYPE_CHECKING:
    from batchrun.outcome import Floats, Integers

GIB = 2**30
TAGGED = Demand(tags={"HIGHMEM": 1})
PLAIN = Demand()


@dataclass(frozen=True)
class Costs:
    """What a task costs beside its chunks. The defaults are near what was measured with Dask on two cores."""

    latency: float = 0.002
    """Seconds from the driver to a worker, and from a worker to the driver."""
    place: float = 0.0003
    """Seconds of the driver to make and submit a task."""
    take: float = 0.0003
    """Seconds of the driver to take a task back."""
    record: float = 0.00005
    """Seconds of the driver to record a chunk."""
    start: float = 0.002
    """Seconds of the worker to begin a task."""
    row_bytes: float = 100.0
    """Bytes that a worker reads for each row."""
    bandwidth: float = 1e9
    """Bytes a second that a worker reads."""
    slice: int | None = None
    """Tasks are submitted in slices of so many; None submits all that were chosen at once, as the runner
    does."""


@dataclass(frozen=True)
class Group:
    """Workers of one kind."""

    name: str
    share: float
    """Of all workers."""
    threads: int = 1
    memory: int = 8 * GIB
    tags: dict[str, float] = field(default_factory=dict)
    speed: float = 1.0
    """How many times faster than a worker of speed 1 it is."""


FLEETS = {
    "alike": (Group("standard", 1.0),),
    "mixed": (
        Group("standard", 0.8, threads=2, memory=16 * GIB),
        Group("wide", 0.1, threads=8, memory=64 * GIB),
        Group("highmem", 0.1, threads=4, memory=128 * GIB, tags={"HIGHMEM": 4.0}),
    ),
    "uneven": (
        Group("standard", 0.7, threads=2, memory=16 * GIB),
        Group("old", 0.2, threads=2, memory=8 * GIB, speed=0.8),
        Group("highmem", 0.1, threads=4, memory=128 * GIB, tags={"HIGHMEM": 4.0}),
    ),
    "half_tagged": (
        Group("standard", 0.5),
        Group("highmem", 0.5, memory=32 * GIB, tags={"HIGHMEM": 1.0}),
    ),
}
"""By name. Only the uneven one has workers of different speeds, of which the dispatcher knows nothing."""


@dataclass(frozen=True)
class Fleet:
    """All workers, and how they come and go."""

    workers: tuple[Worker, ...]
    speeds: tuple[float, ...]
    life: float | None = None
    """Mean seconds until a worker is lost, exponential; None if none ever is."""
    away: float = 30.0
    """Seconds until it is back, under another address."""

    @classmethod
    def of(
        cls, groups: Sequence[Group], workers: int, *, life: float | None = None, away: float = 30.0
    ) -> Fleet:
        """So many workers in these groups; each group has one at least."""
        made, speeds = [], []
        for group in groups:
            for number in range(max(1, round(group.share * workers))):
                name = f"{group.name}-{number}"
                made.append(Worker(f"tcp://{name}", name, group.threads, group.memory, group.tags))
                speeds.append(group.speed)
        return cls(tuple(made), tuple(speeds), life, away)

    @property
    def threads(self) -> int:
        """Threads of all workers together."""
        return sum(worker.threads for worker in self.workers)

    def capacity(self, demand: Demand) -> float:
        """Seconds of work at speed 1 that all workers together do in a second, of tasks with this demand."""
        return sum(
            worker.slots(demand) * speed for worker, speed in zip(self.workers, self.speeds, strict=True)
        )

    def scarcity(self, demands: Sequence[Demand]) -> list[float]:
        """How many times as many threads there are as slots for each demand, as a session tells a plan."""
        slots = [sum(worker.slots(demand) for worker in self.workers) for demand in demands]
        return [self.threads / max(1, number) for number in slots]

    def fastest(self, demand: Demand) -> float:
        """The speed of the fastest worker that can meet the demand."""
        pairs = zip(self.workers, self.speeds, strict=True)
        return max(speed for worker, speed in pairs if worker.can_ever_run(demand))


@dataclass(frozen=True)
class Work:
    """One run: its chunks as columns, and what is true of them."""

    seconds: Floats
    """True durations at speed 1, shape (legs, chunks); 0 where a chunk does not pass a leg."""
    rows: Integers
    """Shape (chunks,)."""
    demands: tuple[Demand, ...] = (PLAIN,)
    """Of each leg."""
    upper: Floats | None = None
    """What each chunk may take by its forecast, shape of ``seconds``; None without a history."""
    name: str = "run"
    begins: float = 0.0
    """When the run is started."""
    bad_row: Integers | None = None
    """Which row of each chunk always fails, from 0; -1 for none. Shape (chunks,)."""
    asks: Integers | None = None
    """Bytes that each chunk asks for in place of what its leg does, shape (chunks,), as memory="auto" gives;
    None for what the leg asks for."""
    memory: Integers | None = None
    """Bytes that each chunk needs, shape (chunks,); None for no more than it asks for."""
    killers: frozenset[int] = frozenset()
    """Chunks that take their worker with them."""
    flaky: float = 0.0
    """The share of tries that fail by chance."""
    isolated: frozenset[int] = frozenset()
    """Legs whose chunks never ride together nor wait on a worker."""
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    priority: int = 0
    """Of runs beside each other, one has twice the slots of one whose priority is less by 1."""
    most: int | None = None
    """Slots that it may have at a time; None for as many as there are."""


DURATIONS = ("lognormal", "pareto", "two_huge", "short")
KNOWN = ("known", "partly", "unknown")


def durations(kind: str, chunks: int, rng: np.random.Generator, *, mean: float, slots: int) -> Floats:
    """True durations of so many chunks, shape (chunks,).

    - lognormal: of sigma 1, the mean is 1.6 times the median
    - pareto: heavy-tailed, of index 1.5, at most a thousand times the mean
    - two_huge: log-normal, and two that take nine tenths of the time that all of it needs at least
    - short: log-normal, 5 ms on average whatever *mean* says
    """
    if kind == "pareto":
        return np.minimum((rng.pareto(1.5, chunks) + 1) * mean / 3, 1000 * mean)
    seconds = rng.lognormal(-0.5, 1.0, chunks) * (0.005 if kind == "short" else mean)
    if kind == "two_huge":
        seconds[rng.choice(chunks, 2, replace=False)] = 0.9 * seconds.sum() / slots + mean
    return seconds


def work(
    kind: str,
    chunks: int,
    rng: np.random.Generator,
    *,
    slots: int,
    known: str = "known",
    mean: float = 60.0,
    tagged: float = 0.0,
    chained: bool = False,
    **details: object,
) -> Work:
    """A run of so many chunks. Rows tell a little of durations. Earlier runs took 1.3 times as long, give or
    take 15 %.

    Of the chunks a share is *tagged*: it passes a leg with a tag, the others a plain one. If *chained*, every
    chunk passes a plain leg, one with a tag, and a plain one; that share of all work is at the one with the
    tag, of each chunk anything from nothing to twice the share.
    """
    seconds = durations(kind, chunks, rng, mean=mean, slots=slots)
    rows = np.maximum(1, (1000 * np.sqrt(seconds / mean) * rng.lognormal(0, 0.5, chunks))).astype(np.int64)
    if chained:
        there = 2 * tagged * rng.random(chunks)
        before = (1 - there) * rng.random(chunks)
        demands, shares = (PLAIN, TAGGED, PLAIN), np.array([before, there, 1 - before - there])
    else:
        legs = np.where(rng.random(chunks) < tagged, 1, 0)
        demands = (PLAIN, TAGGED) if tagged else (PLAIN,)
        shares = (np.arange(len(demands))[:, None] == legs[None, :]).astype(float)
    told = _told(seconds, rows, known, rng)
    return Work(
        shares * seconds,
        rows,
        demands,
        None if told is None else shares * told,
        **details,  # type: ignore[arg-type]
    )


def _told(seconds: Floats, rows: Integers, known: str, rng: np.random.Generator) -> Floats | None:
    """What the history of earlier runs says of each chunk: of all, of every other by its key, or of none."""
    if known == "unknown":
        return None
    keys = np.arange(1, len(seconds) + 1)
    seen = keys if known == "known" else keys[::2]
    took = 1.3 * seconds[seen - 1] * rng.lognormal(0, 0.15, len(seen))
    found = forecast(DurationHistory(seen, rows[seen - 1], took), keys, rows)
    return None if found is None else found.upper


@dataclass(frozen=True)
class Bound:
    """What no schedule can beat, in seconds."""

    longest: float
    """The longest chunk on the fastest worker."""
    scarcest: float
    """The work of the leg with least room for it, over that room."""
    all: float
    """All work over all slots."""

    @property
    def most(self) -> float:
        """The one that counts."""
        return max(self.longest, self.scarcest, self.all)


def bound_of(works: Sequence[Work], fleet: Fleet) -> Bound:
    """The lower bound of the makespan of runs that begin together; memory that single chunks ask for, and
    workers that are lost, would only raise it."""
    longest, scarcest = 0.0, 0.0
    by_demand: dict[Demand, float] = {}
    for one in works:
        fastest = np.array([fleet.fastest(demand) for demand in one.demands])
        longest = max(longest, float((one.seconds / fastest[:, None]).sum(axis=0).max()))
        for demand, seconds in zip(one.demands, one.seconds, strict=True):
            by_demand[demand] = by_demand.get(demand, 0.0) + float(seconds.sum())
    for demand, seconds_of_all in by_demand.items():
        scarcest = max(scarcest, seconds_of_all / fleet.capacity(demand))
    return Bound(longest, scarcest, sum(by_demand.values()) / fleet.capacity(PLAIN))
