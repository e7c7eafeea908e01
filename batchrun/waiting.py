"""What waits for a slot, and in which order. Values in, values out."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Lane", "Queue", "Waiting"]

ALIKE = 1.25
"""Chunks whose work differs by no more than this factor may change places."""


class Waiting(NamedTuple):
    """A chunk that waits for a slot: a tuple, since there is one for each try of each chunk, and a frozen
    dataclass takes three times as long to make."""

    chunk: int
    """The chunk's number."""
    leg: int
    """The leg that it waits for."""
    rows: int
    """Its input rows."""
    seconds: float | None = None
    """What it may well take, by what earlier runs took; None if that is not known: then rows stand for it."""
    left: float | None = None
    """Stands for all that it has left to do, this leg and those after it; None for no more than this leg."""
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
    apart: bool = False
    """Whether it must not ride with others."""

    @property
    def cost(self) -> float:
        """Stands for the time that it takes."""
        return self.rows if self.seconds is None else self.seconds

    @property
    def rank(self) -> Rank:
        """Where it stands among those that wait for the same."""
        left = self.cost if self.left is None else self.left
        return not self.part, self.rows if self.part else -left, self.chunk

    @property
    def plain(self) -> bool:
        """Whether nothing happened to it before, so that it may ride with others."""
        return not (self.apart or self.avoid or self.alone or self.part or self.memory or self.fresh)


Rank = tuple[bool, float, int]


class Lane(NamedTuple):
    """Chunks that wait for the same kind of slot share a lane."""

    leg: int
    """The leg that they wait for."""
    memory: int
    """Bytes that they need in place of what the leg asks for; 0 for just that."""
    alone: bool
    """Whether each needs a worker for itself."""


@dataclass
class Queue:
    """The chunks of one lane, by rank.

    A worker can be promised a chunk, which it may read while it is busy with another. That chunk keeps its
    rank: if its turn comes and another worker is free, that one has it.
    """

    _heap: list[tuple[Rank, Waiting]] = field(default_factory=list)
    _promised: dict[str, Waiting] = field(default_factory=dict)
    """By the address of the worker."""
    _promises: list[tuple[Rank, str]] = field(default_factory=list)
    """A heap of what was promised; what was taken since is found out when it comes up."""

    def __len__(self) -> int:
        return len(self._heap) + len(self._promised)

    @property
    def first(self) -> Waiting | None:
        """The chunk whose turn it is."""
        promised = self._first_promised() if self._promises else None
        if not self._heap:
            return promised
        first = self._heap[0][1]
        return promised if promised is not None and promised.rank < first.rank else first

    def add(self, item: Waiting) -> None:
        """A chunk waits from now on."""
        heapq.heappush(self._heap, (item.rank, item))

    def take(self, worker: str = "") -> Waiting:
        """Take the chunk whose turn it is, or what *worker* was promised if that is about as much work.

        Raises IndexError if there is none.
        """
        if not self._promised:
            return heapq.heappop(self._heap)[1]
        first, mine = self.first, self._promised.get(worker)
        if first is None:
            raise IndexError("nothing waits")
        if mine is not None and not first.part and mine.rank[1] <= first.rank[1] / ALIKE:
            return self._promised.pop(worker)
        if self._heap and self._heap[0][1] is first:
            return heapq.heappop(self._heap)[1]
        _, owner = heapq.heappop(self._promises)  # ``first`` left that of the first one on top
        return self._promised.pop(owner)

    def promise(self, worker: str) -> Waiting | None:
        """What the worker will be given next if nothing comes between; None if nothing is left for it."""
        if worker not in self._promised and self._heap and self._heap[0][1].plain:
            rank, item = heapq.heappop(self._heap)
            self._promised[worker] = item
            heapq.heappush(self._promises, (rank, worker))
        return self._promised.get(worker)

    def drop(self, chunks: Collection[int]) -> list[Waiting]:
        """These chunks wait no more; returns those of them that did."""
        gone = [item for _, item in self._heap if item.chunk in chunks]
        if gone:
            self._heap = [entry for entry in self._heap if entry[1].chunk not in chunks]
            heapq.heapify(self._heap)
        for worker in [at for at, item in self._promised.items() if item.chunk in chunks]:
            gone.append(self._promised.pop(worker))
        return gone

    def _first_promised(self) -> Waiting | None:
        while self._promises:
            rank, worker = self._promises[0]
            item = self._promised.get(worker)
            if item is not None and item.rank == rank:
                return item
            heapq.heappop(self._promises)
        return None
