"""What happens in a run, as values that observers are told.

An observer is any callable that takes one event. Observers are called in the thread of the runner, in
order, and can change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.outcome import Attempt, ErrorRecord, Outcome, RunState, SolvedAttempts
from batchrun.status import TaskStatus

if TYPE_CHECKING:
    from batchrun.outcome import Floats, Integers

__all__ = [
    "AttemptEnded",
    "AttemptsSolved",
    "ChunkCut",
    "ChunkReported",
    "ChunksPlaced",
    "ChunksPlanned",
    "ChunksRecalled",
    "ChunksReturned",
    "ChunksSettled",
    "Event",
    "FailedAlike",
    "FailuresRecalled",
    "Observer",
    "RetryScheduled",
    "RunEnded",
    "RunStarted",
    "RunStopping",
    "RunWaiting",
    "SlotUse",
    "SlotsChanged",
]


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""

    run_id: str
    """The run."""
    at: float
    """When, in seconds since the epoch."""


@dataclass(frozen=True)
class RunStarted(Event):
    """The run was recorded and begins, or goes on after a resume."""

    pipeline: str
    """The pipeline's name."""
    stages: tuple[str, ...]
    """The stages' names in order."""
    rows: int
    """Rows of the input."""
    folder: str
    """Where the run's files are."""
    cluster: str
    """What it runs on, in a few words."""
    dashboard: str = ""
    """The address of the dashboard page; empty if there is none."""
    notes: tuple[str, ...] = ()
    """What people should know about how it is run, a sentence each."""


@dataclass(frozen=True)
class RunWaiting(Event):
    """Nothing happens in the run for now; told to those who watch a run that another process drives, or that
    none does."""

    pipeline: str
    """The pipeline's name."""
    rows: int
    """Rows of the input; 0 where they are not known yet."""
    reason: str
    """What it waits for, as a sentence without a full stop that names the run."""


@dataclass(frozen=True)
class ChunksPlanned(Event):
    """More of the input was cut into chunks."""

    chunks: int
    """Chunks planned so far, in all."""
    rows: int
    """Rows in them."""
    settled: int = 0
    """How many of these chunks an earlier session of the run had settled."""
    settled_rows: int = 0
    """Rows in the chunks that were settled before."""


@dataclass(frozen=True)
class ChunksRecalled(Event):
    """Chunks that an earlier session of the run had settled and that are not tried again, told once when the
    run goes on. Columns of equal length, shape (chunks,)."""

    chunks: Integers
    """Their numbers."""
    outcomes: tuple[Outcome, ...]
    """How each ended."""
    rows: Integers
    """Input rows of each."""


@dataclass(frozen=True)
class ChunksPlaced(Event):
    """Chunks were handed to workers; each runs until the next AttemptEnded, AttemptsSolved or ChunksReturned
    that names it. One that is placed while it runs was started a second time, and runs until an AttemptEnded
    from each of the two workers."""

    chunks: tuple[int, ...]
    """Their numbers; those that ride in one task follow each other."""
    workers: tuple[str, ...] = ()
    """The worker that each went to."""
    packs: tuple[int, ...] = ()
    """How many of the chunks ride in each task, in order; empty where each has a task of its own."""


@dataclass(frozen=True)
class ChunksReturned(Event):
    """Chunks that were placed together with others did not begin, and wait again."""

    chunks: tuple[int, ...]
    """Their numbers."""


@dataclass(frozen=True)
class ChunkReported(Event):
    """A chunk that runs told how it is doing; a few times a second for each at most."""

    chunk: int
    """The chunk's number."""
    worker: str
    """The worker that it runs on."""
    status: TaskStatus
    """How it is doing."""


@dataclass(frozen=True)
class ChunkCut(Event):
    """A chunk that failed was cut into parts, which take its place; it will have no outcome itself."""

    chunk: int
    """The chunk's number."""
    parts: tuple[int, ...]
    """The numbers of its parts."""
    rows: tuple[int, ...]
    """Input rows of each part."""


@dataclass(frozen=True)
class AttemptEnded(Event):
    """One try of a chunk at a stage ended."""

    attempt: Attempt
    """The record of it."""


@dataclass(frozen=True)
class AttemptsSolved(Event):
    """Attempts of short chunks that rode together in one task ended well, without anything to tell of any."""

    attempts: SolvedAttempts
    """All of them, of one stage."""


@dataclass(frozen=True)
class RetryScheduled(Event):
    """A chunk will be tried again."""

    chunk: int
    """The chunk's number."""
    stage: str
    """The stage that failed."""
    wait: float
    """Seconds until it may be tried."""
    error: ErrorRecord
    """Why."""


@dataclass(frozen=True)
class ChunksSettled(Event):
    """Chunks have their outcomes, and they are durable. Columns of equal length, shape (chunks,)."""

    chunks: Integers
    """Their numbers."""
    outcomes: tuple[Outcome, ...]
    """How each ended."""
    rows: Integers
    """Input rows of each."""
    rows_out: Integers
    """Rows of the result of each; 0 unless it was solved."""
    seconds: Floats
    """Seconds of all attempts of each together."""
    gaps: Floats
    """How far the answer of each can be from the best one; NaN where that is not known."""


@dataclass(frozen=True)
class FailedAlike:
    """Attempts of a stage that failed for one cause."""

    stage: str
    """The stage; empty if none was tried."""
    error_type: str
    """The class of the error; how they ended if there was none."""
    error: str
    """What the latest that is known says."""
    times: int
    """How many there were."""
    signature: str
    """What they have in common."""


@dataclass(frozen=True)
class FailuresRecalled(Event):
    """What chunks of the run were given up for before somebody began to listen; told to those who watch a run
    that another process drives. Each chunk counts once."""

    failures: tuple[FailedAlike, ...]
    """One for each cause."""


@dataclass(frozen=True)
class SlotUse:
    """Supply and demand of one kind of slot."""

    tag: str
    """``threads``, ``MEMORY`` (bytes) or a resource tag."""
    capacity: float
    """What all live workers have together."""
    used: float
    """What running tasks hold."""
    waiting: float
    """What the chunks that wait would take if all ran at once."""


@dataclass(frozen=True)
class SlotsChanged(Event):
    """Capacity, use or waiting demand changed; told a few times a second at most."""

    slots: tuple[SlotUse, ...]
    """``threads`` first, then ``MEMORY``, then the tags by name."""
    workers: int
    """Live workers."""


@dataclass(frozen=True)
class RunStopping(Event):
    """Somebody asked the run to stop; nothing new is started."""

    running: int
    """Chunks that are running and may still end."""
    grace: float
    """Seconds that they get."""
    interruptible: bool = True
    """Whether another interrupt of this process stops them at once; not if another process drives the run."""


@dataclass(frozen=True)
class RunEnded(Event):
    """The run has its final state, and everything is durable."""

    state: RunState
    """How it ended."""
    rows_in: int
    """Rows of the input."""
    rows_solved: int
    """Rows in chunks with a result."""
    rows_quarantined: int
    """Rows set apart because they failed."""
    rows_cancelled: int
    """Rows that were never solved because the run stopped."""
    seconds: float
    """Wall time of this session of the run."""
    error: ErrorRecord | None = None
    """The error that ended the run, if one did."""


Observer = Callable[[Event], None]
