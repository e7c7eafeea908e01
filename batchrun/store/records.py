"""What the store keeps, as plain values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from batchrun.outcome import Cause, ErrorRecord, Outcome, RunState, relative_gap

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batchrun.data.refs import ResultRef, ResultRefs
    from batchrun.outcome import Floats, Integers
    from batchrun.store.artifacts import RunFolder

__all__ = [
    "ChunkLog",
    "RunCounts",
    "RunFailures",
    "RunRecord",
    "SettledChunk",
    "SettledChunks",
    "StageFigures",
    "StoredRun",
    "WorkerTime",
]


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
    fence: int = 0
    """How often processes began to drive it; only the latest of them may write it."""
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

    @property
    def files(self) -> RunFolder:
        """The names of its files."""
        from batchrun.store.artifacts import RunFolder

        return RunFolder(self.folder, self.input.get("take", ""))


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
class SettledChunks:
    """Many settled chunks as columns of equal length, shape (chunks,); see SettledChunk."""

    chunks: Integers
    outcomes: tuple[Outcome, ...]
    rows: Integers
    rows_out: Integers
    seconds: Floats
    results: ResultRefs
    objectives: Floats
    """NaN where none is known, as in bounds."""
    bounds: Floats

    @classmethod
    def of(cls, chunks: Iterable[SettledChunk]) -> SettledChunks:
        """The columns of these chunks."""
        import numpy as np

        from batchrun.data.refs import ResultRefs

        listed = list(chunks)
        return cls(
            np.array([chunk.chunk for chunk in listed], np.int64),
            tuple(chunk.outcome for chunk in listed),
            np.array([chunk.rows for chunk in listed], np.int64),
            np.array([chunk.rows_out for chunk in listed], np.int64),
            np.array([chunk.seconds for chunk in listed], np.float64),
            ResultRefs.of(chunk.result for chunk in listed),
            np.array([chunk.objective for chunk in listed], np.float64),
            np.array([chunk.bound for chunk in listed], np.float64),
        )

    @classmethod
    def succeeded(
        cls, chunks: Integers, rows: Integers, rows_out: Integers, seconds: Floats
    ) -> SettledChunks:
        """Chunks that went well, whose results are nowhere yet."""
        import numpy as np

        from batchrun.data.refs import ResultRefs

        unknown = np.full(len(chunks), np.nan)
        return cls(
            chunks,
            (Outcome.SUCCEEDED,) * len(chunks),
            rows,
            rows_out,
            seconds,
            ResultRefs.nowhere(len(chunks)),
            unknown,
            unknown,
        )

    @classmethod
    def empty(cls) -> SettledChunks:
        """No chunks."""
        return cls.of([])

    @classmethod
    def joined(cls, parts: Sequence[SettledChunks]) -> SettledChunks:
        """The chunks of all *parts*, in order."""
        import numpy as np

        from batchrun.data.refs import ResultRefs

        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([part.chunks for part in parts]),
            tuple(itertools.chain.from_iterable(part.outcomes for part in parts)),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.rows_out for part in parts]),
            np.concatenate([part.seconds for part in parts]),
            ResultRefs.joined([part.results for part in parts]),
            np.concatenate([part.objectives for part in parts]),
            np.concatenate([part.bounds for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, position: int) -> SettledChunk:
        objective, bound = float(self.objectives[position]), float(self.bounds[position])
        return SettledChunk(
            int(self.chunks[position]),
            self.outcomes[position],
            int(self.rows[position]),
            int(self.rows_out[position]),
            float(self.seconds[position]),
            self.results[position],
            None if math.isnan(objective) else objective,
            None if math.isnan(bound) else bound,
        )

    def __iter__(self) -> Iterator[SettledChunk]:
        return (self[position] for position in range(len(self)))

    @property
    def solved(self) -> npt.NDArray[np.bool_]:
        """Which of them have a result."""
        return self._are({outcome for outcome in Outcome if outcome.solved})

    @property
    def given_up(self) -> npt.NDArray[np.bool_]:
        """Which of them failed for good."""
        return self._are({one for one in Outcome if not one.solved and one is not Outcome.CANCELLED})

    @property
    def gaps(self) -> Floats:
        """How far each answer can be from the best one there is, as relative_gap has it; NaN if unknown."""
        import numpy as np

        objectives, bounds = self.objectives, self.bounds
        known = np.isfinite(objectives) & np.isfinite(bounds)
        with np.errstate(divide="ignore", invalid="ignore"):
            gaps = np.abs(objectives - bounds) / np.abs(objectives)
        gaps[objectives == bounds] = 0.0
        return np.where(known, gaps, np.nan)

    def where(self, mask: npt.NDArray[np.bool_]) -> SettledChunks:
        """Those that *mask* says."""
        return self._picked(mask, tuple(itertools.compress(self.outcomes, mask.tolist())))

    def take(self, positions: Integers) -> SettledChunks:
        """Those at *positions*, in that order."""
        return self._picked(positions, tuple(self.outcomes[position] for position in positions.tolist()))

    def placed(self, chunks: Integers, places: ResultRefs) -> SettledChunks:
        """The same, with the results of *chunks* at *places*."""
        import numpy as np

        from batchrun.data.refs import ResultRefs

        if not len(chunks):
            return self
        order = np.argsort(chunks, kind="stable")
        nearest = np.minimum(np.searchsorted(chunks[order], self.chunks), len(chunks) - 1)
        found = chunks[order][nearest] == self.chunks
        positions = np.where(found, len(self) + order[nearest], np.arange(len(self)))
        return replace(self, results=ResultRefs.joined([self.results, places]).take(positions))

    def _are(self, outcomes: Collection[Outcome]) -> npt.NDArray[np.bool_]:
        import numpy as np

        return np.fromiter((one in outcomes for one in self.outcomes), np.bool_, len(self))

    def _picked(
        self, which: npt.NDArray[np.bool_] | Integers, outcomes: tuple[Outcome, ...]
    ) -> SettledChunks:
        return SettledChunks(
            self.chunks[which],
            outcomes,
            self.rows[which],
            self.rows_out[which],
            self.seconds[which],
            self.results._picked(which),
            self.objectives[which],
            self.bounds[which],
        )


@dataclass(frozen=True)
class RunCounts:
    """How chunks and attempts of a run ended."""

    chunks: Mapping[Outcome, int]
    """How many settled chunks there are of each outcome that occurs, in the order of Outcome."""
    attempts: Mapping[Outcome, int]
    """How many attempts there are of each outcome that occurs, in the order of Outcome."""
    worst_gap: float | None
    """The largest gap among the chunks that were stopped with a solution; None if none is known."""


@dataclass(frozen=True)
class RunFailures:
    """What the chunks of a run failed for."""

    chunks: int
    """Chunks that were given up."""
    error: str
    """The error that most of them failed with."""
    alike: int
    """How many that is."""


@dataclass(frozen=True)
class FailureKind:
    """Chunks of a run that were given up for the same error."""

    error_type: str
    """The class of the error; how the chunks ended if there was none."""
    error: str
    """What it says, in the first of them."""
    traceback: str
    """Its traceback there; empty if it has none."""
    stage: str | None
    """The stage that failed; None if none was tried."""
    outcome: Outcome
    """How the first of them ended."""
    chunks: int
    """How many chunks there are."""
    rows: int
    """How many input rows they have."""
    first_chunk: int
    """The lowest number among them."""
    signature: str = ""
    """What they have in common: that of the error, or how the chunks ended if there was none."""


@dataclass(frozen=True)
class StoredRun:
    """A run that may be removed."""

    run_id: str
    """The run."""
    pipeline: str
    """Its pipeline's name."""
    state: RunState
    """Where it stands."""
    created: float
    """When it was made, in seconds since the epoch."""
    ended: float | None
    """When it ended."""
    folder: str
    """Where its files are."""
    kept_because: str = ""
    """Why it must stay, as the end of a sentence; empty if it may go."""

    @property
    def since(self) -> float:
        """When it ended or, if it has not, was made."""
        return self.ended or self.created


