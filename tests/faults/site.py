"""A place with services that are killed, and what must be true of its runs whatever was killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from batchrun.handle import RunHandle
from batchrun.loading import load_pipeline
from batchrun.outcome import RunState
from batchrun.queueing import queue_run
from batchrun.report import RunReport
from batchrun.store.services import ServiceRecord
from tests.services import Place, place, until

__all__ = [
    "CONNECT",
    "LOCAL",
    "MARK",
    "ROWS",
    "Moment",
    "Site",
    "kill",
    "marked",
    "pid_of",
    "site",
    "some_time",
]

ROWS = 60
BAD = 50
"""The row that fails, so that there is something to set apart."""
MARK = "BATCHRUN_CRASH_SITE"
"""The environment variable by which the processes of a site are known."""
PATIENCE = 150.0
"""Seconds in which a run must end; much more than it takes on a machine that has nothing else to do."""
SAME_INSTANT = 0.05
"""Seconds by which the end of a call and what the store says of it may seem to be in the wrong order."""

MODULE = f"""\
import os, time
from pathlib import Path
from batchrun import Pipeline, RetryPolicy, Stage, by_rows

def square(chunk, *, seconds: float, calls: str):
    rows = list(chunk["x"])
    time.sleep(seconds)
    if {BAD} in rows:
        raise ValueError("the bad row")
    Path(calls, f"{{rows[0]}}-{{len(rows)}}-{{time.time_ns()}}-{{os.getpid()}}").touch()
    return chunk.assign(y=chunk["x"] ** 2)

