"""What the live page costs the scheduler that serves it, while a run goes at full speed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from batchrun import Pipeline, by_rows, run_pipeline
from batchrun.dashboard.message import TOPIC
from batchrun.dashboard.plugin import install
from batchrun.dashboard.publisher import Publisher
from batchrun.events import (
    AttemptEnded,
    AttemptsSolved,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksSettled,
    RunEnded,
    RunStarted,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import Attempt, ErrorRecord, Outcome, RunState, SolvedAttempts
from batchrun.status import TaskStatus
from tests.benchmarks import loop_delay
from tests.benchmarks.arena import Arena
from tests.benchmarks.chunks import double
from tests.benchmarks.contest import Record, Target
from tests.benchmarks.loop_delay import Lateness
from tests.benchmarks.open_pages import REPOSITORY, open_pages
from tests.dask_processes import DaskProcesses

RATE = 2_000
"""Attempts a second that are told."""
PLANNED = 1_000_000
"""Chunks of the run that they are of."""
PACK = 100
FAILING = 100
"""Every so many-th attempt fails."""
REPORTING = 40
"""Chunks that run long and say how they are doing."""
PAGES = 2
LATEST = 50.0
"""Milliseconds that the loop may be late."""


def page_load(arena: Arena, size: int, rounds: int) -> Record:
    """How late the loop of a scheduler is, by a coroutine on it that sleeps 5 ms and looks when it wakes.

    First a run of a million chunks, of which a driver tells 2,000 attempts a second in no order, to a
    scheduler that is a process of its own and has nothing else to do: one without the page, one whose page
    nobody looks at, and the same with two pages open. Then a real run of trivial chunks on a cluster that
    batchrun starts, where driver, scheduler and page share a process: with no page open and with two.
    *size* attempts are told and run in each turn.
    """
    record = Record("page_load", {"attempts": size, "a second": RATE, "rounds": rounds, "pages": PAGES})
    seen: dict[str, list[Lateness]] = {}
    with _scheduler() as bare, _scheduler() as shown:
        page = install(shown)
        turns: dict[str, Callable[[], Lateness]] = {
            "told, without the page": lambda: _told(bare, "", 0, size),
            "told, no page open": lambda: _told(shown, page, 0, size),
            f"told, {PAGES} pages open": lambda: _told(shown, page, PAGES, size, record),
        }
        _told(shown, page, PAGES, min(size, RATE))  # once for the imports
        _take_turns(turns, seen, rounds)
    client = arena.client
    page = install(client)
    _ran(client, page, PAGES, min(size, RATE), [])
    took: dict[str, list[float]] = {"no page open": [], f"{PAGES} pages open": []}
    turns = {
        "a real run, no page open": lambda: _ran(client, page, 0, size, took["no page open"]),
        f"a real run, {PAGES} pages open": lambda: _ran(
            client, page, PAGES, size, took[f"{PAGES} pages open"]
        ),
    }
    _take_turns(turns, seen, rounds)
    record.seconds.update(took)
    record.judge([Target(f"{PAGES} pages open", ("no page open",), 1.1)])
    record.table = [_line(name, found) for name, found in seen.items()]
    for name, found in seen.items():
        if "pages" in name:
            late = _all_of(found)
            record.want_at_most(f"{name}: late in 99 of 100", late.at(99), "ms", LATEST)
            record.want_at_most(f"{name}: latest", late.worst, "ms", LATEST)
    return record


def _take_turns(
    turns: dict[str, Callable[[], Lateness]], seen: dict[str, list[Lateness]], rounds: int
) -> None:
    names = list(turns)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            seen.setdefault(name, []).append(turns[name]())


def _line(name: str, found: list[Lateness]) -> dict[str, str]:
    late, worst = _all_of(found), [one.worst for one in found]
    return {
        "": name,
        "half, ms": f"{late.at(50):.2f}",
        "99 of 100": f"{late.at(99):.1f}",
        "999 of 1,000": f"{late.at(99.9):.1f}",
        "latest": f"{late.worst:.1f}",
        "latest in half of the rounds": f"{float(np.median(worst)):.1f}",
        "of a core": f"{100 * late.busy:.0f} %",
    }


def _all_of(found: list[Lateness]) -> Lateness:
    late = [one for lateness in found for one in lateness.late]
    return Lateness(late, float(np.median([lateness.busy for lateness in found])))


@contextmanager
def _scheduler() -> Iterator[Any]:
    """A client of a scheduler that is a process of its own."""
    from distributed import Client

    processes = DaskProcesses(Path(REPOSITORY))
    try:
        processes.scheduler()
        with Client(processes.address, timeout=60, set_as_default=False) as client:
            yield client
    finally:
        processes.stop()


@contextmanager
def _watched(client: Any) -> Iterator[Callable[[], Lateness]]:
    """Looks how late the scheduler's loop is; what it gives is to be called afterwards."""
    client.run_on_scheduler(loop_delay.begin)
    found: list[Lateness] = []
    try:
        yield lambda: found[0]
    finally:
        found.append(Lateness(*client.run_on_scheduler(loop_delay.end)))


