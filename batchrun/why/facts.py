"""What is known of a run at one moment, and what the sentences look up in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batchrun.errors import UsageError
from batchrun.outcome import Cause, Outcome
from batchrun.resources import Demand, Worker
from batchrun.store.records import RunRecord
from batchrun.why.at_work import workers_of

if TYPE_CHECKING:
    import pandas as pd

    from batchrun.store.live import DelayedChunk, LiveState, RunningChunk
    from batchrun.why.queued import QueueFacts

__all__ = ["ChunkFacts", "RunFacts", "Try"]


@dataclass(frozen=True)
class Try:
    """One attempt, as far as sentences tell of it."""

    stage: str
    """The stage."""
    number: int
    """Which try of the chunk at the stage it was, from 1."""
    worker: str
    """The worker's name."""
    outcome: Outcome
    """How it ended."""
    started: float
    """When it began, in seconds since the epoch."""
    seconds: float
    """How long it took."""
    peak_memory: int | None
    """The most bytes that it used; None where that was not measured."""
    error_type: str
    """The class of its error; empty if there was none."""
    error: str
    """What the error said."""
    cause: Cause | None
    """Why it did not end by itself."""
    next_step: str
    """What recovery did about it, as a sentence."""
    objective: float | None
    """The value of its last incumbent."""
    bound: float | None
    """The bound of its last incumbent."""


