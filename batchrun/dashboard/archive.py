"""What a page may ask of a store: runs that this scheduler was never told of, and what lies behind a chunk.

A page runs where nothing may wait, so nothing here does: each question answers with what was found last, and
None until something was. Who can answer offers an archive; without one a page shows what runs tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from batchrun.outcome import Outcome, RunState

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from batchrun.dashboard.board import RunView
    from batchrun.dashboard.lanes import LaneBars
    from batchrun.dashboard.solves import Solve

__all__ = ["Archive", "AttemptLine", "ChunkStory", "RunLine", "Work", "offer", "offered", "withdraw"]


@dataclass(frozen=True)
class RunLine:
    """A run in the list of runs."""

    run_id: str
    """Its id."""
    pipeline: str
    """The pipeline's name."""
    state: RunState
    """Where it stands."""
    created: float
    """When it was made, in seconds since the epoch."""
    started: float | None
    """When its latest session began."""
    ended: float | None
    """When it ended."""
    rows_in: int
    """Rows of the input."""
    rows_solved: int = 0
    """Rows that have a result."""
    rows_quarantined: int = 0
    """Rows that were set apart."""
    rows_cancelled: int = 0
    """Rows that were not solved because the run stopped."""
    slots: int | None = None
    """How many slots it has now; None unless a process drives it."""


@dataclass(frozen=True)
class AttemptLine:
    """One try of a chunk."""

    stage: str
    """The stage."""
    attempt: int
    """Which try of the chunk at this stage it was, from 1."""
    worker: str
    """Where it ran."""
    outcome: Outcome
    """How it ended."""
    seconds: float
    """How long it took."""
    peak_memory: int | None
    """The most memory that it used, in bytes; None where that was not measured."""
    next_step: str
    """What was decided after it, in words; empty if nothing had to be."""
    error: str
    """Class and text of its error; empty if it had none."""
    traceback: str
    """The traceback of the error, the user's frames first."""


@dataclass(frozen=True)
class ChunkStory:
    """What is known of one chunk."""

    chunk: int
    """Its number."""
    why: str
    """Why it stands as it does, in a sentence or two."""
    attempts: tuple[AttemptLine, ...]
    """Its attempts, in their order."""
    log: str
    """What they printed and logged; the middle is left out if that is much."""
    solves: tuple[Solve, ...] = ()
    """Those of its attempts that told of answers, latest first."""


@dataclass(frozen=True)
class Work:
    """What workers did for a run lately."""

    bars: LaneBars
    """The attempts on their lanes."""
    attempts: pd.DataFrame
    """The same, with the columns of ``RunReport.attempts``."""
    asked: Mapping[str, int]
    """Bytes of memory that each stage asked for, by its name."""
    started: float | None
    """When the session began, in seconds since the epoch."""
    solves: tuple[Solve, ...] = ()
    """The solves that run, then those that ended last, as far as they told of answers."""


class Archive(Protocol):
    """The runs of one store."""

    place: str
    """Where the store is, for people, without passwords."""
    acts: bool
    """Whether runs may be stopped and queued again through it."""

    def runs(self) -> tuple[RunLine, ...] | None:
        """The newest runs and all that are under way, newest first."""

    def view(self, run_id: str) -> RunView | None:
        """A run as the page draws it; it is followed as long as somebody asks."""

    def why(self, run_id: str, state: str) -> str | None:
        """Why a run stands as it does, which is in *state*."""

    def story(self, run_id: str, chunk: int) -> ChunkStory | None:
        """What lies behind one chunk."""

    def work(self, run_id: str) -> Work | None:
        """What workers did for a run, in its latest attempts."""

    def trouble(self) -> str:
        """Why the store cannot be read now; empty if it can."""

    def cancel(self, run_id: str, *, keep_best: bool) -> None:
        """Ask for a run to be stopped."""

    def requeue(self, run_id: str) -> None:
        """Put what has no result into the queue once more."""

    def said(self) -> str:
        """What came of the latest ``cancel`` or ``requeue``; empty while that is not known."""


_offered: list[Archive] = []


def offer(archive: Archive) -> None:
    """Let the pages of this process ask *archive* from now on."""
    withdraw(archive)
    _offered.append(archive)


def withdraw(archive: Archive) -> None:
    """Let no page ask *archive* any more."""
    if archive in _offered:
        _offered.remove(archive)


def offered() -> Archive | None:
    """The archive that was offered last."""
    return _offered[-1] if _offered else None
