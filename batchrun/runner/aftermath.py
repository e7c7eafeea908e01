"""What is done about chunks that failed: each decision of ``recovery``, carried out."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from dataclasses import dataclass, field, replace

import pyarrow as pa

from batchrun.data.load import load
from batchrun.errors import BatchrunError
from batchrun.outcome import Attempt, ErrorRecord, Outcome
from batchrun.recovery import Cut, Decision, Enlarge, Failure, GiveUp, Retry, cause_of, decide
from batchrun.retry import RetryPolicy
from batchrun.runner.state import ChunkProgress, RunnerState, RunningTask
from batchrun.store.runs import SettledChunk
from batchrun.waiting import Waiting

__all__ = ["Aftermath", "Delayed"]

logger = logging.getLogger("batchrun")


@dataclass(frozen=True)
class Delayed:
    """A chunk that waits before it may be tried again."""

    at: float
    """When it may be, by the runner's clock."""
    waiting: Waiting
    """As what it will wait for a slot."""
    stage: str
    """The stage that it failed at."""
    error: ErrorRecord
    """Why it waits."""


@dataclass
class Aftermath:
    """Tries chunks again, cuts them, moves them to more memory, or sets their rows apart."""

    state: RunnerState
    quarantined: int = 0
    """Rows that are set apart so far."""
    _delayed: list[tuple[float, int, Delayed]] = field(default_factory=list)
    _to_cut: dict[int, ErrorRecord] = field(default_factory=dict)

    def failed(self, running: RunningTask, waiting: Waiting, attempt: Attempt, *, fresh: bool) -> None:
        """Decide about a chunk whose attempt failed, record the attempt with the decision, and act on it."""
        state = self.state
        progress = state.progress(waiting.chunk)
        progress.tries += 1
        error = attempt.error or ErrorRecord("ResultError", "the worker gave no result")
        cause = attempt.cause or cause_of(attempt.outcome)
        count = progress.failed(cause, error)
        attempt = replace(attempt, error=error, cause=cause)
        if running.other is not None:
            running.other.avoid(running.choice.worker.name)
            self.record(replace(attempt, decision="wait", next_step="another try of it goes on"))
            return
        failure = Failure(
            cause,
            error,
            count=count,
            alone=running.alone and len(running.items) == 1,
            fresh=fresh,
            divisible=state.plan.can_cut(waiting.chunk),
            larger=state.dispatcher.larger_memory(waiting.leg, running.task.demand.memory),
        )
        stage = state.stage(attempt.stage)
        policy = stage.retry if stage else RetryPolicy()
        decision = decide(failure, policy=policy, chance=state.chance())
        if state.stopping:
            self.record(replace(attempt, decision="cancel", next_step="left for a resume of the run"))
            return
        self.record(replace(attempt, decision=decision.word, next_step=str(decision)))
        if not state.stopping:  # nobody stopped it on hearing of the attempt
            self._act(decision, running, waiting, attempt, error)

    def record(self, attempt: Attempt) -> None:
        """Record an attempt and tell of it."""
        attempt = replace(attempt, key=self.state.plan.key(attempt.chunk))
        self.state.recorder.attempt(attempt)
        self.state.narrator.ended(attempt)

    # Carrying out

    def _act(
        self,
        decision: Decision,
        running: RunningTask,
        waiting: Waiting,
        attempt: Attempt,
        error: ErrorRecord,
    ) -> None:
        match decision:
            case Retry(wait=wait):
                again = waiting._replace(
                    avoid=waiting.avoid | {running.choice.worker.name},
                    alone=waiting.alone or attempt.outcome is Outcome.WORKER_LOST,
                    fresh=waiting.fresh or attempt.outcome is Outcome.OUT_OF_MEMORY,
                )
                self._delay(Delayed(self.state.clock() + wait, again, attempt.stage, error), wait)
            case Enlarge(memory=memory):
                larger = waiting._replace(memory=memory)
                self._delay(Delayed(self.state.clock(), larger, attempt.stage, error), 0.0)
            case Cut():
                self._to_cut[waiting.chunk] = error
            case GiveUp():
                self._give_up(waiting, attempt, error)

    def _delay(self, delayed: Delayed, wait: float) -> None:
        chunk = delayed.waiting.chunk
        heapq.heappush(self._delayed, (delayed.at, chunk, delayed))
        self.state.narrator.retry(chunk, delayed.stage, wait, delayed.error)

    def _give_up(self, waiting: Waiting, attempt: Attempt, error: ErrorRecord) -> None:
        state = self.state
        progress = state.progress(waiting.chunk)
        del state.chunks[waiting.chunk]
        settled = SettledChunk(waiting.chunk, attempt.outcome, waiting.rows, 0, progress.seconds)
        state.recorder.given_up(settled, self._rows_of(waiting.chunk))
        self.quarantined += waiting.rows
        self._break(state.tally.failed(attempt.stage, error) or self._too_many(error))

    def _rows_of(self, chunk: int) -> pa.Table | None:
        """The rows of a chunk for the quarantine; where they cannot be read, its numbers must do."""
        try:
            return load(self.state.source.slice(*self.state.plan.bounds(chunk)))
        except (OSError, pa.ArrowException, BatchrunError) as error:
            logger.warning("the rows of chunk %d cannot be read for the quarantine: %s", chunk, error)
            return None

    def _too_many(self, last: ErrorRecord) -> ErrorRecord | None:
        """The error of a run with more bad rows than it may have."""
        most = self.state.settings.max_quarantined
        if most is None or self.quarantined <= most:
            return None
        message = (
            f"{self.quarantined:,} rows are quarantined, more than the {most:,} that max_quarantined allows; "
            f"the last of them failed with {last}. Mend the data, or allow more, then resume the run"
        )
        return ErrorRecord("TooManyQuarantined", message, last.traceback, signature="TooManyQuarantined")

    def _break(self, error: ErrorRecord | None) -> None:
        """Give the run up if there is an error to end it."""
        if error is None:
            return
        self.state.broken = self.state.broken or error
        self.state.dispatcher.drop_waiting()
        self.clear()

    # Cutting

    def cut(self) -> None:
        """Cut the chunks that are due for it, all in one wave, and let their parts wait for slots."""
        if not self._to_cut:
            return
        state = self.state
        cuts = state.plan.cut(list(self._to_cut))
        due, self._to_cut = self._to_cut, {}
        for chunk, parts in cuts.items():
            whole, error = state.chunks.pop(chunk), due[chunk]
            sizes = [state.plan.size(part) for part in parts]
            state.recorder.cut(chunk, parts, sizes)
            state.narrator.cut(chunk, parts, sizes)
            for part, rows in zip(parts, sizes, strict=True):
                state.chunks[part] = ChunkProgress(
                    failures=Counter(whole.failures), inherited=error.signature
                )
                memory = state.memory_for(0, rows)
                state.dispatcher.add(Waiting(part, 0, rows, part=True, memory=memory))

    # Waiting

    @property
    def busy(self) -> bool:
        """Whether a chunk waits to be tried again or to be cut."""
        return bool(self._delayed or self._to_cut)

    @property
    def next_at(self) -> float | None:
        """When the next chunk may be tried again, by the runner's clock."""
        return self._delayed[0][0] if self._delayed else None

    @property
    def delayed(self) -> list[Delayed]:
        """The chunks that wait before they may be tried again."""
        return [delayed for _, _, delayed in self._delayed]

    def wake(self) -> None:
        """Chunks whose wait is over compete for slots again."""
        while self._delayed and self._delayed[0][0] <= self.state.clock():
            self.state.dispatcher.add(heapq.heappop(self._delayed)[2].waiting)

    def drop(self, chunks: set[int]) -> list[Waiting]:
        """These chunks are not tried again; returns those of them that would have been."""
        dropped = [delayed.waiting for delayed in self.delayed if delayed.waiting.chunk in chunks]
        self._delayed = [entry for entry in self._delayed if entry[1] not in chunks]
        heapq.heapify(self._delayed)
        return dropped

    def clear(self) -> None:
        """Nothing is tried again or cut."""
        self._delayed.clear()
        self._to_cut.clear()
