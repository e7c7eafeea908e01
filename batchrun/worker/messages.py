"""What a worker and its child process say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from batchrun.outcome import Cause
from batchrun.worker.leg import StageEnd
from batchrun.worker.task import Task

__all__ = [
    "Began",
    "Ended",
    "Hello",
    "Loaded",
    "Point",
    "Proceed",
    "Progress",
    "Published",
    "Settled",
    "Start",
    "Stop",
    "UseProgram",
]

Point = tuple[float, float | None, float | None]
"""An answer: seconds since its stage began, objective, bound."""


@dataclass(frozen=True)
class UseProgram:
    """To the child: the payload is the program of all tasks that follow."""


@dataclass(frozen=True)
class Start:
    """To the child: run a task. The payload is its input, where the task has an empty inline one."""

    task: Task
    """What to run."""
    worker: str
    """The name of the worker."""
    start: int
    """The number of the stage in its leg to begin with."""


@dataclass(frozen=True)
class Stop:
    """To the child: the stage that runs should return what it has."""

    cause: Cause
    """Why."""


@dataclass(frozen=True)
class Proceed:
    """To the child: what happens after a stage that another one follows."""

    on: bool
    """Whether the next stage begins; otherwise the task is over."""


@dataclass(frozen=True)
class Hello:
    """From the child: it is ready for its first task."""


@dataclass(frozen=True)
class Began:
    """From the child: a stage began."""

    position: int
    """Its number in the leg."""


@dataclass(frozen=True)
class Loaded:
    """From the child: the stage's frame is there."""

    rows: int
    """Its rows."""


@dataclass(frozen=True)
class Progress:
    """From the child: how far the stage says it is."""

    done: float
    """How much is done."""
    total: float | None
    """All there is to do."""
    message: str
    """What it said."""


@dataclass(frozen=True)
class Published:
    """From the child: better answers than before. The payload is the last one's frame."""

    points: tuple[Point, ...]
    """Those since the message before, in order."""


@dataclass(frozen=True)
class Ended:
    """From the child: a stage ended. The payload is its result, where that has an empty inline one."""

    end: StageEnd
    """How."""
    peak_memory: int
    """The most memory that the child itself used in the stage, in bytes; 0 if it cannot tell."""


@dataclass(frozen=True)
class Settled:
    """From the child: the task is over, and what it left behind is gone."""

    memory: int
    """Bytes that the child holds now."""
