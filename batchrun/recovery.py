"""What becomes of a chunk, and of the run, after an attempt that failed. Values in, values out.

Each cause has a budget of its own, in RetryPolicy, so that a chunk that kills workers cannot go on for ever
and a lost machine takes no retry from a solve.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from batchrun.outcome import Cause, ErrorRecord, Outcome
from batchrun.resources import format_bytes, format_seconds
from batchrun.retry import RetryPolicy

__all__ = ["Cut", "Decision", "Enlarge", "Failure", "GiveUp", "Retry", "Tally", "cause_of", "decide"]


@dataclass(frozen=True)
class Failure:
    """What is known of a chunk whose latest attempt failed."""

    cause: Cause
    """Why the attempt failed."""
    error: ErrorRecord
    """What went wrong."""
    count: int = 1
    """Attempts of the chunk at this leg that failed by this cause, the latest included, and those of the
    chunk that it is a part of, if they failed alike."""
    alone: bool = True
    """Whether no other chunk was on the worker; a lost worker is held against a chunk only then."""
    fresh: bool = True
    """Whether nothing ran before in the process that it ran in, which could have left memory behind."""
    divisible: bool = False
    """Whether the chunk has parts that mean something by themselves: independent rows, or whole groups."""
    larger: int | None = None
    """The next larger memory of a live worker, in bytes; None if none has more than the chunk had."""


@dataclass(frozen=True)
class Retry:
    """Try the chunk again."""

    wait: float
    """Seconds before the next try may start."""
    reason: str = ""
    """What is hoped for, as the end of a sentence."""

    word = "retry"

    def __str__(self) -> str:
        when = f"in {format_seconds(self.wait)}" if self.wait >= 0.001 else "at once"
        return f"tried again {when}{self.reason and ' ' + self.reason}"


@dataclass(frozen=True)
class Cut:
    """Cut the chunk in two and try both halves."""

    word = "cut"

    def __str__(self) -> str:
        return "cut in two halves, which are tried by themselves"


@dataclass(frozen=True)
class Enlarge:
    """Try the chunk on a worker with more memory."""

    memory: int
    """Bytes that it may use there."""

    word = "more_memory"

    def __str__(self) -> str:
        return f"tried again where it may use {format_bytes(self.memory)}"


@dataclass(frozen=True)
class GiveUp:
    """Set the rows of the chunk apart; the others go on."""

    reason: str = ""
    """Why nothing else is left, as a sentence without a full stop."""

    word = "quarantine"

    def __str__(self) -> str:
        return f"its rows are set apart{self.reason and ': ' + self.reason}"


Decision = Retry | Cut | Enlarge | GiveUp


def decide(failure: Failure, *, policy: RetryPolicy, chance: float) -> Decision:
    """Decide about a chunk that failed.

    *chance* is a draw from [0, 1) that spreads the waits.
    """
    match failure.cause:
        case Cause.WORKER_LOST:
            return _after_lost_worker(failure, policy)
        case Cause.MEMORY:
            return _after_memory(failure, policy)
        case Cause.TIMEOUT | Cause.DEADLINE:
            again, last = failure.count < policy.timeouts, GiveUp("it would not end in time")
        case Cause.INFRASTRUCTURE:
            again = failure.count < policy.infrastructure
            last = GiveUp(f"{failure.count} tries could not be started or brought back")
        case _:
            again = failure.count < policy.attempts and policy.covers(failure.error.classes)
            last = GiveUp()
    if again:
        return Retry(policy.wait_after(failure.count, chance=chance))
    return Cut() if failure.divisible and failure.cause is not Cause.INFRASTRUCTURE else last


def _after_lost_worker(failure: Failure, policy: RetryPolicy) -> Decision:
    """A chunk that took several workers with it while it was alone there is no longer tried, nor cut: each
    part would cost workers again."""
    if not failure.alone:
        return Retry(0.0, "on a worker of its own, to see which of several chunks there was to blame")
    if failure.count < policy.worker_lost:
        return Retry(0.0, "elsewhere")
    return GiveUp(
        f"{failure.count} workers were lost with it; isolate=True keeps the next one alive and finds the rows"
    )


def _after_memory(failure: Failure, policy: RetryPolicy) -> Decision:
    """Less at once if it has parts, else more memory, if there is more."""
    if failure.count >= policy.out_of_memory:
        return GiveUp(f"it passed its memory {failure.count} times")
    if not failure.fresh:
        return Retry(0.0, "in a fresh process, because chunks before it may have left memory behind")
    if failure.divisible:
        return Cut()
    if failure.larger is not None:
        return Enlarge(failure.larger)
    return GiveUp("no worker has more memory")


def cause_of(outcome: Outcome) -> Cause:
    """The cause that an outcome stands for where none was told."""
    causes = {
        Outcome.OUT_OF_MEMORY: Cause.MEMORY,
        Outcome.TIMED_OUT: Cause.TIMEOUT,
        Outcome.WORKER_LOST: Cause.WORKER_LOST,
        Outcome.CANCELLED: Cause.CANCEL,
        Outcome.STOPPED_WITH_SOLUTION: Cause.DEADLINE,
    }
    return causes.get(outcome, Cause.ERROR)


@dataclass
class Tally:
    """Watches whether the first chunks at a stage all fail alike, which means that its function is broken.

    Only chunks that were given up count, so those that can be cut count once their rows failed alone: a bad
    row in each of the first chunks is no broken function.
    """

    enough: int
    """So many chunks that failed alike, before any passed the stage, end the run."""
    _passed: set[str] = field(default_factory=set)
    _failed: dict[str, int] = field(default_factory=dict)

    def passed(self, stage: str) -> None:
        """The stage gave a result; from now on failures at it are the chunks' own."""
        self._passed.add(stage)

    def failed(self, stage: str, error: ErrorRecord) -> ErrorRecord | None:
        """A chunk was given up at the stage; the error of a broken function if that makes enough of them."""
        if stage in self._passed:
            return None
        self._failed[error.signature] = self._failed.get(error.signature, 0) + 1
        return error if self._failed[error.signature] >= self.enough else None
