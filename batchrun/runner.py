"""The loop of a run: plan, dispatch, observe, recover, record.

The runner decides nothing by itself about placement (``dispatch``) or failure (``recovery``), and does not
know what runs its tasks (``executor``). It lives in one thread, the caller's.
"""

from __future__ import annotations

import heapq
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from batchrun.data.load import load, write_table
from batchrun.data.source import Source
from batchrun.data.table import TableRef
from batchrun.definition import Pipeline
from batchrun.dispatch import Choice, Dispatcher, Waiting
from batchrun.errors import BatchrunError, ClusterError
from batchrun.events import Observer
from batchrun.executor import Executor, Placement, Signal, TaskDone, TaskLost
from batchrun.narrator import Narrator
from batchrun.outcome import Attempt, ErrorRecord, Outcome
from batchrun.plan import Plan
from batchrun.recovery import Retry, Tally, decide
from batchrun.resources import describe_workers, format_seconds
from batchrun.retry import RetryPolicy
from batchrun.store.artifacts import RunFolder
from batchrun.store.recorder import Recorder
from batchrun.store.runs import SettledChunk
from batchrun.worker.task import Task, TaskResult, ship

__all__ = ["Runner", "RunnerSettings"]

logger = logging.getLogger("batchrun")


@dataclass(frozen=True)
class RunnerSettings:
    """What a cluster.yaml can change about the loop."""

    small_result: int = 2**20
    """Results of up to so many bytes are collected into segments."""
    stop_after_alike: int = 3
    """So many first chunks that fail alike end the run."""
    workers_timeout: float = 60.0
    """Seconds to wait for workers that can meet the demand before the run is given up."""
    stop_grace: float = 5.0
    """Seconds that running chunks get to end after a stop was asked for."""
    look_ahead: float = 0.25
    """Seconds of work that may wait behind a busy thread, where chunks are short."""
    slots_every: float = 0.25
    """Seconds between two looks at the slots, for observers."""

    @property
    def small_handoff(self) -> int:
        """Frames between legs of up to so many bytes pass through the runner, which holds them meanwhile."""
        return min(self.small_result, 2**16)


FEED = 1_024
"""Chunks handed to the dispatcher at a time, so that a million of them need not be objects at once."""


@dataclass
class _Progress:
    """What is known of a chunk that is not settled."""

    input: TableRef | None = None
    """The frame for its next leg; None means its slice of the source."""
    seconds: float = 0.0
    errors: int = 0
    lost: int = 0
    tries: int = 0
    avoid: frozenset[str] = frozenset()


