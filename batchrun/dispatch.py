"""Which chunks next, and on which worker. No clock, no socket: values in, values out.

The rules, in order:

1. A task goes only where a thread, its memory and its tags are free at this moment. Tasks that wait on a
   worker are invisible to the choice, so none are put there, except a few where tasks are so short that
   the way back and forth would cost more (``look_ahead``): a short one behind short ones, not on a worker
   that a scarcer leg needs, and not while another run waits for a slot. Without a forecast the average of
   what was measured counts (``pace``), and how many were short for each long one.
2. The leg with the scarcest demand first, so that a tagged worker is not spent on what could run anywhere.
3. Among equally scarce legs the later one, so that chunks end early and little is left half done.
4. Within a leg parts of chunks that were cut first, the smallest of them before all, so that a bad row is
   found and a broken function known soon; then the chunk with most left to do (longest processing time:
   R. Graham, 1969), by the forecasts of this leg and those after it or else by its rows, then in input
   order. Work that few workers can do counts for more (``plan``).
5. On the worker that has least to spare: fewest tags that are not asked for, then least memory, then
   most free threads; a worker on which the chunk failed before comes last. Workers whose time a later leg
   needs in full, by the forecasts, are kept for it: what any worker can do would only delay the end there.
6. A chunk that was lost together with a worker has a worker for itself the next time, so that a chunk
   that kills workers is told from those that were only near it.
7. Chunks that take milliseconds ride together: as many as take ``PACK_SECONDS`` by what was measured, and no
   more than half a fair share of what is left, so that all workers end together (guided self-scheduling:
   C. Polychronopoulos, D. Kuck, 1987). Where one thread of many alone can run them, up to
   ``LONE_PACK_SECONDS`` by what they usually take: none of them could be sooner elsewhere.
8. Of several runs the one with fewest slots has the next turn. Priority weighs them: each step of it makes a
   slot count half. Those that have none are before all that have some, and take turns, so that nobody
   starves (start-time fair queuing: P. Goyal, H. Vin, H. Cheng, 1996).

A decision takes time that grows with the logarithm of the chunks that wait, and not with the number of
workers; see ``slots``.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from batchrun.pace import LegPace
from batchrun.resources import MEMORY, Demand, Worker
from batchrun.slots import Slots
from batchrun.waiting import Lane, Queue, Waiting

__all__ = ["Choice", "Dispatcher", "share"]

DEEPEST_LOOK_AHEAD = 8
"""The most tasks that wait behind one busy thread, however short they are."""
PACK_SECONDS = 0.1
"""Chunks ride together up to so much work."""
LONE_PACK_SECONDS = 0.5
"""Or up to so much where one thread alone can run them, one after the other."""
PACK_MOST = 2_000
"""And never more of them than that."""
AHEAD_TRUST = 8
"""Of so many chunks no more than one may have been long, for one task to wait behind another."""
HIGHEST_PRIORITY = 10
"""Priorities beyond it, and below its negative, count as it."""


class Choice(NamedTuple):
    """Waiting chunks and the worker that they shall run on, in one task."""

    items: tuple[Waiting, ...]
    """One chunk, or several of one leg that ride together."""
    worker: Worker
    """Where to."""
    long: bool = True
    """Whether nothing may wait behind it: it takes long, or nobody knows."""
    ahead: bool = False
    """Whether it may have to wait there behind others."""
    then: Waiting | None = None
    """What the worker may read meanwhile, since it will be given that next if nothing comes between."""
    stay: int = 0
    """The stay of the worker in which the slot was taken."""

    @property
    def first(self) -> Waiting:
        """The only chunk, or the first of several, which all wait for the same."""
        return self.items[0]


@dataclass
class Dispatcher:
    """Keeps what waits, and matches it with what is free."""

    demands: Sequence[Demand]
    """The demand of each leg."""
    look_ahead_seconds: float = 0.25
    """Work that may wait behind a busy thread; tasks that take longer never do."""
    isolated: frozenset[int] = frozenset()
    """Legs whose chunks never wait behind another nor ride together, because they must be stoppable."""
    slots: Slots = field(default_factory=Slots)
    """What is free; dispatchers of several runs can have it in common."""
    behind: int = 0
    """Chunks that will wait for the first leg and were not added yet."""
    reads_ahead: bool = False
    """Whether a worker is told what it will be given next at the first leg."""
    priority: int = 0
    """Of runs that share workers, one has twice the slots of one whose priority is less by 1."""
    most: int | None = None
    """Slots that it may have at a time; None for as many as there are."""
    in_use: int = field(default=0, init=False)
    """Slots that are taken and not given back."""
    started: float = field(default=-math.inf, init=False)
    """The virtual time of its latest turn among runs that share workers."""
    work: list[float] = field(default_factory=list, init=False)
    """Seconds of work at each leg that has not begun, by the forecasts; empty where there are none."""
    _lanes: dict[Lane, Queue] = field(default_factory=dict, init=False)
    _order: list[tuple[tuple[int, int, bool], Lane]] = field(default_factory=list, init=False)
    _able: list[int] = field(default_factory=list, init=False)
    """How many live workers could ever run each leg."""
    _capacity: list[int] = field(default_factory=list, init=False)
    """And how many chunks at once."""
    _threads: list[int] = field(default_factory=list, init=False)
    """The threads of those workers."""
    _everywhere: int = field(default=0, init=False)
    """The threads of all workers."""
    _scarcer: list[list[Demand]] = field(default_factory=list, init=False)
    """Of each leg, the demands of the legs that fewer workers can run."""
    _demands: dict[tuple[int, int], Demand] = field(default_factory=dict, init=False)
    """Of a leg with other memory than it asks for."""
    _paces: list[LegPace] = field(init=False)
    _waiting: int = field(default=0, init=False)
    """Chunks that have no slot."""

    def __post_init__(self) -> None:
        self._paces = [LegPace() for _ in self.demands]

    @property
    def waiting(self) -> int:
        """Chunks that were not chosen yet."""
        return self._waiting

    @property
    def weight(self) -> float:
        """Slots that it has for one of a run of priority 0."""
        return 2.0 ** max(-HIGHEST_PRIORITY, min(HIGHEST_PRIORITY, self.priority))

    def turn(self, time: float) -> tuple[float, float]:
        """Where the run stands among those that share workers, the next one first, at a virtual time."""
        return self.in_use / self.weight, max(time, self.started + 1 / self.weight)

    @property
    def threads(self) -> int:
        """Chunks that all live workers together run at once, if they ask for nothing more than a thread."""
        return self.slots.threads(Demand())

    def demand(self, leg: int, memory: int = 0) -> Demand:
        """What a chunk takes at a leg, with *memory* bytes in place of what the leg asks for if not 0."""
        if memory and (leg, memory) not in self._demands:
            self._demands[leg, memory] = replace(self.demands[leg], memory=memory)
        return self._demands[leg, memory] if memory else self.demands[leg]

    def expect(self, work: Sequence[float]) -> None:
        """There will be so many more seconds of work at each leg; empty if that is not known."""
        before = self.work or [0.0] * len(work)
        self.work = [one + more for one, more in zip(before, work, strict=True)] if work else []

    def add(self, item: Waiting) -> None:
        """A chunk waits from now on."""
        lane = Lane(item.leg, item.memory, item.alone)
        if lane not in self._lanes:
            self._lanes[lane] = Queue()
            self._sort_lanes()
        self._lanes[lane].add(item)
        self._waiting += 1

    def drop_waiting(self) -> None:
        """Nothing waits any more."""
        self._lanes.clear()
        self._order.clear()
        self._waiting = 0

    def drop(self, chunks: Collection[int]) -> list[Waiting]:
        """These chunks wait no more; returns those of them that did."""
        dropped = [item for queue in self._lanes.values() for item in queue.drop(chunks)]
        self._waiting -= len(dropped)
        return dropped

    def set_workers(self, workers: Iterable[Worker]) -> None:
        """These are the live workers; what those that stay have in use is kept."""
        self.slots.set_workers(workers)
        self.count_workers()

    def count_workers(self) -> None:
        """Other workers are live than before."""
        self._able = [self.slots.able(demand) for demand in self.demands]
        self._capacity = [self.slots.capacity(demand) for demand in self.demands]
        self._threads = [self.slots.threads(demand) for demand in self.demands]
        self._everywhere = self.slots.threads(Demand())
        self._scarcer = [
            [demand for demand, able in zip(self.demands, self._able, strict=True) if 0 < able < mine]
            for mine in self._able
        ]
        self._sort_lanes()

    def measured(self, leg: int, seconds: float, *, chunks: int = 1, cost: float = 0.0) -> None:
        """A task of so many chunks took so long on this leg; *cost* is that of the chunks together."""
        long = seconds > max(self.look_ahead_seconds, 2 * PACK_SECONDS)
        self._paces[leg].add(seconds, chunks, cost, long=long)

    def look_ahead(self, leg: int, forecast: float | None = None) -> int:
        """How many tasks of this leg may wait behind each busy thread of a worker; *forecast* tells how long
        one takes as long as none has ended."""
        pace, demand = self._paces[leg], self.demands[leg]
        seconds, most = pace.task, min(DEEPEST_LOOK_AHEAD, pace.trust // AHEAD_TRUST)
        if seconds is None and forecast is not None:
            seconds, most = max(forecast, PACK_SECONDS), DEEPEST_LOOK_AHEAD  # shorter ones ride together
        if seconds is None or demand.memory or demand.tags or leg in self.isolated:
            return 0
        return min(most, math.floor(self.look_ahead_seconds / max(seconds, 1e-6)))

    def choose(self) -> list[Choice]:
        """The tasks to start now, whose slots are taken."""
        return self.match()

    def match(self, most: int | None = None, *, ahead: bool = True) -> list[Choice]:
        """Match waiting chunks with free slots, and take those slots, whatever other runs may want.

        Args:
            most: How many tasks to choose; None for as many as there are slots.
            ahead: Whether short ones may wait behind others.
        """
        room = min(self._room, math.inf if most is None else most)
        match_lanes = self._match_one if len(self._order) == 1 else self._match_several
        choices = match_lanes(room, ahead=ahead)
        return [self._with_next(choice) for choice in choices] if self.reads_ahead else choices

    def _match_one(self, room: float, *, ahead: bool) -> list[Choice]:
        """The tasks of the only lane there is, as in most runs at most times."""
        [(_, lane)] = self._order
        choices: list[Choice] = []
        while len(choices) < room and (choice := self._choose_from(lane, ahead=ahead)) is not None:
            choices.append(choice)
        return choices

    def _match_several(self, room: float, *, ahead: bool) -> list[Choice]:
        """The tasks of the lanes, each time of the one whose turn it is."""
        choices: list[Choice] = []
        turns = [
            (place, first.rank, lane)
            for place, lane in self._order
            if (first := self._lanes[lane].first) is not None
        ]
        heapq.heapify(turns)
        while turns and len(choices) < room:
            place, _, lane = turns[0]
            choice = self._choose_from(lane, ahead=ahead)
            if choice is not None:
                choices.append(choice)
            first = None if choice is None else self._lanes[lane].first
            if first is None:
                heapq.heappop(turns)
            else:
                heapq.heapreplace(turns, (place, first.rank, lane))
        return choices

    def choose_idle(self, item: Waiting, soon: Iterable[Demand] = ()) -> Choice | None:
        """Take a slot that would be idle, for a second start of a chunk that runs; None if there is none.

        The slot is on a worker that the chunk need not avoid, and that no chunk that waits could ever use.
        *soon* are the demands of those that will wait before long.
        """
        demand, later = self.demand(item.leg, item.memory), [self.demands[leg] for leg in self.kept_for(item)]
        worker = self.slots.best(demand, avoid=item.avoid, keep=[*self.wanted(), *later, *soon])
        if worker is None or worker.name in item.avoid or self._room < 1:
            return None
        self.slots.take(worker.address, demand, long=True)
        self.in_use += 1
        return Choice((item,), worker, stay=self.slots.stay(worker.address))

    def wanted(self) -> list[Demand]:
        """The demands of chunks that have no slot, those included that were not added yet."""
        return [demand for demand, _, _ in self.queues()] + ([self.demands[0]] if self.behind else [])

    def kept_for(self, item: Waiting) -> list[int]:
        """Later legs whose workers are closed to a chunk: there is more for them to do at that leg than all
        workers have on average, and the chunk would add to it."""
        seconds, leg = item.seconds, item.leg
        if seconds is None or leg >= len(self.work) - 1:
            return []
        weight = self._everywhere / max(1, self._capacity[leg])
        if item.left is not None and item.left > 2 * seconds * weight:
            return []  # most of its work is at later legs, and it is here only to get there
        average = sum(self.work) / max(1, self._everywhere)
        return [
            later
            for later in range(leg + 1, len(self.work))
            if 0 < self._able[later] < self._able[leg]
            and self.work[later] + min(seconds, self.work[later]) > average * self._capacity[later]
        ]

    def head(self, lane: Lane) -> Waiting | None:
        """The chunk whose turn it is in a lane."""
        queue = self._lanes.get(lane)
        return queue.first if queue else None

    def give_back(self, choice: Choice) -> None:
        """The task of a choice no longer holds its slot; a worker that is gone has none to take back."""
        first = choice.first
        self.in_use -= 1
        self.slots.give_back(
            choice.worker.address,
            self.demand(first.leg, first.memory),
            exclusive=first.alone,
            long=choice.long,
            stay=choice.stay,
        )

    def offer(self) -> None:
        """Let other runs have slots that came free; a run with workers of its own has nobody to offer them
        to."""

    def leave(self) -> None:
        """The run is over; it needs no slots any more, and gives back those that it has if others may want
        them."""

    def overdue(self, choice: Choice) -> Choice:
        """The task of a choice takes longer than it should, so nothing more is to wait behind it.

        Returns what stands for the choice from now on.
        """
        if choice.long:
            return choice
        self.slots.prolong(choice.worker.address, stay=choice.stay)
        return choice._replace(long=True)

    def larger_memory(self, leg: int, memory: int) -> int | None:
        """The least that any worker with the tags of the leg has beyond *memory* bytes; None if none has."""
        have = self.slots.memories(replace(self.demands[leg], memory=0))
        return min((size for size in have if size > memory), default=None)

    def unmet(self) -> list[Demand]:
        """Demands of waiting chunks that no live worker could meet even when idle."""
        return [demand for demand, _, able in self.queues() if not able]

    def queues(self) -> list[tuple[Demand, Lane, int]]:
        """Each demand that chunks wait for, its lane, and how many live workers could ever meet it."""
        return [
            (demand, lane, self.slots.able(demand))
            for _, lane in sorted(self._order)
            if self._lanes[lane]
            for demand in (self.demand(lane.leg, lane.memory),)
        ]

    def count(self, lane: Lane) -> int:
        """How many chunks wait in a lane."""
        return len(self._lanes[lane]) if lane in self._lanes else 0

    def use_of_slots(self) -> list[tuple[str, float, float, float]]:
        """Each kind of slot: name, capacity, used, and the demand that waits for it."""
        has, free = self.slots.totals()
        tags = sorted(has.keys() - {"threads", MEMORY})
        tags += sorted({tag for demand in self.demands for tag in demand.tags} - set(tags))
        waits: dict[str, float] = {}
        queues = [(self.demand(lane.leg, lane.memory), len(queue)) for lane, queue in self._lanes.items()]
        for demand, number in [*queues, (self.demands[0], self.behind)]:
            for tag, amount in {"threads": 1, MEMORY: demand.memory, **demand.tags}.items():
                waits[tag] = waits.get(tag, 0) + amount * number
        return [
            (tag, has.get(tag, 0), has.get(tag, 0) - free.get(tag, 0), waits.get(tag, 0))
            for tag in ("threads", MEMORY, *tags)
        ]

    def _choose_from(self, lane: Lane, *, ahead: bool) -> Choice | None:
        """The next task of a lane, whose slot is taken; None if there is no slot for it."""
        queue, demand = self._lanes[lane], self.demand(lane.leg, lane.memory)
        first = queue.first
        if first is None:
            return None
        seconds = self._paces[lane.leg].expect(first)
        long = seconds is None or seconds > self.look_ahead_seconds
        depth = self.look_ahead(lane.leg, seconds) if ahead and not (long or lane.alone) else 0
        if not (depth or self.slots.any_free):
            return None
        kept = [self.demands[leg] for leg in self.kept_for(first)]
        worker = self.slots.best(demand, alone=lane.alone, avoid=first.avoid, keep=kept)
        if depth and (worker is None or worker.name in first.avoid):
            kept += self._scarcer[lane.leg]
            worker = self.slots.best(demand, depth=depth, avoid=first.avoid, keep=kept) or worker
        if worker is None:
            return None
        behind = self.slots.take(worker.address, demand, exclusive=lane.alone, long=long)
        self.in_use += 1
        items = self._ride(lane, queue, worker)
        self._waiting -= len(items)
        if self.work and lane.leg < len(self.work):
            for item in items:
                self.work[lane.leg] -= item.seconds or 0.0
            self.work[lane.leg] = max(0.0, self.work[lane.leg])
        return Choice(items, worker, long, behind, stay=self.slots.stay(worker.address))

    def _with_next(self, choice: Choice) -> Choice:
        """A choice with what its worker is promised, if it is one to be promised something."""
        first = choice.first
        if first.leg or first.alone or choice.ahead or len(choice.items) > 1:
            return choice
        queue = self._lanes[Lane(first.leg, first.memory, first.alone)]
        return choice._replace(then=queue.promise(choice.worker.address))

    def _ride(self, lane: Lane, queue: Queue, worker: Worker) -> tuple[Waiting, ...]:
        """Take the chunk whose turn it is from a lane, and those that ride with it."""
        first = queue.take(worker.address)
        pace, lone = self._paces[lane.leg], self._is_lone(lane.leg)
        seconds = pace.expect(first, usual=lone)
        most_seconds = LONE_PACK_SECONDS if lone else PACK_SECONDS
        if seconds is None or seconds >= most_seconds or not first.plain or lane.leg in self.isolated:
            return (first,)
        items, room = [first], most_seconds - seconds
        most = PACK_MOST if lone else self._most(lane, trust=first.seconds is None)
        while len(items) < most and (following := queue.first) is not None and following.plain:
            room -= pace.expect(following, usual=lone) or 0.0
            if room < 0:
                break
            items.append(queue.take())
        return tuple(items)

    def _is_lone(self, leg: int) -> bool:
        """Whether of all threads one alone can run a leg at a time, and no leg waits for its results."""
        return self._capacity[leg] == 1 < self._everywhere and leg == len(self.demands) - 1

    def _most(self, lane: Lane, *, trust: bool) -> int:
        """How many chunks may ride together: half a fair share of those that are left, and no more than one
        can *trust* to be short where there is no forecast."""
        left = len(self._lanes[lane]) + 1 + (self.behind if lane.leg == 0 else 0)
        slots = min(self._threads[lane.leg], self.most or sys.maxsize)
        most = min(PACK_MOST, math.ceil(left / (2 * max(1, slots))))
        return min(most, self._paces[lane.leg].trust) if trust else most

    @property
    def _room(self) -> float:
        """How many more slots it may have."""
        return math.inf if self.most is None else self.most - self.in_use

    def _sort_lanes(self) -> None:
        """The scarcest demand first, then the later leg, then those that need a worker for themselves; the
        chunks decide between lanes that are alike in all that."""
        able = {lane: self.slots.able(self.demand(lane.leg, lane.memory)) for lane in self._lanes}
        self._order = [((able[lane], -lane.leg, not lane.alone), lane) for lane in self._lanes]


def share(dispatchers: Sequence[Dispatcher]) -> Iterator[tuple[int, Choice]]:
    """Give each free slot to the run whose turn it is of those that have a chunk for one.

    The dispatchers have their slots in common. Yields the number of the dispatcher with each choice. While
    several have chunks that wait, no chunk waits behind another on a worker: a run of many short ones would
    leave no slot free for the others.
    """
    wanting = [number for number, dispatcher in enumerate(dispatchers) if dispatcher._waiting]
    if len(wanting) == 1:
        yield from ((wanting[0], choice) for choice in dispatchers[wanting[0]].match())
        return
    time = max([0.0, *(dispatcher.started for dispatcher in dispatchers)])
    turns = [(dispatchers[number].turn(time), number) for number in wanting]
    heapq.heapify(turns)
    while turns:
        (_, start), number = turns[0]
        for choice in dispatchers[number].match(1, ahead=False):
            dispatchers[number].started = start
            heapq.heapreplace(turns, (dispatchers[number].turn(start), number))
            yield number, choice
            break
        else:
            heapq.heappop(turns)
