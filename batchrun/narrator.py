"""Tells observers what happens in a run; it sees everything and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchrun.dispatch import Dispatcher
from batchrun.events import (
    AttemptEnded,
    ChunkCut,
    ChunkReported,
    ChunkSettled,
    ChunksPlaced,
    ChunksPlanned,
    ChunksRecalled,
    Event,
    Observer,
    RetryScheduled,
    RunStopping,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import Attempt, ErrorRecord
from batchrun.plan import Plan
from batchrun.resources import Worker
from batchrun.status import TaskStatus
from batchrun.store.runs import SettledChunk

__all__ = ["Narrator"]


@dataclass
class Narrator:
    """Makes events of what the runner does, and hands each to every observer."""

    run_id: str
    """The run."""
    observers: Sequence[Observer]
    """Who is told, in order."""
    clock: Callable[[], float]
    """Seconds on a clock that never goes back."""
    slots_every: float
    """Seconds between two looks at the slots, at least."""

    def __post_init__(self) -> None:
        self._slots_at = float("-inf")
        self._slots: tuple[SlotUse, ...] = ()

    def tell(self, event: Event) -> None:
        """Hand an event to every observer."""
        for observer in self.observers:
            observer(event)

    def planned(self, plan: Plan) -> None:
        """More of the input is cut into chunks."""
        self.tell(
            ChunksPlanned(
                self.run_id, time.time(), plan.standing, plan.rows, plan.settled_chunks, plan.settled_rows
            )
        )

    def recalled(self, chunks: Sequence[SettledChunk]) -> None:
        """Earlier sessions of the run settled these chunks."""
        if chunks:
            numbers, outcomes, rows = zip(*((c.chunk, c.outcome, c.rows) for c in chunks), strict=True)
            self.tell(ChunksRecalled(self.run_id, time.time(), numbers, outcomes, rows))

    def placed(self, chunks: Sequence[int], workers: Sequence[str]) -> None:
        """Chunks were given to workers."""
        self.tell(ChunksPlaced(self.run_id, time.time(), tuple(chunks), tuple(workers)))

    def reported(self, chunk: int, worker: str, status: TaskStatus) -> None:
        """A chunk that runs told how it is doing."""
        self.tell(ChunkReported(self.run_id, time.time(), chunk, worker, status))

    def cut(self, chunk: int, parts: Sequence[int], rows: Sequence[int]) -> None:
        """A chunk was cut into parts."""
        self.tell(ChunkCut(self.run_id, time.time(), chunk, tuple(parts), tuple(rows)))

    def ended(self, attempt: Attempt) -> None:
        """An attempt ended."""
        self.tell(AttemptEnded(self.run_id, time.time(), attempt))

    def retry(self, chunk: int, stage: str, wait: float, error: ErrorRecord) -> None:
        """A chunk will be tried again."""
        self.tell(RetryScheduled(self.run_id, time.time(), chunk, stage, wait, error))

    def settled(self, chunks: Sequence[SettledChunk]) -> None:
        """Chunks have their outcome, and it is durable."""
        for c in chunks:
            self.tell(
                ChunkSettled(
                    self.run_id, time.time(), c.chunk, c.outcome, c.rows, c.rows_out, c.seconds, c.gap
                )
            )

    def stopping(self, running: int, grace: float) -> None:
        """Nothing new is started."""
        self.tell(RunStopping(self.run_id, time.time(), running, grace))

    def slots(self, dispatcher: Dispatcher, plan: Plan, workers: Callable[[], Sequence[Worker]]) -> None:
        """Supply and demand of slots, when they changed and the last look is a while ago."""
        if self.clock() - self._slots_at < self.slots_every:
            return
        self._slots_at = self.clock()
        slots = tuple(SlotUse(*row) for row in dispatcher.slots(behind=plan.left))
        if slots != self._slots:
            self._slots = slots
            self.tell(SlotsChanged(self.run_id, time.time(), slots, len(workers())))
