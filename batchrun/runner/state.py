"""What the parts of the runner share: the chunks that are not settled, the tasks that run, and the tools."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from batchrun.data.source import Source
from batchrun.data.table import TableRef
from batchrun.definition import Pipeline
from batchrun.dispatch import Choice, Dispatcher
from batchrun.executor import Executor
from batchrun.narrator import Narrator
from batchrun.outcome import Attempt, Cause, ErrorRecord, Incumbent, Outcome
from batchrun.plan import Plan
from batchrun.recovery import Tally
from batchrun.stage import Stage
from batchrun.status import TaskStatus
from batchrun.store.artifacts import RunFolder
from batchrun.store.recorder import Recorder
from batchrun.waiting import Waiting
from batchrun.worker.fold import Fold
from batchrun.worker.ledger import History
from batchrun.worker.pack import Pack
from batchrun.worker.task import Task
from batchrun.worker.work import Work

__all__ = ["ChunkProgress", "RunnerSettings", "RunnerState", "RunningTask", "RunningTasks"]

LOG_TAIL = 2**15
"""Characters of its log that are kept of a chunk that runs."""
ANSWERS = 60
"""Answers of a solve that are kept while it runs."""


@dataclass(frozen=True)
class RunnerSettings:
    """What a cluster.yaml can change about the loop."""

    small_result: int = 2**20
    """Results of up to so many bytes are collected into segments."""
    stop_after_alike: int = 3
    """So many first chunks that fail alike end the run."""
    max_quarantined: int | None = None
    """More quarantined rows than so many end the run; None for no limit."""
    store_timeout: float = 60.0
    """Seconds to go on while the store or the artifact root cannot be written before the run is given up."""
    workers_timeout: float = 60.0
    """Seconds to wait for workers that can meet the demand before the run is given up."""
    stop_grace: float = 0.5
    """Seconds that running chunks get to end after a stop was asked for."""
    solution_grace: float = 5.0
    """Seconds that a stage gets to return after its ``stop_after``."""
    chunks_per_child: int = 100
    """So many chunks run in one child process before it is replaced."""
    look_ahead: float = 0.25
    """Seconds of work that may wait behind a busy thread, where chunks are short."""
    speculate: bool = False
    """Whether stragglers are started a second time where a slot would be idle."""
    slots_every: float = 0.25
    """Seconds between two looks at the slots, for observers."""

    @property
    def small_handoff(self) -> int:
        """Frames between legs of up to so many bytes pass through the runner, which holds them meanwhile."""
        return min(self.small_result, 2**16)


@dataclass
class ChunkProgress:
    """What is known of a chunk that is not settled."""

    input: TableRef | None = None
    """The frame for its next leg; None means its slice of the source."""
    seconds: float = 0.0
    """Of all its attempts."""
    tries: int = 0
    """Attempts at its present leg."""
    failures: Counter[Cause] = field(default_factory=Counter)
    """Those of them that failed, by cause; a part begins with those of the chunk that it is a part of."""
    inherited: str | None = None
    """The signature of the error that it began with; another error begins its count anew."""
    best: Incumbent | None = None
    """The last answer that one of its stages published."""
    stopped: bool = False
    """Whether one of its stages was stopped and its best answer so far taken."""

    def failed(self, cause: Cause, error: ErrorRecord) -> int:
        """Count a failure; returns how many there are of this cause."""
        if self.inherited is not None and self.inherited != error.signature:
            self.failures[cause] = 0
        self.inherited = None
        self.failures[cause] += 1
        return self.failures[cause]


@dataclass
class RunningTask:
    """A task that was placed."""

    task: Work
    choice: Choice
    placed: float
    """When, in seconds since the epoch."""
    items: list[Waiting]
    """The chunks that it still has, in the order in which they are called: those of a pack that were taken
    back are no longer among them."""
    recalled: bool = False
    """Whether the chunks of it that have not begun were asked back."""
    alone: bool = True
    """Whether no other task was ever on its worker at the same time."""
    status: TaskStatus | None = None
    """What it told last."""
    log: str = ""
    """The tail of its log."""
    answers: History = field(default_factory=lambda: History(ANSWERS), repr=False, compare=False)
    """What it told of its answers since its present stage began."""
    cancelled: bool = False
    """Whether somebody asked for the chunk to be cancelled."""
    begun: bool = False
    """Whether a chunk of it is known to have begun though it was to wait behind others."""
    other: RunningTask | None = field(default=None, repr=False, compare=False)
    """The other try of its chunk that runs too, or did so when this one came back."""
    doubled: bool = False
    """Whether another try was ever started beside it."""
    superseded: bool = False
    """Whether the other try was faster, so that nothing of this one is wanted."""

    @property
    def may_be_doubled(self) -> bool:
        """Whether its chunk may be started a second time beside it. Not one that may have killed a worker."""
        begun = self.begun or not self.choice.ahead or self.status is not None
        spoken_for = self.doubled or self.superseded or self.cancelled or self.first.alone
        return begun and not spoken_for and self.is_single and isinstance(self.task, Task)

    def avoid(self, worker: str) -> None:
        """If its only chunk is tried again, that is to be elsewhere."""
        item = self.first._replace(avoid=self.first.avoid | {worker})
        self.choice, self.items = self.choice._replace(items=(item,)), [item]

    def note_answer(self, status: TaskStatus) -> None:
        """Keep what a new status tells of answers, if that is anything new."""
        before = self.status
        if before is None or (before.stage, before.chunk) != (status.stage, status.chunk):
            self.answers = History(ANSWERS)
        last, now = self.answers.last, Incumbent(status.seconds, status.objective, status.bound)
        if now.objective is not None and (
            last is None or (last.objective, last.bound) != (now.objective, now.bound)
        ):
            self.answers.add(now)

    @property
    def first(self) -> Waiting:
        """The only chunk, or the first of a pack."""
        return self.choice.first

    @property
    def is_single(self) -> bool:
        """Whether it was placed with one chunk."""
        return len(self.choice.items) == 1

    @property
    def is_recallable(self) -> bool:
        """Whether it may have chunks that have not begun."""
        return not self.is_fold and (self.choice.ahead or not self.is_single)

    @property
    def is_fold(self) -> bool:
        """Whether it combines results, and has no chunk."""
        return isinstance(self.task, Fold)

    @property
    def is_isolated(self) -> bool:
        """Whether it runs in a child process."""
        return isinstance(self.task, Task) and self.task.isolated

    @property
    def stage(self) -> str | None:
        """The stage that it is at, if it told."""
        return self.status.stage if self.status else None


class RunningTasks:
    """The tasks that were placed and have not come back, by key."""

    def __init__(self) -> None:
        self._by_key: dict[str, RunningTask] = {}
        self._by_worker: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[RunningTask]:
        return iter(self._by_key.values())

    def __getitem__(self, key: str) -> RunningTask:
        return self._by_key[key]

    def get(self, key: str) -> RunningTask | None:
        """The task of that key; None if it has come back."""
        return self._by_key.get(key)

    @property
    def keys(self) -> list[str]:
        """The keys of all of them."""
        return list(self._by_key)

    @property
    def wanted(self) -> bool:
        """Whether there is one whose result is still wanted."""
        return any(not running.superseded for running in self)

    def place(self, task: Work, choice: Choice, *, beside: RunningTask | None = None) -> RunningTask:
        """A task goes to a worker; *beside* is the first try of its chunk, if that goes on."""
        items = list(choice.items)
        if isinstance(task, Pack):
            order = {member.chunk: position for position, member in enumerate(task.members)}
            items.sort(key=lambda item: order[item.chunk])
        self._by_key[task.key] = running = RunningTask(task, choice, time.time(), items)
        if beside is not None:
            running.other, beside.other = beside, running
            running.doubled = beside.doubled = True
        there = self._by_worker.setdefault(choice.worker.address, set())
        for other in there:
            self._by_key[other].alone = running.alone = False
        there.add(task.key)
        return running

    def remove(self, key: str) -> RunningTask | None:
        """A task came back; None if nothing is expected of it."""
        running = self._by_key.pop(key, None)
        if running is not None:
            if running.other is not None:
                running.other.other = None
            there = self._by_worker[running.choice.worker.address]
            there.discard(key)
            if not there:
                del self._by_worker[running.choice.worker.address]
        return running

    def report(self, status: TaskStatus) -> RunningTask | None:
        """A task told how it is doing; None if it has come back meanwhile."""
        running = self._by_key.get(status.key)
        if running is not None:
            running.note_answer(status)
            running.status = status
            running.log = (running.log + status.log)[-LOG_TAIL:]
        return running


@dataclass
class RunnerState:
    """What the parts of the runner share."""

    run_id: str
    pipeline: Pipeline
    source: Source
    plan: Plan
    folder: RunFolder
    recorder: Recorder
    executor: Executor
    settings: RunnerSettings
    narrator: Narrator
    dispatcher: Dispatcher
    clock: Callable[[], float]
    chance: Callable[[], float]
    memory_for: Callable[[int, int], int]
    """Bytes that a chunk of so many rows needs at a leg; 0 for what the leg asks for."""
    tries: dict[tuple[int, str], int]
    """How often each chunk was tried at each stage in earlier sessions of the run."""
    broken: ErrorRecord | None = None
    """Why the run was given up."""
    stopping: bool = False
    """Whether nothing new shall start."""

    def __post_init__(self) -> None:
        self.chunks: dict[int, ChunkProgress] = {}
        self.legs = self.pipeline.legs
        self.running = RunningTasks()
        self.tally = Tally(self.settings.stop_after_alike or sys.maxsize)

    def progress(self, chunk: int) -> ChunkProgress:
        """What is known of a chunk; most have nothing to be known and no entry."""
        return self.chunks.setdefault(chunk, ChunkProgress())

    def await_slot(self, chunk: int, leg: int, **more: Any) -> None:
        """Let a chunk compete for a slot."""
        rows = self.plan.size(chunk)
        self.dispatcher.add(
            Waiting(
                chunk,
                leg,
                rows,
                seconds=self.plan.seconds(leg, chunk),
                left=self.plan.work_left(leg, chunk),
                part=self.plan.is_part(chunk),
                memory=self.memory_for(leg, rows),
                **more,
            )
        )

    def attempt(self, waiting: Waiting) -> int:
        """Which try of its leg a chunk is at, from 1, those of earlier sessions counted."""
        progress = self.chunks.get(waiting.chunk)
        before = self.tries.get((waiting.chunk, self.first_stage(waiting.leg).name), 0) if self.tries else 0
        return before + (progress.tries if progress else 0) + 1

    def attempt_of(self, running: RunningTask, item: Waiting) -> int:
        """Which try of its leg a chunk of a running task is at."""
        return running.task.attempt if isinstance(running.task, Task) else self.attempt(item)

    def unheard(
        self,
        running: RunningTask,
        item: Waiting,
        outcome: Outcome,
        cause: Cause,
        error: ErrorRecord | None = None,
    ) -> Attempt:
        """The record of a try that no worker gave one of: what is known of it here."""
        return Attempt(
            chunk=item.chunk,
            stage=running.stage or self.first_stage(item.leg).name,
            attempt=self.attempt_of(running, item),
            worker=running.choice.worker.name,
            outcome=outcome,
            started=running.placed,
            seconds=time.time() - running.placed,
            rows_in=item.rows,
            peak_memory=running.status.peak_memory if running.status else None,
            error=error,
            cause=cause,
            log=running.log,
        )

    def waits_for(self, leg: int) -> str:
        """What a leg begins with, for people; the one after all stages combines results."""
        return self.first_stage(leg).name if leg < len(self.legs) else "(combine)"

    def first_stage(self, leg: int) -> Stage:
        """The stage that a leg begins with."""
        return self.pipeline.stages[self.legs[leg][0]]

    def stage(self, name: str) -> Stage | None:
        """The stage of that name; None for what is no stage, as loading the program."""
        return next((stage for stage in self.pipeline.stages if stage.name == name), None)