@dataclass(frozen=True)
class WorkerTime:
    """When one worker was at one stage."""

    seconds: float
    """Seconds of its attempts together."""
    first: float
    """When the first of them began, in seconds since the epoch."""
    last: float
    """When the last of them ended."""


@dataclass(frozen=True)
class StageFigures:
    """What one stage took, over all attempts of a run."""

    stage: str
    """Its name."""
    attempts: int
    """Attempts, failed ones included."""
    failed: int
    """Attempts that gave no result."""
    seconds: float
    """Seconds of all attempts together."""
    median: float
    """Seconds of the attempt in the middle; of an even sample where there are very many attempts."""
    longest: float
    """Seconds of the longest attempt."""
    median_peak: int | None
    """The peak memory of the attempt in the middle, in bytes; None where it was not measured."""
    peak_memory: int | None
    """The most memory that an attempt used, in bytes; None where it was not measured."""
    rows_in: int
    """Rows that the attempts with a result were given."""
    rows_out: int
    """Rows that they gave back."""
    outcomes: Mapping[Outcome, int] = field(default_factory=dict)
    """How many attempts there are of each outcome that occurs."""
    causes: Mapping[Cause, int] = field(default_factory=dict)
    """How many attempts there are of each cause that occurs; most end by themselves and have none."""
    longest_solved: float = 0.0
    """Seconds of the longest attempt with a result; 0 without any."""
    measured: int = 0
    """Attempts with a result whose peak memory is known."""
    by_worker: Mapping[str, WorkerTime] = field(default_factory=dict)
    """The workers that tried it, by name."""


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