def _told(client: Any, page: str, pages: int, attempts: int, record: Record | None = None) -> Lateness:
    """Tell a scheduler of so many attempts while pages are open."""
    publisher = Publisher(lambda message: client.log_event(TOPIC, message))
    told = _Told()
    with ExitStack() as stack:
        stack.callback(publisher.close)
        told.begin(publisher)
        listened = stack.enter_context(open_pages(page, pages))
        with _watched(client) as lateness:
            told.tell(publisher, attempts)
        told.end(publisher)
    if record is not None:
        record.measure("told to a page", listened.nbytes / listened.seconds / pages / 1e3, "kB a second")
    return lateness()


@dataclass
class _Told:
    """A run of which only the events are there."""

    order: list[int] = field(default_factory=lambda: random.Random(0).sample(range(PLANNED), PLANNED))
    began: float = field(default_factory=time.time)

    @property
    def run_id(self) -> str:
        return f"told-{self.began}"

    def begin(self, publisher: Publisher) -> None:
        """Tell of its beginning."""
        publisher(RunStarted(self.run_id, self.began, "told", ("solve",), 10 * PLANNED, "", "a cluster"))
        publisher(ChunksPlanned(self.run_id, self.began, PLANNED, 10 * PLANNED))

    def tell(self, publisher: Publisher, attempts: int) -> None:
        """Tell of so many attempts, as fast as they should go."""
        began = time.perf_counter()
        for first in range(0, attempts, PACK):
            self._tell_pack(publisher, self.order[first : first + PACK], first // PACK)
            time.sleep(max(0.0, began + (first + PACK) / RATE - time.perf_counter()))

    def end(self, publisher: Publisher) -> None:
        """Tell of its end."""
        publisher(RunEnded(self.run_id, time.time(), RunState.CANCELLED, 10 * PLANNED, 0, 0, 0, 1.0))

    def _tell_pack(self, publisher: Publisher, numbers: list[int], pack: int) -> None:
        now, worker = time.time(), f"worker-{pack % 8}"
        publisher(ChunksPlaced(self.run_id, now, tuple(numbers), (worker,) * len(numbers), (len(numbers),)))
        slots = (SlotUse("threads", 8, 8, PLANNED), SlotUse("MEMORY", 2.0**36, 2.0**35 + pack, 0.0))
        publisher(SlotsChanged(self.run_id, now, slots, 8))
        running = self.order[-1 - pack % REPORTING]
        seconds, answer = now - self.began, 100.0 + 1e3 / (1 + pack)
        status = TaskStatus("", "solve", seconds, 0.4, 1.0, f"node {pack}", 2**30, 2**30, answer, 90.0)
        publisher(ChunkReported(self.run_id, now, running, worker, status))
        bad = numbers[::FAILING][:1]
        for chunk in bad:
            error = ErrorRecord(
                "ValueError", f"chunk {chunk} has no date", "", signature=f"at line {pack % 9}"
            )
            publisher(
                AttemptEnded(
                    self.run_id,
                    now,
                    Attempt(chunk, "solve", 1, worker, Outcome.FAILED, now, 0.001, error=error),
                )
            )
        good = np.array(numbers[len(bad) :], np.int64)
        each = np.full(len(good), 10)
        times = np.full(len(good), now), np.linspace(1e-3, 9e-3, len(good))
        publisher(
            AttemptsSolved(
                self.run_id, now, SolvedAttempts("solve", worker, good, each // 10, *times, each, each)
            )
        )
        every = np.array(numbers, np.int64)
        ten = np.full(len(every), 10)
        outcomes = (Outcome.FAILED,) * len(bad) + (Outcome.SUCCEEDED,) * len(good)
        publisher(
            ChunksSettled(
                self.run_id, now, every, outcomes, ten, ten, np.linspace(1e-3, 9e-3, len(every)), ten * np.nan
            )
        )


def _ran(client: Any, page: str, pages: int, chunks: int, took: list[float]) -> Lateness:
    """Run so many trivial chunks while pages are open."""
    numbers = pd.DataFrame({"x": range(chunks)})
    pipeline = Pipeline("doubled", split=by_rows(1), stages=[double])
    with open_pages(page, pages), _watched(client) as lateness:
        began = time.perf_counter()
        report = run_pipeline(pipeline, numbers, cluster=client, progress=False)
        took.append(time.perf_counter() - began)
    assert report.rows_solved == chunks
    return lateness()
