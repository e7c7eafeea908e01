"""Slots that the runs of one process have in common, each run driven by a thread of its own.

``dispatch.share`` decides whose turn it is, in the thread of any run that looks for work or lets go of some.
What it gives to another run goes into the mailbox of that run, whose thread is woken to fetch it. One lock
guards the slots, and the dispatchers of all runs.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from batchrun.dispatch import Choice, Dispatcher, share
from batchrun.resources import Demand, Worker
from batchrun.slots import Slots
from batchrun.waiting import Waiting

__all__ = ["SharedDispatcher", "SharedSlots"]

P = ParamSpec("P")
R = TypeVar("R")


class SharedSlots:
    """The slots of one cluster, for any number of runs of this process at a time."""

    def __init__(self) -> None:
        self.slots = Slots()
        """What is free."""
        self.lock = threading.RLock()
        """Who holds it may read and change slots and dispatchers."""
        self._members: list[SharedDispatcher] = []

    @property
    def runs(self) -> int:
        """How many runs take part."""
        return len(self._members)

    def join(self, member: SharedDispatcher) -> None:
        """A run takes part from now on."""
        self._members.append(member)

    def leave(self, member: SharedDispatcher) -> None:
        """A run takes part no more; what it gave back before is for the others."""
        self._members = [other for other in self._members if other is not member]
        self.hand_out()

    def others(self, member: SharedDispatcher) -> list[SharedDispatcher]:
        """All runs that take part but one."""
        return [other for other in self._members if other is not member]

    def changed(self, before: Mapping[str, Worker], now: Mapping[str, Worker]) -> None:
        """A run saw workers come or go, by address, since it looked before.

        Each run hears of that in its own time. Only what it saw change counts, lest one that is late brings
        back a worker that is gone, or takes away one that others use already.
        """
        workers = {worker.address: worker for worker in self.slots.workers}
        for address, worker in before.items():
            if now.get(address) != worker and workers.get(address) == worker:
                del workers[address]
        workers.update({at: worker for at, worker in now.items() if before.get(at) != worker})
        self.slots.set_workers(workers.values())
        for member in self._members:
            member.count_workers()

    def hand_out(self, asking: SharedDispatcher | None = None) -> None:
        """Put each free slot into the mailbox of the run whose turn it is, and wake all of those but the one
        that asks."""
        members, woken = self._members, set[int]()
        for number, choice in share(members):
            members[number].mailbox.append(choice)
            woken.add(number)
        for number in woken:
            if members[number] is not asking:
                members[number].wake()


class _Hold(NamedTuple):
    """What must be known of a slot to give it back."""

    address: str
    stay: int
    leg: int
    memory: int
    alone: bool
    long: bool


def _hold(choice: Choice) -> _Hold:
    first = choice.first
    return _Hold(choice.worker.address, choice.stay, first.leg, first.memory, first.alone, choice.long)


def _locked(
    method: Callable[Concatenate[Dispatcher, P], R],
) -> Callable[Concatenate[SharedDispatcher, P], R]:
    """A method of a dispatcher as one that holds the lock meanwhile."""

    def locked(self: SharedDispatcher, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.shared.lock:
            return method(self, *args, **kwargs)

    functools.update_wrapper(locked, method)
    return locked


@dataclass(eq=False)
class SharedDispatcher(Dispatcher):
    """The dispatcher of a run that shares its workers; used by the thread of that run.

    It takes part from when it is first told of workers until it leaves.
    """

    shared: SharedSlots = field(kw_only=True)
    """What it shares."""
    wake: Callable[[], None] = field(kw_only=True)
    """Wakes the thread of the run; called by other threads, which hold the lock, so it must not wait."""
    mailbox: list[Choice] = field(default_factory=list, init=False)
    """Choices that the run has yet to fetch; their slots are taken."""
    _held: Counter[_Hold] = field(default_factory=Counter, init=False)
    """Slots that it has, those in the mailbox included."""
    _seen: dict[str, Worker] | None = field(default=None, init=False)
    """The workers that it was told of last, by address; None if it does not take part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slots = self.shared.slots

    add = _locked(Dispatcher.add)
    count = _locked(Dispatcher.count)
    expect = _locked(Dispatcher.expect)
    head = _locked(Dispatcher.head)
    kept_for = _locked(Dispatcher.kept_for)
    larger_memory = _locked(Dispatcher.larger_memory)
    look_ahead = _locked(Dispatcher.look_ahead)
    measured = _locked(Dispatcher.measured)
    queues = _locked(Dispatcher.queues)
    unmet = _locked(Dispatcher.unmet)
    use_of_slots = _locked(Dispatcher.use_of_slots)
    wanted = _locked(Dispatcher.wanted)

    @property
    def waiting(self) -> int:
        """Chunks that were not fetched yet, whether they have a slot or not."""
        with self.shared.lock:
            return super().waiting + sum(len(choice.items) for choice in self.mailbox)

    @property
    def threads(self) -> int:
        """As of a run that has the workers to itself."""
        with self.shared.lock:
            return super().threads

    def set_workers(self, workers: Iterable[Worker]) -> None:
        """These are the live workers, as far as this run knows; it takes part once it was told of some."""
        now = {worker.address: worker for worker in workers}
        with self.shared.lock:
            before, self._seen = self._seen, now
            if before is None:
                self.shared.join(self)
                before = {worker.address: worker for worker in self.slots.workers}
            self.shared.changed(before, now)

    def choose(self) -> list[Choice]:
        """The tasks to start now, among them those that other threads chose for it."""
        with self.shared.lock:
            self.shared.hand_out(self)
            fetched, self.mailbox = self.mailbox, []
            return fetched

    def match(self, most: int | None = None, *, ahead: bool = True) -> list[Choice]:
        """As of a run that has the workers to itself."""
        with self.shared.lock:
            choices = super().match(most, ahead=ahead)
            self._held.update(map(_hold, choices))
            return choices

    def choose_idle(self, item: Waiting, soon: Iterable[Demand] = ()) -> Choice | None:
        """Take a slot that no run has a use for."""
        with self.shared.lock:
            others = [demand for other in self.shared.others(self) for demand in other.wanted()]
            choice = super().choose_idle(item, [*soon, *others])
            if choice is not None:
                self._held[_hold(choice)] += 1
            return choice

    def give_back(self, choice: Choice) -> None:
        """The task of a choice no longer holds its slot; once the run has left, none does."""
        with self.shared.lock:
            if self._drop_hold(_hold(choice)):
                super().give_back(choice)

    def overdue(self, choice: Choice) -> Choice:
        """The task of a choice takes longer than it should; returns what stands for it from now on."""
        with self.shared.lock:
            if choice.long or not self._drop_hold(_hold(choice)):
                return choice
            overdue = super().overdue(choice)
            self._held[_hold(overdue)] += 1
            return overdue

    def offer(self) -> None:
        """Let other runs have slots that came free, at once."""
        with self.shared.lock:
            if self.shared.runs > 1:
                self.shared.hand_out(self)

    def drop(self, chunks: Collection[int]) -> list[Waiting]:
        """These chunks wait no more; returns those of them that did, those with a slot included.

        Others that were to ride with them wait again.
        """
        with self.shared.lock:
            dropped = super().drop(chunks)
            found = [choice for choice in self.mailbox if any(item.chunk in chunks for item in choice.items)]
            self.mailbox = [choice for choice in self.mailbox if choice not in found]
            for choice in found:
                self.give_back(choice)
                dropped += [item for item in choice.items if item.chunk in chunks]
                for item in choice.items:
                    if item.chunk not in chunks:
                        self.add(item)
            self.offer()
            return dropped

    def drop_waiting(self) -> None:
        """Nothing waits any more, with a slot or without."""
        with self.shared.lock:
            super().drop_waiting()
            fetched, self.mailbox = self.mailbox, []
            for choice in fetched:
                self.give_back(choice)
            self.offer()

    def leave(self) -> None:
        """The run is over: all slots that it has are for others."""
        with self.shared.lock:
            super().drop_waiting()
            self.mailbox.clear()
            for hold, number in self._held.items():
                for _ in range(number):
                    self._return(hold)
            self._held.clear()
            self.in_use, self._seen = 0, None
            self.shared.leave(self)

    def _return(self, hold: _Hold) -> None:
        self.slots.give_back(
            hold.address,
            self.demand(hold.leg, hold.memory),
            exclusive=hold.alone,
            long=hold.long,
            stay=hold.stay,
        )

    def _drop_hold(self, hold: _Hold) -> bool:
        """A slot is its own no more; returns whether it was."""
        number = self._held[hold]
        if number > 1:
            self._held[hold] = number - 1
        else:
            self._held.pop(hold, None)
        return number > 0
