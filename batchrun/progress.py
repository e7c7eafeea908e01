"""How far a run is: what its events have told so far, folded into a few numbers that every face can show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from batchrun.events import (
    AttemptEnded,
    AttemptsSolved,
    ChunkCut,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksRecalled,
    ChunksReturned,
    ChunksSettled,
    Event,
    FailedAlike,
    FailuresRecalled,
    RetryScheduled,
    RunEnded,
    RunStarted,
    RunStopping,
    RunWaiting,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import Attempt, ErrorRecord, Outcome, RunState, relative_gap
from batchrun.rate import RowRate
from batchrun.resources import MEMORY
from batchrun.status import TaskStatus

__all__ = ["Progress", "RunningLine", "StageLine", "describe_gap", "describe_share"]

MOST_CAUSES = 50
"""Causes of failures that are kept apart; those that were not met for longest are forgotten."""
PATIENCE = 5.0
"""Seconds after which a running chunk is worth a line though it says nothing."""


@dataclass(frozen=True)
class RunningLine:
    """A running chunk as the faces show it."""

    chunk: int
    """The chunk's number."""
    worker: str
    """The worker that it runs on; empty where that is not known."""
    seconds: float
    """How long it has run, or its present stage where that is known."""
    stage: str = ""
    """The stage that runs; empty where that is not known."""
    share: float | None = None
    """How much of the work is done, from 0 to 1; None if the stage did not say."""
    message: str = ""
    """What the stage said last."""
    memory: int | None = None
    """Bytes that it uses; None where that is not measured."""
    objective: float | None = None
    """The value of its best answer so far."""
    bound: float | None = None
    """The proven limit of what any answer can reach."""
    others: int = 0
    """Chunks that ride in the same task and have not ended either."""

    @property
    def gap(self) -> float | None:
        """How far its answer can be from the best one there is."""
        return relative_gap(self.objective, self.bound)


@dataclass(frozen=True)
class StageLine:
    """How far the chunks of a run are with one of its stages."""

    name: str
    """The stage."""
    passed: int
    """Chunks that it gave a result for, those of earlier sessions included."""
    running: int
    """Chunks that are known to be in it now."""


@dataclass(eq=False)
class _Task:
    """What a worker was given: one chunk, or short ones that ride together."""

    worker: str
    since: float
    status: TaskStatus | None = None

    @property
    def tells(self) -> bool:
        """Whether it has said something that is worth showing."""
        status = self.status
        return status is not None and (
            status.share is not None or bool(status.message) or status.objective is not None
        )


