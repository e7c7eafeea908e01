"""The queue: how fast it takes runs in, what a service costs that has nothing to do, how soon it begins."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
from dask.distributed import LocalCluster

from batchrun.config import Settings
from batchrun.loading import load_pipeline
from batchrun.queueing import queue_run
from batchrun.report import RunReport
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Record
from tests.dask_processes import DaskProcesses
from tests.services import Place, place, until

MODULE = """\
from batchrun import by_rows, pipeline

@pipeline(split=by_rows(50))
def double(chunk):
    return chunk * 2
"""
CLUSTER = """\
workers: {standard: {count: 1, threads: 1, memory: 1GiB}}
dashboard: 127.0.0.1:0
store: .batchrun
"""
CONNECTED = """\
kind: connect
address: {address}
store: .batchrun
"""
LEAST_RATE = 200.0
"""Runs a second."""
MOST_IDLE = 1.0
"""Percent of a core."""
LONGEST_WAY = 0.3
"""Seconds to the first chunk."""


def service(arena: Arena, size: int, rounds: int) -> Record:
    """So many runs of a Parquet file are put into the queue of a SQLite store one by one, from Python, beside
    what is the least that this takes: a file of its own for each, and a row in SQLite, both durable. Then
    what the process of a service uses while there is nothing to do: of one that is connected to a cluster of
    one worker, and of one that started such a cluster itself, so that Dask's scheduler and nanny are in the
    same process, beside a process with a LocalCluster and nothing else. Last the time to the first chunk of a
    run, from when it was queued, and from the start of ``batchrun submit --detach``."""
    record = Record("service", {"runs": size, "rounds": rounds})
    folder = arena.folder / "service"
    folder.mkdir()
    with place(folder, MODULE, CLUSTER) as here:
        pd.DataFrame({"x": range(100)}).to_parquet("in.parquet")
        rates = [queue_many(apart(here.settings, folder / f"{number}"), size) for number in range(rounds)]
        floors = [least(folder / f"floor-{number}", size) for number in range(rounds)]
        record.want_at_least("runs queued", statistics.median(rates), "runs a second", LEAST_RATE)
        record.measure("the least that is durable", statistics.median(floors), "runs a second")
        seconds = 20.0 if rounds > 1 else 1.0
        measure_connected(record, folder / "connected", seconds)
        measure_service(record, here, rounds, seconds)
    return record


def apart(settings: Settings, folder: Path) -> Settings:
    """The same settings with a store of its own, whose runs nobody drives."""
    return replace(
        settings, store_url=f"sqlite:///{folder.as_posix()}/store.db", artifact_root=str(folder / "runs")
    )


def queue_many(settings: Settings, size: int) -> float:
    """Put runs into the queue; returns how many a second."""
    pipeline = load_pipeline("work:double")
    began = time.perf_counter()
    for _ in range(size):
        queue_run(pipeline, "in.parquet", settings=settings)
    return size / (time.perf_counter() - began)


def least(folder: Path, size: int) -> float:
    """Write a file and a row for each run, both durable; returns how many a second."""
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "floor.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE runs (number INTEGER PRIMARY KEY, row TEXT)")
        began = time.perf_counter()
        for number in range(size):
            with (folder / f"{number}.arrow").open("wb") as file:
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
            connection.execute("INSERT INTO runs VALUES (?, ?)", (number, "x" * 1024))
        return size / (time.perf_counter() - began)


def measure_connected(record: Record, folder: Path, seconds: float) -> None:
    """Measure a service that has nothing to do, on a cluster that others started."""
    folder.mkdir()
    processes = DaskProcesses(folder)
    try:
        processes.scheduler()
        processes.worker("--nthreads", "1", "--memory-limit", "1GiB")
        with place(folder, MODULE, CONNECTED.format(address=processes.address)) as here:
            idle = idle_share(here, seconds)
    finally:
        processes.stop()
    record.want_at_most("an idle service, connected", idle, "% of a core", MOST_IDLE)


def idle_share(here: Place, seconds: float) -> float:
    """Start a service; returns how busy its process is while it has nothing to do, in percent of a core."""
    pid = int(here.up().process.split("/")[1])
    time.sleep(min(seconds, 3.0))
    return share_of_a_core(pid, seconds)


def measure_service(record: Record, here: Place, rounds: int, seconds: float) -> None:
    """Measure a service that is up and has nothing to do, then one that gets something to do."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"):
        time.sleep(min(seconds, 3.0))
        bare = share_of_a_core(os.getpid(), seconds)
    record.measure("an idle service with its own cluster", idle_share(here, seconds), "% of a core")
    record.measure("a process with an idle LocalCluster", bare, "% of a core")

    queued, submitted = [], []
    for _ in range(rounds):
        run_id = queue_run(load_pipeline("work:double"), "in.parquet", settings=here.settings)
        queued.append(until_first_chunk(here.settings, run_id))
    for _ in range(rounds):
        began = time.time()
        run_id = submit()
        submitted.append(until_first_chunk(here.settings, run_id, began))
    record.want_at_most("to the first chunk, from the queue", statistics.median(queued), "s", LONGEST_WAY)
    record.want_at_most(
        "to the first chunk, from the start of `batchrun submit --detach`",
        statistics.median(submitted),
        "s",
        LONGEST_WAY,
    )


def share_of_a_core(pid: int, seconds: float) -> float:
    """How busy a process is in the next seconds, in percent of a core."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / seconds


def submit() -> str:
    """Queue a run from the command line; returns its id."""
    command = [sys.executable, "-m", "batchrun", "submit", "work:double", "-i", "in.parquet", "--detach"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def until_first_chunk(settings: Settings, run_id: str, began: float | None = None) -> float:
    """Seconds until the first chunk of a run began; from when it was queued, or from *began*."""
    report = until(lambda: ended(settings, run_id))
    return float(report.attempts["started"].min()) - (report.record.created if began is None else began)


def ended(settings: Settings, run_id: str) -> RunReport | None:
    """The report of a run, if it has ended."""
    report = RunReport(settings.store_url, run_id)
    return report if report.state.ended else None
