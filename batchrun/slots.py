"""What the live workers have free at this moment. No clock, no socket: values in, values out.

Workers that have the same when idle are of one shape, and those of a shape that have the same free are in one
state. Workers in one state are interchangeable, so a search looks at states, not at workers: there are few,
however many workers there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from batchrun.resources import MEMORY, Demand, Worker

__all__ = ["Slots"]

Tags = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _State:
    """What a worker has free."""

    threads: int
    """Below zero where tasks wait behind busy threads."""
    memory: int
    tags: Tags
    exclusive: bool = False
    """Whether the task on it has the worker for itself."""
    long: int = 0
    """Tasks on it behind which nothing may wait."""

    def changed(self, demand: Demand, sign: int, *, exclusive: bool, long: bool) -> _State:
        tags = self.tags
        if demand.tags:
            amounts = dict(tags)
            for tag, amount in demand.tags.items():
                amounts[tag] = amounts.get(tag, 0) + sign * amount
            tags = tuple(sorted(amounts.items()))
        memory, more = self.memory + sign * demand.memory, -sign if long else 0
        return _State(self.threads + sign, memory, tags, exclusive, self.long + more)

    def has_tags(self, demand: Demand) -> bool:
        if not demand.tags:
            return True
        amounts = dict(self.tags)
        return all(amounts.get(tag, 0) >= amount for tag, amount in demand.tags.items())


@dataclass
class _Shape:
    """Workers that have the same when idle."""

    worker: Worker
    """One of them, which stands for all."""
    states: dict[_State, dict[str, None]] = field(default_factory=dict)
    """The addresses of those in each state."""
    size: int = 0
    """How many there are."""

    def put(self, address: str, state: _State) -> None:
        self.states.setdefault(state, {})[address] = None

    def take(self, address: str, state: _State) -> None:
        members = self.states[state]
        del members[address]
        if not members:
            del self.states[state]


class Slots:
    """The slots of the live workers: taken, given back, and searched for."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._state: dict[str, _State] = {}
        self._shapes: dict[tuple[object, ...], _Shape] = {}

    def __len__(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def set_workers(self, workers: Iterable[Worker]) -> None:
        """These are the live workers; what those that stay have in use is kept."""
        before, states = self._workers, self._state
        self._workers, self._state, self._shapes = {}, {}, {}
        for worker in reversed(list(workers)):  # the last one in a state is taken first
            at = worker.address
            stays = before.get(at) == worker
            state = states[at] if stays else _State(worker.threads, worker.memory, _tags(worker))
            shape = self._shapes.setdefault(_shape_of(worker), _Shape(worker))
            shape.put(at, state)
            shape.size += 1
            self._workers[at], self._state[at] = worker, state

    def able(self, demand: Demand) -> int:
        """How many live workers could ever meet *demand*."""
        return sum(shape.size for shape in self._able(demand))

    def threads(self, demand: Demand) -> int:
        """The threads of those workers."""
        return sum(shape.size * shape.worker.threads for shape in self._able(demand))

    def capacity(self, demand: Demand) -> int:
        """How many tasks with this demand they can run at once."""
        return sum(shape.size * shape.worker.slots(demand) for shape in self._shapes.values())

    def memories(self, demand: Demand) -> set[int]:
        """The memory of those workers, in bytes."""
        return {shape.worker.memory for shape in self._able(demand)}

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
        for shape in self._able(demand):
            if keep and any(map(shape.worker.can_ever_run, keep)):
                continue
            surplus = len({tag for tag, _ in _tags(shape.worker)} - set(demand.tags))
            for state, members in shape.states.items():
                if not _fits(shape.worker, state, demand, depth, alone):
                    continue
                rank = (state.threads <= 0, surplus, shape.worker.memory, -state.threads)
                if choice is not None and choice[0] < (False, *rank):
                    continue
                address, seen = self._member(members, avoid)
                if choice is None or (seen, *rank) < choice[0]:
                    choice = ((seen, *rank), address)
        return self._workers[choice[1]] if choice else None

    def take(self, address: str, demand: Demand, *, exclusive: bool = False, long: bool = False) -> bool:
        """A task takes a slot of a worker; *long* if nothing may wait behind it.

        Returns whether it waits there behind others.
        """
        old = self._state[address]
        self._move(address, old.changed(demand, -1, exclusive=exclusive, long=long))
        return old.threads <= 0

    def give_back(self, address: str, demand: Demand, *, exclusive: bool = False, long: bool = False) -> None:
        """The task no longer holds its slot; a worker that is gone has none to take back."""
        old = self._state.get(address)
        if old is not None:
            still = old.exclusive and not exclusive
            self._move(address, old.changed(demand, +1, exclusive=still, long=long))

    def prolong(self, address: str) -> None:
        """Nothing more may wait behind a task of a worker."""
        old = self._state.get(address)
        if old is not None:
            self._move(address, replace(old, long=old.long + 1))

    def totals(self) -> tuple[dict[str, float], dict[str, float]]:
        """What all workers have, and what of it is free: ``threads``, ``MEMORY``, and every tag."""
        has: dict[str, float] = {}
        free: dict[str, float] = {}
        for shape in self._shapes.values():
            worker = shape.worker
            for tag, amount in {"threads": worker.threads, MEMORY: worker.memory, **worker.tags}.items():
                has[tag] = has.get(tag, 0) + amount * shape.size
            for state, members in shape.states.items():
                left = {"threads": state.threads, MEMORY: state.memory, **dict(state.tags)}
                for tag in ("threads", MEMORY, *worker.tags):
                    free[tag] = free.get(tag, 0) + max(0, left[tag]) * len(members)
        return has, free

    def _able(self, demand: Demand) -> Iterator[_Shape]:
        return (shape for shape in self._shapes.values() if shape.worker.can_ever_run(demand))

    def _member(self, members: dict[str, None], avoid: Collection[str]) -> tuple[str, bool]:
        """One of the members, and whether it is to be avoided, as it is only if all are."""
        if avoid:
            for address in members:
                if self._workers[address].name not in avoid:
                    return address, False
        address, _ = members.popitem()  # next(iter(...)) takes longer with each one that was taken before
        members[address] = None
        return address, bool(avoid)

    def _move(self, address: str, new: _State) -> None:
        old = self._state[address]
        shape = self._shapes[_shape_of(self._workers[address])]
        shape.take(address, old)
        shape.put(address, new)
        self._state[address] = new


def _fits(worker: Worker, state: _State, demand: Demand, depth: int, alone: bool) -> bool:
    if state.exclusive or (alone and state.threads < worker.threads):
        return False
    most = 0 if state.long else depth * worker.threads
    return state.threads > -most and state.memory >= demand.memory and state.has_tags(demand)


def _tags(worker: Worker) -> Tags:
    return tuple(sorted(worker.tags.items()))


def _shape_of(worker: Worker) -> tuple[object, ...]:
    return _tags(worker), worker.memory, worker.threads
