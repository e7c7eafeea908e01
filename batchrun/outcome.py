"""How attempts and runs end, and what the command line tells the shell."""

from __future__ import annotations

import enum
import math
import os
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

__all__ = [
    "FAILED_STATES",
    "Attempt",
    "Cause",
    "ErrorRecord",
    "ExitCode",
    "Incumbent",
    "Outcome",
    "RunState",
    "SolvedAttempts",
    "relative_gap",
]


class Outcome(enum.StrEnum):
    """How one attempt of one chunk ended."""

    SUCCEEDED = "succeeded"
    STOPPED_WITH_SOLUTION = "stopped_with_solution"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    WORKER_LOST = "worker_lost"
    CANCELLED = "cancelled"

    @property
    def description(self) -> str:
        """What it means, as the end of a sentence."""
        return _LOOKS[self][0]

    @property
    def symbol(self) -> str:
        """One character for tables."""
        return _LOOKS[self][1]

    @property
    def color(self) -> str:
        """The colour that it has everywhere, as ``#rrggbb``."""
        return _LOOKS[self][2]

    @property
    def solved(self) -> bool:
        """Whether the chunk has a result that counts as solved."""
        return self in (Outcome.SUCCEEDED, Outcome.STOPPED_WITH_SOLUTION)


_LOOKS = {
    Outcome.SUCCEEDED: ("the stage gave its result", "✓", "#2a9d5c"),
    Outcome.STOPPED_WITH_SOLUTION: ("stopped; its best answer so far was kept", "◐", "#4c8fd6"),
    Outcome.FAILED: ("the stage raised an error", "✗", "#d1495b"),
    Outcome.OUT_OF_MEMORY: ("the stage passed its memory limit", "▲", "#9b4dca"),
    Outcome.TIMED_OUT: ("the stage passed its time limit", "◷", "#e08e2b"),
    Outcome.WORKER_LOST: ("its worker went away", "↯", "#7a6a53"),
    Outcome.CANCELLED: ("cancelled before it ended", "–", "#8a94a3"),
}


class Cause(enum.StrEnum):
    """Why an attempt did not end by itself, or not well; each cause has a budget of its own."""

    ERROR = "error"
    """The stage raised an error, or its process ended by itself."""
    MEMORY = "memory"
    """It passed its memory."""
    TIMEOUT = "timeout"
    """It passed its time."""
    WORKER_LOST = "worker_lost"
    """Its worker went away."""
    INFRASTRUCTURE = "infrastructure"
    """It could not be sent, started or brought back."""
    DEADLINE = "deadline"
    """Its ``stop_after`` was over."""
    CANCEL = "cancel"
    """Somebody asked for it."""


