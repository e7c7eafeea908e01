"""Which chunk next, and on which worker. No clock, no socket: values in, values out.

The rules, in order:

1. A task goes only where a thread, its memory and its tags are free at this moment. Tasks that wait on a
   worker are invisible to the choice, so none are put there, except a few where chunks are so short that
   the way back and forth would cost more (``look_ahead``).
2. The leg with the scarcest demand first, so that a tagged worker is not spent on what could run anywhere.
3. Among equally scarce legs the later one, so that chunks end early and little is left half done.
4. Within a leg parts of chunks that were cut first, the smallest of them before all, so that a bad row is
   found and a broken function known soon; then the chunk with most rows (longest processing time:
   R. Graham, 1969), then in input order.
5. On the worker that has least to spare: fewest tags that are not asked for, then least memory, then
   most free threads; a worker on which the chunk failed before comes last.
6. A chunk that was lost together with a worker has a worker for itself the next time, so that a chunk
   that kills workers is told from those that were only near it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from batchrun.resources import MEMORY, Demand, Worker

__all__ = ["Choice", "Dispatcher", "Lane", "Waiting"]

DEEPEST_LOOK_AHEAD = 8
"""The most chunks that wait behind one busy thread, however short they are."""


@dataclass(frozen=True)
class Waiting:
    """A chunk that waits for a slot."""

    chunk: int
    """The chunk's number."""
    leg: int
    """The leg that it waits for."""
    rows: int
    """Its input rows; stands for its cost."""
    avoid: frozenset[str] = frozenset()
    """Names of workers on which it failed before."""
    alone: bool = False
    """Whether nothing else may be on its worker while it runs."""
    part: bool = False
    """Whether it is a part of a chunk that was cut."""
    memory: int = 0
    """Bytes that it needs in place of what its leg asks for; 0 for just that."""
    fresh: bool = False
    """Whether it needs a process in which nothing ran before."""

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Where it stands among those that wait for the same."""
        return not self.part, self.rows if self.part else -self.rows, self.chunk


@dataclass(frozen=True)
class Lane:
    """Chunks that wait for the same kind of slot share a lane."""

    leg: int
    """The leg that they wait for."""
    memory: int
    """Bytes that they need in place of what the leg asks for; 0 for just that."""
    alone: bool
    """Whether each needs a worker for itself."""


@dataclass(frozen=True)
class Choice:
    """A waiting chunk and the worker that it shall run on."""

    waiting: Waiting
    worker: Worker


@dataclass
class _Free:
    """What one live worker has free."""

    worker: Worker
    threads: int
    memory: int
    tags: dict[str, float]
    exclusive: bool = False

    def fits(self, demand: Demand, depth: int, *, alone: bool) -> bool:
        if self.exclusive or (alone and self.threads < self.worker.threads):
            return False
        return (
            self.threads > -depth * self.worker.threads
            and self.memory >= demand.memory
            and all(self.tags.get(tag, 0) >= amount for tag, amount in demand.tags.items())
        )

    def change(self, demand: Demand, sign: int) -> None:
        self.threads += sign
        self.memory += sign * demand.memory
        for tag, amount in demand.tags.items():
            self.tags[tag] = self.tags.get(tag, 0) + sign * amount


@dataclass
class Dispatcher:
    """Keeps what waits and what is free, and matches the two."""

    demands: Sequence[Demand]
    """The demand of each leg."""
    look_ahead_seconds: float = 0.25
    """Work that may wait behind a busy thread; chunks that take longer never do."""
    isolated: frozenset[int] = frozenset()
    """Legs whose chunks never wait behind another, because they must be stoppable."""
    _lanes: dict[Lane, list[tuple[tuple[bool, int, int], Waiting]]] = field(default_factory=dict, init=False)
    _order: list[Lane] = field(default_factory=list, init=False)
    _free: dict[str, _Free] = field(default_factory=dict, init=False)
    _shapes: dict[tuple[object, ...], list[str]] = field(default_factory=dict, init=False)
    _seconds: list[float | None] = field(init=False)

    def __post_init__(self) -> None:
        self._seconds = [None for _ in self.demands]

    @property
    def waiting(self) -> int:
        """Chunks that wait."""
        return sum(map(len, self._lanes.values()))

    def demand(self, leg: int, memory: int = 0) -> Demand:
        """What a chunk takes at a leg, with *memory* bytes in place of what the leg asks for if not 0."""
        return replace(self.demands[leg], memory=memory) if memory else self.demands[leg]

    def add(self, item: Waiting) -> None:
        """A chunk waits from now on."""
        lane = Lane(item.leg, item.memory, item.alone)
        if lane not in self._lanes:
            self._lanes[lane] = []
            self._sort_lanes()
        heapq.heappush(self._lanes[lane], (item.rank, item))

    def drop_waiting(self) -> None:
        """Nothing waits any more."""
        self._lanes.clear()
        self._order.clear()

    def drop(self, chunks: Collection[int]) -> list[Waiting]:
        """These chunks wait no more; returns those of them that did."""
        dropped = []
        for heap in self._lanes.values():
            gone = [entry for entry in heap if entry[1].chunk in chunks]
            if gone:
                dropped += [item for _, item in gone]
                heap[:] = [entry for entry in heap if entry[1].chunk not in chunks]
                heapq.heapify(heap)
        return dropped

    def set_workers(self, workers: Iterable[Worker]) -> None:
        """These are the live workers; what those that stay have in use is kept."""
        kept = {}
        for worker in workers:
            old = self._free.get(worker.address)
            kept[worker.address] = (
                old
                if old is not None and old.worker == worker
                else _Free(worker, worker.threads, worker.memory, dict(worker.tags))
            )
        self._free = kept
        self._shapes = {}
        for free in kept.values():
            shape = (tuple(sorted(free.worker.tags.items())), free.worker.memory, free.worker.threads)
            self._shapes.setdefault(shape, []).append(free.worker.address)
        self._sort_lanes()

    def measured(self, leg: int, seconds: float) -> None:
        """A chunk took so long on this leg; kept as a moving average."""
        known = self._seconds[leg]
        self._seconds[leg] = seconds if known is None else 0.8 * known + 0.2 * seconds

    def look_ahead(self, leg: int) -> int:
        """How many chunks of this leg may wait behind each busy thread of a worker."""
        seconds, demand = self._seconds[leg], self.demands[leg]
        if seconds is None or demand.memory or demand.tags or leg in self.isolated:
            return 0
        return min(DEEPEST_LOOK_AHEAD, math.floor(self.look_ahead_seconds / max(seconds, 1e-6)))

    def choose(self) -> list[Choice]:
        """Match as many waiting chunks with free slots as there are, and take those slots."""
        choices: list[Choice] = []
        for lane in self._order:
            heap, demand = self._lanes[lane], self.demand(lane.leg, lane.memory)
            while heap:
                free = self._best(lane, demand, heap[0][1])
                if free is None:
                    break
                _, item = heapq.heappop(heap)
                free.change(demand, -1)
                free.exclusive = lane.alone
                choices.append(Choice(item, free.worker))
        return choices

    def give_back(self, choice: Choice) -> None:
        """The task of a choice no longer holds its slot; a worker that is gone has none to take back."""
        free = self._free.get(choice.worker.address)
        if free is not None:
            free.change(self.demand(choice.waiting.leg, choice.waiting.memory), +1)
            free.exclusive = free.exclusive and not choice.waiting.alone

    def larger_memory(self, leg: int, memory: int) -> int | None:
        """The least that any worker with the tags of the leg has beyond *memory* bytes; None if none has."""
        wanted = replace(self.demands[leg], memory=0)
        have = {free.worker.memory for free in self._free.values() if free.worker.can_ever_run(wanted)}
        return min((size for size in have if size > memory), default=None)

    def unmet(self) -> list[Demand]:
        """Demands of waiting chunks that no live worker could meet even when idle."""
        return [demand for demand, _, able in self.queues() if not able]

    def queues(self) -> list[tuple[Demand, Lane, int]]:
        """Each demand that chunks wait for, its lane, and how many live workers could ever meet it."""
        return [
            (demand, lane, self._able(demand))
            for lane in self._order
            if self._lanes[lane]
            for demand in (self.demand(lane.leg, lane.memory),)
        ]

    def count(self, lane: Lane) -> int:
        """How many chunks wait in a lane."""
        return len(self._lanes.get(lane, ()))

    def slots(self, *, behind: int = 0) -> list[tuple[str, float, float, float]]:
        """Each kind of slot: name, capacity, used, and the demand that waits for it.

        *behind* counts chunks that wait for the first leg and were not added yet.
        """
        tags = sorted({tag for free in self._free.values() for tag in free.worker.tags})
        tags += sorted({tag for demand in self.demands for tag in demand.tags} - set(tags))
        has: dict[str, float] = {}
        left: dict[str, float] = {}
        for free in self._free.values():
            have = {"threads": free.worker.threads, MEMORY: free.worker.memory, **free.worker.tags}
            still = {"threads": free.threads, MEMORY: free.memory, **free.tags}
            for tag, amount in have.items():
                has[tag] = has.get(tag, 0) + amount
                left[tag] = left.get(tag, 0) + max(0, still[tag])
        waits: dict[str, float] = {}
        queues = [(self.demand(lane.leg, lane.memory), len(heap)) for lane, heap in self._lanes.items()]
        for demand, number in [*queues, (self.demands[0], behind)]:
            for tag, amount in {"threads": 1, MEMORY: demand.memory, **demand.tags}.items():
                waits[tag] = waits.get(tag, 0) + amount * number
        return [
            (tag, has.get(tag, 0), has.get(tag, 0) - left.get(tag, 0), waits.get(tag, 0))
            for tag in ("threads", MEMORY, *tags)
        ]

    def _able(self, demand: Demand) -> int:
        return sum(free.worker.can_ever_run(demand) for free in self._free.values())

    def _sort_lanes(self) -> None:
        """The scarcest demand first, then the later leg, then those that need a worker for themselves."""
        able = {lane: self._able(self.demand(lane.leg, lane.memory)) for lane in self._lanes}
        self._order = sorted(
            self._lanes, key=lambda lane: (able[lane], -lane.leg, not lane.alone, -lane.memory)
        )

    def _best(self, lane: Lane, demand: Demand, item: Waiting) -> _Free | None:
        """The free worker that has least to spare; workers of one shape are looked at together."""
        depth = 0 if lane.alone else self.look_ahead(lane.leg)
        best: tuple[tuple[object, ...], _Free] | None = None
        for addresses in self._shapes.values():
            worker = self._free[addresses[0]].worker
            if not worker.can_ever_run(demand):
                continue
            surplus = len(set(worker.tags) - set(demand.tags))
            for address in addresses:
                free = self._free[address]
                if not free.fits(demand, depth, alone=lane.alone):
                    continue
                seen = free.worker.name in item.avoid
                rank = (seen, free.threads <= 0, surplus, worker.memory, -free.threads)
                if best is None or rank < best[0]:
                    best = (rank, free)
        return best[1] if best else None
