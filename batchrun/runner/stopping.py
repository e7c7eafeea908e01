"""How a run, or a chunk of it, comes to an end because somebody asked for it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field

from batchrun.outcome import Outcome
from batchrun.runner.aftermath import Aftermath
from batchrun.runner.state import ChunkProgress, RunnerState, RunningTask
from batchrun.store.requests import CancelRequest
from batchrun.store.runs import SettledChunk
from batchrun.waiting import Waiting

__all__ = ["Stopping"]

logger = logging.getLogger("batchrun")

LINGER = 0.4
"""Seconds after the grace in which a stage in the worker's own process can still be heard of: it may listen,
or it may not."""
LINGER_ISOLATED = 10.0
"""The same for a stage in a child process, which is killed by then for certain; a busy machine may be slow to
tell."""
LAST_STAGES = 60.0
"""Seconds after that for the stages that follow a solve whose best answer is kept."""


@dataclass
class Stopping:
    """Stops what runs, drops what waits, and knows when it has been waited for long enough."""

    state: RunnerState
    aftermath: Aftermath
    cancelled: bool = False
    """Whether a request, not an interrupt, stops the run."""
    keep_best: bool = False
    """Whether solves that are stopped with an answer go on to the stages after."""
    _until: float | None = None
    _unwanted: set[int] = field(default_factory=set)
    _overdue: dict[str, float] = field(default_factory=dict)

    def begin(self, *, keep_best: bool = False) -> None:
        """Start nothing new, drop all that waits, and ask what runs to come to an end."""
        if self._until is not None:
            return
        state = self.state
        state.stopping = True
        self.keep_best = keep_best
        grace = state.settings.stop_grace
        self._until = state.clock() + grace + LINGER_ISOLATED + (LAST_STAGES if keep_best else 0.0)
        state.dispatcher.drop_waiting()
        self.aftermath.clear()
        for running in state.running:
            self._expect_end(running)
        chunks = len({running.first.chunk for running in state.running})
        state.recorder.stopping(chunks)
        state.narrator.stopping(chunks, grace)
        state.executor.stop(state.running.keys, keep_best=keep_best, grace=grace)

    @property
    def over(self) -> bool:
        """Whether nothing runs any more, or what runs has been given all the time that it gets."""
        busy = self.state.running.wanted or self.state.dispatcher.waiting
        return not busy or (self._until is not None and self.state.clock() >= self._until)

    def answer(self, requests: Collection[CancelRequest]) -> None:
        """Do what was asked for."""
        for request in requests:
            if request.chunk is None:
                self.cancelled = True
                self.begin(keep_best=request.keep_best)
            else:
                self._cancel({request.chunk, *self.state.plan.parts_of(request.chunk)}, request.keep_best)

    def is_unwanted(self, chunk: int) -> bool:
        """Whether a chunk that comes up for a slot was cancelled before; it is settled then."""
        if chunk not in self._unwanted:
            return False
        self._settle(chunk, self.state.plan.size(chunk), 0.0)
        return True

    def ended(self, item: Waiting) -> None:
        """A chunk was stopped without an answer; it is cancelled, or left for a resume of the run."""
        if not self.state.stopping:
            progress = self.state.chunks.pop(item.chunk, ChunkProgress())
            self._settle(item.chunk, item.rows, progress.seconds)

    def enforce(self) -> None:
        """Give up tasks that should have ended by now: those in a worker's own process can only be asked."""
        now = self.state.clock()
        due = [key for key, until in self._overdue.items() if now >= until]
        for key in due:
            del self._overdue[key]
        late = [running for key in due if (running := self.state.running.remove(key)) is not None]
        if late:
            self.state.executor.cancel([running.task.key for running in late])
        for running in late:
            self.state.dispatcher.give_back(running.choice)
            for item in running.items[:-1]:  # of a pack only the chunk that began last can be at fault
                if not self.state.stopping:
                    self.state.dispatcher.add(item)
            for item in running.items[-1:]:
                if running.other is None:
                    self.ended(item)

    def _cancel(self, chunks: set[int], keep_best: bool) -> None:
        """Cancel some chunks, wherever they are."""
        state = self.state
        keys = []
        for running in state.running:
            may_run = running.items[-1:] if running.recalled or running.is_single else []
            if may_run and may_run[0].chunk in chunks:
                running.cancelled = True
                keys.append(running.task.key)
                self._expect_end(running)
            elif not running.is_single:  # those that have not begun when the pack is recalled will not
                self._unwanted |= chunks & {item.chunk for item in running.items}
        state.executor.stop(keys, keep_best=keep_best, grace=state.settings.stop_grace)
        waiting = [*state.dispatcher.drop(chunks), *self.aftermath.drop(chunks)]
        for item in waiting:
            progress = state.chunks.pop(item.chunk, ChunkProgress())
            self._settle(item.chunk, item.rows, progress.seconds)
        self._unwanted |= chunks & set(state.plan.not_handed_out)

    def _expect_end(self, running: RunningTask) -> None:
        """A task was asked to stop; note by when it should be heard of."""
        linger = LINGER_ISOLATED if running.is_isolated else LINGER
        self._overdue[running.task.key] = self.state.clock() + self.state.settings.stop_grace + linger

    def _settle(self, chunk: int, rows: int, seconds: float) -> None:
        self._unwanted.discard(chunk)
        self.state.recorder.cancelled(SettledChunk(chunk, Outcome.CANCELLED, rows, 0, seconds))
