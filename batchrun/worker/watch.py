"""What a worker knows of a stage that runs in a child, and what it decides by that: values in, values out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from batchrun.outcome import Cause, ErrorRecord, Incumbent, Outcome
from batchrun.resources import format_bytes, format_seconds
from batchrun.worker.ledger import History
from batchrun.worker.leg import StageEnd
from batchrun.worker.memory import LEAST_LIMIT
from batchrun.worker.running import StopRequest
from batchrun.worker.task import Limits
from batchrun.worker.thread import as_cancelled, cancel_record

__all__ = ["Ask", "Kill", "Watch", "decide", "final", "killed", "memory_limit", "out_of_memory"]


@dataclass(frozen=True)
class Ask:
    """Ask the stage to return what it has."""

    cause: Cause
    """Why."""


@dataclass(frozen=True)
class Kill:
    """Kill the child."""

    cause: Cause
    """Why."""
    record: ErrorRecord
    """What is recorded if there is no best answer to keep."""


@dataclass
class Watch:
    """A stage that runs."""

    position: int
    """Its number in the leg."""
    limits: Limits
    """Its time."""
    rows: int = 0
    """Rows of its frame."""
    started: float = field(default_factory=time.time)
    """When it began, in seconds since the epoch."""
    clock: float = field(default_factory=time.monotonic)
    """When it began, by time.monotonic."""
    asked: Cause | None = None
    """Why it was asked to stop, if it was."""
    asked_at: float = 0.0
    """When, by time.monotonic."""
    history: History = field(default_factory=History)
    """The answers that it published."""
    best: bytes | None = None
    """The frame of the last one, as an Arrow IPC stream."""
    progress: tuple[float | None, float | None, str] = (None, None, "")
    """What it said of its progress: done, total, message."""

    def published(self, points: tuple[tuple[float, float | None, float | None], ...], frame: bytes) -> None:
        """It has better answers; *frame* is that of the last one."""
        for point in points:
            self.history.add(Incumbent(*point))
        self.best = frame

    def ended(self, outcome: Outcome, cause: Cause, record: ErrorRecord) -> StageEnd:
        """The record of a stage that cannot tell itself how it ended."""
        return StageEnd(
            stage=self.limits.stage,
            outcome=outcome,
            started=self.started,
            seconds=time.monotonic() - self.clock,
            rows_in=self.rows,
            error=record,
            cause=cause,
        )


def memory_limit(demand: int) -> int:
    """Bytes that a stage which asked for *demand* may use; 0 for no limit.

    >>> memory_limit(0), memory_limit(2**20) == LEAST_LIMIT, memory_limit(2**30) == 2**30
    (0, True, True)
    """
    return max(demand, LEAST_LIMIT) if demand else 0


def decide(
    watch: Watch, now: float, *, stop: StopRequest | None, memory: int, limit: int, grace: float
) -> Ask | Kill | None:
    """What to do about a stage that runs.

    Args:
        watch: What is known of it.
        now: The time, by time.monotonic.
        stop: What somebody asked for.
        memory: Bytes that its processes hold.
        limit: Bytes that they may hold; 0 for no limit.
        grace: Seconds between its ``stop_after`` and its end.
    """
    if limit and memory > limit:
        return Kill(Cause.MEMORY, out_of_memory(memory, limit))
    late = _late(watch, now, stop, grace)
    if late is not None:
        return late
    if stop is not None:
        return None if watch.asked is Cause.CANCEL else Ask(Cause.CANCEL)
    after = watch.limits.stop_after
    over = after is not None and now - watch.clock >= after
    return Ask(Cause.DEADLINE) if over and watch.asked is None else None


def _late(watch: Watch, now: float, stop: StopRequest | None, grace: float) -> Kill | None:
    """Whether the stage has no time left."""
    limits = watch.limits
    if stop is not None and now >= stop.deadline:
        text = f"the stage did not return within {format_seconds(stop.grace)} after it was asked to stop"
        return Kill(Cause.CANCEL, cancel_record(text))
    if limits.timeout is not None and now - watch.clock >= limits.timeout:
        text = f"the stage passed its timeout of {format_seconds(limits.timeout)}"
        return Kill(Cause.TIMEOUT, _timed_out(text))
    if stop is None and watch.asked is Cause.DEADLINE and now >= watch.asked_at + grace:
        after = format_seconds(limits.stop_after or 0)
        text = f"the stage did not return within {format_seconds(grace)} after its stop_after of {after}"
        return Kill(Cause.DEADLINE, _timed_out(text))
    return None


def killed(watch: Watch, kill: Kill) -> StageEnd:
    """The record of a stage whose child was killed."""
    outcomes = {Cause.MEMORY: Outcome.OUT_OF_MEMORY, Cause.CANCEL: Outcome.CANCELLED}
    return watch.ended(outcomes.get(kill.cause, Outcome.TIMED_OUT), kill.cause, kill.record)


def final(ended: StageEnd, watch: Watch | None, stop: StopRequest | None) -> StageEnd:
    """How a stage counts, given what was asked for and its best answer; one that counts as solved without an
    output of its own, and is over, is solved by that answer."""
    if ended.outcome is Outcome.SUCCEEDED:
        return ended  # a stop that came while it ended by itself takes nothing from its answer
    if stop is not None and not stop.keep_best:
        return as_cancelled(ended)
    if ended.outcome.solved:
        return ended
    stopped = stop is not None or ended.cause in (Cause.MEMORY, Cause.TIMEOUT, Cause.DEADLINE)
    if stopped and watch is not None and watch.best is not None:
        cause = Cause.CANCEL if ended.cause is Cause.ERROR else ended.cause
        return replace(ended, outcome=Outcome.STOPPED_WITH_SOLUTION, cause=cause, error=None)
    return as_cancelled(ended) if stop is not None else ended


def out_of_memory(used: int, limit: int) -> ErrorRecord:
    """What is recorded of a stage that passed its memory."""
    text = f"the stage used {format_bytes(used)}, its memory is {format_bytes(limit)}"
    return memory_record(text)


def memory_record(message: str) -> ErrorRecord:
    """An error record of a lack of memory."""
    return ErrorRecord("OutOfMemory", message, classes=("OutOfMemory",), signature="OutOfMemory")


def _timed_out(message: str) -> ErrorRecord:
    return ErrorRecord("TimedOut", message, classes=("TimedOut",), signature="TimedOut")
