"""One task in one child: what the child says is heard, what it takes is measured, and it is stopped when it
must be."""

from __future__ import annotations

import queue
import signal
import time
from dataclasses import dataclass, replace
from typing import Any

from batchrun.data.table import Inline, Stored, decode
from batchrun.outcome import Cause, ErrorRecord, Outcome
from batchrun.resources import format_seconds
from batchrun.status import TaskStatus
from batchrun.worker import memory, messages
from batchrun.worker.children import pool, retire
from batchrun.worker.ledger import Ledger
from batchrun.worker.leg import StageEnd
from batchrun.worker.process import Broken, Child, died, wait_until_dead
from batchrun.worker.reporter import Reporter
from batchrun.worker.running import Ticket
from batchrun.worker.task import Task
from batchrun.worker.thread import cancelled
from batchrun.worker.watch import (
    Ask,
    Kill,
    Watch,
    decide,
    final,
    killed,
    memory_limit,
    memory_record,
)

__all__ = ["Continue", "Over", "Sitting", "Unstarted"]

TICK = 0.025
"""Seconds between two looks at a child that says nothing."""
ALIVE_EVERY = 0.2
"""Seconds between two questions to the system whether a child is alive."""
TELL_EVERY = 0.1
"""Seconds between two looks whether there is something to tell."""
STATUS_EVERY = 2.0
"""Seconds between two statuses of a stage that says nothing."""
HELLO_WITHIN = 60.0
"""Seconds that a child has to be ready."""
LOAD_WITHIN = 600.0
"""Seconds that a child has to load the program and to begin with the first stage."""
SETTLE_WITHIN = 5.0
"""Seconds that a child has to tidy up after a task before it is given up."""
CLOSES_WITHIN = 0.5
"""Seconds between the death of a child and the end of what it said."""


@dataclass(frozen=True)
class Over:
    """The leg is over."""

    output: Inline | Stored | None
    """The result; None if a stage failed."""
    rows_out: int
    """Its rows."""
    emptied: bool
    """Whether a stage gave None."""
    fresh: bool
    """Whether the child had run nothing before."""


@dataclass(frozen=True)
class Continue:
    """A stage was stopped and has an answer: the rest of the leg goes on with it elsewhere."""

    start: int
    """The stage that is next; the number of stages if there is none."""
    frame: bytes
    """The answer, as an Arrow IPC stream."""
    fresh: bool
    """Whether the child had run nothing before."""


@dataclass(frozen=True)
class Unstarted:
    """No stage began, so the task can be tried in another child."""

    record: ErrorRecord
    """What happened."""
    cause: Cause = Cause.INFRASTRUCTURE
    """Whose fault it was."""
    log: str = ""
    """What the child printed."""
    fresh: bool = True
    """Whether the child had run nothing before."""


