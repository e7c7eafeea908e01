"""What a run asked for and what it used, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchrun.outcome import Cause, Outcome
from batchrun.resources import Demand, WorkerKind
from batchrun.store.records import RunRecord, StageFigures

__all__ = ["Advice", "RunUse", "StageUse"]


@dataclass(frozen=True)
class Advice:
    """One thing to do otherwise next time."""

    subject: str
    """What it is about: a stage, a resource tag, or the chunks. Users chose the first two."""
    text: str
    """What was seen and what to do, as a sentence without a full stop, in words of ours alone."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


@dataclass(frozen=True)
class StageUse:
    """What one stage asked for, and what its attempts used."""

    name: str
    """Its name."""
    demand: Demand
    """What it takes from its worker."""
    figures: StageFigures
    """What its attempts took."""
    leg: int = 0
    """The leg that it is in; stages of one leg share a process."""
    auto: bool = False
    """Whether its memory is ``"auto"``."""
    timeout: float | None = None
    """Seconds after which it is ended."""
    stop_after: float | None = None
    """Seconds after which it is asked for its best answer."""

    def ended(self, outcome: Outcome) -> int:
        """How many attempts ended so."""
        return self.figures.outcomes.get(outcome, 0)

    def because(self, cause: Cause) -> int:
        """How many attempts did not end by themselves, or not well, for that cause."""
        return self.figures.causes.get(cause, 0)


@dataclass(frozen=True)
class RunUse:
    """What a run asked for and used."""

    stages: Sequence[StageUse]
    """Its stages that were tried, in the order of the pipeline."""
    workers: Sequence[WorkerKind] = ()
    """The workers that it began with; empty if they are not known."""
    split: str = ""
    """How the input was split, as text."""
    rows: int = 0
    """Rows of the input."""
    chunks: int = 0
    """Chunks that were tried."""
    whole: bool = True
    """Whether one session did it all, so that the times of attempts lie side by side."""

    @classmethod
    def of(
        cls,
        record: RunRecord,
        figures: Sequence[StageFigures],
        workers: Sequence[WorkerKind],
        chunks: int,
        *,
        whole: bool,
    ) -> RunUse:
        """What the run of that *record* used, by the *figures* of its stages."""
        known = {one.stage: one for one in figures}
        stages = [
            _stage_use(stage, known[str(stage["name"])])
            for stage in record.stages
            if str(stage["name"]) in known
        ]
        return cls(stages, workers, record.split, record.rows_in, chunks, whole)

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return sum(kind.count * kind.threads for kind in self.workers)

    @property
    def seconds(self) -> float:
        """Seconds of all attempts together."""
        return sum(stage.figures.seconds for stage in self.stages)

    @property
    def span(self) -> float:
        """Seconds from the beginning of the first attempt to the end of the last one; 0 if sessions lie
        between them, or nothing was tried."""
        times = [time for stage in self.stages for time in stage.figures.by_worker.values()]
        if not times or not self.whole:
            return 0.0
        return max(time.last for time in times) - min(time.first for time in times)

    def slots(self, demand: Demand) -> int:
        """How many tasks of that demand its workers run at once; 0 if the workers are not known."""
        return sum(kind.slots(demand) for kind in self.workers)


def _stage_use(stage: Mapping[str, Any], figures: StageFigures) -> StageUse:
    return StageUse(
        name=str(stage["name"]),
        demand=Demand(int(stage.get("memory") or 0), stage.get("resources") or {}),
        figures=figures,
        leg=int(stage.get("leg") or 0),
        auto=bool(stage.get("memory_from")),
        timeout=stage.get("timeout"),
        stop_after=stage.get("stop_after"),
    )
