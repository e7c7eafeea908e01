"""How far a run is: what its events have told so far, folded into a few numbers that every face can show."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

from batchrun.events import (
    AttemptEnded,
    ChunkSettled,
    ChunksPlaced,
    ChunksPlanned,
    ChunksRecalled,
    Event,
    RetryScheduled,
    RunEnded,
    RunStarted,
    RunStopping,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import ErrorRecord, Outcome, RunState
from batchrun.resources import MEMORY, format_bytes, format_seconds

__all__ = ["Progress", "describe_rate", "describe_slot", "describe_stop", "describe_time"]

SAMPLE_EVERY = 0.2
"""Seconds between two points of the row count that are kept for the rate."""
SHORTEST_WINDOW = 5.0
"""Seconds; the rate is never taken over less, unless the session is younger."""


@dataclass
class Progress:
    """The state of one run as its observers know it.

    Tell it each event in order. Times are the events' own, so that nothing here reads a clock.

    >>> progress = Progress()
    >>> progress.tell(RunStarted("r1", 0.0, "delays", ("delays",), 100, "", "this process"))
    >>> progress.tell(ChunksPlanned("r1", 0.0, chunks=4, rows=100))
    >>> progress.tell(ChunkSettled("r1", 2.0, 0, Outcome.SUCCEEDED, rows=25, rows_out=1, seconds=1.9))
    >>> progress.share, progress.rows_per_second(2.0), progress.seconds_left(2.0)
    (0.25, 12.5, 6.0)
    """

    run_id: str = ""
    """The run; empty before it has started."""
    pipeline: str = ""
    """The pipeline's name."""
    cluster: str = ""
    """What it runs on, in a few words."""
    dashboard: str = ""
    """The address of the live page; empty if there is none."""
    folder: str = ""
    """Where the run's files are."""
    state: RunState = RunState.QUEUED
    """Where the run stands."""
    rows: int = 0
    """Rows of the input."""
    rows_planned: int = 0
    """Rows that are cut into chunks so far."""
    rows_settled: int = 0
    """Rows of chunks that have an outcome, those of earlier sessions included."""
    rows_resumed: int = 0
    """Rows that earlier sessions of the run had settled."""
    chunks_planned: int = 0
    """Chunks cut so far."""
    chunks_settled: int = 0
    """Chunks that have an outcome, those of earlier sessions included."""
    chunks_recalled: int = 0
    """Chunks that earlier sessions of the run had solved."""
    running: set[int] = field(default_factory=set)
    """Chunks that are with a worker now."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """Chunks settled in this session, by outcome."""
    attempts: Counter[Outcome] = field(default_factory=Counter)
    """Attempts of this session, by outcome."""
    retries: int = 0
    """Attempts that were repeated, or will be."""
    last_error: ErrorRecord | None = None
    """The newest error of an attempt, or the one that ended the run."""
    slots: tuple[SlotUse, ...] = ()
    """Supply and demand, threads first."""
    workers: int = 0
    """Live workers."""
    started: float = 0.0
    """When this session of the run began, in seconds since the epoch."""
    stopping: RunStopping | None = None
    """The request to stop, once there was one."""
    ended: RunEnded | None = None
    """The last event, once it is there."""
    _settled_at: float = 0.0
    _samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=4_000))

    def tell(self, event: Event) -> None:
        """Take the next event into account."""
        match event:
            case RunStarted():
                self._start(event)
            case ChunksPlanned():
                self._plan(event)
            case ChunkSettled():
                self.chunks_settled += 1
                self.rows_settled += event.rows
                self.outcomes[event.outcome] += 1
                self.running.discard(event.chunk)
                self._sample(event.at)
            case ChunksPlaced():
                self.running.update(event.chunks)
            case ChunksRecalled():
                self.chunks_recalled = len(event.chunks)
            case AttemptEnded():
                self.running.discard(event.attempt.chunk)
                self.attempts[event.attempt.outcome] += 1
                self.last_error = event.attempt.error or self.last_error
            case RetryScheduled():
                self.retries += 1
                self.last_error = event.error
            case SlotsChanged():
                self.slots, self.workers = event.slots, event.workers
            case RunStopping():
                self.stopping = event
            case RunEnded():
                self.running.clear()
                self.state, self.ended = event.state, event
                self.last_error = event.error or self.last_error

    @property
    def planned_in_full(self) -> bool:
        """Whether the number of chunks is final."""
        return self.rows_planned >= self.rows

    @property
    def share(self) -> float:
        """The share of the rows that is settled, from 0 to 1."""
        if self.rows <= 0:
            return 1.0 if self.ended else 0.0
        return min(1.0, self.rows_settled / self.rows)

    @property
    def telling_slots(self) -> tuple[SlotUse, ...]:
        """The slots worth a reader's time: all but memory that nobody asks for."""
        return tuple(slot for slot in self.slots if slot.tag != MEMORY or slot.used or slot.waiting)

    @property
    def unsolved(self) -> int:
        """Chunks of this session that ended without a result."""
        return sum(count for outcome, count in self.outcomes.items() if not outcome.solved)

    def rows_per_second(self, now: float) -> float:
        """Rows settled a second over the later half of the session; 0 before the first.

        The first chunks are often small probes, so that a mean from the start would stay low for long. Where
        no row was settled in the later half, it is the mean from the start all the same.
        """
        elapsed = max(now - self.started, 1e-9)
        begin = now - max(elapsed / 2, min(SHORTEST_WINDOW, elapsed))
        rows_then, then = self.rows_resumed, self.started
        if self._settled_at <= begin:
            begin = then
        for at, rows in self._samples:
            if at > begin:
                break
            rows_then, then = rows, at
        return max(0.0, (self.rows_settled - rows_then) / max(now - then, 1e-9))

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the last row; None while there is no rate, and 0 when it takes longer than estimated.

        The estimate is made whenever rows were settled, at the rate of that moment, and counts down between.
        """
        rate = self.rows_per_second(self._settled_at)
        left = max(0, self.rows - self.rows_settled)
        return max(0.0, left / rate - (now - self._settled_at)) if rate > 0 else None

    def seconds_elapsed(self, now: float) -> float:
        """Seconds since this session of the run began, or that it took."""
        if self.ended is not None:
            return self.ended.seconds
        return max(0.0, now - self.started) if self.run_id else 0.0

    def grace_left(self, now: float) -> float:
        """Seconds that running chunks still have to end after the run was asked to stop."""
        return max(0.0, self.stopping.at + self.stopping.grace - now) if self.stopping else 0.0

    def _start(self, event: RunStarted) -> None:
        self.run_id, self.pipeline, self.cluster = event.run_id, event.pipeline, event.cluster
        self.rows, self.folder, self.dashboard = event.rows, event.folder, event.dashboard
        self.state, self.started, self._settled_at = RunState.RUNNING, event.at, event.at

    def _plan(self, event: ChunksPlanned) -> None:
        self.chunks_planned, self.rows_planned = event.chunks, event.rows
        self.chunks_settled = event.settled + self.outcomes.total()
        if self.rows_resumed != event.settled_rows:
            self.rows_settled += event.settled_rows - self.rows_resumed
            self.rows_resumed = event.settled_rows

    def _sample(self, at: float) -> None:
        self._settled_at = at
        if not self._samples or at - self._samples[-1][0] >= SAMPLE_EVERY:
            if len(self._samples) == self._samples.maxlen:
                # Half the points are enough for the past; a run may take days.
                self._samples = deque(list(self._samples)[::2], maxlen=self._samples.maxlen)
            self._samples.append((at, self.rows_settled))


def describe_slot(slot: SlotUse) -> str:
    """Supply and demand of one kind of slot, for people.

    >>> describe_slot(SlotUse("HIGHMEM", capacity=1, used=1, waiting=3))
    'HIGHMEM 1/1, 3 waiting'
    """
    if slot.tag == MEMORY:
        text = f"{slot.tag} {format_bytes(slot.used)}/{format_bytes(slot.capacity)}"
        return f"{text}, {format_bytes(slot.waiting)} waiting" if slot.waiting else text
    text = f"{slot.tag} {slot.used:g}/{slot.capacity:g}"
    return f"{text}, {slot.waiting:g} waiting" if slot.waiting else text


def describe_rate(rows_per_second: float) -> str:
    """A rate, with a digit after the point where whole rows would hide it.

    >>> describe_rate(12345.6), describe_rate(0.32), describe_rate(0)
    ('12,346 rows/s', '0.3 rows/s', '0 rows/s')
    """
    digits = 1 if 0 < rows_per_second < 9.95 else 0
    return f"{rows_per_second:,.{digits}f} rows/s"


def describe_time(progress: Progress, now: float) -> str:
    """The time that a run has taken so far, and the estimate of what is left or why there is none."""
    left = progress.seconds_left(now)
    if not progress.chunks_planned:
        rest = "starting"
    elif progress.stopping is not None:
        rest = "stopping"
    elif progress.share >= 1:
        rest = "finishing"
    elif left is None:
        rest = "no chunk has ended yet"
    else:
        rest = f"{_whole(math.ceil(left))} left" if left else "longer than estimated"
    return f"{_whole(math.floor(progress.seconds_elapsed(now)))} elapsed, {rest}"


def describe_stop(progress: Progress, now: float, *, again: str) -> str:
    """What happens after the run was asked to stop; *again* says what a second request does."""
    running, left = len(progress.running), math.ceil(progress.grace_left(now))
    if not running:
        return "stopping: no chunk is running any more"
    chunks = "1 running chunk" if running == 1 else f"{running:,} running chunks"
    if not left:
        return f"stopping: {chunks} did not end in time"
    return f"stopping: {chunks} {'has' if running == 1 else 'have'} up to {_whole(left)} to end; {again}"


def _whole(seconds: int) -> str:
    return f"{seconds} s" if seconds < 60 else format_seconds(seconds)
