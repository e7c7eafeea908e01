"""What goes on in a store as a whole: its runs, who has slots, what fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchrun.errors import RunNotFoundError
from batchrun.events import SlotUse
from batchrun.outcome import Outcome, RunState
from batchrun.rate import RowRate
from batchrun.resources import MEMORY
from batchrun.store.services import is_silent
from batchrun.store.turns import Turns, is_under_way, read_turns
from batchrun.why.at_work import at_work
from batchrun.why.queued import QueueFacts, queued

if TYPE_CHECKING:
    from batchrun.store.live import LiveState
    from batchrun.store.queue import QueueEntry
    from batchrun.store.records import FailureKind, RunRecord
    from batchrun.store.runs import RunStore
    from batchrun.store.services import ServiceRecord

__all__ = ["Failure", "Overview", "Place", "RunStanding", "StoreWatch", "list_runs"]

LISTED = 20
"""Runs that have ended, at most."""
FAILED = 10
"""Runs of which it is told what failed: of those that are listed, the newest."""


@dataclass(frozen=True)
class RunStanding:
    """How a run stands at one moment."""

    record: RunRecord
    """What the store knows of it as a whole."""
    entry: QueueEntry | None = None
    """How it stands in the queue; None if it is not there, or has ended."""
    driven: bool = False
    """Whether a process drives it."""
    live: LiveState | None = None
    """What its driver told last; None unless one drives it."""
    seconds_left: float | None = None
    """About how long it still takes, at the rate so far; None where that is not known."""
    why: str = ""
    """What it does or waits for, as a clause; empty once it has ended."""

    @property
    def state(self) -> RunState:
        """Where it stands; a run that a service has let go of is queued again."""
        return RunState.QUEUED if self.queued else self.record.state

    @property
    def queued(self) -> bool:
        """Whether it is in the queue, and no process drives it."""
        return not self.record.state.ended and not self.driven and self.entry is not None

    @property
    def abandoned(self) -> bool:
        """Whether it has not ended, its driver is gone, and it is not in the queue."""
        return not self.record.state.ended and not self.driven and self.entry is None

    @property
    def settled(self) -> int:
        """Rows of chunks that have an outcome."""
        record = self.record
        return record.rows_solved + record.rows_quarantined + record.rows_cancelled

    @property
    def share(self) -> float:
        """The share of its rows that is settled, from 0 to 1."""
        if self.record.rows_in <= 0:
            return 1.0 if self.record.state.ended else 0.0
        return min(1.0, self.settled / self.record.rows_in)

    @property
    def host(self) -> str:
        """The machine that drives it; empty if none does."""
        return (self.record.driver or "").partition("/")[0] if self.driven else ""


@dataclass(frozen=True)
class Place:
    """A process that has workers: a service, or one that drives a run by itself."""

    name: str
    """The service's id; of another process, its number."""
    process: str
    """Its process, as ``driver_name`` gives it."""
    runs: int
    """How many runs it drives."""
    workers: int
    """How many workers it has."""
    slots: tuple[SlotUse, ...]
    """Supply and demand of each kind of slot."""
    silent: bool = False
    """Whether it is a service that has not been heard of for longer than its lease."""

    @property
    def host(self) -> str:
        """Its machine."""
        return self.process.partition("/")[0]


@dataclass(frozen=True)
class Failure:
    """Chunks of a run that were given up for the same cause, or the error that ended a run."""

    run_id: str
    """The run."""
    error_type: str
    """The class of the error; how the chunks ended if there was none."""
    error: str
    """What it says."""
    stage: str
    """The stage that failed; empty if it was none."""
    chunks: int
    """How many chunks there are; 0 for an error of the run itself."""
    rows: int
    """How many input rows they have."""
    first_chunk: int | None
    """The lowest number among them."""
    traceback: str = ""
    """Where it was raised in the first of them."""