@dataclass
class Progress:
    """The state of one run as its observers know it.

    Tell it each event in order. Times are the events' own, so that nothing here reads a clock.

    >>> import numpy as np
    >>> progress = Progress()
    >>> progress.tell(RunStarted("r1", 0.0, "delays", ("delays",), 100, "", "this process"))
    >>> progress.tell(ChunksPlanned("r1", 0.0, chunks=4, rows=100))
    >>> first, rows, gap = np.array([0]), np.array([25]), np.array([np.nan])
    >>> solved = (Outcome.SUCCEEDED,)
    >>> progress.tell(ChunksSettled("r1", 2.0, first, solved, rows, rows_out=rows, seconds=gap, gaps=gap))
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
    stages: tuple[str, ...] = ()
    """The stages' names in order."""
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
    """Chunks planned so far; parts of a chunk that was cut count in its place."""
    chunks_settled: int = 0
    """Chunks that have an outcome, those of earlier sessions included."""
    chunks_recalled: int = 0
    """Chunks that earlier sessions of the run had settled, and that are not tried again."""
    chunks_cut: int = 0
    """Chunks that were cut into parts in this session; the parts count in their place."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """Chunks settled in this session, by outcome."""
    attempts: Counter[Outcome] = field(default_factory=Counter)
    """Attempts of this session, by outcome."""
    decisions: Counter[str] = field(default_factory=Counter)
    """What recovery decided about the attempts of this session, by its word for it."""
    worst_gap: float | None = None
    """The largest gap of an answer of a stopped solve in this session; None where none is known."""
    peak_memory: int | None = None
    """The most memory that an attempt of this session used, in bytes; None where it was not measured."""
    retries: int = 0
    """Attempts that were repeated, or will be."""
    last_error: ErrorRecord | None = None
    """The newest error of an attempt, or the one that ended the run."""
    failures: dict[tuple[str, str], FailedAlike] = field(default_factory=dict)
    """What attempts failed for, by stage and signature, the cause that was met last at the end; of those
    before somebody began to watch, what chunks were given up for."""
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
    notes: tuple[str, ...] = ()
    """What people should know about how the run is run."""
    waits: str = ""
    """Why nothing happens in the run for now, as a sentence without a full stop; empty while it goes on."""
    _passed: Counter[str] = field(default_factory=Counter)
    """Attempts of this session that gave a result, by stage."""
    _solved_before: int = 0
    """Chunks that earlier sessions solved."""
    _at_work: dict[int, _Task] = field(default_factory=dict)
    _second: dict[int, _Task] = field(default_factory=dict)
    """The second starts of chunks that are at work already."""
    _rate: RowRate = field(default_factory=RowRate)

    def tell(self, event: Event) -> None:
        """Take the next event into account. Of a run that starts once more, what was told before is
        forgotten."""
        self.waits = event.reason if isinstance(event, RunWaiting) else ""
        match event:
            case RunWaiting():
                self.run_id, self.pipeline, self.rows = event.run_id, event.pipeline, event.rows
            case RunStarted():
                vars(self).update(vars(Progress()))
                self._start(event)
            case ChunksPlanned():
                self._plan(event)
            case ChunksRecalled():
                self.chunks_recalled = len(event.chunks)
                self._solved_before = sum(outcome.solved for outcome in event.outcomes)
            case SlotsChanged():
                self.slots, self.workers = event.slots, event.workers
            case RunStopping():
                self.stopping = event
            case RunEnded():
                self._at_work.clear()
                self._second.clear()
                self.state, self.ended = event.state, event
                self.last_error = event.error or self.last_error
            case _:
                self._tell_of_chunk(event)

    @property
    def running(self) -> Set[int]:
        """Chunks that are with a worker now."""
        return self._at_work.keys()

    def running_lines(self, now: float, most: int) -> list[RunningLine]:
        """The running tasks worth showing, *most* at most: those that have said something, then those that
        have run for more than five seconds; the longest first of either. Chunks that ride together share a
        line."""
        riders: dict[_Task, list[int]] = {}
        for chunk, task in (*self._at_work.items(), *self._second.items()):
            riders.setdefault(task, []).append(chunk)
        shown = [task for task in riders if task.tells or now - task.since > PATIENCE]
        shown.sort(key=lambda task: (not task.tells, task.since, riders[task][0]))
        return [_line(riders[task], task, now) for task in shown[:most]]

    @property
    def stage_lines(self) -> list[StageLine]:
        """How far the chunks are with each stage, in order."""
        within = Counter(
            task.status.stage for task in self._at_work.values() if task.status and task.status.stage
        )
        solved = self._solved_before + self.outcomes.total() - self.unsolved
        return [
            # A chunk that is solved went through every stage, also where its attempts were not told.
            StageLine(
                stage,
                min(self.chunks_planned, max(solved, self._solved_before + self._passed[stage])),
                within[stage],
            )
            for stage in self.stages
        ]

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
        """Rows settled a second lately, as RowRate has it; 0 before the first."""
        return self._rate.per_second(now)

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the last row; None while there is no rate, and 0 when it takes longer than
        estimated."""
        return self._rate.seconds_left(now, self.rows)

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
        self.stages = event.stages
        self.notes = event.notes
        self.state, self.started, self._rate = RunState.RUNNING, event.at, RowRate(event.at)

    def _plan(self, event: ChunksPlanned) -> None:
        self.chunks_planned, self.rows_planned = event.chunks, event.rows
        self.chunks_settled = event.settled + self.outcomes.total()
        if self.rows_resumed != event.settled_rows:
            self.rows_settled += event.settled_rows - self.rows_resumed
            self.rows_resumed = self._rate.before = event.settled_rows
            self._rate.settled = self.rows_settled

    def _tell_of_chunk(self, event: Event) -> None:
        match event:
            case ChunksPlaced():
                self._place(event)
            case ChunksReturned():
                self._leave(event.chunks)
            case ChunkReported():
                self._report(event)
            case AttemptEnded():
                self._count(event.attempt)
            case FailuresRecalled():
                self.failures = {(one.stage, one.signature): one for one in reversed(event.failures)}
            case AttemptsSolved():
                self._leave(event.attempts.chunks.tolist())
                self.attempts[Outcome.SUCCEEDED] += len(event.attempts)
                self._passed[event.attempts.stage] += len(event.attempts)
            case RetryScheduled():
                self.retries += 1
                self.last_error = event.error
            case ChunkCut():
                self._leave([event.chunk])
                self.chunks_cut += 1
                self.chunks_planned += len(event.parts) - 1
            case ChunksSettled():
                self._settle(event)

    def _place(self, event: ChunksPlaced) -> None:
        first = 0
        for size in event.packs or (1,) * len(event.chunks):
            task = _Task(event.workers[first] if event.workers else "", event.at)
            for chunk in event.chunks[first : first + size]:
                tasks = self._second if chunk in self._at_work else self._at_work
                tasks[chunk] = task
            first += size

    def _leave(self, chunks: Iterable[int]) -> None:
        """These chunks are with no worker any more."""
        for chunk in chunks:
            self._at_work.pop(chunk, None)
            self._second.pop(chunk, None)

    def _end_try(self, chunk: int, worker: str) -> None:
        """A try of a chunk on a worker ended; if it runs twice, the other goes on."""
        second = self._second.pop(chunk, None)
        if second is None:
            self._at_work.pop(chunk, None)
        elif second.worker != worker:
            self._at_work[chunk] = second

    def _settle(self, event: ChunksSettled) -> None:
        outcomes = Counter(event.outcomes)
        self.chunks_settled += len(event.chunks)
        self.rows_settled += int(event.rows.sum())
        self.outcomes.update(outcomes)
        self._leave(event.chunks.tolist())
        if outcomes[Outcome.STOPPED_WITH_SOLUTION]:
            known = [
                gap
                for outcome, gap in zip(event.outcomes, event.gaps.tolist(), strict=True)
                if outcome is Outcome.STOPPED_WITH_SOLUTION and not math.isnan(gap)
            ]
            if known:
                self.worst_gap = max(self.worst_gap or 0.0, *known)
        self._rate.settle(event.at, self.rows_settled)

    def _report(self, event: ChunkReported) -> None:
        task, status = self._at_work.get(event.chunk), event.status
        second = self._second.get(event.chunk)
        if second is not None and second.worker == event.worker:
            task = second
        if task is not None:  # else it comes late: the attempt has ended
            task.worker = event.worker or task.worker
            task.since, task.status = event.at - status.seconds, status
        self._measure(status.peak_memory)

    def _count(self, attempt: Attempt) -> None:
        self._end_try(attempt.chunk, attempt.worker)
        self.attempts[attempt.outcome] += 1
        if attempt.outcome.solved:
            self._passed[attempt.stage] += 1
        if attempt.decision:
            self.decisions[attempt.decision] += 1
        self._measure(attempt.peak_memory)
        self.last_error = attempt.error or self.last_error
        if not attempt.outcome.solved and attempt.outcome is not Outcome.CANCELLED:
            self._count_failure(attempt)

    def _count_failure(self, attempt: Attempt) -> None:
        error, ended = attempt.error, attempt.outcome
        signature = (error.signature or error.type) if error else ended.value
        before = self.failures.pop((attempt.stage, signature), None)
        self.failures[attempt.stage, signature] = FailedAlike(
            stage=attempt.stage,
            error_type=error.type if error else ended.value,
            error=error.message if error else ended.description,
            times=(before.times if before else 0) + 1,
            signature=signature,
        )
        if len(self.failures) > MOST_CAUSES:
            del self.failures[next(iter(self.failures))]

    def _measure(self, peak: int | None) -> None:
        if peak is not None:
            self.peak_memory = max(peak, self.peak_memory or 0)


