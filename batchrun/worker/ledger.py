"""The attempts of one task as they end, and the answers they published."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

from batchrun.data.table import Inline, Stored
from batchrun.outcome import Attempt, Cause, ErrorRecord, Incumbent, Outcome
from batchrun.worker.leg import StageEnd
from batchrun.worker.task import Task, TaskResult

__all__ = ["History", "Ledger"]

MOST_INCUMBENTS = 500
"""Answers that the record of an attempt holds at most."""


@dataclass(frozen=True)
class _Entry:
    """A stage that ended, and what is known of it beside that."""

    end: StageEnd
    log: str
    incumbents: tuple[Incumbent, ...]
    peak_memory: int | None


class Ledger:
    """Collects the attempts of one chunk in one task."""

    def __init__(self, task: Task, worker: str) -> None:
        self._task = task
        self._worker = worker
        self._entries: list[_Entry] = []

    @property
    def plain(self) -> bool:
        """Whether all stages succeeded and there is nothing else to tell of any of them."""
        return all(
            entry.end.outcome is Outcome.SUCCEEDED
            and not (entry.log or entry.incumbents)
            and entry.peak_memory is None
            for entry in self._entries
        )

    @property
    def ends(self) -> list[StageEnd]:
        """How each stage ended."""
        return [entry.end for entry in self._entries]

    def add(
        self,
        ended: StageEnd,
        *,
        log: str = "",
        incumbents: tuple[Incumbent, ...] = (),
        peak_memory: int | None = None,
    ) -> None:
        """One more stage ended."""
        self._entries.append(_Entry(ended, log, incumbents, peak_memory))

    def fail_last(self, error: ErrorRecord) -> None:
        """The result of the stage that ended last could not be handed over."""
        last = self._entries[-1]
        failed = replace(last.end, outcome=Outcome.FAILED, cause=Cause.ERROR, error=error, rows_out=0)
        self._entries[-1] = replace(last, end=failed)

    def result(
        self,
        output: Inline | Stored | None = None,
        *,
        rows_out: int = 0,
        emptied: bool = False,
        fresh: bool = True,
    ) -> TaskResult:
        """What came of the task."""
        return TaskResult(
            self._task.key,
            self._worker,
            tuple(map(self._attempt, self._entries)),
            output,
            rows_out,
            ended=emptied,
            fresh=fresh,
        )

    def _attempt(self, entry: _Entry) -> Attempt:
        end = entry.end
        return Attempt(
            chunk=self._task.chunk,
            stage=end.stage,
            attempt=self._task.attempt,
            worker=self._worker,
            outcome=end.outcome,
            started=end.started,
            seconds=end.seconds,
            rows_in=end.rows_in,
            rows_out=end.rows_out,
            peak_memory=entry.peak_memory,
            error=end.error,
            cause=end.cause,
            log=entry.log,
            incumbents=entry.incumbents,
        )


@dataclass
class History:
    """The answers that one attempt published: first and last, and between them those that brought most."""

    most: int = MOST_INCUMBENTS
    """So many are kept."""
    points: list[Incumbent] = field(default_factory=list)
    """What is kept, in order; up to twice as many as `most`, until they are asked for."""

    def add(self, point: Incumbent) -> None:
        """One more answer."""
        self.points.append(point)
        if len(self.points) >= 2 * self.most:
            self.points = _thinned(self.points, self.most)

    @property
    def last(self) -> Incumbent | None:
        """The answer that was published last."""
        return self.points[-1] if self.points else None

    def thinned(self) -> tuple[Incumbent, ...]:
        """At most `most` of the answers."""
        return tuple(_thinned(self.points, self.most))


def _thinned(points: list[Incumbent], most: int) -> list[Incumbent]:
    """The first point, the last one, and of those that changed something evenly many between them."""
    if len(points) <= most:
        return list(points)
    changed = [
        point
        for before, point in itertools.pairwise(points[:-1])
        if (before.objective, before.bound) != (point.objective, point.bound)
    ]
    room = most - 2
    if len(changed) > room:
        changed = [changed[number * len(changed) // room] for number in range(room)]
    return [points[0], *changed, points[-1]]
