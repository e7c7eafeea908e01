"""What the store keeps, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchrun.outcome import ErrorRecord, Outcome, RunState, relative_gap

if TYPE_CHECKING:
    from batchrun.data.results import ResultRef

__all__ = ["ChunkLog", "RunRecord", "SettledChunk"]


@dataclass(frozen=True)
class RunRecord:
    """What the store knows of a run as a whole."""

    run_id: str
    """Its id; begins with the pipeline's name and the time, so that ids sort by age within a pipeline."""
    pipeline: str
    """The pipeline's name."""
    target: str | None
    """``module:name`` of the pipeline; None if another process cannot load it."""
    state: RunState
    """Where it stands."""
    created: float
    """When it was made, in seconds since the epoch."""
    split: str
    """How the input is split, as text."""
    folder: str
    """Where its files are."""
    rows_in: int
    """Rows of the input."""
    started: float | None = None
    """When its latest session began."""
    ended: float | None = None
    """When it ended."""
    heartbeat: float | None = None
    """When its driver was last known to be at work."""
    driver: str | None = None
    """The process that drives it: host, process id, start time of the process."""
    params: dict[str, Any] = field(default_factory=dict)
    """All parameters, as JSON values."""
    settings: list[dict[str, str]] = field(default_factory=list)
    """Effective settings: key, value, source."""
    input: dict[str, Any] = field(default_factory=dict)
    """The input: description, rows, bytes_per_row, fingerprint."""
    stages: list[dict[str, Any]] = field(default_factory=list)
    """Each stage: name, memory, resources, leg."""
    cluster: str = ""
    """What it ran on, in a few words."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that matter."""
    rows_solved: int = 0
    """Rows in chunks with a result."""
    rows_quarantined: int = 0
    """Rows in chunks that were given up."""
    rows_cancelled: int = 0
    """Rows that were not solved because the run stopped; known once it has ended."""
    chunks: int = 0
    """Chunks planned so far."""
    combined: str | None = None
    """The file of the combined result."""
    error: ErrorRecord | None = None
    """The error that ended the run, if one did."""


@dataclass(frozen=True)
class SettledChunk:
    """A chunk that has its outcome."""

    chunk: int
    """Its number."""
    outcome: Outcome
    """How it ended."""
    rows: int
    """Its input rows."""
    rows_out: int
    """Rows of its result; 0 unless it was solved."""
    seconds: float
    """Seconds of all its attempts together."""
    result: ResultRef | None = None
    """Where its result lies if ``outcome.solved``; where its input rows lie, in quarantine, if it was given
    up; None if it was cancelled, or if its rows could not be read."""
    objective: float | None = None
    """The value of its answer, where the stage told one."""
    bound: float | None = None
    """The proven limit of what any answer can reach, where the stage told one."""

    @property
    def gap(self) -> float | None:
        """How far its answer can be from the best one there is; see relative_gap."""
        return relative_gap(self.objective, self.bound)

    @property
    def given_up(self) -> bool:
        """Whether it failed for good: it was neither solved nor cancelled."""
        return not self.outcome.solved and self.outcome is not Outcome.CANCELLED


@dataclass(frozen=True)
class ChunkLog:
    """What one attempt printed and logged."""

    chunk: int
    """The chunk's number."""
    stage: str
    """The name of the stage."""
    attempt: int
    """Which try of the chunk at this stage it was, from 1."""
    text: str
    """The text, its head and tail if it was long."""
    live: bool = False
    """Whether the attempt was still running when this was told, and may say more."""
