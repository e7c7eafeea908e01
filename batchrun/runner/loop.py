"""The loop of a run.

The runner decides nothing by itself about placement (``dispatch``) or failure (``recovery``), and does not
know what runs its tasks (``executor``). It lives in one thread, the caller's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from batchrun.data.source import Source
from batchrun.data.table import Inline, Stored
from batchrun.definition import Pipeline
from batchrun.dispatch import Choice, Dispatcher, Waiting
from batchrun.errors import ClusterError
from batchrun.events import Observer
from batchrun.executor import Executor, Placement, Signal, TaskDone, TaskLost, TaskReported
from batchrun.narrator import Narrator
from batchrun.outcome import Attempt, Cause, ErrorRecord, Outcome
from batchrun.plan import Plan
from batchrun.resources import describe_workers, format_seconds
from batchrun.runner.aftermath import Aftermath
from batchrun.runner.snapshot import snapshot
from batchrun.runner.state import ChunkProgress, RunnerSettings, RunnerState, RunningTask
from batchrun.runner.stopping import Stopping
from batchrun.store.artifacts import RunFolder
from batchrun.store.recorder import Recorder
from batchrun.store.runs import SettledChunk
from batchrun.worker.task import Limits, Task, TaskResult, ship

__all__ = ["Runner"]

FEED = 1_024
"""Chunks handed to the dispatcher at a time, so that a million of them need not be objects at once."""


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
    recalled: Sequence[SettledChunk] = ()
    """Chunks that earlier sessions of the run solved."""
    tries: dict[tuple[int, str], int] = field(default_factory=dict)
    """How often each chunk was tried at each stage in earlier sessions of the run."""
    memory_for: Callable[[int, int], int] = _as_asked
    """Bytes that a chunk of so many rows needs at a leg; 0 for what the leg asks for."""
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        legs = self.pipeline.legs
        demands = [self.pipeline.stages[leg[0]].demand for leg in legs]
        isolated = frozenset(n for n, leg in enumerate(legs) if self.pipeline.stages[leg[0]].isolated)
        self._dispatcher = Dispatcher(demands, self.settings.look_ahead, isolated)
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
        self._aftermath = Aftermath(self._state)
        self._stopping = Stopping(self._state, self._aftermath)
        if self.recalled:  # they went through every stage
            for stage in self.pipeline.stages:
                self._state.tally.passed(stage.name)
        self._unmet_since: float | None = None
        self._interrupted = False
        self._serial = 0

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

    def stop(self) -> None:
        """Start nothing new and end soon; may be called from a signal handler."""
        self._interrupted = self._state.stopping = True

    def run(self) -> None:
        """Run until every chunk is settled, or until there is a reason to stop."""
        self._dispatcher.set_workers(self.executor.workers())
        for chunk, parts in self.plan.cuts().items():
            self._narrator.cut(chunk, parts, [self.plan.size(part) for part in parts])
        self._narrator.planned(self.plan)
        self._narrator.recalled(self.recalled)
        try:
            while not self._finished():
                self._dispatch()
                self._narrator.slots(self._dispatcher, self.plan, self.executor.workers)
                for signal in self.executor.wait(self._patience()):
                    self._take(signal)
                self._aftermath.cut()
                self._stopping.answer(self.recorder.requests())
                self._stopping.enforce()
                self._aftermath.wake()
                self._check_workers()
                if self.recorder.due_in() == 0.0:
                    self._flush()
                self.recorder.live(lambda: snapshot(self._state, self._aftermath))
                self.recorder.beat()
        finally:
            self.executor.cancel(self._state.running.keys)
            self._flush()

    # Planning and dispatching

    def _finished(self) -> bool:
        if self._state.broken is not None:
            return True
        if self._interrupted:
            self._stopping.begin()
        if self._state.stopping:
            return self._stopping.over
        idle = not self._state.running and not self._aftermath.busy and not self._dispatcher.waiting
        return idle and self.plan.complete and not self.plan.left

    def _feed(self) -> None:
        """Let chunks wait for slots; cut more of the input only when nothing waits any more."""
        if self._dispatcher.waiting >= FEED // 4:
            return
        if not self.plan.left and not self._dispatcher.waiting and not self.plan.complete:
            self.plan.extend()
            self._narrator.planned(self.plan)
        for chunk in self.plan.take(FEED):
            if self._stopping.is_unwanted(chunk):
                continue
            self._state.chunks[chunk] = ChunkProgress()
            self._await_slot(chunk, 0)

    def _await_slot(self, chunk: int, leg: int) -> None:
        """Let a chunk compete for a slot."""
        rows = self.plan.size(chunk)
        memory = self.memory_for(leg, rows)
        self._dispatcher.add(Waiting(chunk, leg, rows, part=self.plan.is_part(chunk), memory=memory))

    def _dispatch(self) -> None:
        """Fill every free slot."""
        placements: list[Placement] = []
        while True:
            if not self._state.stopping:  # else only chunks with a best answer go on, to their last stages
                self._feed()
            choices = self._dispatcher.choose()
            if not choices:
                break
            placements += [self._place(choice) for choice in choices]
        if placements:
            self.executor.submit(placements)
            placed = [self._state.running[placement.task.key] for placement in placements]
            self._narrator.placed(
                [running.task.chunk for running in placed], [running.choice.worker.name for running in placed]
            )

    def _place(self, choice: Choice) -> Placement:
        """Make the task of a choice."""
        chunk, leg = choice.waiting.chunk, choice.waiting.leg
        progress = self._state.chunks[chunk]
        stages = [self.pipeline.stages[number] for number in self.pipeline.legs[leg]]
        last = leg == len(self.pipeline.legs) - 1
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
            attempt=self.tries.get((chunk, stages[0].name), 0) + progress.tries + 1,
            rows=choice.waiting.rows,
            input=ref if shared else ship(ref),
            demand=self._dispatcher.demand(leg, choice.waiting.memory),
            store_to=path if shared else None,
            inline_limit=self.settings.small_result if last else self.settings.small_handoff,
            limits=tuple(Limits(stage.name, stage.timeout, stage.stop_after) for stage in stages)
            if stages[0].isolated
            else (),
            grace=self.settings.solution_grace,
            chunks_per_child=self.settings.chunks_per_child,
            fresh=choice.waiting.fresh,
        )
        self._state.running.place(task, choice)
        return Placement(task, choice.worker.address)

    # Observing

    def _take(self, signal: Signal) -> None:
        if isinstance(signal, TaskDone):
            self._done(signal.key, signal.result)
        elif isinstance(signal, TaskLost):
            self._lost(signal)
        elif isinstance(signal, TaskReported):
            running = self._state.running.report(signal.status)
            if running is not None:
                self._narrator.reported(running.task.chunk, running.choice.worker.name, signal.status)
        else:
            self._dispatcher.set_workers(self.executor.workers())

    def _done(self, key: str, result: TaskResult) -> None:
        running = self._settle_slot(key)
        if running is None:
            return
        chunk, leg = running.task.chunk, running.task.leg
        progress = self._state.chunks[chunk]
        seconds = sum(attempt.seconds for attempt in result.attempts)
        progress.seconds += seconds
        for attempt in result.attempts[: -1 if result.output is None else None]:
            self._aftermath.record(_explained(attempt))
            if attempt.outcome.solved:
                self._state.tally.passed(attempt.stage)
            progress.best = attempt.best or progress.best
            progress.stopped |= attempt.outcome is Outcome.STOPPED_WITH_SOLUTION
        if result.output is None:
            self.executor.release([key])
            self._failed(running, result.attempts[-1], fresh=result.fresh)
            return
        self._dispatcher.measured(leg, seconds)
        if leg < len(self.pipeline.legs) - 1 and not result.ended:
            self.executor.release([key])
            self._state.chunks[chunk] = ChunkProgress(
                input=result.output, seconds=progress.seconds, best=progress.best, stopped=progress.stopped
            )
            if not self._state.stopping or (progress.stopped and self._stopping.keep_best):
                self._await_slot(chunk, leg + 1)
            return
        self._solved(running, result.rows_out, result.output)

    def _solved(self, running: RunningTask, rows_out: int, output: Inline | Stored) -> None:
        """The chunk went through every stage."""
        chunk, rows = running.task.chunk, running.task.rows
        progress = self._state.chunks.pop(chunk)
        self.plan.measured(rows, progress.seconds)
        best = progress.best
        settled = SettledChunk(
            chunk,
            Outcome.STOPPED_WITH_SOLUTION if progress.stopped else Outcome.SUCCEEDED,
            rows,
            rows_out,
            progress.seconds,
            objective=best.objective if best else None,
            bound=best.bound if best else None,
        )
        self.recorder.solved(settled, output, running.task.key)

    def _failed(self, running: RunningTask, attempt: Attempt, *, fresh: bool) -> None:
        if attempt.outcome is Outcome.CANCELLED or running.cancelled:
            self._aftermath.record(_explained(attempt))
            self._stopping.ended(running)
        else:
            self._aftermath.failed(running, attempt, fresh=fresh)

    def _lost(self, signal: TaskLost) -> None:
        running = self._settle_slot(signal.key)
        if running is None:
            return
        task, now = running.task, time.time()
        status = running.status
        name = "WorkerLost" if signal.worker_died else "TaskLost"
        attempt = Attempt(
            chunk=task.chunk,
            stage=status.stage if status else self._state.first_stage(task.leg).name,
            attempt=task.attempt,
            worker=running.choice.worker.name,
            outcome=Outcome.WORKER_LOST if signal.worker_died else Outcome.FAILED,
            started=running.placed,
            seconds=now - running.placed,
            rows_in=task.rows,
            peak_memory=status.peak_memory if status else None,
            error=ErrorRecord(name, signal.reason, classes=(name,), signature=name),
            cause=Cause.WORKER_LOST if signal.worker_died else Cause.INFRASTRUCTURE,
            log=running.log,
        )
        self._state.chunks[task.chunk].seconds += attempt.seconds
        self._failed(running, attempt, fresh=True)

    def _settle_slot(self, key: str) -> RunningTask | None:
        """Free the slot of a task; None if nothing is expected of it any more."""
        running = self._state.running.remove(key)
        if running is not None:
            self._dispatcher.give_back(running.choice)
        return running

    def _check_workers(self) -> None:
        """Give the run up when workers that it needs stay away."""
        unmet = self._dispatcher.unmet() if not self._state.running else []
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
        self._narrator.settled(settled)

    def _patience(self) -> float:
        """Seconds that the runner may sleep if nothing happens."""
        waits = [self.settings.slots_every, self.recorder.due_in()]
        if self._aftermath.next_at is not None:
            waits.append(self._aftermath.next_at - self.clock())
        return max(0.0, min(wait for wait in waits if wait is not None))


def _explained(attempt: Attempt) -> Attempt:
    """An attempt that was stopped on purpose, with what follows from that."""
    if attempt.outcome is Outcome.STOPPED_WITH_SOLUTION:
        return replace(attempt, decision="keep", next_step="its best answer so far is kept as the result")
    if attempt.outcome is Outcome.CANCELLED:
        return replace(attempt, decision="cancel", next_step="left for a resume of the run")
    return attempt
