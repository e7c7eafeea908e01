"""Where tasks run: the protocol that the runner speaks, and the executor that needs no processes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from batchrun.resources import Demand, Worker
from batchrun.status import TaskStatus

if TYPE_CHECKING:
    from batchrun.data.source import Source
    from batchrun.worker.work import Work, WorkResult

__all__ = [
    "Executor",
    "InlineExecutor",
    "Placement",
    "Signal",
    "TaskDone",
    "TaskLost",
    "TaskReported",
    "TaskShortened",
    "WorkersChanged",
]


@dataclass(frozen=True)
class Placement:
    """A task and the worker that it goes to."""

    task: Work
    """What to run."""
    worker: str
    """The worker's address."""
    self_contained: bool = False
    """Whether it must bring all that it needs, because other workers may not answer."""


@dataclass(frozen=True)
class TaskDone:
    """A task came back; its result may still say that the stage failed."""

    key: str
    """The task's key."""
    result: WorkResult
    """What the worker gave back."""


@dataclass(frozen=True)
class TaskLost:
    """A task will never come back, for a reason that lies outside its stage."""

    key: str
    """The task's key."""
    reason: str
    """What is known of the reason, as a sentence without a full stop."""
    worker_died: bool = True
    """Whether its worker is gone; otherwise the task could not be sent, started or brought back."""


@dataclass(frozen=True)
class WorkersChanged:
    """A worker came or went; ``Executor.workers`` has the new list."""


@dataclass(frozen=True)
class TaskReported:
    """A task that runs told how it is doing. Some may be lost on the way, and one may come late."""

    status: TaskStatus
    """How it is doing."""


@dataclass(frozen=True)
class TaskShortened:
    """A task was recalled: the chunks of it that have not begun will not."""

    key: str
    """The task's key."""
    begun: int
    """How many of its chunks have begun, the first ones."""


Signal = TaskDone | TaskLost | TaskReported | TaskShortened | WorkersChanged


class Executor(Protocol):
    """Runs tasks on workers that the runner chooses.

    A task that was submitted gives exactly one TaskDone or TaskLost, unless it is cancelled first.
    """

    description: str
    """What it is, in a few words, for people."""
    dashboard: str
    """The address of the live page; empty if there is none."""
    shares_files: bool
    """Whether every worker reads and writes the files that the runner does, under the same paths."""

    def shares(self, folder: str) -> bool:
        """Whether every worker reads and writes in *folder*, which is there, what this process does."""
        ...

    def workers(self) -> Sequence[Worker]:
        """The live workers."""
        ...

    def prepare(self, program: bytes) -> None:
        """Make the pickled program of a run known to the workers, before its first task."""
        ...

    def submit(self, placements: Sequence[Placement]) -> None:
        """Start tasks on workers that have room for them."""
        ...

    def wait(self, timeout: float | None) -> list[Signal]:
        """Signals since the last call; waits for the first of them, at most *timeout* seconds, or until
        somebody calls ``wake``."""
        ...

    def wake(self) -> None:
        """Let ``wait`` return at once, or the next call of it if nobody waits now. Any thread may call it."""
        ...

    def release(self, keys: Sequence[str]) -> None:
        """Forget tasks that are done and whose results are durable."""
        ...

    def stop(self, keys: Sequence[str], *, keep_best: bool, grace: float) -> None:
        """Ask running tasks to come to an end, and return at once.

        Stages see ``should_stop``. The process of one that goes on is killed after *grace* seconds, and what
        ran in it gives a TaskDone whose last attempt is cancelled, or stopped with its incumbent if
        *keep_best*. A stage that runs in the worker's own process can only be asked.
        """
        ...

    def recall(self, keys: Sequence[str]) -> None:
        """Ask workers for the chunks of tasks that have not begun, and return at once.

        Each task that had not ended gives a TaskShortened; one of which nothing had begun comes back, with
        nothing, when its turn comes.
        """
        ...

    def cancel(self, keys: Sequence[str]) -> None:
        """Give up tasks and stop what runs as far as that is possible; nothing more is heard of them."""
        ...

    def regroup(self, source: Source, columns: tuple[str, ...], folder: str) -> Source:
        """Lay the rows of *source* out anew in *folder* so that equal values of *columns* are neighbours."""
        ...

    def publish(self, message: dict[str, object]) -> None:
        """Tell the live page something; executors without one do nothing."""
        ...

    def close(self) -> None:
        """Let go of tasks and of what the executor itself opened."""
        ...


class InlineExecutor:
    """Runs each task in this process when the runner waits for it; made for debuggers and small inputs.

    Its one worker has the machine's memory, or what *demands* ask for where that is more, and all tags
    that they name: with one process there is nothing to keep apart.
    """

    description = "this process"
    dashboard = ""
    shares_files = True

    def __init__(self, demands: Iterable[Demand] = ()) -> None:
        import psutil

        demands = tuple(demands)
        tags: dict[str, float] = {}
        for demand in demands:
            for tag, amount in demand.tags.items():
                tags[tag] = max(amount, tags.get(tag, 0))
        memory = max([int(psutil.virtual_memory().total), *(demand.memory for demand in demands)])
        self._worker = Worker(address="inline", name="inline", threads=1, memory=memory, tags=tags)
        self._program = b""
        self._waiting: deque[Work] = deque()
        self._woken = threading.Event()

    def shares(self, folder: str) -> bool:
        """It is the same process."""
        return True

    def workers(self) -> Sequence[Worker]:
        """The one worker, of one thread."""
        return (self._worker,)

    def prepare(self, program: bytes) -> None:
        """Keep the program; it is unpickled as a worker would."""
        self._program = program

    def submit(self, placements: Sequence[Placement]) -> None:
        """Queue the tasks."""
        self._waiting.extend(placement.task for placement in placements)

    def wait(self, timeout: float | None) -> list[Signal]:
        """Run the oldest task, or sleep if there is none."""
        from batchrun.worker.work import run_work

        if not self._waiting:
            self._woken.wait(timeout or 0)
        self._woken.clear()
        if not self._waiting:
            return []
        task = self._waiting.popleft()
        told: list[TaskStatus] = []
        result = run_work(self._program, task, worker="inline", report=told.append, in_process=True)
        return [*(TaskReported(status) for status in told), TaskDone(task.key, result)]

    def wake(self) -> None:
        """End the sleep; a task that runs goes on."""
        self._woken.set()

    def release(self, keys: Sequence[str]) -> None:
        """Nothing is held."""

    def stop(self, keys: Sequence[str], *, keep_best: bool, grace: float) -> None:
        """Drop tasks that have not begun; one that runs is not interrupted, for it holds this thread."""
        self.cancel(keys)

    def recall(self, keys: Sequence[str]) -> None:
        """Nothing to ask: a task that runs holds this thread, and one that waits begins soon."""

    def cancel(self, keys: Sequence[str]) -> None:
        """Drop tasks that have not begun."""
        gone = set(keys)
        self._waiting = deque(task for task in self._waiting if task.key not in gone)

    def regroup(self, source: Source, columns: tuple[str, ...], folder: str) -> Source:
        """Sort in this process."""
        from batchrun.data.regroup import regroup_here

        return regroup_here(source, columns, folder)

    def publish(self, message: dict[str, object]) -> None:
        """There is no live page."""

    def close(self) -> None:
        """Drop what has not begun."""
        self._waiting.clear()