class RunState(enum.StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the run by itself."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


FAILED_STATES = (RunState.FAILED, RunState.PARTIAL)
"""Where runs stand that ended with rows that failed."""


class ExitCode(enum.IntEnum):
    """What ``batchrun`` returns to the shell."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    CANCELLED = 4
    UNREACHABLE = 5
    INTERRUPTED = 130

    @classmethod
    def of(cls, state: RunState) -> ExitCode:
        """The exit code of a command whose run stands at *state*.

        >>> ExitCode.of(RunState.PARTIAL)
        <ExitCode.PARTIAL: 3>
        """
        codes = {
            RunState.FAILED: cls.FAILED,
            RunState.PARTIAL: cls.PARTIAL,
            RunState.CANCELLED: cls.CANCELLED,
        }
        return codes.get(state, cls.SUCCEEDED)


@dataclass(frozen=True)
class ErrorRecord:
    """An error as plain text, so that it can cross any wall and be read years later."""

    type: str
    """The class of the error, with its module unless it is a builtin."""
    message: str
    """What the error said."""
    traceback: str = ""
    """The traceback, the user's own frames only."""
    classes: tuple[str, ...] = ()
    """Names of the error's class and of all its bases, nearest first."""
    signature: str = ""
    """Type and place of the error; two chunks that fail alike have the same one."""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    @classmethod
    def of(cls, error: BaseException) -> ErrorRecord:
        """The record of an exception; never raises, whatever the exception does when it is asked."""
        kind = type(error)
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        try:
            message = str(error)
        except Exception as broken:
            message = f"(its message cannot be read: {type(broken).__name__})"
        frames = _user_frames(error.__traceback__)
        place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
        return cls(
            type=name,
            message=_clip(message, 4_000),
            traceback=_clip(_format_traceback(error, name, message), 16_000),
            classes=tuple(base.__name__ for base in kind.__mro__ if base is not object),
            signature=f"{name} at {place}" if place else name,
        )


@dataclass(frozen=True)
class Incumbent:
    """The best answer that a solve had at some time."""

    seconds: float
    """Seconds since the attempt began."""
    objective: float | None = None
    """The value of the answer."""
    bound: float | None = None
    """The proven limit of what any answer can reach."""

    @property
    def gap(self) -> float | None:
        """How far the answer can be from the best one there is; see relative_gap."""
        return relative_gap(self.objective, self.bound)


def relative_gap(objective: float | None, bound: float | None) -> float | None:
    """The distance between *objective* and *bound* as a share of the objective, as solvers report it.

    None where either is not known, infinity for an objective of zero away from its bound.

    >>> relative_gap(1000, 930), relative_gap(930, 930), relative_gap(5, None)
    (0.07, 0.0, None)
    """
    if objective is None or bound is None or not (math.isfinite(objective) and math.isfinite(bound)):
        return None
    if objective == bound:
        return 0.0
    return abs(objective - bound) / abs(objective) if objective else math.inf


@dataclass(frozen=True)
class Attempt:
    """One try of one chunk at one stage on one worker."""

    chunk: int
    """The chunk's number in input order, from 0."""
    stage: str
    """The name of the stage."""
    attempt: int
    """Which try of the chunk at this stage it was, from 1."""
    worker: str
    """The name of the worker."""
    outcome: Outcome
    """How it ended."""
    started: float
    """When it began, in seconds since the epoch, by the worker's clock."""
    seconds: float
    """How long it took, reading its input and encoding its result included."""
    rows_in: int = 0
    """Rows of the frame that the stage was given."""
    rows_out: int = 0
    """Rows of the frame that the stage gave back."""
    peak_memory: int | None = None
    """The most memory that the attempt used, its child processes included, in bytes; None where it was not
    measured."""
    error: ErrorRecord | None = None
    """What went wrong, if anything."""
    cause: Cause | None = None
    """Why it did not end by itself; None if it did."""
    decision: str = ""
    """What recovery decided about it, in a word; empty after a success."""
    next_step: str = ""
    """What happens now because of it, as a sentence without a full stop; empty after a success."""
    log: str = ""
    """What the stage printed and logged, its head and tail if it was long."""
    incumbents: tuple[Incumbent, ...] = ()
    """The best answers that it published, in order, thinned out if they were many."""
    key: int | None = None
    """What the chunk holds, as a hash that is the same in every run on the same group of rows; None where
    chunks of different runs cannot be compared."""

    @property
    def best(self) -> Incumbent | None:
        """The last answer that it published."""
        return self.incumbents[-1] if self.incumbents else None


@dataclass(frozen=True)
class SolvedAttempts:
    """Attempts of many chunks at one stage, on one worker, in which nothing happened but success: no log, no
    answer on the way, no measured memory. Columns of equal length, shape (attempts,)."""

    stage: str
    """The name of the stage."""
    worker: str
    """The name of the worker."""
    chunks: Integers
    """The numbers of the chunks."""
    attempts: Integers
    """Which try of the chunk at this stage each was, from 1."""
    started: Floats
    """When each began, in seconds since the epoch, by the worker's clock."""
    seconds: Floats
    """How long each took."""
    rows_in: Integers
    """Rows of the frame that the stage was given."""
    rows_out: Integers
    """Rows of the frame that the stage gave back."""
    keys: Integers | None = None
    """As in Attempt; None where no chunk has one."""

    def __len__(self) -> int:
        return len(self.chunks)


def _user_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames below batchrun's own, or all of them if there is no other."""
    from batchrun.tracebacks import is_own

    frames = list(traceback.extract_tb(trace))
    return [frame for frame in frames if not is_own(frame.filename)] or frames


def _format_traceback(error: BaseException, name: str, message: str) -> str:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    text = ""
    if cause is not None:
        record = ErrorRecord.of(cause)
        text = f"{record.traceback}\nand then\n\n"
    frames = "".join(traceback.format_list(_user_frames(error.__traceback__)))
    notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    return f"{text}Traceback (most recent call last):\n{frames}{name}: {message}{notes}\n"


def _clip(text: str, most: int) -> str:
    """The head and the tail of a text that is longer than *most* characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
