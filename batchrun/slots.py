"""What the live workers have free at this moment. No clock, no socket: values in, values out.

Workers with the same threads and tags are of one kind, whatever their memory. Those of a kind that have the
same in use differ by nothing but their memory, and are kept in its order. So a search looks at what can be in
use, not at workers: such states are few, however many workers there are and however uneven their memory.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from batchrun.resources import MEMORY, Demand, Worker

__all__ = ["Slots"]

Tags = tuple[tuple[str, float], ...]


class _Use(NamedTuple):
    """What of a worker is in use."""

    threads: int = 0
    """More than it has where tasks wait behind busy threads."""
    memory: int = 0
    tags: Tags = ()
    exclusive: bool = False
    """Whether the task on it has the worker for itself."""
    long: int = 0
    """Tasks on it behind which nothing may wait."""

    def changed(self, demand: Demand, sign: int, *, exclusive: bool, long: bool) -> _Use:
        tags = self.tags
        if demand.tags:
            amounts = dict(tags)
            for tag, amount in demand.tags.items():
                amounts[tag] = amounts.get(tag, 0) + sign * amount
            tags = tuple(sorted((tag, amount) for tag, amount in amounts.items() if amount))
        return _Use(
            self.threads + sign,
            self.memory + sign * demand.memory,
            tags,
            exclusive,
            self.long + sign if long else self.long,
        )


@dataclass
class _Members:
    """Workers of one kind that have the same in use."""

    memories: list[int] = field(default_factory=list)
    """The different memories that they have when idle, in ascending order."""
    addresses: dict[int, dict[str, None]] = field(default_factory=dict)
    """Those with each memory."""

    def put(self, worker: Worker) -> None:
        if worker.memory not in self.addresses:
            self.addresses[worker.memory] = {}
            insort(self.memories, worker.memory)
        self.addresses[worker.memory][worker.address] = None

    def remove(self, worker: Worker) -> None:
        alike = self.addresses[worker.memory]
        del alike[worker.address]
        if not alike:
            del self.addresses[worker.memory]
            del self.memories[bisect_left(self.memories, worker.memory)]

    def with_memory(self, least: int, below: float) -> Iterator[tuple[int, dict[str, None]]]:
        """Those with so many bytes or more and less than *below*, least memory first."""
        for place in range(bisect_left(self.memories, least), len(self.memories)):
            memory = self.memories[place]
            if memory >= below:
                return
            yield memory, self.addresses[memory]


@dataclass
class _Kind:
    """Workers with the same threads and tags."""

    worker: Worker
    """One of them, which stands for all where memory does not matter."""
    memories: list[int] = field(default_factory=list)
    """The memory of each, in ascending order."""
    uses: dict[_Use, _Members] = field(default_factory=dict)
    """Those that have the same in use."""
    free: int = 0
    """Threads of all of them that are not in use."""

    def put(self, worker: Worker, use: _Use) -> None:
        members = self.uses.get(use)
        if members is None:
            members = self.uses[use] = _Members()
        members.put(worker)
        self.free += max(0, worker.threads - use.threads)

    def remove(self, worker: Worker, use: _Use) -> None:
        members = self.uses[use]
        members.remove(worker)
        self.free -= max(0, worker.threads - use.threads)
        if not members.memories:
            del self.uses[use]

    def has_tags(self, demand: Demand, used: Tags = ()) -> bool:
        """Whether a worker has threads at all, and the tags beside those that are in use."""
        if not demand.tags:
            return self.worker.threads > 0
        has, taken = self.worker.tags, dict(used)
        return self.worker.threads > 0 and all(
            has.get(tag, 0) - taken.get(tag, 0) >= amount for tag, amount in demand.tags.items()
        )

    def has_room(self, use: _Use, demand: Demand, depth: int, alone: bool) -> bool:
        """Whether there is a slot beside what is in use, if there is the memory."""
        most = self.worker.threads * (1 if use.long else 1 + depth)
        if use.threads >= most or use.exclusive or (alone and use.threads):
            return False
        return not demand.tags or self.has_tags(demand, use.tags)

    def with_memory(self, least: int) -> list[int]:
        """The memories of those that have so many bytes or more."""
        return self.memories[bisect_left(self.memories, least) :]

    def alike(self) -> Iterator[tuple[_Use, int, int]]:
        """What is in use, the memory when idle, and how many workers are alike in both."""
        for use, members in self.uses.items():
            for memory, addresses in members.addresses.items():
                yield use, memory, len(addresses)

    def kept_from(self, keep: Collection[Demand]) -> float:
        """Workers with so many bytes or more could meet one of these demands."""
        return min((demand.memory for demand in keep if self.has_tags(demand)), default=math.inf)


class Slots:
    """The slots of the live workers: taken, given back, and searched for."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._use: dict[str, _Use] = {}
        self._kinds: dict[tuple[Tags, int], _Kind] = {}
        self._kind: dict[str, _Kind] = {}
        self._stay: dict[str, int] = {}
        self._stays = itertools.count(1)

    @property
    def any_free(self) -> bool:
        """Whether a worker has a thread free, whatever else a task may need."""
        for kind in self._kinds.values():  # noqa: SIM110  any(...) takes five times as long, for each chunk
            if kind.free:
                return True
        return False

    @property
    def states(self) -> int:
        """How many different states the workers are in, among which a slot is searched for."""
        return sum(len(kind.uses) for kind in self._kinds.values())

    def __len__(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def workers(self) -> Collection[Worker]:
        """The live workers."""
        return self._workers.values()

    def stay(self, address: str) -> int:
        """The number of a worker's stay, from its coming to its going; 0 if it is not there. One that comes
        back under its old address begins another."""
        return self._stay.get(address, 0)

    def set_workers(self, workers: Iterable[Worker]) -> None:
        """These are the live workers; what those that stay have in use is kept."""
        now = {worker.address: worker for worker in workers}
        before = list(self._workers.values())
        changed = [worker for worker in before if now.get(worker.address) is not worker]
        for worker in changed:
            if now.get(worker.address) != worker:
                self._leave(worker)
        joined = [worker for address, worker in now.items() if address not in self._workers]
        for worker in reversed(joined):  # the last one in a state is taken first
            self._join(worker)

    def able(self, demand: Demand) -> int:
        """How many live workers could ever meet *demand*."""
        return sum(len(kind.with_memory(demand.memory)) for kind in self._able(demand))

    def threads(self, demand: Demand) -> int:
        """The threads of those workers."""
        return sum(len(kind.with_memory(demand.memory)) * kind.worker.threads for kind in self._able(demand))

    def capacity(self, demand: Demand) -> int:
        """How many tasks with this demand they can run at once."""
        slots = 0
        for kind in self._able(demand):
            most = kind.worker.slots(replace(demand, memory=0))
            memories = kind.with_memory(demand.memory)
            if demand.memory:
                slots += sum(min(most, memory // demand.memory) for memory in memories)
            else:
                slots += most * len(memories)
        return slots

    def memories(self, demand: Demand) -> set[int]:
        """The memory of those workers, in bytes."""
        return {memory for kind in self._able(demand) for memory in kind.with_memory(demand.memory)}

    def best(
        self,
        demand: Demand,
        *,
        depth: int = 0,
        alone: bool = False,
        avoid: Collection[str] = (),
        keep: Collection[Demand] = (),
    ) -> Worker | None:
        """The worker with a free slot that has least to spare; None if no slot is free.

        Args:
            demand: What the slot must have beside a thread.
            depth: How many tasks may wait behind each busy thread, where no long one is on the worker.
            alone: Whether nothing else may be on the worker.
            avoid: Names of workers that come last.
            keep: Workers that could meet one of these are not looked at.
        """
        choice: tuple[tuple[object, ...], str] | None = None
        for kind in self._kinds.values():
            if not ((kind.free or depth) and kind.has_tags(demand)):
                continue
            tags, threads = kind.worker.tags, kind.worker.threads
            surplus = len(tags.keys() - demand.tags.keys()) if tags else 0
            below = kind.kept_from(keep) if keep else math.inf
            for use, members in kind.uses.items():
                if not kind.has_room(use, demand, depth, alone):
                    continue
                behind, free = use.threads >= threads, use.threads - threads
                if choice is not None and choice[0] < (False, behind, surplus, members.memories[0], free):
                    continue
                found = self._first(members, use.memory + demand.memory, below, avoid)
                if found is not None:
                    avoided, memory, address = found
                    rank = (avoided, behind, surplus, memory, free)
                    if choice is None or rank < choice[0]:
                        choice = (rank, address)
        return self._workers[choice[1]] if choice else None

    def take(self, address: str, demand: Demand, *, exclusive: bool = False, long: bool = False) -> bool:
        """A task takes a slot of a worker; *long* if nothing may wait behind it.

        Returns whether it waits there behind others.
        """
        old = self._use[address]
        self._move(address, old.changed(demand, +1, exclusive=exclusive, long=long))
        return old.threads >= self._workers[address].threads

    def give_back(
        self,
        address: str,
        demand: Demand,
        *,
        exclusive: bool = False,
        long: bool = False,
        stay: int | None = None,
    ) -> None:
        """The task no longer holds its slot; a worker that is gone has none to take back.

        *stay* is that in which the slot was taken; None for the present one.
        """
        old = self._in_use(address, stay)
        if old is not None:
            still = old.exclusive and not exclusive
            self._move(address, old.changed(demand, -1, exclusive=still, long=long))

    def prolong(self, address: str, *, stay: int | None = None) -> None:
        """Nothing more may wait behind a task of a worker."""
        old = self._in_use(address, stay)
        if old is not None:
            self._move(address, old._replace(long=old.long + 1))

    def totals(self) -> tuple[dict[str, float], dict[str, float]]:
        """What all workers have, and what of it is free: ``threads``, ``MEMORY``, and every tag."""
        has: dict[str, float] = {}
        free: dict[str, float] = {}
        for kind in self._kinds.values():
            idle = {"threads": kind.worker.threads, **kind.worker.tags}
            for use, memory, alike in kind.alike():
                used = {"threads": use.threads, MEMORY: use.memory, **dict(use.tags)}
                for tag, amount in {**idle, MEMORY: memory}.items():
                    has[tag] = has.get(tag, 0) + amount * alike
                    free[tag] = free.get(tag, 0) + max(0, amount - used.get(tag, 0)) * alike
        return has, free

    def _able(self, demand: Demand) -> Iterator[_Kind]:
        """The kinds of which workers could meet the demand if they have the memory."""
        return (kind for kind in self._kinds.values() if kind.has_tags(demand))

    def _first(
        self, members: _Members, least: int, below: float, avoid: Collection[str]
    ) -> tuple[bool, int, str] | None:
        """The worker with least memory from *least* to *below* bytes: whether it is to be avoided, as it is
        only if all are, its memory and its address."""
        if avoid:
            for memory, alike in members.with_memory(least, below):
                for address in alike:
                    if self._workers[address].name not in avoid:
                        return False, memory, address
        for memory, alike in members.with_memory(least, below):
            address, _ = alike.popitem()  # next(iter(...)) takes longer with each one that was taken before
            alike[address] = None
            return bool(avoid), memory, address
        return None

    def _in_use(self, address: str, stay: int | None) -> _Use | None:
        """What a worker has in use; None if it is gone, or has come back since that stay."""
        return self._use.get(address) if stay is None or stay == self.stay(address) else None

    def _join(self, worker: Worker) -> None:
        address = worker.address
        kind = self._kinds.setdefault(_kind_of(worker), _Kind(worker))
        insort(kind.memories, worker.memory)
        self._workers[address], self._kind[address], self._use[address] = worker, kind, _Use()
        self._stay[address] = next(self._stays)
        kind.put(worker, _Use())

    def _leave(self, worker: Worker) -> None:
        address = worker.address
        kind = self._kind.pop(address)
        del kind.memories[bisect_left(kind.memories, worker.memory)]
        kind.remove(worker, self._use.pop(address))
        del self._workers[address], self._stay[address]
        if not kind.memories:
            del self._kinds[_kind_of(worker)]

    def _move(self, address: str, new: _Use) -> None:
        worker, kind = self._workers[address], self._kind[address]
        kind.remove(worker, self._use[address])
        kind.put(worker, new)
        self._use[address] = new


def _kind_of(worker: Worker) -> tuple[Tags, int]:
    return tuple(sorted(worker.tags.items())), worker.threads
