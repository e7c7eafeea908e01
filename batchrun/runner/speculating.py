"""Starts stragglers a second time, and gives up the try of a chunk that was slower.

Two tries of a chunk run at the same time: the first of them that gives a result settles the matter. What the
other still does, and how it ends, is of no account from then on; it only holds its slot until it is gone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchrun.data import files
from batchrun.data.table import Stored
from batchrun.errors import StoreError
from batchrun.executor import Placement
from batchrun.forecast import WINDOW, Pace
from batchrun.outcome import Cause, Outcome
from batchrun.runner.aftermath import Aftermath
from batchrun.runner.placing import Placing
from batchrun.runner.state import RunnerState, RunningTask
from batchrun.speculation import Underway, most_copies, stragglers
from batchrun.waiting import Waiting
from batchrun.worker.task import TaskResult

if TYPE_CHECKING:
    from batchrun.outcome import Floats

__all__ = ["Speculating"]

LOOK_EVERY = 0.25
"""Seconds between looks for stragglers."""
ASK_EVERY = 2.0
"""Seconds after which a try that was given up is asked to stop again: at first it may not have begun."""


@dataclass
class Speculating:
    """Second starts of the chunks of one run."""

    state: RunnerState
    aftermath: Aftermath
    placing: Placing
    _looked_at: float = float("-inf")
    _asked_at: float = float("-inf")
    _paces: list[Pace] = field(init=False)

    def __post_init__(self) -> None:
        self._paces = [Pace() for _ in self.state.legs]

    def ended(self, items: Sequence[Waiting], seconds: Sequence[float] | Floats) -> None:
        """Chunks went through a leg, and took so long each."""
        if self.state.settings.speculate:
            for item, took in zip(items[:WINDOW], seconds[:WINDOW], strict=True):
                self._paces[item.leg].ended(item.rows, float(took), item.seconds)

    def place(self) -> list[Placement]:
        """Make the tasks of second starts that are due; they count as running from now on."""
        state, now = self.state, self.state.clock()
        if not state.settings.speculate or state.stopping or now - self._looked_at < LOOK_EVERY:
            return []
        self._looked_at = now
        self._ask_again(now)
        room = (
            most_copies(state.dispatcher.threads) - sum(one.other is not None for one in state.running) // 2
        )
        placements: list[Placement] = []
        first_tries = (
            {one.first.chunk: one for one in state.running if one.may_be_doubled} if room > 0 else {}
        )
        for straggler in stragglers(self._underway(first_tries.values()), self._paces):
            if len(placements) == room:
                break
            placements += self._start_again(first_tries[straggler.chunk])
        return placements

    def supersede(self, loser: RunningTask) -> None:
        """Another try of its chunk gave a result: record that this one is given up, and ask it to end."""
        state = self.state
        attempt = state.unheard(loser, loser.first, Outcome.CANCELLED, Cause.CANCEL)
        state.progress(attempt.chunk).seconds += attempt.seconds
        self.aftermath.record(
            replace(attempt, decision="drop", next_step="another try of it was faster, whose result is kept")
        )
        loser.superseded, loser.items = True, []
        state.executor.stop([loser.task.key], keep_best=False, grace=state.settings.stop_grace)

    def drop(self, loser: RunningTask, result: TaskResult) -> None:
        """A try that was given up came back; its result, if it has one, is removed."""
        self.state.executor.release([loser.task.key])
        if isinstance(result.output, Stored):
            with contextlib.suppress(StoreError):  # nothing refers to it
                files.remove(result.output.path)

    def _underway(self, tasks: Iterable[RunningTask]) -> Iterator[Underway]:
        now = time.time()
        for running in tasks:
            item = running.first
            yield Underway(
                item.chunk,
                item.leg,
                item.rows,
                elapsed=now - running.placed,
                forecast=item.seconds,
                left=self._left(running),
            )

    def _left(self, running: RunningTask) -> float | None:
        """Seconds that a task still needs, by what it told; None if it has several stages or said nothing."""
        status = running.status
        if status is None or not status.share or len(self.state.legs[running.first.leg]) > 1:
            return None
        return status.seconds * (1.0 - status.share) / status.share

    def _start_again(self, running: RunningTask) -> list[Placement]:
        """The second start of a chunk, if a slot for it would be idle."""
        dispatcher, first = self.state.dispatcher, running.first
        again = first._replace(avoid=first.avoid | {running.choice.worker.name}, apart=True)
        soon = [
            dispatcher.demand(delayed.waiting.leg, delayed.waiting.memory)
            for delayed in self.aftermath.delayed
        ]
        choice = dispatcher.choose_idle(again, soon)
        return [] if choice is None else [self.placing.place(choice, beside=running)]

    def _ask_again(self, now: float) -> None:
        if now - self._asked_at < ASK_EVERY:
            return
        self._asked_at = now
        late = [running.task.key for running in self.state.running if running.superseded]
        if late:
            self.state.executor.stop(late, keep_best=False, grace=self.state.settings.stop_grace)