class Sitting:
    """One task in one child."""

    def __init__(
        self,
        child: Child,
        program: bytes,
        task: Task,
        start: int,
        worker: str,
        ledger: Ledger,
        reporter: Reporter,
        ticket: Ticket,
    ) -> None:
        self._child, self._program, self._task, self._start = child, program, task, start
        self._worker, self._ledger, self._reporter, self._ticket = worker, ledger, reporter, ticket
        self._fresh = child.tasks == 0
        self._limit = memory_limit(task.demand.memory)
        self._gauge = memory.MemoryGauge(child.pid)
        self._watch: Watch | None = None
        self._sent = self._changed = False
        self._since = self._looked = time.monotonic()
        self._kills_before = memory.machine_kills()
        self._dead_since: float | None = None
        self._asked_at = self._told_at = 0.0
        self._next = start
        self._outcome: Over | Continue | None = None
        self._ending: Over | Continue | Unstarted | None = None

    def run(self) -> Over | Continue | Unstarted:
        """Drive the child until the task is over in it."""
        try:
            if self._child.greeted:
                self._send_task()
            while self._ending is None:
                try:
                    message, payload = self._child.inbox.get(timeout=TICK)
                except queue.Empty:
                    pass  # it says nothing, and is looked at below
                else:
                    self._hear(message, payload)
                if self._ending is None:
                    self._look(time.monotonic())
        except BaseException:
            self._kill_child()
            raise
        finally:
            self._gauge.close()
        return self._ending

    def _send_task(self) -> None:
        child, task = self._child, self._task
        child.capture.text.forget()
        orders: list[tuple[object, bytes]] = []
        if child.program != self._program:
            child.program = self._program
            orders.append((messages.UseProgram(), self._program))
        child.tasks += 1
        payload = b""
        if isinstance(task.input, Inline):
            payload, task = task.input.data, replace(task, input=Inline(b""))
        orders.append((messages.Start(task, self._worker, self._start), payload))
        child.send(*orders)
        self._sent, self._since = True, time.monotonic()

    def _hear(self, message: Any, payload: bytes) -> None:
        """One message of the child."""
        watch = self._watch
        match message:
            case messages.Hello():
                self._child.greeted = True
                self._send_task()
            case messages.Began(position):
                self._gauge.restart()
                self._gauge.sample(time.monotonic())
                self._watch = Watch(position, self._task.limits[position])
                if self._ticket.stop is not None:
                    self._look(time.monotonic())
            case messages.Ended(end, peak):
                self._gauge.raise_to(peak)
                self._ended(end, payload)
            case messages.Settled(nbytes):
                self._settled(nbytes)
            case Broken(problem):
                self._broken(problem)
            case messages.Loaded(rows) if watch is not None:
                watch.rows = rows
            case messages.Progress(done, total, text) if watch is not None:
                watch.progress, self._changed = (done, total, text), True
            case messages.Published(points) if watch is not None:
                watch.published(points, payload)
                self._changed = True

    def _look(self, now: float) -> None:
        """What is not told but seen: time, memory, death."""
        if now - self._looked < TICK / 2 and self._watch is not None:
            return
        self._looked = now
        if self._dead(now):
            # Its last words are still on their way, unless a process that it left holds the pipe.
            self._dead_since = self._dead_since or now
            if now - self._dead_since > CLOSES_WITHIN:
                self._broken("")
            return
        if self._outcome is not None:
            if now - self._since > SETTLE_WITHIN:
                self._give_up_child()
            return
        used = self._gauge.sample(now)
        if self._watch is None:
            self._look_before(now, used)
            return
        stop = self._ticket.stop
        if self._limit and used > self._limit:
            used = self._gauge.own()
        step = decide(self._watch, now, stop=stop, memory=used, limit=self._limit, grace=self._task.grace)
        if isinstance(step, Ask):
            self._watch.asked, self._watch.asked_at = step.cause, now
            self._child.send((messages.Stop(step.cause), b""))
        elif isinstance(step, Kill):
            self._kill(step)
        if now - self._told_at > TELL_EVERY:
            self._told_at = now
            self._tell()

    def _dead(self, now: float) -> bool:
        """Whether the child has ended; asked less often than the rest, for its pipe mostly tells."""
        if now - self._asked_at > ALIVE_EVERY or self._dead_since is not None:
            self._asked_at = now
            return self._child.returncode() is not None
        return False

    def _look_before(self, now: float, used: int) -> None:
        """The next stage, mostly the first, has not begun."""
        limits = self._task.limits[self._next]
        stop = self._ticket.stop
        if stop is not None and not (stop.keep_best and self._next > self._start):
            self._ledger.add(cancelled(limits.stage, "a stop was asked for before it began"))
            self._outcome = Over(None, 0, False, self._fresh)
            if self._sent:
                self._give_up_child()
            else:
                pool().give_back(self._child)
                self._ending = self._outcome
        elif self._sent and self._limit and used > self._limit:
            self._watch = Watch(self._next, limits)
        elif now - self._since > (LOAD_WITHIN if self._sent else HELLO_WITHIN):
            did = "load the program" if self._sent else "start"
            within = format_seconds(LOAD_WITHIN if self._sent else HELLO_WITHIN)
            self._unstarted(_infrastructure(f"the stage's process did not {did} within {within}"))

    def _ended(self, end: StageEnd, payload: bytes) -> None:
        """A stage ended, by itself or because it was asked to."""
        self._child.capture.drain()
        if isinstance(end.output, Inline):
            end = replace(end, output=Inline(payload))
        counted = final(end, self._watch, self._ticket.stop)
        self._record(counted)
        position = self._watch.position if self._watch is not None else self._start
        if end.over or counted.over:
            self._conclude(counted)
            if not end.over:
                self._child.send((messages.Proceed(False), b""))
            return
        if self._ticket.stop is not None and counted.outcome is Outcome.SUCCEEDED:
            following = self._task.limits[position + 1].stage
            self._ledger.add(cancelled(following, "a stop was asked for before it began"))
            self._conclude(cancelled(following, ""))
            self._child.send((messages.Proceed(False), b""))
            return
        self._watch, self._next, self._since = None, position + 1, time.monotonic()
        self._child.send((messages.Proceed(True), b""))

    def _conclude(self, counted: StageEnd) -> None:
        """The task is over in this child, with this last stage."""
        watch = self._watch
        self._since = time.monotonic()
        best = watch.best if watch is not None else None
        if counted.outcome.solved and counted.output is None and watch is not None and best is not None:
            self._outcome = Continue(watch.position + 1, best, self._fresh)
        else:
            self._outcome = Over(counted.output, counted.rows_out, counted.emptied, self._fresh)

    def _settled(self, nbytes: int) -> None:
        """The child is ready for another task, if it is fit for one."""
        if self._outcome is None:
            self._broken("the task was over before its stages were")
            return
        self._ending = self._outcome
        if self._child.tasks >= self._task.chunks_per_child or (self._limit and nbytes > self._limit // 2):
            retire(self._child)
            pool().replace()
        else:
            pool().give_back(self._child)

    def _kill(self, kill: Kill) -> None:
        """Kill the child, and count what it said before."""
        watch = self._watch
        assert watch is not None  # noqa: S101  only stages are killed
        self._gauge.last_words()
        self._kill_child()
        deadline = time.monotonic() + CLOSES_WITHIN
        ended: StageEnd | None = None
        while (left := deadline - time.monotonic()) > 0:
            try:
                message, payload = self._child.inbox.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(message, Broken):
                break
            if isinstance(message, messages.Published):
                watch.published(message.points, payload)
            elif isinstance(message, messages.Ended) and message.end.over and message.end.outcome.solved:
                output = message.end.output
                ended = replace(message.end, output=Inline(payload) if isinstance(output, Inline) else output)
        self._over_by_force(ended or killed(watch, kill))

    def _broken(self, problem: str) -> None:
        """The child said its last word: it died, or the pipe carries what is no message."""
        # Half a message may be all that a dying child got out: its death is what counts then.
        code = wait_until_dead(self._child, CLOSES_WITHIN)
        if self._outcome is not None:
            self._give_up_child()
            return
        self._gauge.last_words()
        if self._watch is None and self._next > self._start:
            self._watch = Watch(self._next, self._task.limits[self._next])
        watch = self._watch
        self._kill_child()
        if code is None:
            text = problem or "the pipe was closed"
            record, outcome, cause = _protocol(text), Outcome.FAILED, Cause.INFRASTRUCTURE
        elif code == -getattr(signal, "SIGKILL", 0) and memory.machine_kills() > self._kills_before:
            record = memory_record("the machine ran out of memory, and its kernel ended the stage's process")
            outcome, cause = Outcome.OUT_OF_MEMORY, Cause.MEMORY
        else:
            record, outcome = died(code), Outcome.FAILED
            cause = Cause.ERROR if self._sent else Cause.INFRASTRUCTURE
        if watch is None:
            self._unstarted(record, cause)
        else:
            self._over_by_force(watch.ended(outcome, cause, record))

    def _over_by_force(self, end: StageEnd) -> None:
        """A stage ended with its child."""
        counted = final(end, self._watch, self._ticket.stop)
        self._record(counted)
        self._conclude(counted)
        self._give_up_child()

    def _kill_child(self) -> None:
        self._child.kill(self._gauge.children, seen_at=self._gauge.listed_at)

    def _unstarted(self, record: ErrorRecord, cause: Cause = Cause.INFRASTRUCTURE) -> None:
        self._kill_child()
        pool().replace()
        self._ending = Unstarted(record, cause, self._child.capture.text.take(), self._fresh)

    def _give_up_child(self) -> None:
        """What came of the task stands; the child is lost."""
        self._kill_child()
        pool().replace()
        self._ending = self._outcome

    def _record(self, end: StageEnd) -> None:
        """One more attempt for the ledger."""
        watch = self._watch
        if end.outcome.solved and end.over and end.output is None and watch is not None:
            end = replace(end, rows_out=decode(watch.best).num_rows if watch.best is not None else 0)
        self._ledger.add(
            end,
            log=self._child.capture.text.take(),
            incumbents=watch.history.thinned() if watch is not None else (),
            peak_memory=self._gauge.peak or None,
        )

    def _tell(self) -> None:
        """Tell how the stage is doing, if it is time."""
        watch = self._watch
        fresh = self._changed or self._child.capture.text.has_news
        if watch is None or not (fresh or self._reporter.idle >= STATUS_EVERY) or not self._reporter.due():
            return
        best = watch.history.last
        self._changed = False
        self._reporter.tell(
            TaskStatus(
                self._task.key,
                watch.limits.stage,
                time.monotonic() - watch.clock,
                *watch.progress,
                memory=self._gauge.now or None,
                peak_memory=self._gauge.peak or None,
                objective=best.objective if best else None,
                bound=best.bound if best else None,
                log=self._child.capture.text.news(),
            )
        )


def _protocol(problem: str) -> ErrorRecord:
    message = f"the way between the worker and the stage's process was broken: {problem}"
    return ErrorRecord("ProtocolError", message, classes=("ProtocolError",), signature="ProtocolError")


def _infrastructure(message: str) -> ErrorRecord:
    return ErrorRecord("NotStarted", message, classes=("NotStarted",), signature="NotStarted")
