"""How late a loop is: how long something that is due has to wait until its turn comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Lateness", "begin", "end"]

EVERY = 0.005
"""Seconds that one sleeps before it looks how late it woke."""


@dataclass(frozen=True)
class Lateness:
    """How late a loop was over some time, in milliseconds."""

    late: Sequence[float]
    """Of each time that it was looked."""
    busy: float
    """Seconds that its process kept a processor busy in a second."""

    def at(self, percent: float) -> float:
        """What so many percent of the looks did not pass."""
        return float(np.percentile(self.late, percent)) if len(self.late) else 0.0

    @property
    def worst(self) -> float:
        """The most."""
        return float(max(self.late, default=0.0))


@dataclass
class _Clock:
    """Sleeps on a loop until it is told to stop."""

    late: list[float] = field(default_factory=list)
    began: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()))
    stopped: bool = False

    async def run(self) -> None:
        while not self.stopped:
            due = time.perf_counter() + EVERY
            await asyncio.sleep(EVERY)
            self.late.append(1e3 * max(0.0, time.perf_counter() - due))


_clocks: list[tuple[_Clock, asyncio.Task[None]]] = []


async def begin() -> None:
    """Begin to look how late the running loop is; called on it, as by ``Client.run_on_scheduler``."""
    clock = _Clock()
    _clocks.append((clock, asyncio.create_task(clock.run())))


async def end() -> tuple[list[float], float]:
    """End what began last; gives what ``Lateness`` is made of."""
    clock, task = _clocks.pop()
    clock.stopped = True
    await task
    wall, busy = (
        now - then for now, then in zip((time.perf_counter(), time.process_time()), clock.began, strict=True)
    )
    return clock.late, busy / wall