def _line(riders: Sequence[int], task: _Task, now: float) -> RunningLine:
    seconds, others = max(0.0, now - task.since), len(riders) - 1
    status = task.status
    if status is None:
        return RunningLine(riders[0], task.worker, seconds, others=others)
    return RunningLine(
        chunk=riders[0] if status.chunk is None else status.chunk,
        worker=task.worker,
        seconds=seconds,
        stage=status.stage,
        share=status.share,
        message=status.message,
        memory=status.memory,
        objective=status.objective,
        bound=status.bound,
        others=others,
    )


def describe_gap(gap: float) -> str:
    """A relative gap, for people.

    >>> describe_gap(0.0412), describe_gap(0.00004), describe_gap(0), describe_gap(math.inf), describe_gap(37)
    ('4.1 %', '0.004 %', '0 %', 'without limit', '3,700 %')
    """
    if not math.isfinite(gap):
        return "without limit"
    percent = 100 * gap
    if percent >= 99.5:
        return f"{percent:,.0f} %"
    return f"{percent:.2g} %" if percent >= 0.001 or not percent else "below 0.001 %"


def describe_share(share: float) -> str:
    """A share of the whole, for people; it is 100 % only when nothing is left.

    >>> describe_share(0.4), describe_share(0.999), describe_share(1)
    ('40 %', '99 %', '100 %')
    """
    return f"{math.floor(100 * share + 1e-9)} %"
