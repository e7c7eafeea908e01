"""Tells observers what happens in a run; it sees everything and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.dispatch import Dispatcher
from batchrun.events import (
    AttemptEnded,
    AttemptsSolved,
    ChunkCut,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksRecalled,
    ChunksReturned,
    ChunksSettled,
    Event,
    Observer,
    RetryScheduled,
    RunStopping,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import Attempt, ErrorRecord, SolvedAttempts
from batchrun.plan import Plan
from batchrun.status import TaskStatus
from batchrun.store.records import SettledChunks

if TYPE_CHECKING:
    pass

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

    def recalled(self, settled: SettledChunks) -> None:
        """Earlier sessions of the run settled these chunks."""
        if len(settled):
            at = time.time()
            self.tell(ChunksRecalled(self.run_id, at, settled.chunks, settled.outcomes, settled.rows))

    def placed(self, chunks: Sequence[int], workers: Sequence[str], packs: Sequence[int] = ()) -> None:
        """Chunks were given to workers, one name for each chunk; *packs* says how many of them ride in each
        task, in order, and is empty if each has a task of its own."""
        self.tell(ChunksPlaced(self.run_id, time.time(), tuple(chunks), tuple(workers), tuple(packs)))

    def returned(self, chunks: Sequence[int]) -> None:
        """Chunks of a pack did not begin and wait again."""
        self.tell(ChunksReturned(self.run_id, time.time(), tuple(chunks)))

    def reported(self, chunk: int, worker: str, status: TaskStatus) -> None:
        """A chunk that runs told how it is doing."""
        self.tell(ChunkReported(self.run_id, time.time(), chunk, worker, status))

    def cut(self, chunk: int, parts: Sequence[int], rows: Sequence[int]) -> None:
        """A chunk was cut into parts."""
        self.tell(ChunkCut(self.run_id, time.time(), chunk, tuple(parts), tuple(rows)))

    def ended(self, attempt: Attempt) -> None:
        """An attempt ended."""
        self.tell(AttemptEnded(self.run_id, time.time(), attempt))

    def solved(self, attempts: SolvedAttempts) -> None:
        """Attempts of chunks that rode together ended well."""
        self.tell(AttemptsSolved(self.run_id, time.time(), attempts))

    def retry(self, chunk: int, stage: str, wait: float, error: ErrorRecord) -> None:
        """A chunk will be tried again."""
        self.tell(RetryScheduled(self.run_id, time.time(), chunk, stage, wait, error))

    def settled(self, settled: SettledChunks) -> None:
        """Chunks have their outcome, and it is durable."""
        if not len(settled):
            return
        self.tell(
            ChunksSettled(
                self.run_id,
                time.time(),
                settled.chunks,
                settled.outcomes,
                settled.rows,
                settled.rows_out,
                settled.seconds,
                settled.gaps,
            )
        )

    def stopping(self, running: int, grace: float) -> None:
        """Nothing new is started."""
        self.tell(RunStopping(self.run_id, time.time(), running, grace))

    def slots(self, dispatcher: Dispatcher) -> None:
        """Supply and demand of slots, when they changed and the last look is a while ago."""
        if self.clock() - self._slots_at < self.slots_every:
            return
        self._slots_at = self.clock()
        slots = tuple(SlotUse(*row) for row in dispatcher.use_of_slots())
        if slots != self._slots:
            self._slots = slots
            self.tell(SlotsChanged(self.run_id, time.time(), slots, len(dispatcher.slots)))
