"""What becomes of tasks that come back, or never will: slots are freed, attempts recorded, results taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from batchrun.data.table import Inline, Stored
from batchrun.executor import TaskLost
from batchrun.outcome import Attempt, Cause, ErrorRecord, Outcome
from batchrun.runner.aftermath import Aftermath
from batchrun.runner.combining import Combining
from batchrun.runner.speculating import Speculating
from batchrun.runner.state import ChunkProgress, RunnerState, RunningTask
from batchrun.runner.stopping import Stopping
from batchrun.store.records import SettledChunk, SettledChunks
from batchrun.waiting import Waiting
from batchrun.worker.fold import FoldResult
from batchrun.worker.pack import PackResult
from batchrun.worker.task import TaskResult
from batchrun.worker.work import WorkResult

if TYPE_CHECKING:
    from batchrun.outcome import Floats, Integers

__all__ = ["Arriving"]


@dataclass
class Arriving:
    """Takes in what the executor tells of tasks."""

    state: RunnerState
    aftermath: Aftermath
    stopping: Stopping
    speculating: Speculating
    combining: Combining | None = None

    def done(self, key: str, result: WorkResult) -> None:
        """A task came back."""
        running = self._free_slot(key)
        if running is None:
            return
        if running.superseded and isinstance(result, TaskResult):
            self.speculating.drop(running, result)
        elif isinstance(result, PackResult):
            self._pack_done(running, result)
        elif isinstance(result, FoldResult):
            self.state.executor.release([key])
            if self.combining is not None:
                self.combining.done(running.first, result)
        elif not result.attempts:
            self._never_begun(running)
        else:
            if result.output is not None:
                seconds = sum(attempt.seconds for attempt in result.attempts)
                self.state.dispatcher.measured(running.first.leg, seconds, cost=running.first.cost)
                self.speculating.ended([running.first], [seconds])
                if running.other is not None:
                    self.speculating.supersede(running.other)
            self._chunk_done(running, running.first, result)

    def lost(self, signal: TaskLost) -> None:
        """A task will never come back; all chunks that it had must be tried again."""
        running = self._free_slot(signal.key)
        if running is None:
            return
        if running.is_fold:
            if self.combining is not None:
                self.combining.lost(running.first)
            return
        name = "WorkerLost" if signal.worker_died else "TaskLost"
        error = ErrorRecord(name, signal.reason, classes=(name,), signature=name)
        outcome = Outcome.WORKER_LOST if signal.worker_died else Outcome.FAILED
        cause = Cause.WORKER_LOST if signal.worker_died else Cause.INFRASTRUCTURE
        for item in running.items:
            attempt = self.state.unheard(running, item, outcome, cause, error)
            self.state.progress(item.chunk).seconds += attempt.seconds
            self._failed(running, item, attempt, fresh=True)

    def shortened(self, key: str, begun: int) -> None:
        """Only so many chunks of a task have begun; the others are free to run elsewhere."""
        running = self.state.running.get(key)
        if running is not None:
            self._take_back(running.items[begun:])
            running.items = running.items[:begun]
            running.begun = begun > 0

    def _never_begun(self, running: RunningTask) -> None:
        """A task was recalled while it waited behind another."""
        self.state.executor.release([running.task.key])
        if running.other is not None:
            return
        if running.cancelled:
            self.stopping.ended(running.first)
        else:
            self._take_back(running.items)

    # Several chunks

    def _pack_done(self, running: RunningTask, result: PackResult) -> None:
        items = {item.chunk: item for item in running.items}
        leg = running.first.leg
        plain = result.solved[0].chunks.tolist() if result.solved else []
        tried = [*plain, *(other.attempts[0].chunk for other in result.others)]
        if tried:
            cost = sum(items[chunk].cost for chunk in tried)
            self.state.dispatcher.measured(leg, result.seconds, chunks=len(tried), cost=cost)
        if plain:
            self._plain_done(result, [items[chunk] for chunk in plain])
        if not result.pieces:
            self.state.executor.release([result.key])
        for other in result.others:
            self._chunk_done(running, items[other.attempts[0].chunk], other)
        self._take_back([items[chunk] for chunk in result.left if chunk in items], apart=result.apart)

    def _plain_done(self, result: PackResult, items: Sequence[Waiting]) -> None:
        """Chunks of a pack that went through the leg with nothing to tell."""
        state = self.state
        keys = state.plan.keys(result.solved[0].chunks)
        for attempts in result.solved:
            state.recorder.attempts(replace(attempts, keys=keys))
            state.narrator.solved(attempts)
            state.tally.passed(attempts.stage)
        seconds = np.sum([attempts.seconds for attempts in result.solved], axis=0)
        self.speculating.ended(items, seconds)
        if not self._is_last(items[0].leg):
            for piece in result.pieces:
                [position] = piece.positions
                progress = state.progress(items[position].chunk)
                progress.seconds += float(seconds[position])
                self._go_on(items[position], progress, piece.output)
            state.executor.release([result.key])
            return
        rows_out = result.solved[-1].rows_out
        for piece in result.pieces:
            at = list(piece.positions)
            settled = self._settled([items[n] for n in at], rows_out[at], seconds[at])
            state.recorder.solved_together(settled, piece.output, result.key)

    def _settled(self, items: Sequence[Waiting], rows_out: Integers, seconds: Floats) -> SettledChunks:
        """The records of chunks that went through every stage."""
        state = self.state
        chunks = np.array([item.chunk for item in items], np.int64)
        rows = np.array([item.rows for item in items], np.int64)
        known = {
            n: state.chunks.pop(item.chunk) for n, item in enumerate(items) if item.chunk in state.chunks
        }
        for n, progress in known.items():
            seconds[n] += progress.seconds
        state.plan.measured(int(rows.sum()), float(seconds.sum()))
        settled = SettledChunks.succeeded(chunks, rows, rows_out, seconds)
        if not any(progress.stopped or progress.best for progress in known.values()):
            return settled
        return SettledChunks.of(
            [_with_answer(chunk, known.get(n, ChunkProgress())) for n, chunk in enumerate(settled)]
        )

    def _take_back(self, items: Sequence[Waiting], *, apart: bool = False) -> None:
        """Chunks of a pack that did not begin wait again."""
        if items:
            self.state.narrator.returned([item.chunk for item in items])
        for item in items:
            if self.state.stopping or self.stopping.is_unwanted(item.chunk):
                continue
            self.state.dispatcher.add(item._replace(apart=item.apart or apart))

    # One chunk

    def _chunk_done(self, running: RunningTask, item: Waiting, result: TaskResult) -> None:
        state = self.state
        progress = state.progress(item.chunk)
        progress.seconds += sum(attempt.seconds for attempt in result.attempts)
        for attempt in result.attempts[: -1 if result.output is None else None]:
            self.aftermath.record(_explained(attempt))
            if attempt.outcome.solved:
                state.tally.passed(attempt.stage)
            progress.best = attempt.best or progress.best
            progress.stopped |= attempt.outcome is Outcome.STOPPED_WITH_SOLUTION
        if result.output is None:
            state.executor.release([running.task.key])
            self._failed(running, item, result.attempts[-1], fresh=result.fresh)
        elif not self._is_last(item.leg) and not result.ended:
            state.executor.release([running.task.key])
            self._go_on(item, progress, result.output)
        else:
            del state.chunks[item.chunk]
            state.plan.measured(item.rows, progress.seconds)
            settled = SettledChunk(
                item.chunk, Outcome.SUCCEEDED, item.rows, result.rows_out, progress.seconds
            )
            state.recorder.solved(_with_answer(settled, progress), result.output, running.task.key)

    def _go_on(self, item: Waiting, before: ChunkProgress, output: Inline | Stored) -> None:
        """The chunk waits for its next leg."""
        state = self.state
        state.chunks[item.chunk] = ChunkProgress(
            input=output, seconds=before.seconds, best=before.best, stopped=before.stopped
        )
        if not state.stopping or (before.stopped and self.stopping.keep_best):
            state.await_slot(item.chunk, item.leg + 1)

    def _failed(self, running: RunningTask, item: Waiting, attempt: Attempt, *, fresh: bool) -> None:
        if attempt.outcome is Outcome.CANCELLED or running.cancelled:
            self.aftermath.record(_explained(attempt))
            if running.other is None:
                self.stopping.ended(item)
        else:
            self.aftermath.failed(running, item, attempt, fresh=fresh)

    def _is_last(self, leg: int) -> bool:
        return leg == len(self.state.legs) - 1

    def _free_slot(self, key: str) -> RunningTask | None:
        """Free the slot of a task; None if nothing is expected of it any more."""
        running = self.state.running.remove(key)
        if running is not None:
            self.state.dispatcher.give_back(running.choice)
        return running


def _with_answer(chunk: SettledChunk, progress: ChunkProgress) -> SettledChunk:
    """A solved chunk with what its stages told of their answers."""
    best = progress.best
    return replace(
        chunk,
        outcome=Outcome.STOPPED_WITH_SOLUTION if progress.stopped else chunk.outcome,
        objective=best.objective if best else None,
        bound=best.bound if best else None,
    )


def _explained(attempt: Attempt) -> Attempt:
    """An attempt that was stopped on purpose, with what follows from that."""
    if attempt.outcome is Outcome.STOPPED_WITH_SOLUTION:
        return replace(attempt, decision="keep", next_step="its best answer so far is kept as the result")
    if attempt.outcome is Outcome.CANCELLED:
        return replace(attempt, decision="cancel", next_step="left for a resume of the run")
    return attempt
