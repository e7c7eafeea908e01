"""A leg in a thread of the worker's own process: what it says is kept, and it can only be asked to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from batchrun.data.load import preload
from batchrun.outcome import Cause, ErrorRecord, Incumbent, Outcome
from batchrun.status import TaskStatus
from batchrun.worker.capture import HeadTail, chunk_logger
from batchrun.worker.incumbent import check_incumbent
from batchrun.worker.ledger import History, Ledger
from batchrun.worker.leg import StageEnd, load_steps, run_leg
from batchrun.worker.program import Step, load_program
from batchrun.worker.reporter import Reporter
from batchrun.worker.running import Ticket
from batchrun.worker.task import Limits, Task, TaskResult

__all__ = ["ThreadHost", "run_in_thread"]


def run_in_thread(
    program: bytes,
    task: Task,
    *,
    worker: str,
    report: Callable[[TaskStatus], None] | None,
    ticket: Ticket,
) -> TaskResult:
    """Run the stages of the task's leg in this thread; see `run_task`."""
    ledger = Ledger(task, worker)
    steps = load_steps(lambda: load_program(program), task.leg)
    if isinstance(steps, StageEnd):
        ledger.add(steps)
        return ledger.result()
    host = ThreadHost(task, steps, ledger, Reporter(report), ticket)
    run_leg(steps, task, host, worker=worker)
    last = host.last
    return ledger.result(last.output, rows_out=last.rows_out, emptied=last.emptied)


class ThreadHost:
    """Hears of each stage of one task in one thread."""

    def __init__(
        self, task: Task, steps: tuple[Step, ...], ledger: Ledger, reporter: Reporter, ticket: Ticket
    ) -> None:
        self._task = task
        self._steps = steps
        self._ledger = ledger
        self._reporter = reporter
        self._ticket = ticket
        self._text = HeadTail()
        self._listener: _ThreadListener | None = None
        self._then = task.then
        self.last = StageEnd("", Outcome.CANCELLED, time.time(), 0.0)

    def may_begin(self, position: int) -> bool:
        """Not after a stop was asked for, unless there is a best answer to bring home."""
        solved = self.last.outcome is Outcome.STOPPED_WITH_SOLUTION
        if self._ticket.stop is None or solved:
            return True
        self.last = cancelled(self._steps[position].name, "a stop was asked for before it began")
        self._ledger.add(self.last)
        return False

    def begin(self, position: int) -> _ThreadListener:
        limits = self._task.limits[position] if self._task.isolated else Limits(self._steps[position].name)
        self._listener = _ThreadListener(self, limits)
        return self._listener

    def loaded(self, rows: int) -> None:
        """The first stage is computed from here on: read what comes next meanwhile."""
        then, self._then = self._then, None
        if then is not None:
            threading.Thread(
                target=preload, args=(then, self._steps[0].kind), name="batchrun-read-ahead", daemon=True
            ).start()

    def left(self) -> None:
        """Nothing follows from it in a thread."""

    def stop_seen(self) -> Cause | None:
        return self._listener.seen if self._listener else None

    def end(self, ended: StageEnd) -> None:
        self._reporter.forget()
        stop = self._ticket.stop
        unwanted = stop is not None and (not stop.keep_best or not ended.outcome.solved)
        if unwanted and ended.outcome is not Outcome.SUCCEEDED:
            ended = as_cancelled(ended)
        self.last = ended
        answers = self._listener.history.thinned() if self._listener else ()
        self._ledger.add(ended, log=self._text.take(), incumbents=answers)

    def asked(self) -> Cause | None:
        """Why the stage should stop, if it should."""
        return Cause.CANCEL if self._ticket.stop is not None else None

    def write(self, text: str) -> None:
        """One more line for the log."""
        self._text.add(text.encode(errors="replace"))

    def tell(self, listener: _ThreadListener) -> None:
        """Tell how it is going, as soon as it is time."""
        self._reporter.offer(partial(self._status, listener))

    def _status(self, listener: _ThreadListener) -> TaskStatus:
        best = listener.history.last
        return TaskStatus(
            self._task.key,
            listener.limits.stage,
            listener.seconds,
            *listener.progress_said,
            objective=best.objective if best else None,
            bound=best.bound if best else None,
            log=self._text.news(),
            chunk=self._task.chunk,
        )


class _ThreadListener:
    """Hears what one stage says."""

    def __init__(self, host: ThreadHost, limits: Limits) -> None:
        self.limits = limits
        self.history = History()
        self.seen: Cause | None = None
        self.progress_said: tuple[float | None, float | None, str] = (None, None, "")
        self._host = host
        self._clock = time.monotonic()

    @cached_property
    def log(self) -> logging.Logger:
        """Made when it is first used: it takes longer to make than many a stage."""
        return chunk_logger(self._write)

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self._clock

    def progress(self, done: float, total: float | None, message: str) -> None:
        self.progress_said = (done, total, message)
        self._host.tell(self)

    def incumbent(self, frame: Any, objective: float | None, bound: float | None) -> None:
        check_incumbent(frame, self.limits.stage)
        self.history.add(Incumbent(self.seconds, objective, bound))
        self._host.tell(self)

    def should_stop(self) -> bool:
        cause = self._host.asked() or self._late()
        self.seen = self.seen or cause
        return self.seen is not None

    def stopped_early(self) -> None:
        self.seen = self.seen or Cause.DEADLINE

    def _late(self) -> Cause | None:
        """Which limit of an isolated stage that runs here all the same is over."""
        if self.limits.stop_after is not None and self.seconds >= self.limits.stop_after:
            return Cause.DEADLINE
        if self.limits.timeout is not None and self.seconds >= self.limits.timeout:
            return Cause.TIMEOUT
        return None

    def _write(self, text: str) -> None:
        self._host.write(text)
        self._host.tell(self)


def cancelled(stage: str, message: str) -> StageEnd:
    """The end of a stage that never began, or that was given up."""
    return StageEnd(
        stage, Outcome.CANCELLED, time.time(), 0.0, error=cancel_record(message), cause=Cause.CANCEL
    )


def as_cancelled(ended: StageEnd) -> StageEnd:
    """A stage that ended after somebody had given it up."""
    return replace(
        ended,
        outcome=Outcome.CANCELLED,
        cause=Cause.CANCEL,
        error=ended.error or cancel_record("its answer was not wanted any more when it returned"),
        output=None,
        rows_out=0,
        emptied=False,
        over=True,
    )


def cancel_record(message: str) -> ErrorRecord:
    """What is recorded of a cancel."""
    return ErrorRecord("Cancelled", message, classes=("Cancelled",), signature="Cancelled")
