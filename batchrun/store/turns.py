"""Whose turn it is: how a run of the queue stands to the others, and which services there are to take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.admission import Candidate
from batchrun.outcome import RunState
from batchrun.store.driver import is_alive, is_driven
from batchrun.store.queue import QueuedRun, QueueEntry
from batchrun.store.records import RunRecord

if TYPE_CHECKING:
    from batchrun.store.runs import RunStore

__all__ = ["Turns", "is_held", "is_under_way", "read_turns"]


@dataclass(frozen=True)
class Turns:
    """The queue at one moment."""

    now: float
    """The moment, in seconds since the epoch by the store's clock."""
    candidates: tuple[Candidate, ...]
    """The runs that have not ended, by the time at which they were queued."""
    services: Mapping[str, str]
    """The services that are at work: the host of each, by its id."""


def read_turns(store: RunStore) -> Turns:
    """The queue and the services of a store, as they are now."""
    now = store.services.now()
    runs = store.queue.under_way()
    states = store.queue.states({before for run in runs for before in run.entry.after})
    services = {
        service.service: service.process.rsplit("/", 2)[0]
        for service in store.services.all()
        if is_alive(service, now)
    }
    return Turns(now, tuple(_candidate(run, states, now) for run in runs), services)


def is_held(entry: QueueEntry, now: float) -> bool:
    """Whether a service holds a run of the queue; *now* is the time by the store's clock."""
    return entry.owner is not None and (entry.lease_until is None or entry.lease_until >= now)


def is_under_way(record: RunRecord, entry: QueueEntry | None) -> bool:
    """Whether a process drives a run; one that put it back into the queue does not, though it is alive.

    Args:
        record: The run.
        entry: How it stands in the queue; None if it was never there.
    """
    let_go = entry is not None and entry.owner is None and record.state is RunState.QUEUED
    return not let_go and is_driven(record)


def _candidate(run: QueuedRun, states: Mapping[str, RunState], now: float) -> Candidate:
    entry, held = run.entry, is_held(run.entry, now)
    return Candidate(
        run.run_id,
        entry.queued,
        priority=entry.priority,
        not_before=entry.not_before,
        after={before: states.get(before) for before in entry.after},
        lock=entry.lock,
        held=held,
        under_way=not held and run.state is RunState.RUNNING,
    )