once = RetryPolicy(attempts=1)
squares = Pipeline("squares", split=by_rows(2), stages=[Stage(square, retry=once)])
apart = Pipeline("apart", split=by_rows(2), stages=[Stage(square, retry=once, isolate=True)])
"""
_COMMON = """\
dashboard: 127.0.0.1:0
store: {store}
artifacts: artifacts
run: {{flush_every: 50ms, store_timeout: {store_timeout}}}
service: {{lease: 2s}}
"""
LOCAL = "kind: local\nworkers:\n  standard: {{count: 2, threads: 1, memory: 700MiB}}\n" + _COMMON
CONNECT = "kind: connect\naddress: {address}\ntimeout: 5s\n" + _COMMON.replace("dashboard: 127.0.0.1:0\n", "")


@dataclass(frozen=True)
class Moment:
    """What a run had to show at some time."""

    run_id: str
    """The run."""
    at: float
    """The time, in seconds since the epoch."""
    rows: frozenset[int]
    """The rows whose results were committed by then."""


@dataclass
class Site:
    """A place whose processes can be found, and whose runs can be checked."""

    place: Place
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def up(self) -> ServiceRecord:
        """Start a service, and wait until it has its cluster."""
        return self.place.up()

    def queue(self, *, seconds: float = 0.05, pipeline: str = "squares") -> str:
        """Put a run into the queue; its chunks take so many seconds each."""
        (self.place.folder / "calls").mkdir(exist_ok=True)
        calls = self.place.folder / "calls" / uuid.uuid4().hex
        calls.mkdir()
        params = {"seconds": seconds, "calls": str(calls)}
        return queue_run(
            load_pipeline(f"work:{pipeline}"), "in.parquet", settings=self.place.settings, params=params
        )

    def report(self, run_id: str) -> RunReport:
        """The run as it is now."""
        return RunReport(self.place.settings.store_url, run_id)

    def wait_for(self, run_id: str, rows: int) -> None:
        """Wait until so many rows have their outcome."""

        def far_enough() -> bool:
            record = self.report(run_id).record
            assert not record.state.ended or record.rows_solved, (record.error, self.place.log)
            return record.state.ended or record.rows_solved + record.rows_quarantined >= rows

        until(far_enough, PATIENCE)

    def look(self, run_id: str) -> Moment:
        """What is committed now."""
        solved = self.report(run_id).results()
        rows = solved["x"].tolist() if len(solved) else []
        return Moment(run_id, time.time(), frozenset(rows))

    def owner(self, run_id: str) -> str | None:
        """The service that holds a run."""
        with self.place.store() as store:
            entry = store.queue.entry(run_id)
        return None if entry is None else entry.owner

    def has_ended(self, run_id: str) -> bool:
        """Whether a run is as it will stay."""
        return self.report(run_id).record.state.ended

    def ended(self, run_id: str) -> RunReport:
        """The report of a run once it has ended."""
        try:
            return RunHandle.attach(run_id, cluster=self.place.settings).wait(PATIENCE)
        except BaseException as error:
            error.add_note(self.place.log)
            raise

    def calls(self, run_id: str, since: float = 0.0) -> list[int]:
        """The rows of all calls of the stage that ended after that time, in seconds since the epoch."""
        rows: list[int] = []
        for path in Path(self.report(run_id).record.params["calls"]).iterdir():
            first, count, at, _ = (int(word) for word in path.name.split("-"))
            if at / 1e9 > since:
                rows += range(first, first + count)
        return rows

    def check(self, run_id: str, *moments: Moment) -> None:
        """Wait for the end of a run, and recount it: every row has one outcome, the right one, and what was
        committed at any of the *moments* was not computed again afterwards."""
        report = self.ended(run_id)
        assert report.state is RunState.PARTIAL, (report.error, self.place.log)
        assert (report.rows_in, report.rows_solved, report.rows_quarantined, report.rows_cancelled) == (
            ROWS,
            ROWS - 1,
            1,
            0,
        )
        pd.testing.assert_frame_equal(report.results().reset_index(drop=True), expected())
        assert report.quarantined["x"].tolist() == [BAD]
        solved = report.attempts.query("outcome == 'succeeded'")["chunk"]
        assert solved.is_unique, f"committed twice: {sorted(solved[solved.duplicated()])}"
        assert set(self.calls(run_id)) == set(range(ROWS)) - {BAD}
        for moment in moments:
            if moment.run_id == run_id:
                again = moment.rows & set(self.calls(run_id, moment.at + SAME_INSTANT))
                assert not again, f"computed again after they were committed: {sorted(again)}"


def expected() -> pd.DataFrame:
    """The results, counted without batchrun."""
    rows = [x for x in range(ROWS) if x != BAD]
    return pd.DataFrame({"x": rows, "y": [x * x for x in rows]})


@contextlib.contextmanager
def site(folder: Path, cluster: str = LOCAL, **values: Any) -> Iterator[Site]:
    """A site in *folder* whose ``cluster.yaml`` is *cluster* with *values*; afterwards no process is left."""
    values = {"store": ".batchrun", "store_timeout": "1min", **values}
    before = os.environ.get(MARK)
    with place(folder, MODULE, cluster.format(**values)) as made:
        pd.DataFrame({"x": range(ROWS)}).to_parquet("in.parquet")
        here = Site(made)
        os.environ[MARK] = here.token
        try:
            yield here
        finally:
            if before is None:
                os.environ.pop(MARK)
            else:
                os.environ[MARK] = before
    try:
        until(lambda: not marked(here.token), 30)
    except AssertionError as error:
        left = [" ".join(process.cmdline()) for process in marked(here.token)]
        kill(*(process.pid for process in marked(here.token)))
        raise AssertionError(f"processes are left: {left}") from error


def marked(token: str) -> list[psutil.Process]:
    """The processes of a site that are there, without this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            there = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if there and process.environ().get(MARK) == token:
                found.append(process)
    return found


def pid_of(service: ServiceRecord) -> int:
    """The process of a service."""
    return int(service.process.split("/")[1])


def kill(*pids: int) -> None:
    """End processes at once, as a crash would."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def some_time(rng: random.Random, longest: float = 0.1) -> None:
    """Let a short time pass, so that a fault hits any step of what goes on."""
    time.sleep(rng.random() * longest)
