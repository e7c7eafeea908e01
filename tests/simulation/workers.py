"""Workers of the model, and the tasks on them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchrun.dispatch import Choice
from batchrun.outcome import Cause
from batchrun.resources import Worker
from batchrun.waiting import Waiting

if TYPE_CHECKING:
    from tests.simulation.runs import SimulatedRun


@dataclass(slots=True, eq=False)
class Task:
    """A task that was placed."""

    run: SimulatedRun
    choice: Choice
    worker: SimulatedWorker
    lengths: list[float]
    """Seconds that each of its chunks takes on this worker, up to one that takes the worker with it."""
    failures: dict[int, Cause]
    """Why chunks on it fail, by number."""
    wanted: dict[str, float]
    """Memory and tags that it takes."""
    arrives: float
    """When it and its rows are on the worker."""
    begins: float = 0.0
    """When its first chunk begins."""
    ends: float = 0.0
    alone: bool = True

    @property
    def is_recallable(self) -> bool:
        """Whether it may have chunks that have not begun."""
        return self.choice.ahead or len(self.choice.items) > 1

    @property
    def seconds(self) -> float:
        """That its chunks take together."""
        return sum(self.lengths)

    @property
    def kills(self) -> bool:
        """Whether it ends with the loss of its worker."""
        return Cause.WORKER_LOST in self.failures.values()

    def shorten(self, begun: int) -> list[Waiting]:
        """It ends after so many of its chunks; returns the others."""
        left = self.choice.items[begun:]
        self.choice = self.choice._replace(items=self.choice.items[:begun])
        self.lengths = self.lengths[:begun]
        for item in left:
            self.failures.pop(item.chunk, None)
        return list(left)


@dataclass(eq=False)
class SimulatedWorker:
    """A worker of the model, from one return to the next loss."""

    number: int
    """Its place in the fleet."""
    life: int
    """How often it was lost before."""
    worker: Worker
    speed: float
    start: float
    """Seconds to begin a task."""
    free_at: list[float]
    """When each of its threads will be free, a heap."""
    tasks: dict[Task, None] = field(default_factory=dict)
    """In the order in which they were submitted."""
    used: Counter[str] = field(default_factory=Counter)
    """Memory and tags that tasks hold."""

    def hold(self, task: Task) -> None:
        """A task is on it; raises AssertionError if it was promised more than the worker has."""
        for other in self.tasks:
            other.alone = task.alone = False
        self.tasks[task] = None
        has = {"MEMORY": self.worker.memory, **self.worker.tags} if task.wanted else {}
        for tag, amount in task.wanted.items():
            self.used[tag] += amount
            assert self.used[tag] <= has.get(tag, 0), f"{tag} of {self.worker.name} was promised twice"
        self._queue(task)

    def release(self, task: Task) -> None:
        """A task is no longer on it."""
        del self.tasks[task]
        if task.wanted:
            self.used.subtract(task.wanted)

    def recall(self, tasks: Sequence[Task], now: float) -> list[tuple[Task, list[Waiting]]]:
        """Take back what has not begun of these tasks: all of one that waits, or the last chunks of one.

        Returns what was taken back of each; what is left of the tasks on the worker begins and ends earlier.
        """
        taken = []
        for task in tasks:
            if task not in self.tasks:
                continue
            if now < task.begins:
                self.release(task)
                taken.append((task, list(task.choice.items)))
            elif left := task.shorten(_begun(task, now)):
                taken.append((task, left))
        if taken:
            self.free_at = [now] * self.worker.threads
            for task in self.tasks:
                if task.begins <= now:
                    task.ends = task.begins + self.start + task.seconds
                    heapq.heapreplace(self.free_at, max(now, task.ends))
            for task in self.tasks:
                if task.begins > now:
                    self._queue(task)
        return taken

    def _queue(self, task: Task) -> None:
        """First come, first served."""
        task.begins = max(task.arrives, self.free_at[0])
        task.ends = task.begins + self.start + task.seconds
        heapq.heapreplace(self.free_at, task.ends)


def _begun(task: Task, now: float) -> int:
    """How many chunks of a task have begun."""
    begins, begun = task.begins + task.worker.start, 1
    for seconds in task.lengths[:-1]:
        begins += seconds
        if begins > now:
            break
        begun += 1
    return begun
