"""Runs of the model: the truth about their chunks, and what became of them."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchrun.dispatch import Dispatcher
from batchrun.outcome import Cause, ErrorRecord
from batchrun.plan import from_here_on
from batchrun.split import halve
from batchrun.waiting import Waiting
from tests.simulation.model import Fleet, Work

if TYPE_CHECKING:
    from batchrun.outcome import Floats, Integers

FEED = 4_096
"""Chunks handed to a dispatcher at a time, as the runner does."""


@dataclass
class History:
    """How often a chunk failed at its present leg, counted as the runner does."""

    failures: Counter[Cause] = field(default_factory=Counter)
    """By cause; a part begins with those of the chunk that it is a part of."""
    inherited: str | None = None
    """The signature of the error that it began with; another error begins its count anew."""

    def failed(self, cause: Cause, error: ErrorRecord) -> int:
        """Count a failure; returns how many there are of this cause."""
        if self.inherited is not None and self.inherited != error.signature:
            self.failures[cause] = 0
        self.inherited = None
        self.failures[cause] += 1
        return self.failures[cause]


@dataclass(eq=False)
class SimulatedRun:
    """A run of the model."""

    work: Work
    dispatcher: Dispatcher
    chance: random.Random
    fleet: Fleet
    rows: list[int] = field(init=False)
    seconds: list[list[float]] = field(init=False)
    upper: list[list[float]] = field(init=False)
    """What chunks may well take at each leg, as earlier runs tell; empty if that is not known."""
    left: list[list[float]] = field(init=False)
    """Stands for what they have to do from each leg on, as the plan of a run tells; empty if not known."""
    bad_row: dict[int, int] = field(init=False)
    asks: list[int] | None = field(init=False)
    memory: list[int] | None = field(init=False)
    solved: bytearray = field(init=False)
    """By chunk: the legs that it passed."""
    rows_solved: int = 0
    rows_apart: int = 0
    cut: int = 0
    open: int = 0
    """Chunks that are neither settled nor cut."""
    placed: int = 0
    """Tries of one chunk at one leg."""
    passed: int = 0
    """Those that ended well."""
    recalled: int = 0
    """Those that were taken back before they began."""
    failed: Counter[Cause] = field(default_factory=Counter)
    """Those that did not end well."""
    tasks: int = 0
    ended: float = math.nan
    slot_seconds: float = 0.0
    """Slots that it had, over the time in which all runs wanted more."""
    progress: dict[int, History] = field(default_factory=dict)

    def __post_init__(self) -> None:
        work, chunks = self.work, len(self.work.rows)
        self.rows, self.seconds = work.rows.tolist(), work.seconds.tolist()
        bad = [] if work.bad_row is None else enumerate(work.bad_row.tolist())
        self.bad_row = {chunk: row for chunk, row in bad if row >= 0}
        self.asks = None if work.asks is None else work.asks.tolist()
        self.memory = None if work.memory is None else work.memory.tolist()
        self.solved = bytearray(chunks)
        self.open = chunks
        order: Floats | Integers = work.rows
        self.upper, self.left = [], []
        if work.upper is not None:
            left = from_here_on(list(work.upper), self.fleet.scarcity(work.demands))
            order, self.upper, self.left = left[0], work.upper.tolist(), [one.tolist() for one in left]
        self._order = (-order).argsort(kind="stable")
        self._given = 0

    @property
    def hungry(self) -> bool:
        """Whether it would use more slots than it has."""
        return bool(self.dispatcher.waiting) or self._given < len(self._order)

    def begin(self) -> None:
        """Tell the dispatcher what there is to do."""
        if self.work.upper is not None:
            self.dispatcher.expect(self.work.upper.sum(axis=1).tolist())

    def feed(self) -> bool:
        """Let chunks wait for slots, those with most left to do first; returns whether more wait."""
        dispatcher = self.dispatcher
        before = dispatcher.waiting
        if before < FEED // 4 and self._given < len(self._order):
            chunks = self._order[self._given : self._given + FEED].tolist()
            self._given += len(chunks)
            for chunk in chunks:
                dispatcher.add(self.waiting(chunk, self.leg_after(chunk, -1)))
        dispatcher.behind = len(self._order) - self._given
        return dispatcher.waiting > before

    def waiting(self, chunk: int, leg: int, *, part: bool = False) -> Waiting:
        """A chunk that waits for a leg; of parts nothing is known, as in a plan."""
        known = bool(self.upper) and chunk < len(self.upper[leg])
        return Waiting(
            chunk,
            leg,
            self.rows[chunk],
            seconds=self.upper[leg][chunk] if known else None,
            left=self.left[leg][chunk] if known else None,
            part=part,
            memory=self.asks[chunk] if self.asks else 0,
        )

    def leg_after(self, chunk: int, leg: int) -> int:
        """The next leg that a chunk passes; the number of legs if there is none."""
        leg += 1
        while leg < len(self.seconds) and not self.seconds[leg][chunk]:
            leg += 1
        return leg

    def failure(self, item: Waiting) -> Cause | None:
        """Why a try of a chunk will fail, or None."""
        chunk = item.chunk
        if chunk in self.work.killers:
            return Cause.WORKER_LOST
        if self.memory is not None:
            granted = item.memory or self.work.demands[item.leg].memory
            if self.memory[chunk] > granted:
                return Cause.MEMORY
        if chunk in self.bad_row or (self.work.flaky and self.chance.random() < self.work.flaky):
            return Cause.ERROR
        return None

    def halve(self, chunk: int) -> list[int]:
        """Cut a chunk in two; returns the numbers of the parts."""
        rows, bad = self.rows[chunk], self.bad_row.get(chunk)
        middle = halve(0, rows)
        assert middle is not None
        parts = []
        for start, stop in ((0, middle), (middle, rows)):
            part = len(self.rows)
            parts.append(part)
            weight = (stop - start) / rows
            self.rows.append(stop - start)
            self.solved.append(0)
            for column in self.seconds:
                column.append(column[chunk] * weight)
            if self.asks is not None:
                self.asks.append(self.asks[chunk])
            if self.memory is not None:
                self.memory.append(math.ceil(self.memory[chunk] * weight))
            if bad is not None and start <= bad < stop:
                self.bad_row[part] = bad - start
        self.open += 1
        self.cut += 1
        return parts
