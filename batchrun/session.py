"""One session of one run: from a planned input and an executor to a recorded end.

``launch`` makes what a session needs; a session drives the runner, combines, and writes how it ended.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from batchrun.data import files
from batchrun.data.load import read_stored, write_table
from batchrun.data.results import ResultSet
from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.data.table import to_frame, to_table
from batchrun.definition import BoundParameters, Pipeline
from batchrun.errors import LeaseLostError, RunInterrupted
from batchrun.estimate import MemoryEstimate
from batchrun.events import Observer, RunEnded, RunStarted
from batchrun.executor import Executor
from batchrun.exhibits import Exhibits
from batchrun.forecast import Forecast, forecast
from batchrun.outcome import ErrorRecord, RunState
from batchrun.plan import Floats, Forecaster, Integers, Plan, read_plan
from batchrun.recording import describe_stages
from batchrun.resources import Demand, Worker, format_bytes, kinds_of
from batchrun.runner import Runner, RunnerSettings, SharedSlots
from batchrun.selection import Rerun
from batchrun.store.artifacts import RunFolder
from batchrun.store.driver import driver_name
from batchrun.store.outage import insist
from batchrun.store.recorder import FlushPolicy, Recorder
from batchrun.store.records import SettledChunks
from batchrun.store.runs import RunStore
from batchrun.store.writer import RunWriter
from batchrun.worker.program import pickle_program

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Session"]

logger = logging.getLogger("batchrun")

ALIKE = 1.2
"""Forecasts that differ by less than this factor are not told apart."""
NO_ROWS = {"rows_solved": 0, "rows_quarantined": 0, "rows_cancelled": 0}
"""How many rows of a run have their outcome before its first session."""
SHORTEST_FORECAST = 0.02
"""Seconds below which chunks are alike whatever their forecasts."""


@dataclass
class Session:
    """Drives a run that is recorded in the store, from where it stands to its end."""

    run_id: str
    pipeline: Pipeline
    bound: BoundParameters
    source: Source
    folder: RunFolder
    store: RunStore
    writer: RunWriter
    executor: Executor
    flush: FlushPolicy
    settings: RunnerSettings
    observers: Sequence[Observer] = ()
    rerun: Rerun | None = None
    """What runs again, and what earlier sessions settled; None for the first session."""
    estimates: Mapping[str, MemoryEstimate] = field(default_factory=dict)
    """What stages with ``memory="auto"`` need, by name."""
    supply: Supply | None = None
    """What brings the rows of the input to where workers can read them; None if all are there."""
    memory_from: Mapping[str, str] = field(default_factory=dict)
    """Where the memory of those stages is from, by name, as text."""
    survives: tuple[type[BaseException], ...] = ()
    """Errors after which another session will go on, so that the run has not ended."""
    shared: SharedSlots | None = None
    """Slots that runs of this process have in common; None for workers that are the run's own."""
    priority: int = 0
    """Of runs that share slots, one has twice as many as one whose priority is less by 1."""
    max_slots: int | None = None
    """Slots that the run may have at a time; None for as many as there are."""
    program: bytes | None = None
    """The code for the workers; None if it is pickled when the session begins."""
    _runner: Runner | None = field(default=None, init=False)
    _leaving: bool = field(default=False, init=False)

    def leave(self) -> None:
        """Come to an end at once, so that another session goes on; may be called from another thread."""
        self._leaving = True
        if self._runner is not None:
            self._runner.leave()

    def drive(self) -> RunState:
        """Run until nothing is left to do or the run is stopped; record how it ended and return that.

        A first Ctrl-C asks running chunks to end and kills those that do not within the grace, a second one
        does not wait; either way what was solved is kept, the run is recorded as cancelled, and
        RunInterrupted, a KeyboardInterrupt, is raised. A cancel by way of the store ends the run likewise,
        and raises nothing.

        A run that is left, or ends by an error that it survives, is recorded as running still. So is one
        that another process has taken over: LeaseLostError is raised then.
        """
        started = time.time()
        self._runner = runner = self._make_runner()
        if self._leaving:
            return RunState.QUEUED
        kept = self.rerun.rows_kept(runner.plan.chunks, self.source.rows) if self.rerun else NO_ROWS
        reopen = partial(
            self.writer.reopen,
            None if self.rerun is None or self.rerun.chunks is None else self.rerun.chunks.tolist(),
            None if self.rerun is None else self.rerun.unreached,
            state=RunState.RUNNING,
            started=started,
            ended=None,
            error=None,
            combined=None,
            heartbeat=started,
            driver=driver_name(),
            cluster=self.executor.description,
            workers=kinds_of(self.executor.workers()),
            stages=describe_stages(self.pipeline, self.memory_from),
            **kept,
        )
        insist(reopen, self.settings.store_timeout)
        if self.rerun is not None and self.pipeline.report is not None:  # else old ones could outlive it
            insist(lambda: files.remove(self.folder.exhibits), self.settings.store_timeout)
        self._tell_started()
        interrupted: BaseException | None = None
        error: ErrorRecord | None = None
        try:
            with _interrupts_stop(runner):
                runner.run()
        except KeyboardInterrupt as second:
            interrupted = second
        except BaseException as broken:
            if isinstance(broken, (LeaseLostError, *self.survives)):
                raise
            self._end(runner, started, RunState.FAILED, ErrorRecord.of(broken), combined=None)
            raise
        if runner.left:
            return RunState.RUNNING
        if runner.interrupted:
            interrupted = interrupted or KeyboardInterrupt()
        error, combined = runner.broken, None
        state = self._state(runner, stopped=interrupted is not None or runner.cancelled)
        if state in (RunState.SUCCEEDED, RunState.PARTIAL) and self.pipeline.combine:
            combined, error = self._combined(runner) or self._combine()
            state = RunState.FAILED if error else state
        if state in (RunState.SUCCEEDED, RunState.PARTIAL):
            self._exhibit(combined)
        elif state is RunState.CANCELLED and runner.recorder.rows["rows_solved"]:
            with contextlib.suppress(KeyboardInterrupt):  # of somebody who does not want to wait for figures
                self._exhibit(combined)
        self._end(runner, started, state, error, combined)
        if interrupted is not None:
            given = "" if self.pipeline.target else ", pipeline=..."  # of a notebook, it cannot be imported
            raise RunInterrupted(
                f"run {self.run_id} was stopped; what it solved is in open_report({self.run_id!r}), and "
                f"resume_run({self.run_id!r}{given}) goes on with it"
            ) from interrupted
        return state

    def _make_runner(self) -> Runner:
        settled = SettledChunks.empty() if self.rerun is None else self.rerun.kept
        self.executor.prepare(self.program or pickle_program(self.pipeline, self.bound, self.run_id))
        workers = self.executor.workers()
        stages = [self.pipeline.stages[leg[0]] for leg in self.pipeline.legs]
        slots = [max(1, sum(worker.slots(stage.demand) for worker in workers)) for stage in stages]
        plan = Plan(
            self.source,
            self.pipeline.split,
            self.folder,
            slots=min(slots[0], self.max_slots or slots[0]),
            memory=stages[0].demand.memory or _memory_of_a_thread(stages[0].demand, workers),
            settled=settled.chunks,
            whole=self.rerun is None or self.rerun.whole,
            forecast=self._forecaster(),
            fence=self.writer.fence,
            scarcity=[sum(worker.threads for worker in workers) / number for number in slots],
        )
        recorder = Recorder(self.writer, self.folder, uuid.uuid4().hex[:8], self.flush)
        recorder.rows["rows_solved"] = int(settled.rows[settled.solved].sum())
        recorder.rows["rows_quarantined"] = int(settled.rows[settled.given_up].sum())
        return Runner(
            run_id=self.run_id,
            pipeline=self.pipeline,
            source=self.source,
            plan=plan,
            folder=self.folder,
            recorder=recorder,
            executor=self.executor,
            observers=self.observers,
            settings=self.settings,
            recalled=settled,
            tries={} if self.rerun is None else self.store.tries(self.run_id),
            supply=self.supply,
            memory_for=self._memory_for(workers),
            shared=self.shared,
            priority=self.priority,
            max_slots=self.max_slots,
        )

    def _forecaster(self) -> Forecaster:
        """What chunks will take at each leg, by earlier runs of the pipeline."""
        history = self.store.history(self.pipeline.name)

        def forecaster(keys: Integers, rows: Integers) -> list[Floats | None]:
            return [
                _together(
                    [
                        forecast(history[name], keys, rows) if name in history else None
                        for name in (self.pipeline.stages[number].name for number in leg)
                    ]
                )
                for leg in self.pipeline.legs
            ]

        return forecaster

    def _memory_for(self, workers: Sequence[Worker]) -> Callable[[int, int], int]:
        """What a chunk of so many rows needs at a leg, where that is estimated; no more than a worker has."""
        firsts = [self.pipeline.stages[leg[0]] for leg in self.pipeline.legs]
        estimates = [self.estimates.get(stage.name) for stage in firsts]
        most = [
            max((worker.memory for worker in workers if worker.can_ever_run(stage.demand)), default=0)
            for stage in firsts
        ]

        def memory_for(leg: int, rows: int) -> int:
            estimate = estimates[leg]
            return min(most[leg], estimate.memory(rows)) if estimate else 0

        return memory_for

    def _state(self, runner: Runner, *, stopped: bool) -> RunState:
        solved, quarantined = runner.recorder.rows["rows_solved"], runner.recorder.rows["rows_quarantined"]
        if solved + quarantined == self.source.rows and not quarantined:
            return RunState.SUCCEEDED
        if stopped or not (solved or quarantined or runner.broken):
            return RunState.CANCELLED
        if runner.broken is not None or not solved:
            return RunState.FAILED
        return RunState.PARTIAL

    def _combined(self, runner: Runner) -> tuple[str | None, ErrorRecord | None] | None:
        """What workers combined already; None if that is left to this process."""
        combining = runner.combining
        if combining is None or not (combining.result or combining.error):
            return None
        return combining.result, combining.error

    def _combine(self) -> tuple[str | None, ErrorRecord | None]:
        """Let the pipeline combine the parts; an error in it loses none of them."""
        if self.pipeline.combine is None:
            return None, None
        parts = self._parts()
        if not len(parts):
            return None, None
        try:
            table = self._table_of(parts)
        except Exception as error:
            return None, ErrorRecord.of(error)
        return write_table(table, self.folder.combined).path, None

    def _table_of(self, parts: ResultSet) -> pa.Table:
        """The results of some chunks as one table, combined if the pipeline says how."""
        combine, signature = self.pipeline.combine, self.pipeline.combine_signature
        if combine is None or signature is None:
            return parts.to_table()
        frame = combine(parts.parts(signature.kind), **self.bound.combine)
        return to_table(frame, owner=f"combine of `{self.pipeline.name}`")

    def _exhibit(self, combined: str | None) -> None:
        """Let the pipeline add figures and tables to the report; an error in it is told there.

        Of a run that was cancelled they show what was solved, which is combined for them alone.
        """
        function, signature = self.pipeline.report, self.pipeline.report_signature
        if function is None or signature is None:
            return

        def make() -> object:
            table = read_stored(combined) if combined else self._table_of(self._parts())
            return function(to_frame(table, signature.kind), **self.bound.report)

        exhibits = Exhibits.made(make, f"report of `{self.pipeline.name}`")
        if exhibits.error:
            logger.warning("run %s: the report of its pipeline failed: %s", self.run_id, exhibits.error)
        insist(lambda: exhibits.write(self.folder.exhibits), self.settings.store_timeout)

    def _parts(self) -> ResultSet:
        """The results of all chunks that have one."""
        solved = self.store.settled(self.run_id, solved=True)
        return ResultSet(read_plan(self.folder).starts[solved.chunks], solved.results)

    def _end(
        self,
        runner: Runner,
        started: float,
        state: RunState,
        error: ErrorRecord | None,
        combined: str | None,
    ) -> None:
        rows = dict(runner.recorder.rows)
        rows["rows_cancelled"] = self.source.rows - rows["rows_solved"] - rows["rows_quarantined"]
        now = time.time()
        insist(
            lambda: self.writer.end(state=state, ended=now, error=error, combined=combined, **rows),
            self.settings.store_timeout,
        )
        if state is RunState.SUCCEEDED:
            files.remove_folder(self.folder.spool)
        files.remove_folder(self.folder.handoffs)
        files.remove_folder(self.folder.folds)
        event = RunEnded(
            self.run_id, now, state, self.source.rows, **rows, seconds=now - started, error=error
        )
        for observer in self.observers:
            observer(event)

    def _tell_started(self) -> None:
        event = RunStarted(
            run_id=self.run_id,
            at=time.time(),
            pipeline=self.pipeline.name,
            stages=tuple(stage.name for stage in self.pipeline.stages),
            rows=self.source.rows,
            folder=self.folder.path,
            cluster=self.executor.description,
            dashboard=self.executor.dashboard,
            notes=tuple(
                f"stage `{stage.name}` starts with {format_bytes(stage.demand.memory)}: "
                f"{self.memory_from[stage.name]}"
                for stage in self.pipeline.stages
                if stage.name in self.memory_from
            ),
        )
        for observer in self.observers:
            observer(event)


def _together(stages: Sequence[Forecast | None]) -> Floats | None:
    """What the stages of a leg may well take one after the other; None if one of them is not known.

    Chunks that differ by less than the accuracy of a forecast count as alike, so that they stay in input
    order, which is read faster.
    """
    known = [stage for stage in stages if stage is not None]
    if len(known) < len(stages):
        return None
    upper = np.maximum(np.sum([stage.upper for stage in known], axis=0), SHORTEST_FORECAST)
    steps = np.round(np.log(upper) / np.log(ALIKE))
    return np.asarray(ALIKE**steps, np.float64)


def _memory_of_a_thread(demand: Demand, workers: Sequence[Worker]) -> int:
    """Bytes that are behind a thread of every worker that can run it."""
    able = [worker for worker in workers if worker.can_ever_run(demand)]
    return min((worker.memory // worker.threads for worker in able), default=2**30)


@contextmanager
def _interrupts_stop(runner: Runner) -> Iterator[None]:
    """Turn the first Ctrl-C into a request to stop; the second one is an ordinary KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if runner.interrupted:
            raise KeyboardInterrupt
        runner.stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
