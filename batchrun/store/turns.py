"""Whose turn it is: how a run of the queue stands to the others, and which services there are to take it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from batchrun.admission import Admission, Candidate, admit
from batchrun.outcome import RunState
from batchrun.store.driver import is_alive, is_driven
from batchrun.store.queue import QueuedRun, QueueEntry, RunQueue
from batchrun.store.records import RunRecord
from batchrun.store.services import ServiceRecord

if TYPE_CHECKING:
    from batchrun.store.runs import RunStore

__all__ = ["Turns", "candidates", "is_held", "is_under_way", "live_services", "read_turns"]


@dataclass(frozen=True)
class Turns:
    """The queue at one moment."""

    now: float
    """The moment, in seconds since the epoch by the store's clock."""
    candidates: tuple[Candidate, ...]
    """The runs that have not ended, by the time at which they were queued."""
    services: Mapping[str, str]
    """The services that are at work: the host of each, by its id."""

    @cached_property
    def admission(self) -> Admission:
        """Which of them may begin, and what the others wait for."""
        return admit(self.candidates, self.now)

    @property
    def order(self) -> tuple[str, ...]:
        """The runs that no service holds, as they will have their turn; those that may not begin yet last."""
        found = self.admission
        return (*found.ready, *found.waits, *found.doomed)


def read_turns(store: RunStore) -> Turns:
    """The queue and the services of a store, as they are now."""
    now = store.services.now()
    services = {service.service: service.process.rsplit("/", 2)[0] for service in live_services(store)}
    return Turns(now, tuple(candidates(store.queue, store.queue.under_way(), now)), services)


def live_services(store: RunStore) -> list[ServiceRecord]:
    """The services of a store that seem to be at work."""
    found = store.services.all()
    now = store.services.now() if found else 0.0
    return [service for service in found if is_alive(service, now)]


def candidates(
    queue: RunQueue, runs: Iterable[QueuedRun], now: float, gone: Collection[str] = ()
) -> list[Candidate]:
    """Runs as the policy of admission sees them.

    Args:
        queue: The queue.
        runs: Runs of it.
        now: The time by the store's clock, in seconds since the epoch.
        gone: Services that are known to be gone, whatever their leases say.
    """
    listed = list(runs)
    states = queue.states({before for run in listed for before in run.entry.after})
    return [_candidate(run, states, is_held(run.entry, now, gone)) for run in listed]


def is_held(entry: QueueEntry, now: float, gone: Collection[str] = ()) -> bool:
    """Whether a service holds a run of the queue; *now* and *gone* are as in ``candidates``."""
    return entry.owner is not None and entry.owner not in gone and (entry.lease_until or 0.0) >= now


def is_under_way(record: RunRecord, entry: QueueEntry | None) -> bool:
    """Whether a process drives a run; one that put it back into the queue does not, though it is alive.

    Args:
        record: The run.
        entry: How it stands in the queue; None if it was never there.
    """
    let_go = entry is not None and entry.owner is None and record.state is RunState.QUEUED
    return not let_go and is_driven(record)


def _candidate(run: QueuedRun, states: Mapping[str, RunState], held: bool) -> Candidate:
    entry = run.entry
    return Candidate(
        run_id=run.run_id,
        queued=entry.queued,
        priority=entry.priority,
        not_before=entry.not_before,
        after={before: states.get(before) for before in entry.after},
        lock=entry.lock,
        held=held,
        under_way=run.state is RunState.RUNNING,
    )
