"""The page of a store with one very large run, and what else shows that run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from batchrun.config import load_settings
from batchrun.data import files
from batchrun.data.load import write_table
from batchrun.outcome import RunState
from batchrun.store import schema
from batchrun.store.artifacts import RunFolder
from batchrun.store.rows import run_row
from batchrun.store.runs import RunRecord, RunStore
from tests.benchmarks import loop_delay
from tests.benchmarks.arena import CLUSTER, Arena
from tests.benchmarks.big_store import BEGIN, insert
from tests.benchmarks.contest import Record
from tests.benchmarks.loop_delay import Lateness
from tests.benchmarks.open_pages import REPOSITORY, open_pages

RUN = "large-20261130-093012-4f2a81c6"
FAILED = 1_000
"""Every so many-th chunk failed."""
MIB = 2**20
LATEST = 50.0
"""Milliseconds that the loop of the page may be late."""


def stored_page(arena: Arena, size: int, rounds: int) -> Record:
    """A run of so many chunks that has ended, as ``batchrun dashboard`` and ``batchrun show`` show it.

    A page is opened in a new process of the first: how long until it answers and until all chunks are on its
    map, how late its loop is meanwhile, and how much memory it takes beyond that of a page of an empty store.
    """
    folder = arena.folder / "stored_page"
    record = Record("stored_page", {"chunks": size, "rounds": rounds})
    empty = folder / "empty"
    for place in (folder, empty):
        place.mkdir()
        (place / "cluster.yaml").write_text(CLUSTER)
    make_large_run(folder, size)
    with _Dashboard(empty) as page, open_pages(page.address, 1):
        idle = page.memory
    answered, drawn, late, grown, shown = [], [], [], [], []
    solved = f"succeeded</th><td>{size - _failed(size):,}</td>"
    for _ in range(rounds):
        with _Dashboard(folder) as page:
            with open_pages(page.address, 1, solved) as listened:
                pass
            answered.append(listened.answered)
            drawn.append(listened.heard[solved])
            grown.append((page.memory - idle) / MIB)
            late.append(page.end())
        began = time.perf_counter()
        command = [sys.executable, "-m", "batchrun", "show", RUN]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        shown.append(time.perf_counter() - began)
    record.seconds = {"the page answers": answered, "all chunks are drawn": drawn, "batchrun show": shown}
    for name, bound in (("the page answers", 5.0), ("all chunks are drawn", 15.0), ("batchrun show", 5.0)):
        record.want_at_most(name, statistics.median(record.seconds[name]), "s", bound)
    record.want_at_most("memory beyond that of an empty store", statistics.median(grown), "MiB", 1_000)
    every = Lateness([one for lateness in late for one in lateness.late], 0.0)
    record.measure("loop late in half of the looks", every.at(50), "ms")
    record.want_at_most("loop late in 99 of 100", every.at(99), "ms", LATEST)
    record.measure("loop late in 999 of 1,000", every.at(99.9), "ms")
    record.measure("loop at the latest", every.worst, "ms")
    return record


def make_large_run(folder: Path, chunks: int) -> None:
    """Write the records of one run with so many chunks of one row into the store of *folder*."""
    with contextlib.chdir(folder):
        url = load_settings().store_url
    run_folder = files.join(str(folder), "runs", RUN)
    bad = _failed(chunks)
    record = RunRecord(
        RUN,
        "large",
        "pipelines.some:large",
        RunState.PARTIAL,
        BEGIN,
        "by_rows(1)",
        run_folder,
        chunks,
        started=BEGIN,
        ended=BEGIN + 600.0,
        stages=[{"name": "solve", "memory": 2**30, "resources": {}, "leg": 0}],
        input={"description": "in.parquet", "rows": chunks, "bytes_per_row": 90, "fingerprint": "0" * 32},
        versions={"python": "3.11"},
        rows_solved=chunks - bad,
        rows_quarantined=bad,
        chunks=chunks,
    )
    with RunStore(url) as store, store._database.write() as connection:
        connection.execute(schema.runs.insert(), {"number": 1, **run_row(record)})
        insert(connection, schema.attempts, _ATTEMPT, _attempts(chunks))
        insert(connection, schema.chunks, _CHUNK, _chunks(chunks))
    starts = np.arange(chunks)
    write_table(pa.table({"start": starts, "stop": starts + 1}), RunFolder(run_folder).plan(0))


_ATTEMPT = (
    *("run", "chunk", "stage", "attempt", "worker", "outcome", "started", "seconds", "rows_in", "rows_out"),
    *("key", "error_type", "error", "signature"),
)
_CHUNK = ("run", "chunk", "outcome", "rows", "rows_out", "seconds")


def _attempts(chunks: int) -> Iterator[tuple[object, ...]]:
    for chunk in range(chunks):
        bad = chunk % FAILED == 0
        said = (f"Error{chunk % 3}", f"chunk {chunk} has no date", f"Error{chunk % 3} at solve.py:7")
        yield (
            *(1, chunk, "solve", 1, f"standard-{chunk % 8}", "failed" if bad else "succeeded"),
            *(BEGIN + 600.0 * chunk / chunks, 0.001 * (1 + chunk % 97), 1, 1, chunk),
            *(said if bad else (None, None, None)),
        )


def _chunks(chunks: int) -> Iterator[tuple[object, ...]]:
    for chunk in range(chunks):
        bad = chunk % FAILED == 0
        yield 1, chunk, "failed" if bad else "succeeded", 1, 0 if bad else 1, 0.001 * (1 + chunk % 97)


def _failed(chunks: int) -> int:
    """How many of so many chunks failed."""
    return -(-chunks // FAILED)


class _Dashboard:
    """The page of the store of a folder, in a process that looks how late its loop is."""

    def __init__(self, folder: Path) -> None:
        with contextlib.chdir(folder):
            url = load_settings().store_url
        command = [sys.executable, "-m", "tests.benchmarks.stored_page", url]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process: subprocess.Popen[str] = subprocess.Popen(command, cwd=REPOSITORY, **pipes)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    @property
    def memory(self) -> int:
        """Bytes that are resident now."""
        resident: int = psutil.Process(self._process.pid).memory_info().rss
        return resident

    def end(self) -> Lateness:
        """Stop it; gives how late its loop was all the time."""
        said, _ = self._process.communicate()
        return Lateness(*json.loads(said.splitlines()[-1]))

    def __enter__(self) -> _Dashboard:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # which closes its pipes
            pass


def _serve(url: str) -> None:
    """Serve the page, and print how late its loop was once the input is closed."""
    from batchrun.archive import offer_store
    from batchrun.dashboard.server import serve

    archive = offer_store(url)
    found: list[tuple[list[float], float]] = []

    def ready(address: str, stop: Any) -> None:
        loop = asyncio.get_event_loop()
        loop.run_until_complete(loop_delay.begin())

        def wait() -> None:
            sys.stdin.read()
            found.append(asyncio.run_coroutine_threadsafe(loop_delay.end(), loop).result())
            stop()

        threading.Thread(target=wait, daemon=True).start()
        print(address, flush=True)

    serve("127.0.0.1", 0, ready)
    archive.close()
    print(json.dumps(found[0]))


if __name__ == "__main__":
    _serve(sys.argv[1])
