"""The loop of a run.

The runner decides nothing by itself about placement (``dispatch``) or failure (``recovery``), and does not
know what runs its tasks (``executor``). It lives in one thread, the caller's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.definition import Pipeline
from batchrun.dispatch import Dispatcher
from batchrun.errors import ClusterError
from batchrun.events import Observer
from batchrun.executor import (
    Executor,
    Placement,
    Signal,
    TaskDone,
    TaskLost,
    TaskReported,
    TaskShortened,
    WorkersChanged,
)
from batchrun.narrator import Narrator
from batchrun.outcome import ErrorRecord
from batchrun.plan import Plan
from batchrun.resources import Demand, describe_workers, format_seconds
from batchrun.runner.aftermath import Aftermath
from batchrun.runner.arriving import Arriving
from batchrun.runner.combining import Combining
from batchrun.runner.placing import Placing
from batchrun.runner.sharing import SharedDispatcher, SharedSlots
from batchrun.runner.snapshot import snapshot
from batchrun.runner.speculating import Speculating
from batchrun.runner.state import RunnerSettings, RunnerState
from batchrun.runner.stopping import Stopping
from batchrun.status import TaskStatus
from batchrun.store.artifacts import RunFolder
from batchrun.store.outage import Outage, insist
from batchrun.store.recorder import Recorder
from batchrun.store.records import SettledChunks

__all__ = ["Runner"]

FEED = 4_096
"""Chunks handed to the dispatcher at a time, so that a million of them need not be objects at once."""
SUPPLY_EVERY = 0.01
"""Seconds between looks at rows that are on their way."""
RECALL_AFTER = 1.0
"""Seconds after which what has not begun of a short task is asked back: it was to take a part of that."""


def _as_asked(leg: int, rows: int) -> int:
    """Chunks need what their leg asks for."""
    return 0


@dataclass
class Runner:
    """Drives the chunks of one run through an executor.

    ``run`` returns when every chunk is settled or the run was stopped; ``broken`` then holds the error if
    it gave up. Chunks that are neither solved nor given up by then are cancelled.
    """

    run_id: str
    pipeline: Pipeline
    source: Source
    plan: Plan
    folder: RunFolder
    recorder: Recorder
    executor: Executor
    observers: Sequence[Observer] = ()
    settings: RunnerSettings = field(default_factory=RunnerSettings)
    recalled: SettledChunks | None = None
    """Chunks that earlier sessions of the run settled, and that are not tried again."""
    supply: Supply | None = None
    """What brings the rows of the input to where workers can read them; None if all are there."""
    tries: dict[tuple[int, str], int] = field(default_factory=dict)
    """How often each chunk was tried at each stage in earlier sessions of the run."""
    memory_for: Callable[[int, int], int] = _as_asked
    """Bytes that a chunk of so many rows needs at a leg; 0 for what the leg asks for."""
    shared: SharedSlots | None = None
    """Slots that runs of this process have in common; None for workers that are the run's own."""
    priority: int = 0
    """Of runs that share slots, one has twice as many as one whose priority is less by 1."""
    max_slots: int | None = None
    """Slots that the run may have at a time; None for as many as there are."""
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        legs = self.pipeline.legs
        demands = [self.pipeline.stages[leg[0]].demand for leg in legs]
        isolated = frozenset(n for n, leg in enumerate(legs) if self.pipeline.stages[leg[0]].isolated)
        combines = self.pipeline.associative and self.executor.shares_files
        if combines:
            demands.append(Demand())
        self._dispatcher = self._new_dispatcher(demands, isolated)
        self._dispatcher.reads_ahead = self.executor.shares_files and not self.source.is_mapped
        self._narrator = Narrator(self.run_id, self.observers, self.clock, self.settings.slots_every)
        self._state = RunnerState(
            run_id=self.run_id,
            pipeline=self.pipeline,
            source=self.source,
            plan=self.plan,
            folder=self.folder,
            recorder=self.recorder,
            executor=self.executor,
            settings=self.settings,
            narrator=self._narrator,
            dispatcher=self._dispatcher,
            clock=self.clock,
            chance=self.chance,
            memory_for=self.memory_for,
            tries=self.tries,
        )
        self._aftermath = Aftermath(self._state, self.recorder.rows["rows_quarantined"])
        self._stopping = Stopping(self._state, self._aftermath)
        self._combining = Combining(self._state) if combines else None
        self._placing = Placing(self._state, self._combining)
        self._speculating = Speculating(self._state, self._aftermath, self._placing)
        self._arriving = Arriving(
            self._state, self._aftermath, self._stopping, self._speculating, self._combining
        )
        if self.recalled and self.recalled.solved.any():  # they went through every stage
            for stage in self.pipeline.stages:
                self._state.tally.passed(stage.name)
        self._unmet_since: float | None = None
        self._interrupted = False
        self._left = False
        self._outage = Outage(self.settings.store_timeout, self.clock)
        self._recalled_at = self.clock()

    @property
    def broken(self) -> ErrorRecord | None:
        """Why the run was given up; None if it was not."""
        return self._state.broken

    @property
    def interrupted(self) -> bool:
        """Whether ``stop`` was called."""
        return self._interrupted

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for the whole run to be cancelled."""
        return self._stopping.cancelled

    @property
    def combining(self) -> Combining | None:
        """What combined the results on workers; None if that was not its place."""
        return self._combining

    def stop(self) -> None:
        """Start nothing new and end soon; may be called from a signal handler."""
        self._interrupted = self._state.stopping = True

    def leave(self) -> None:
        """Come to an end at once, with chunks as they stand; may be called from another thread."""
        self._left = True

    @property
    def left(self) -> bool:
        """Whether ``leave`` was called."""
        return self._left

    def run(self) -> None:
        """Run until every chunk is settled, or until there is a reason to stop."""
        try:
            self._begin()
            while not self._finished():
                if not self._outage.on:
                    self._dispatch()
                    self._tell_live()
                self._narrator.slots(self._dispatcher)
                for signal in self.executor.wait(self._patience()):
                    self._take(signal)
                self._dispatcher.offer()
                self._stopping.enforce()
                self._aftermath.wake()
                self._check_workers()
                self._recall()
                if self._outage.may_try:
                    with self._outage.tolerated():
                        self._keep_books()
            insist(self._flush, self.settings.store_timeout)  # to end what hangs may take long
        finally:
            try:
                self.executor.cancel(self._state.running.keys)
            finally:
                self._dispatcher.leave()
            self._flush()

    def _keep_books(self) -> None:
        """Write what is due, and read what others ask for."""
        self._aftermath.cut()
        self._stopping.answer(self.recorder.requests())
        if self._outage.on or self.recorder.due_in() == 0.0:
            self._flush()
        self.recorder.beat()

    def _tell_live(self) -> None:
        """Tell how the run stands before waiting, when an executor may run a task in this very thread."""
        with self._outage.tolerated():
            self.recorder.live(lambda: snapshot(self._state, self._aftermath))

    # Planning and dispatching

    def _new_dispatcher(self, demands: Sequence[Demand], isolated: frozenset[int]) -> Dispatcher:
        ahead, priority, most = self.settings.look_ahead, self.priority, self.max_slots
        if self.shared is None:
            return Dispatcher(demands, ahead, isolated, priority=priority, most=most)
        return SharedDispatcher(
            demands,
            ahead,
            isolated,
            priority=priority,
            most=most,
            shared=self.shared,
            wake=self.executor.wake,
        )

    def _begin(self) -> None:
        """Tell of what is known before anything runs."""
        self._dispatcher.set_workers(self.executor.workers())
        self._dispatcher.expect(self.plan.work)
        for chunk, parts in self.plan.cuts().items():
            self._narrator.cut(chunk, parts, [self.plan.size(part) for part in parts])
        self._narrator.planned(self.plan)
        if self.recalled:
            self._narrator.recalled(self.recalled)
            if self._combining is not None:
                self._combining.settled(self.recalled)

    def _finished(self) -> bool:
        if self._left or self._state.broken is not None:
            return True
        if self._interrupted:
            self._stopping.begin()
        if self._state.stopping:
            return self._stopping.over
        busy = self._state.running.wanted or self._aftermath.busy or self._dispatcher.waiting
        if busy or not self.plan.complete or self.plan.left:
            return False
        if self._combining is not None and self._combining.busy:
            insist(self._flush, self.settings.store_timeout)  # the last results to combine may wait for it
            return not (self._dispatcher.waiting or self._combining.busy)
        return True

    def _feed(self) -> bool:
        """Let chunks wait for slots; cut more of the input only when nothing waits any more.

        Returns whether more chunks wait than before.
        """
        before = self._dispatcher.waiting
        if before < FEED // 4 and not self._state.stopping:  # else only chunks with a best answer go on
            if not self.plan.left and not self._dispatcher.waiting and not self.plan.complete:
                with self._outage.tolerated():
                    self.plan.extend()
                    self._dispatcher.expect(self.plan.work)
                    self._narrator.planned(self.plan)
            for chunk in self.plan.take(FEED, ready=self._ready):
                if not self._stopping.is_unwanted(chunk):
                    self._state.await_slot(chunk, 0)
        self._dispatcher.behind = self.plan.left
        return self._dispatcher.waiting > before

    @property
    def _ready(self) -> int | None:
        """The first row that workers cannot read yet; None if they can read all."""
        if self.supply is None or self.supply.done:
            return None
        self.supply.check()
        return self.supply.ready

    def _dispatch(self) -> None:
        """Fill every free slot; what is idle then may be for stragglers."""
        placements: list[Placement] = []
        self._feed()
        while choices := self._dispatcher.choose():
            placements += [self._placing.place(choice) for choice in choices]
            if not self._feed():
                break
        placements += self._speculating.place()
        if placements:
            self.executor.submit(placements)
            placed = [self._state.running[placement.task.key] for placement in placements]
            placed = [running for running in placed if not running.is_fold]
            self._narrator.placed(
                [item.chunk for running in placed for item in running.items],
                [running.choice.worker.name for running in placed for _ in running.items],
                [len(running.items) for running in placed],
            )

    def _recall(self) -> None:
        """Take back what waits in or behind tasks that take longer than they should, so that others can have
        it, and let nothing more wait behind them."""
        if self.clock() - self._recalled_at < RECALL_AFTER / 4:
            return
        self._recalled_at, latest = self.clock(), time.time() - RECALL_AFTER
        slow = [
            running for running in self._state.running if not running.recalled and running.placed < latest
        ]
        for running in slow:
            running.recalled = True
            running.choice = self._dispatcher.overdue(running.choice)
        keys = [running.task.key for running in slow if running.is_recallable]
        if keys:
            self.executor.recall(keys)

    # Observing

    def _take(self, signal: Signal) -> None:
        match signal:
            case TaskDone():
                self._arriving.done(signal.key, signal.result)
            case TaskLost():
                self._arriving.lost(signal)
            case TaskReported():
                self._report(signal.status)
            case TaskShortened():
                self._arriving.shortened(signal.key, signal.begun)
            case WorkersChanged():
                self._dispatcher.set_workers(self.executor.workers())

    def _report(self, status: TaskStatus) -> None:
        running = self._state.running.report(status)
        if running is not None and not running.superseded:
            chunk = running.first.chunk if status.chunk is None else status.chunk
            self._narrator.reported(chunk, running.choice.worker.name, status)

    def _check_workers(self) -> None:
        """Give the run up when workers that it needs stay away."""
        unmet = self._dispatcher.unmet() if not self._state.running.wanted else []
        if not unmet:
            self._unmet_since = None
            return
        if self._unmet_since is None:
            self._unmet_since = self.clock()
        if self.clock() - self._unmet_since >= self.settings.workers_timeout:
            have = describe_workers(self.executor.workers())
            lost = ClusterError(
                f"no worker with {unmet[0]} has come back for "
                f"{format_seconds(self.settings.workers_timeout)}; there is {have}. "
                "Start one, then resume the run"
            )
            self._state.broken = ErrorRecord.of(lost)

    # Recording and telling

    def _flush(self) -> None:
        settled, keys = self.recorder.flush(chunks=self.plan.standing)
        self.executor.release(keys)
        if len(settled):
            self._narrator.settled(settled)
            if self._combining is not None:
                self._combining.settled(settled)
            if self.supply is not None:
                self.supply.settled(*self.plan.bounds_of(settled.chunks[settled.solved]))

    def _patience(self) -> float:
        """Seconds that the runner may sleep if nothing happens."""
        waits = [self.settings.slots_every, self._outage.wait or self.recorder.due_in()]
        if self._aftermath.next_at is not None:
            waits.append(self._aftermath.next_at - self.clock())
        if self._ready is not None and self.plan.left:
            waits.append(SUPPLY_EVERY)
        return max(0.0, min(wait for wait in waits if wait is not None))
