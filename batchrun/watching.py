"""Following a run that another process drives: its observers hear what the driver's own would, by way of the
store."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from batchrun.errors import BatchrunError, StoreError
from batchrun.events import (
    AttemptEnded,
    AttemptsSolved,
    ChunkCut,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksRecalled,
    ChunksReturned,
    ChunksSettled,
    Event,
    FailedAlike,
    FailuresRecalled,
    Observer,
    RetryScheduled,
    RunEnded,
    RunStarted,
    RunStopping,
    RunWaiting,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import ErrorRecord, RunState
from batchrun.plan import read_plan
from batchrun.recovery import Cut, Enlarge, Retry
from batchrun.report import RunReport
from batchrun.resources import format_bytes, parse_seconds
from batchrun.status import TaskStatus
from batchrun.store.live import LiveState, RunningChunk
from batchrun.store.news import Committed
from batchrun.store.records import RunRecord, SettledChunks
from batchrun.store.runs import RunStore
from batchrun.store.turns import is_under_way
from batchrun.why.wording import clip

__all__ = ["Watched", "watch_run"]

POLL_EVERY = 0.5
"""Seconds between two looks."""
WHY_EVERY = 2.0
"""Seconds between two questions what the run waits for."""
STORE_PATIENCE = 60.0
"""Seconds for which a store that cannot be reached is asked again, as one that is started anew."""
UNTOLD = ErrorRecord("ResultError", "the attempt gave no result")


class Watched(enum.Enum):
    """Why there is nothing more to watch."""

    ENDED = "ended"
    """The run has ended."""
    ABANDONED = "abandoned"
    """Nothing drives the run, and it is not in the queue."""
    LEFT = "left"
    """Whoever watched wanted no more."""


def watch_run(
    store_url: str,
    run_id: str,
    observers: Sequence[Observer],
    *,
    poll: float = POLL_EVERY,
    until: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], object] = time.sleep,
) -> Watched:
    """Tell observers of a run until it has ended or nothing drives it, whoever drives it meanwhile.

    They hear what the store knows: each session from its start, chunks once they are durable, and what runs
    as the driver told last, about once a second. While the run waits they hear why.

    Args:
        store_url: The database that the run is recorded in.
        run_id: The run's whole id.
        observers: Called with each event, in this thread, in order.
        poll: Seconds between two looks.
        until: Asked before each look; the watching ends once it is true.
        clock: Seconds since the epoch.
        pause: Waits for so many seconds.

    Raises RunNotFoundError if there is no such run, and StoreError if the store could not be reached for a
    minute.
    """
    with RunStore(store_url) as store:
        watch = _Watch(store_url, store, run_id, observers, clock)
        lost_at: float | None = None
        while until is None or not until():
            try:
                found = watch.look()
            except StoreError as error:
                if lost_at is None:
                    lost_at = clock()
                    watch.wait(f"run {run_id} cannot be looked at for now: {clip(str(error))}")
                if clock() - lost_at >= STORE_PATIENCE:
                    raise
            else:
                lost_at = None
                if found is not None:
                    return found
            pause(poll)
    return Watched.LEFT


@dataclass
class _Watch:
    """What was told of a run so far."""

    store_url: str
    store: RunStore
    run_id: str
    observers: Sequence[Observer]
    clock: Callable[[], float]
    session: float | None = None
    """When the session began that was told last; None before the first."""
    pipeline: str = ""
    rows: int = 0
    settled: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """Whether each chunk was told to be settled, shape (chunks,)."""
    earlier: tuple[int, int] = (0, 0)
    """Chunks that earlier sessions settled, and their rows."""
    planned: tuple[int, int] = (0, 0)
    rows_planned: int = 0
    running: dict[tuple[int, str, float], RunningChunk] = field(default_factory=dict)
    """What is told to run, by chunk, worker and start."""
    slots: tuple[tuple[SlotUse, ...], int] = ((), 0)
    stopping: bool = False
    undriven: bool = False
    """Whether nothing drove the run at the last look."""
    waits: str = ""
    asked: float = float("-inf")
    """When it was asked last what the run waits for."""

    def __post_init__(self) -> None:
        self.news = self.store.news(self.run_id)

    def look(self) -> Watched | None:
        """Tell what is new; returns why there will be nothing more, if so."""
        seen = self.news.look()
        record = seen.record
        self.pipeline, self.rows = record.pipeline, record.rows_in
        if record.started not in (None, self.session) and record.state is not RunState.QUEUED:
            self._begin(record)
        if self.session is not None:
            for committed in self.news.committed():
                self._tell_committed(record, committed)
        if record.state.ended:
            self._end(record)
            return Watched.ENDED
        entry = self.store.queue.entry(self.run_id)
        driven = is_under_way(record, entry)
        # Between two drivers, or when a run has just ended, nothing may seem to drive it for a moment.
        abandoned = not driven and entry is None
        gone, self.undriven = self.undriven and abandoned, abandoned
        if not driven or record.state is RunState.QUEUED:
            if gone or not abandoned:
                self._ask_why()
            return Watched.ABANDONED if gone else None
        self._resume_telling(record)
        if seen.live is not None:
            self._tell_live(record, seen.live)
        self._plan(record)
        return None

    def wait(self, reason: str) -> None:
        """Say why nothing happens for now, if that is new."""
        if reason != self.waits:
            self.waits = reason
            self._tell(RunWaiting(self.run_id, self.clock(), self.pipeline, self.rows, reason))

    # Sessions

    def _begin(self, record: RunRecord) -> None:
        """A session of the run began, or is the first that is seen."""
        standing = self.news.standing(record)
        dashboard = self._dashboard()
        self.settled = np.zeros(max(record.chunks, 1), bool)
        self.earlier = standing.earlier
        self.planned, self.rows_planned, self.running, self.stopping = (0, 0), 0, {}, False
        self.waits, self.slots = "", ((), 0)
        self._tell(
            RunStarted(
                self.run_id,
                record.started or self.clock(),
                pipeline=record.pipeline,
                stages=tuple(str(stage["name"]) for stage in record.stages),
                rows=record.rows_in,
                folder=record.folder,
                cluster=record.cluster,
                dashboard=dashboard,
                notes=_notes(record),
            )
        )
        self._plan(record)
        self._cut(record)
        given_up = False
        for earlier, now in standing.parts:
            if len(earlier):
                self._mark(earlier)
                columns = (earlier.chunks, earlier.outcomes, earlier.rows)
                self._tell(ChunksRecalled(self.run_id, self.clock(), *columns))
            self._settle(now)
            given_up = given_up or bool(earlier.given_up.any() or now.given_up.any())
        if given_up:
            self._recall_failures()
        self.session = record.started  # if the store failed meanwhile, all is told anew

    def _recall_failures(self) -> None:
        """Say for what chunks were given up by now; what fails later is told attempt by attempt."""
        kinds = self.store.failure_kinds(self.run_id)
        told = (
            FailedAlike(kind.stage or "", kind.error_type, kind.error, kind.chunks, kind.signature)
            for kind in kinds
        )
        self._tell(FailuresRecalled(self.run_id, self.clock(), tuple(told)))

    def _dashboard(self) -> str:
        """The live page of the service that has the run; empty if there is none."""
        entry = self.store.queue.entry(self.run_id)
        if entry is None or entry.owner is None:
            return ""
        services = {service.service: service.dashboard for service in self.store.services.all()}
        return services.get(entry.owner, "")

    def _end(self, record: RunRecord) -> None:
        if self.session is not None:
            self._plan(record)
            # Chunks that were never tried have no attempt by which they could be seen.
            self._settle(self.store.settled(self.run_id, solved=False))
        ended = record.ended or self.clock()
        self._tell(
            RunEnded(
                self.run_id,
                ended,
                state=record.state,
                rows_in=record.rows_in,
                rows_solved=record.rows_solved,
                rows_quarantined=record.rows_quarantined,
                rows_cancelled=record.rows_cancelled,
                seconds=max(0.0, ended - (record.started or ended)),
                error=record.error,
            )
        )

    def _ask_why(self) -> None:
        """Say what the run waits for; that may take a few queries, so it is not asked at each look."""
        if self.clock() - self.asked < WHY_EVERY and self.waits:
            return
        self.asked = self.clock()
        self.wait(RunReport(self.store_url, self.run_id).why())

    def _resume_telling(self, record: RunRecord) -> None:
        """A run that waited goes on, or the store is there again: say how far it is."""
        if self.waits:
            self.waits, self.planned = "", (0, 0)
            self._plan(record)

    # Chunks

    def _plan(self, record: RunRecord) -> None:
        """Say how much of the input is cut into chunks, if that is new."""
        rows = record.rows_in if record.state.ended else self.rows_planned
        planned = max(record.chunks, self.planned[0]), rows
        if planned != self.planned:
            self.planned = planned
            self._tell(ChunksPlanned(self.run_id, self.clock(), *planned, *self.earlier))

    def _tell_committed(self, record: RunRecord, committed: Committed) -> None:
        at, cut = self.clock(), []
        for attempt in committed.attempts:
            self._tell(AttemptEnded(self.run_id, at, attempt))
            if attempt.decision in (Retry.word, Enlarge.word):
                error = attempt.error or UNTOLD
                self._tell(RetryScheduled(self.run_id, at, attempt.chunk, attempt.stage, 0.0, error))
            elif attempt.decision == Cut.word:
                cut.append(attempt.chunk)
        for solved in committed.solved:
            self._tell(AttemptsSolved(self.run_id, at, solved))
        if cut:
            self._cut(record, cut)
        self._settle(committed.settled)

    def _cut(self, record: RunRecord, chunks: Sequence[int] | None = None) -> None:
        """Tell of chunks that were cut, all or these, where the run's folder can be read from here."""
        try:
            plan = read_plan(record.files)
        except (OSError, BatchrunError):
            return
        for chunk in np.flatnonzero(plan.is_cut).tolist() if chunks is None else chunks:
            parts = np.flatnonzero(plan.parents == chunk)
            if len(parts):
                rows = (plan.stops - plan.starts)[parts]
                sizes = tuple(parts.tolist()), tuple(rows.tolist())
                self._tell(ChunkCut(self.run_id, self.clock(), chunk, *sizes))
        self.planned = (0, 0)  # how many there are now is told in the store's words

    def _settle(self, settled: SettledChunks) -> None:
        """Tell of those chunks that were not told before."""
        if not len(settled):
            return
        self._reach(int(settled.chunks.max()) + 1)
        new = settled.where(~self.settled[settled.chunks])
        if len(new):
            self._mark(new)
            columns = (new.chunks, new.outcomes, new.rows, new.rows_out, new.seconds, new.gaps)
            self._tell(ChunksSettled(self.run_id, self.clock(), *columns))

    def _mark(self, settled: SettledChunks) -> None:
        self._reach(int(settled.chunks.max()) + 1)
        self.settled[settled.chunks] = True

    def _reach(self, chunks: int) -> None:
        if chunks > len(self.settled):
            self.settled = np.append(self.settled, np.zeros(max(chunks, len(self.settled)), bool))

    # What runs

    def _tell_live(self, record: RunRecord, live: LiveState) -> None:
        self.rows_planned = max(self.rows_planned, live.rows_planned)
        if live.chunks_planned > max(record.chunks, self.planned[0]):
            self.planned = live.chunks_planned, self.rows_planned
            self._tell(ChunksPlanned(self.run_id, live.at, *self.planned, *self.earlier))
        slots = live.slots, len(live.workers)
        if slots != self.slots:
            self.slots = slots
            self._tell(SlotsChanged(self.run_id, live.at, *slots))
        if live.stopping and not self.stopping:
            self.stopping = True
            self._tell(RunStopping(self.run_id, live.at, live.chunks, _grace(record), interruptible=False))
        self._tell_running(live)

    def _tell_running(self, live: LiveState) -> None:
        # What the driver told may be older than what it committed.
        self._reach(1 + max((one.chunk for one in live.running), default=0))
        running = (one for one in live.running if not self.settled[one.chunk])
        now = {(one.chunk, one.worker, one.started): one for one in running}
        gone = {key[0] for key in self.running.keys() - now.keys()}
        if gone:  # the attempt may be told later, or be one of several chunks of a task
            self._tell(ChunksReturned(self.run_id, live.at, tuple(sorted(gone))))
        for key, one in sorted(now.items(), key=lambda item: item[1].started):
            if key not in self.running or one.chunk in gone:
                self._tell(ChunksPlaced(self.run_id, one.started, (one.chunk,), (one.worker,)))
            if one.share is not None or one.message or one.memory is not None or one.objective is not None:
                self._tell(ChunkReported(self.run_id, live.at, one.chunk, one.worker, _status(one, live.at)))
        self.running = now

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)


def _status(running: RunningChunk, at: float) -> TaskStatus:
    return TaskStatus(
        key="",
        stage=running.stage,
        seconds=max(0.0, at - running.started),
        done=running.share,
        message=running.message,
        memory=running.memory,
        peak_memory=running.peak_memory,
        objective=running.objective,
        bound=running.bound,
        chunk=running.chunk,
    )


def _notes(record: RunRecord) -> tuple[str, ...]:
    """What people should know about how the run is run, as the driver says it."""
    return tuple(
        f"stage `{stage['name']}` starts with {format_bytes(stage['memory'])}: {stage['memory_from']}"
        for stage in record.stages
        if stage.get("memory_from")
    )


def _grace(record: RunRecord) -> float:
    """Seconds that running chunks get to end when the run is stopped."""
    found = (setting["value"] for setting in record.settings if setting["key"] == "run.stop_grace")
    return parse_seconds(next(found, "0s"))