@dataclass(frozen=True)
class Overview:
    """A store at one moment."""

    at: float
    """When, in seconds since the epoch."""
    place: str
    """Where the store is, without a password."""
    runs: tuple[RunStanding, ...]
    """Those that are driven, those of the queue by their turns, those that nothing drives, and the newest of
    those that have ended."""
    places: tuple[Place, ...]
    """Who has slots."""
    failures: tuple[Failure, ...]
    """What failed, in the newest runs first, the commonest cause of each first."""
    outcomes: Mapping[Outcome, int]
    """How many settled chunks of the run that is looked at there are of each outcome; empty if none is."""

    def find(self, run_id: str) -> RunStanding | None:
        """The run of that id, if it is listed."""
        return next((run for run in self.runs if run.record.run_id == run_id), None)


class StoreWatch:
    """Looks at a store again and again.

    Args:
        store: The store, open for as long as it is looked at.
        clock: Seconds since the epoch.
    """

    def __init__(self, store: RunStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._rates: dict[str, tuple[float | None, RowRate]] = {}
        self._failures: dict[str, tuple[object, tuple[Failure, ...]]] = {}

    def look(self, chosen: str | None = None) -> Overview:
        """The store as it stands; with more of the run that is *chosen*.

        Raises StoreError if the store cannot be read.
        """
        store, now = self._store, self._clock()
        runs = list_runs(store, LISTED)
        turns = read_turns(store) if any(run.queued for run in runs) else None
        runs = sorted((self._told(run, turns, now) for run in runs), key=_order(turns))
        listed = {_id(run) for run in runs}
        self._rates = {run_id: rate for run_id, rate in self._rates.items() if run_id in listed}
        counts = store.counts(chosen).chunks if chosen in listed else {}
        return Overview(now, store.place, tuple(runs), self._places(runs), self._failed(runs, chosen), counts)

    def _told(self, run: RunStanding, turns: Turns | None, now: float) -> RunStanding:
        """The run with what it does or waits for, and how long it will take."""
        if run.queued and turns is not None and run.entry is not None:
            return replace(run, why=queued(run.record, QueueFacts(run.entry, turns)))
        if run.abandoned:
            return replace(run, why=f"nothing drives it; go on with: batchrun resume {_id(run)}")
        if not run.driven:
            return run
        if run.record.started is None or run.record.state is RunState.QUEUED:
            return replace(run, why="its cluster and its input are being made ready")
        left = self._rate(run, now).seconds_left(now, run.record.rows_in)
        if run.live is None:
            return replace(run, seconds_left=left, why="has not told yet what runs where")
        stopping = "is stopping: " if run.live.stopping else ""
        return replace(run, seconds_left=left, why=stopping + at_work(run.live, now))

    def _rate(self, run: RunStanding, now: float) -> RowRate:
        """How fast it goes: from its start, or from the first look if earlier sessions settled rows too."""
        record = run.record
        session, rate = self._rates.get(_id(run), (None, None))
        if rate is None or session != record.started:
            first = record.fence <= 1 and record.started is not None
            began, before = (record.started or now, 0) if first else (now, run.settled)
            rate = RowRate(began, before, before)
            self._rates[_id(run)] = record.started, rate
        if run.settled != rate.settled:
            rate.settle(now, run.settled)
        return rate

    def _places(self, runs: Iterable[RunStanding]) -> tuple[Place, ...]:
        services = self._store.services.all()
        now = self._store.services.now() if services else 0.0
        driven: dict[str, list[RunStanding]] = {}
        for run in runs:
            if run.driven:
                driven.setdefault(run.record.driver or "", []).append(run)
        found = [_service(one, driven.pop(one.process, []), now) for one in services]
        return (*found, *(_driver(process, group) for process, group in driven.items()))

    def _failed(self, runs: Iterable[RunStanding], chosen: str | None) -> tuple[Failure, ...]:
        failed = [run for run in runs if run.record.rows_quarantined or run.record.error is not None]
        newest = sorted(failed, key=lambda run: run.record.created, reverse=True)
        told = [run for at, run in enumerate(newest) if at < FAILED or _id(run) == chosen]
        known = {_id(run): self._failures[_id(run)] for run in told if _id(run) in self._failures}
        for run in told:
            # What a run failed for is asked again only when more of it has.
            version = (run.record.rows_quarantined, run.record.state, run.record.started)
            if known.get(_id(run), (None,))[0] != version:
                known[_id(run)] = version, tuple(_failures(run, self._store))
        self._failures = known
        return tuple(failure for run in told for failure in known[_id(run)][1])


def list_runs(store: RunStore, limit: int) -> list[RunStanding]:
    """All runs that have not ended and the newest others, *limit* of all at least; without reasons."""
    under_way = [RunState.QUEUED, RunState.RUNNING]
    found = {record.run_id: record for record in store.list(limit=limit)}
    found |= {record.run_id: record for record in store.list(limit=None, states=under_way)}
    entries = {run.run_id: run.entry for run in store.queue.under_way()}
    listed = []
    for run_id, known in found.items():
        record, entry = known, entries.get(run_id)
        driven = not record.state.ended and is_under_way(record, entry)
        if not record.state.ended and not driven and entry is None:
            with contextlib.suppress(RunNotFoundError):  # it may have ended, or gone, between the two looks
                record = store.find(run_id)
        listed.append(RunStanding(record, entry, driven, store.live(run_id) if driven else None))
    return listed


def _id(run: RunStanding) -> str:
    return run.record.run_id


def _order(turns: Turns | None) -> Callable[[RunStanding], Any]:
    places = {run_id: at for at, run_id in enumerate(turns.order)} if turns is not None else {}

    def place(run: RunStanding) -> tuple[int, float, float]:
        group = 3 if run.record.state.ended else 0 if run.driven else 1 if run.queued else 2
        turn = places.get(_id(run), len(places)) if group == 1 else 0
        return group, turn, -run.record.created

    return place


def _service(service: ServiceRecord, runs: Sequence[RunStanding], now: float) -> Place:
    """A service with the slots that its runs tell of, or those of its workers if it has none."""
    told = _shared([run.live for run in runs if run.live is not None])
    return Place(
        name=service.service,
        process=service.process,
        runs=len(runs),
        workers=len(service.workers),
        slots=told or _idle(service.workers),
        silent=is_silent(service, now),
    )


def _driver(process: str, runs: Sequence[RunStanding]) -> Place:
    told = [run.live for run in runs if run.live is not None]
    workers = max((len(live.workers) for live in told), default=0)
    number = process.partition("/")[2].partition("/")[0]
    return Place(f"process {number}", process, len(runs), workers, _shared(told))


def _shared(told: Sequence[LiveState]) -> tuple[SlotUse, ...]:
    """Slots that runs have in common: each tells of all that are in use, and of its own demand."""
    found: dict[str, SlotUse] = {}
    for live in told:
        for slot in live.slots:
            known = found.get(slot.tag, SlotUse(slot.tag, 0.0, 0.0, 0.0))
            found[slot.tag] = SlotUse(
                slot.tag,
                max(known.capacity, slot.capacity),
                max(known.used, slot.used),
                known.waiting + slot.waiting,
            )
    return tuple(slot for slot in found.values() if slot.tag != MEMORY or slot.used or slot.waiting)


def _idle(workers: Iterable[Mapping[str, Any]]) -> tuple[SlotUse, ...]:
    """Slots of workers of which none is in use."""
    capacity: dict[str, float] = {"threads": 0.0}
    for worker in workers:
        capacity["threads"] += worker.get("threads", 0)
        for tag, amount in worker.get("tags", {}).items():
            if tag != MEMORY:
                capacity[tag] = capacity.get(tag, 0.0) + amount
    return tuple(SlotUse(tag, amount, 0.0, 0.0) for tag, amount in capacity.items() if amount)


def _failures(run: RunStanding, store: RunStore) -> Iterable[Failure]:
    error = run.record.error
    if error is not None and run.record.state.ended:
        yield Failure(_id(run), error.type, error.message, "", 0, 0, None, error.traceback)
    kinds: Sequence[FailureKind] = store.failure_kinds(_id(run)) if run.record.rows_quarantined else ()
    for kind in kinds:
        where = kind.stage or ""
        yield Failure(
            _id(run),
            kind.error_type,
            kind.error,
            where,
            kind.chunks,
            kind.rows,
            kind.first_chunk,
            kind.traceback,
        )
