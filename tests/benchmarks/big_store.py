"""A store as it is after years: many runs, and attempts by the million."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from batchrun.config import load_settings
from batchrun.data import files
from batchrun.data.load import write_table
from batchrun.outcome import FAILED_STATES, RunState
from batchrun.store import schema
from batchrun.store.artifacts import RunFolder
from batchrun.store.rows import run_row
from batchrun.store.runs import RunRecord, RunStore
from tests.benchmarks.arena import CLUSTER, Arena
from tests.benchmarks.contest import Figure, Record, Target, compete

ATTEMPTS = 500
"""Attempts of a run: one of each chunk, and one more of each chunk that failed."""
FAILED = 5
"""Every so many-th run has chunks that failed."""
PIPELINES = 20
AT_A_TIME = 100
BEGIN = 1_780_000_000.0
SLOWEST = 0.3
"""Seconds that a command may take longer than a Python that does nothing."""


def big_store(arena: Arena, size: int, rounds: int) -> Record:
    """``batchrun runs``, ``runs --failed`` and ``show`` on a store of so many runs with 500 attempts each,
    every command a new process, against a Python that does nothing. Two more only import what ``runs`` and
    ``show`` do. The figures are the seconds that a processor was busy with each, and how long the store
    takes for what the command asks of it."""
    folder = arena.folder / "big_store"
    folder.mkdir()
    (folder / "cluster.yaml").write_text(CLUSTER)
    record = Record("big_store", {"runs": size, "attempts": size * ATTEMPTS, "rounds": rounds})
    with contextlib.chdir(folder):
        url = load_settings().store_url
        make_big_store(url, folder, size)
        measure(record, url, size, rounds)
    return record


def measure(record: Record, url: str, size: int, rounds: int) -> None:
    """Measure the commands in the current folder, whose store is that of *url*."""
    lines = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "imports of runs": [sys.executable, "-c", "import batchrun.cli, batchrun.store.runs, rich.table"],
        "imports of show": [sys.executable, "-c", "import batchrun.cli, batchrun.report, rich.table"],
        "batchrun runs": _batchrun("runs"),
        "batchrun runs --failed": _batchrun("runs", "--failed"),
        "batchrun show": _batchrun("show", _run_id(size - 1)),
        "batchrun show, the oldest": _batchrun("show", _run_id(0)),
    }
    busy: dict[str, list[float]] = {name: [] for name in lines}
    runs: dict[str, Callable[[], object]] = {
        name: partial(_run, line, busy[name]) for name, line in lines.items()
    }
    compete(record, runs, rounds)
    record.judge(
        [
            Target(name, ("python -c pass",), SLOWEST, extra=True)
            for name in lines
            if name.startswith("batchrun")
        ]
    )
    record.figures |= {
        f"{name}: processor": Figure(statistics.median(seconds), "s") for name, seconds in busy.items()
    }
    record.figures |= {
        f"{name}: store": Figure(_fastest(ask, rounds), "s") for name, ask in _questions(url, size).items()
    }


def _questions(url: str, size: int) -> dict[str, Callable[[], object]]:
    """What commands ask of the store."""

    def failed(store: RunStore) -> object:
        return store.failures([run.run_id for run in store.list(limit=20, states=FAILED_STATES)])

    def show(number: int, store: RunStore) -> object:
        run_id = store.find(_run_id(number)).run_id
        store.settled(run_id, solved=False)
        return store.counts(run_id), store.figures(run_id), store.attempts(run_id, unsolved=True)

    def asked(of: Callable[[RunStore], object]) -> Callable[[], object]:
        def ask() -> object:
            with RunStore(url) as store:
                return of(store)

        return ask

    return {
        "batchrun runs": asked(lambda store: store.list(limit=20)),
        "batchrun runs --failed": asked(failed),
        "batchrun show": asked(partial(show, size - 1)),
        "batchrun show, the oldest": asked(partial(show, 0)),
    }


def _run(line: list[str], busy: list[float]) -> None:
    """Run a command, and note for how long it kept a processor busy."""
    before = os.times()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    busy.append(user + system)


def _fastest(ask: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some turns."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - began)
    return min(taken)


def make_big_store(url: str, folder: Path, runs: int) -> None:
    """Write that many runs, each with its attempts, and the plans of the first and the last one."""
    with RunStore(url) as store:
        for first in range(0, runs, AT_A_TIME):
            numbers = range(first, min(first + AT_A_TIME, runs))
            with store._database.write() as connection:
                rows = [{"number": number + 1, **run_row(_record(number, folder))} for number in numbers]
                connection.execute(schema.runs.insert(), rows)
                insert(connection, schema.attempts, ATTEMPT, (row for n in numbers for row in _attempts(n)))
                insert(connection, schema.chunks, CHUNK, (row for n in numbers for row in _chunks(n)))
    for number in {0, runs - 1}:
        starts = np.arange(_chunk_count(number)) * 10
        plan = pa.table({"start": starts, "stop": starts + 10})
        write_table(plan, RunFolder(_record(number, folder).folder).plan(0))


ATTEMPT = (
    *("run", "chunk", "stage", "attempt", "worker", "outcome", "started", "seconds", "rows_in", "rows_out"),
    *("key", "error_type", "error", "signature"),
)
CHUNK = ("run", "chunk", "outcome", "rows", "rows_out", "seconds")


def _batchrun(*words: str) -> list[str]:
    return [sys.executable, "-m", "batchrun", *words]


def _run_id(number: int) -> str:
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(BEGIN + 600.0 * number))
    return f"pipeline{number % PIPELINES}-{moment}-{number:04x}"


def _failures(number: int) -> int:
    """Chunks of a run that failed."""
    return number % 7 + 1 if number % FAILED == 0 else 0


def _chunk_count(number: int) -> int:
    return ATTEMPTS - _failures(number)


def _record(number: int, folder: Path) -> RunRecord:
    failed, created = _failures(number), BEGIN + 600.0 * number
    return RunRecord(
        _run_id(number),
        f"pipeline{number % PIPELINES}",
        f"pipelines.some:pipeline{number % PIPELINES}",
        RunState.PARTIAL if failed else RunState.SUCCEEDED,
        created,
        "by_rows(10)",
        files.join(str(folder), "runs", _run_id(number)),
        10 * _chunk_count(number),
        started=created,
        ended=created + 300.0,
        settings=[{"key": f"run.setting_{n}", "value": "some value", "source": "default"} for n in range(30)],
        stages=[{"name": "solve", "memory": 0, "resources": {}, "leg": 0}],
        input={"description": "in.parquet", "rows": 5000, "bytes_per_row": 90, "fingerprint": "0" * 32},
        versions={"python": "3.11"},
        rows_solved=10 * (_chunk_count(number) - failed),
        rows_quarantined=10 * failed,
        chunks=_chunk_count(number),
    )


def _attempts(number: int) -> Iterator[tuple[object, ...]]:
    failed = _failures(number)
    for chunk in range(_chunk_count(number)):
        for attempt in (1, 2) if chunk < failed else (1,):
            bad = (f"Error{chunk % 3}", f"chunk {chunk} has no date", f"Error{chunk % 3} at solve.py:7")
            yield (
                *(number + 1, chunk, "solve", attempt, f"standard-{chunk % 8}"),
                *("failed" if chunk < failed else "succeeded", BEGIN + chunk, 0.1 + chunk % 9, 10, 10, chunk),
                *(bad if chunk < failed else (None, None, None)),
            )


def _chunks(number: int) -> Iterator[tuple[object, ...]]:
    failed = _failures(number)
    for chunk in range(_chunk_count(number)):
        yield (number + 1, chunk, "failed" if chunk < failed else "succeeded", 10, 10, 0.5)


def insert(
    connection: sa.Connection, table: sa.Table, columns: tuple[str, ...], rows: Iterator[tuple[object, ...]]
) -> None:
    """Write rows into these columns of a table of an SQLite database."""
    marks = ", ".join("?" * len(columns))
    connection.exec_driver_sql(
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})", list(rows)
    )
