"""A million chunks in one run: nothing may grow with their number but the store."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import pandas as pd

from batchrun import Pipeline, RunReport, by_rows, resume_run, run_pipeline
from batchrun.events import ChunksPlaced, ChunksSettled, Event
from batchrun.outcome import Outcome
from batchrun.store.runs import RunStore
from tests.benchmarks.arena import Arena
from tests.benchmarks.chunks import double
from tests.benchmarks.contest import Record
from tests.benchmarks.memory import MIB, watch_memory

SHARE = 100
"""The run that it is compared with has so many times fewer chunks."""


def million_chunks(arena: Arena, size: int, rounds: int) -> Record:
    """A million chunks of one row: rate and memory against a run of a hundredth of them, the time to the
    first chunk, and how long others wait for an answer meanwhile. Then the same once more, cancelled
    half-way and resumed.

    Each goes once, after the small run went twice. Memory is that of driver and scheduler, which share a
    process.
    """
    small = max(20, size // SHARE)
    cluster = arena.client
    record = Record("million_chunks", {"chunks": size, "compared with": small, "workers": 2})
    for _ in range(2):
        few = _measured(cluster, small)
    glance = _Glance(cluster)
    many = _measured(cluster, size, at_half=glance.start)
    glance.finish(record)
    rate, usual = size / many.seconds, small / few.seconds
    record.measure(f"rate of {small:,} chunks", usual, "chunks a second")
    record.measure(f"rate of {size:,} chunks", rate, "chunks a second")
    record.want_at_least("rate, as a share of that of the small run", rate / usual, "times", 0.9)
    record.measure(f"growth at {small:,} chunks", few.growth / MIB, "MiB")
    more = (many.growth - few.growth) / MIB
    record.want_at_most("growth of driver and scheduler beyond that", more, "MiB", 200)
    record.want_at_most("start: call to first chunk placed", many.first, "s", 5)
    _resume(record, cluster, size)
    return record


@dataclass
class _Watch:
    """Notes when the first chunk was placed, and calls *at_half* once when half of the chunks are settled."""

    chunks: int
    at_half: Callable[[str], Any] | None = None
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    """Seconds from the beginning to the first chunk placed."""
    settled: int = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, ChunksPlaced) and self.first is None:
            self.first = time.perf_counter() - self.began
        elif isinstance(event, ChunksSettled):
            self.settled += len(event.chunks)
            if self.at_half is not None and self.settled >= self.chunks // 2:
                self.at_half, act = None, self.at_half
                act(event.run_id)


@dataclass(frozen=True)
class _Measured:
    """One run."""

    seconds: float
    first: float
    growth: int


def _measured(cluster: Any, chunks: int, at_half: Callable[[str], Any] | None = None) -> _Measured:
    numbers = pd.DataFrame({"x": range(chunks)})
    with watch_memory() as growth:
        watch = _Watch(chunks, at_half)
        report = _run(numbers, cluster, watch)
        seconds = time.perf_counter() - watch.began
    _check(report, chunks)
    assert watch.first is not None
    return _Measured(seconds, watch.first, growth.peak)


def _run(numbers: pd.DataFrame, cluster: Any, watch: _Watch) -> RunReport:
    return run_pipeline(_pipeline(), numbers, cluster=cluster, progress=False, observers=[watch])


def _pipeline() -> Pipeline:
    return Pipeline("doubled", split=by_rows(1), stages=[double])


def _check(report: RunReport, chunks: int) -> None:
    assert report.rows_solved == chunks
    found = report.results()["x"]
    assert len(found) == chunks
    assert int(found.sum()) == chunks * (chunks - 1)


def _resume(record: Record, cluster: Any, chunks: int) -> None:
    """Cancel a run half-way and go on with it."""
    numbers = pd.DataFrame({"x": range(chunks)})
    stopped = _run(numbers, cluster, _Watch(chunks, at_half=_cancel))
    solved = stopped.rows_solved
    watch = _Watch(chunks)
    report = resume_run(
        stopped.run_id, pipeline=_pipeline(), cluster=cluster, progress=False, observers=[watch]
    )
    _check(report, chunks)
    if watch.first is None:
        record.notes.append("The run was over before it could be cancelled, so nothing was resumed.")
        return
    with RunStore("sqlite:///.batchrun/store.db") as store:
        attempts = store.counts(report.run_id).attempts[Outcome.SUCCEEDED]
    record.measure("solved when it was cancelled", solved, "chunks")
    record.want_at_most("resume: call to first chunk placed", watch.first, "s", 10)
    record.want_at_most("solved chunks that were computed again", attempts - chunks, "chunks", 0)


def _cancel(run_id: str) -> None:
    with RunStore("sqlite:///.batchrun/store.db") as store:
        store.request_cancel(run_id)


class _Glance:
    """Asks how the run is doing while it is in full swing, as other processes do."""

    def __init__(self, client: Any) -> None:
        self._page = client.dashboard_link.rsplit("/", 1)[0] + "/batchrun"
        self._thread: threading.Thread | None = None
        self._times: dict[str, float] = {}

    def start(self, run_id: str) -> None:
        """Ask now; the run goes on meanwhile."""
        self._thread = threading.Thread(target=self._look, args=(run_id,), daemon=True)
        self._thread.start()

    def finish(self, record: Record) -> None:
        """Note how long the answers took."""
        if self._thread is not None:
            self._thread.join(60)
        bounds = {"`batchrun show` half-way": 5.0, "the dashboard's page half-way": 2.0}
        for name, seconds in self._times.items():
            record.want_at_most(name, seconds, "s", bounds[name])

    def _look(self, run_id: str) -> None:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "batchrun", "show", run_id, "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._times["`batchrun show` half-way"] = time.perf_counter() - began
        began = time.perf_counter()
        try:
            with urlopen(self._page, timeout=30) as answer:
                answer.read()
        except OSError:
            return
        self._times["the dashboard's page half-way"] = time.perf_counter() - began