@dataclass
class _Running:
    """A task that was placed."""

    task: Task
    choice: Choice
    placed: float
    alone: bool = True
    """Whether no other task was ever on its worker at the same time."""


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
    settings: RunnerSettings = RunnerSettings()
    recalled: Sequence[SettledChunk] = ()
    """Chunks that earlier sessions of the run solved."""
    tries: dict[tuple[int, str], int] = field(default_factory=dict)
    """How often each chunk was tried at each stage in earlier sessions of the run."""
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        self.broken: ErrorRecord | None = None
        self.stopping = False
        legs = self.pipeline.legs
        self._demands = [self.pipeline.stages[leg[0]].demand for leg in legs]
        self._dispatcher = Dispatcher(self._demands, self.settings.look_ahead)
        self._tally = Tally(self.settings.stop_after_alike or sys.maxsize)
        if self.recalled:  # they went through every stage
            for stage in self.pipeline.stages:
                self._tally.passed(stage.name)
        self._chunks: dict[int, _Progress] = {}
        self._running: dict[str, _Running] = {}
        self._by_worker: dict[str, set[str]] = {}
        self._delayed: list[tuple[float, int, Waiting]] = []
        self._unmet_since: float | None = None
        self._stop_by: float | None = None
        self._narrator = Narrator(self.run_id, self.observers, self.clock, self.settings.slots_every)
        self._serial = 0

    def stop(self) -> None:
        """Start nothing new and end soon; may be called from a signal handler."""
        self.stopping = True

    def run(self) -> None:
        """Run until every chunk is settled, or until there is a reason to stop."""
        self._dispatcher.set_workers(self.executor.workers())
        self._narrator.planned(self.plan)
        self._narrator.recalled(self.recalled)
        try:
            while not self._finished():
                self._dispatch()
                self._narrator.slots(self._dispatcher, self.plan, self.executor.workers)
                for signal in self.executor.wait(self._patience()):
                    self._take(signal)
                self._wake_delayed()
                self._check_workers()
                if self.recorder.due_in() == 0.0:
                    self._flush()
                self.recorder.beat()
        finally:
            self.executor.cancel(list(self._running))
            self._flush()

    # Planning and dispatching

    def _stop_begun(self) -> float:
        """When the grace of running chunks ends; the first call drops all that waits."""
        if self._stop_by is None:
            self._stop_by = self.clock() + self.settings.stop_grace
            self._dispatcher.drop_waiting()
            self._delayed.clear()
            self._narrator.stopping(len(self._running), self.settings.stop_grace)
        return self._stop_by

    def _finished(self) -> bool:
        if self.broken is not None:
            return True
        if self.stopping:
            return not self._running or self.clock() >= self._stop_begun()
        idle = not self._running and not self._delayed and not self._dispatcher.waiting
        return idle and self.plan.complete and not self.plan.left

    def _feed(self) -> None:
        """Let chunks wait for slots; cut more of the input only when nothing waits any more."""
        if self._dispatcher.waiting >= FEED // 4:
            return
        if not self.plan.left and not self._dispatcher.waiting and not self.plan.complete:
            self.plan.extend()
            self._narrator.planned(self.plan)
        for chunk in self.plan.take(FEED):
            self._chunks[chunk] = _Progress()
            self._dispatcher.add(Waiting(chunk, 0, self.plan.size(chunk)))

    def _dispatch(self) -> None:
        """Fill every free slot."""
        if self.stopping:
            return
        placements: list[Placement] = []
        while True:
            self._feed()
            choices = self._dispatcher.choose()
            if not choices:
                break
            placements += [self._place(choice) for choice in choices]
        if placements:
            self.executor.submit(placements)
            placed = [self._running[placement.task.key] for placement in placements]
            self._narrator.placed(
                [running.task.chunk for running in placed], [running.choice.worker.name for running in placed]
            )

    def _place(self, choice: Choice) -> Placement:
        """Make the task of a choice."""
        chunk, leg = choice.waiting.chunk, choice.waiting.leg
        progress = self._chunks[chunk]
        last = leg == len(self._demands) - 1
        self._serial += 1
        token = f"{self.recorder.session}-{self._serial:x}"
        path = self.folder.result(chunk, token) if last else self.folder.handoff(chunk, leg, token)
        shared = self.executor.shares_files
        ref = progress.input or self.source.slice(*self.plan.bounds(chunk))
        task = Task(
            key=f"batchrun-{self.run_id}-{chunk}-{leg}-{token}",
            run_id=self.run_id,
            chunk=chunk,
            leg=leg,
            attempt=self.tries.get((chunk, self._first_stage(leg)), 0) + progress.tries + 1,
            rows=choice.waiting.rows,
            input=ref if shared else ship(ref),
            demand=self._demands[leg],
            store_to=path if shared else None,
            inline_limit=self.settings.small_result if last else self.settings.small_handoff,
        )
        self._running[task.key] = running = _Running(task, choice, time.time())
        there = self._by_worker.setdefault(choice.worker.address, set())
        for other in there:
            self._running[other].alone = running.alone = False
        there.add(task.key)
        return Placement(task, choice.worker.address)

    # Observing

    def _take(self, signal: Signal) -> None:
        if isinstance(signal, TaskDone):
            self._done(signal.key, signal.result)
        elif isinstance(signal, TaskLost):
            self._lost(signal)
        else:
            self._dispatcher.set_workers(self.executor.workers())

    def _done(self, key: str, result: TaskResult) -> None:
        running = self._settle_slot(key)
        if running is None:
            return
        chunk, leg = running.task.chunk, running.task.leg
        progress = self._chunks[chunk]
        seconds = 0.0
        for attempt in result.attempts:
            self._record(attempt)
            seconds += attempt.seconds
            if attempt.outcome.solved:
                self._tally.passed(attempt.stage)
        progress.seconds += seconds
        if result.output is None:
            self.executor.release([key])
            progress.errors += 1
            error = result.error or ErrorRecord("ResultError", "the worker gave no result")
            self._recover(running, result.attempts[-1].stage, Outcome.FAILED, error, progress.errors)
            return
        self._dispatcher.measured(leg, seconds)
        if leg < len(self._demands) - 1 and not result.ended:
            self.executor.release([key])
            self._chunks[chunk] = _Progress(input=result.output, seconds=progress.seconds)
            self._dispatcher.add(Waiting(chunk, leg + 1, running.task.rows))
            return
        rows = running.task.rows
        self.plan.measured(rows, progress.seconds)
        del self._chunks[chunk]
        settled = SettledChunk(chunk, Outcome.SUCCEEDED, rows, result.rows_out, progress.seconds)
        self.recorder.solved(settled, result.output, key)

    def _lost(self, signal: TaskLost) -> None:
        running = self._settle_slot(signal.key)
        if running is None:
            return
        task, now = running.task, time.time()
        progress = self._chunks[task.chunk]
        progress.lost += 1
        error = ErrorRecord("WorkerLost", signal.reason, classes=("WorkerLost",), signature="WorkerLost")
        attempt = Attempt(
            chunk=task.chunk,
            stage=self._first_stage(task.leg),
            attempt=task.attempt,
            worker=running.choice.worker.name,
            outcome=Outcome.WORKER_LOST,
            started=running.placed,
            seconds=now - running.placed,
            rows_in=task.rows,
            error=error,
        )
        self._record(attempt)
        progress.seconds += attempt.seconds
        self._recover(running, attempt.stage, Outcome.WORKER_LOST, error, progress.lost)

    def _settle_slot(self, key: str) -> _Running | None:
        """Free the slot of a task; None if nothing is expected of it any more."""
        running = self._running.pop(key, None)
        if running is not None:
            self._dispatcher.give_back(running.choice)
            there = self._by_worker[running.choice.worker.address]
            there.discard(key)
            if not there:
                del self._by_worker[running.choice.worker.address]
        return running

    # Recovering

    def _recover(
        self, running: _Running, stage: str, outcome: Outcome, error: ErrorRecord, failures: int
    ) -> None:
        """Do what the policy of the stage says about a chunk that failed at it."""
        waiting = running.choice.waiting
        progress = self._chunks[waiting.chunk]
        progress.tries += 1
        policy = next((s.retry for s in self.pipeline.stages if s.name == stage), RetryPolicy())
        decision = decide(
            outcome,
            error,
            failures=failures,
            policy=policy,
            chance=self.chance(),
            alone=running.alone,
        )
        if self.stopping:
            return
        if isinstance(decision, Retry):
            avoid = waiting.avoid | {running.choice.worker.name}
            alone = waiting.alone or outcome is Outcome.WORKER_LOST
            again = Waiting(waiting.chunk, waiting.leg, waiting.rows, avoid, alone)
            heapq.heappush(self._delayed, (self.clock() + decision.wait, waiting.chunk, again))
            self._narrator.retry(waiting.chunk, stage, decision.wait, error)
            return
        self._give_up(waiting, stage, outcome, error)

    def _give_up(self, waiting: Waiting, stage: str, outcome: Outcome, error: ErrorRecord) -> None:
        progress = self._chunks.pop(waiting.chunk)
        self._quarantine(waiting.chunk)
        self.recorder.given_up(SettledChunk(waiting.chunk, outcome, waiting.rows, 0, progress.seconds))
        self.broken = self.broken or self._tally.failed(stage, error)
        if self.broken is not None:
            self._dispatcher.drop_waiting()
            self._delayed.clear()

    def _quarantine(self, chunk: int) -> None:
        """Keep the rows of a chunk that was given up; where they cannot be read, its numbers must do."""
        try:
            table = load(self.source.slice(*self.plan.bounds(chunk)))
        except (OSError, pa.ArrowException, BatchrunError) as error:
            logger.warning("the rows of chunk %d cannot be read for the quarantine: %s", chunk, error)
            return
        write_table(table, self.folder.quarantine(chunk))

    def _wake_delayed(self) -> None:
        """Chunks whose wait is over compete for slots again."""
        while self._delayed and self._delayed[0][0] <= self.clock():
            self._dispatcher.add(heapq.heappop(self._delayed)[2])

    def _check_workers(self) -> None:
        """Give the run up when workers that it needs stay away."""
        unmet = self._dispatcher.unmet() if not self._running else []
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
            self.broken = ErrorRecord.of(lost)

    # Recording and telling

    def _record(self, attempt: Attempt) -> None:
        self.recorder.attempt(attempt)
        self._narrator.ended(attempt)

    def _flush(self) -> None:
        settled, keys = self.recorder.flush(chunks=len(self.plan))
        self.executor.release(keys)
        self._narrator.settled(settled)

    def _patience(self) -> float:
        """Seconds that the runner may sleep if nothing happens."""
        waits = [self.settings.slots_every, self.recorder.due_in()]
        if self._delayed:
            waits.append(self._delayed[0][0] - self.clock())
        return max(0.0, min(wait for wait in waits if wait is not None))

    def _first_stage(self, leg: int) -> str:
        return self.pipeline.stages[self.pipeline.legs[leg][0]].name