@dataclass(frozen=True)
class ChunkFacts:
    """One chunk, as the report's table of chunks has it."""

    chunk: int
    """Its number."""
    rows: int
    """Its input rows."""
    outcome: str
    """An Outcome, ``cut`` or ``pending``."""
    rows_out: int
    """Rows of its result."""
    seconds: float
    """Seconds of all its attempts together."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run at one moment."""

    record: RunRecord
    """The run's record."""
    driven: bool
    """Whether a process drives the run."""
    now: float
    """The moment, in seconds since the epoch."""
    total: int
    """Chunks so far, those that were cut included."""
    outcomes: Mapping[str, int]
    """How many of them there are of each outcome that occurs: an Outcome, ``cut`` or ``pending``."""
    worst_gap: float | None
    """The largest gap of a chunk that was stopped with a solution; None if none is known."""
    chunks: pd.DataFrame
    """The rows of the report's table of chunks that matter: chunk, rows, outcome, rows_out, seconds, parent.
    If a chunk is asked about, those of it and of its parts; else, those of chunks that were given up."""
    attempts: pd.DataFrame
    """The store's table of their attempts, in the order in which they were recorded."""
    live: LiveState | None
    """What runs and waits at this moment; None if nothing drives the run or it has not told yet."""
    longest: Mapping[str, tuple[int, float, float]]
    """For each stage, of all runs of the pipeline: how many solved attempts there were, their median and
    their longest seconds."""
    queue: QueueFacts | None = None
    """How the run stands in the queue, if it is there and no process drives it."""

    # Chunks

    def chunk(self, number: int) -> ChunkFacts:
        """The chunk of that number.

        Raises UsageError that names the numbers there are if there is none.
        """
        total = self.total
        if not 0 <= number < total:
            known = f"its chunks are 0 to {total - 1:,}" if total > 1 else "its only chunk is 0"
            ending = "" if self.record.state.ended else " so far"
            known = f"{known}{ending}" if total else f"none was cut{ending}"
            raise UsageError(f"run {self.record.run_id} has no chunk {number}; {known}")
        row = self.chunks[self.chunks["chunk"] == number].iloc[0]
        return ChunkFacts(
            chunk=number,
            rows=int(row["rows"]),
            outcome=str(row["outcome"]),
            rows_out=int(row["rows_out"]),
            seconds=float(row["seconds"]),
        )

    def parts(self, number: int) -> list[int]:
        """The chunks that a chunk was cut into."""
        found = self.chunks["chunk"][(self.chunks["parent"] == number).fillna(False)]
        return [int(part) for part in found]

    def tries(self, number: int) -> list[Try]:
        """All attempts of a chunk, in order."""
        return [_try(row) for row in self.attempts[self.attempts["chunk"] == number].to_dict("records")]

    def running(self, number: int) -> RunningChunk | None:
        """The chunk, if it runs; the first start of it, if it runs twice."""
        return next(iter(self._starts(number)), None)

    def second_start(self, number: int) -> RunningChunk | None:
        """The second start of the chunk, if it runs twice."""
        return next(iter(self._starts(number)[1:]), None)

    def _starts(self, number: int) -> list[RunningChunk]:
        chunks = self.live.running if self.live else ()
        return sorted((c for c in chunks if c.chunk == number), key=lambda c: c.started)

    def delayed(self, number: int) -> DelayedChunk | None:
        """The chunk, if it waits before it may be tried again."""
        chunks = self.live.delayed if self.live else ()
        return next((chunk for chunk in chunks if chunk.chunk == number and chunk.until > self.now), None)

    # Stages

    def this_session(self, tries: list[Try]) -> list[Try]:
        """Those of *tries* that are not from before the run was resumed."""
        return [one for one in tries if one.started >= (self.record.started or 0.0)]

    def next_stage(self, tries: list[Try]) -> str:
        """The stage that a chunk with these tries waits for: the first one of its leg."""
        done = {one.stage for one in self.this_session(tries) if one.outcome.solved}
        stages = self.record.stages
        open_legs = [stage["leg"] for stage in stages if stage["name"] not in done]
        return self._first_of_leg(open_legs[0] if open_legs else stages[-1]["leg"])

    @property
    def legs(self) -> int:
        """How many legs the pipeline has."""
        return len({stage["leg"] for stage in self.record.stages})

    def memory_of(self, stage: str) -> int:
        """Bytes that the stage asks for; 0 if it names none."""
        return self.demand_of(stage).memory

    def demand_of(self, stage: str) -> Demand:
        """What the stage takes from its worker."""
        found = next((known for known in self.record.stages if known["name"] == stage), None)
        return Demand(int(found["memory"]), found["resources"]) if found else Demand()

    def _first_of_leg(self, leg: int) -> str:
        return next(str(stage["name"]) for stage in self.record.stages if stage["leg"] == leg)

    # Workers

    @cached_property
    def workers(self) -> list[Worker]:
        """The live workers."""
        return workers_of(self.live)

    def busy(self, worker: Worker) -> list[RunningChunk]:
        """What runs on a worker, longest first."""
        running = self.live.running if self.live else ()
        return sorted((c for c in running if c.worker == worker.name), key=lambda c: c.started)

    def has_room(self, worker: Worker, demand: Demand) -> bool:
        """Whether a worker could take a task of that demand beside what it runs."""
        busy = self.busy(worker)
        used = [self.demand_of(chunk.stage) for chunk in busy]
        tags = {
            tag: amount - sum(other.tags.get(tag, 0) for other in used) for tag, amount in worker.tags.items()
        }
        left = Worker(
            worker.address,
            worker.name,
            worker.threads - len(busy),
            worker.memory - sum(other.memory for other in used),
            tags,
        )
        return left.can_ever_run(demand)


def _try(row: Mapping[Any, Any]) -> Try:
    cause = _text(row.get("cause"))
    peak = _number(row.get("peak_memory"))
    return Try(
        stage=str(row["stage"]),
        number=int(row["attempt"]),
        worker=str(row["worker"]),
        outcome=Outcome(row["outcome"]),
        started=float(row["started"]),
        seconds=float(row["seconds"]),
        peak_memory=None if peak is None else int(peak),
        error_type=_text(row.get("error_type")),
        error=_text(row.get("error")),
        cause=Cause(cause) if cause else None,
        next_step=_text(row.get("next_step")),
        objective=_number(row.get("objective")),
        bound=_number(row.get("bound")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    import pandas as pd

    return None if value is None or pd.isna(value) else float(value)
