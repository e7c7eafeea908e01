"""What a run takes beside the work itself: processor time, writes and space, each with its floor."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun import Pipeline, RunReport, by_rows, run_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.chunks import by_dask, double
from tests.benchmarks.contest import Record
from tests.benchmarks.memory import MIB

STORE = Path(".batchrun/store.db")


def waste(arena: Arena, size: int, rounds: int) -> Record:
    """Trivial chunks of one row, on two workers. The floors: raw Dask, for the processor time of the process
    that holds driver and scheduler; for space, the same values in one Arrow file and in a SQLite table that
    is written in one go and has no index.
    """
    numbers, client = pd.DataFrame({"x": range(size)}), arena.client
    record = Record("waste", {"chunks": size, "workers": 2, "rounds": rounds})
    _run(numbers, client)
    before = _size_of_store()
    spent: dict[str, list[float]] = {"batchrun": [], "dask, map and gather": []}
    reports: list[RunReport] = []
    written: list[float] = []
    for _ in range(rounds):
        start = _written(client)
        spent["batchrun"].append(_cpu(lambda: reports.append(_run(numbers, client))))
        written.append(_written(client) - start)
        spent["dask, map and gather"].append(_cpu(lambda: by_dask(size, client)))
    for name, seconds in spent.items():
        cost = statistics.median(seconds) * 1000 / size
        record.measure(f"CPU of driver and scheduler for 1,000 chunks, {name}", cost, "s")
    if any(written):
        record.measure("handed to the disk for a chunk", statistics.median(written) / size, "bytes")
    else:
        record.notes.append("This system does not tell what a process hands to its disk.")
    grown = (_size_of_store() - before) / (rounds * size)
    _compare_space(record, reports[-1], arena.folder, grown)
    return record


def _compare_space(record: Record, report: RunReport, folder: Path, grown: float) -> None:
    """What lies on disk at the end; *grown* is what a chunk added to the store, in bytes."""
    chunks = report.rows_solved
    files = sum(path.stat().st_size for path in Path(report.folder).rglob("*") if path.is_file())
    results = pa.Table.from_pandas(report.results(), preserve_index=False)
    record.measure("files of the run for a chunk", files / chunks, "bytes")
    record.measure("floor: one Arrow file of its results", _arrow_size(results, folder) / chunks, "bytes")
    record.measure("store, a million chunks of one attempt", grown * 1e6 / MIB, "MiB")
    attempts = report.attempts
    known = attempts[[name for name in attempts if attempts[name].notna().any()]]
    floor = _sqlite_size(known, folder) / chunks
    record.measure("floor: one SQLite table of its attempts, a million", floor * 1e6 / MIB, "MiB")
    path = folder / "attempts.parquet"
    pq.write_table(pa.Table.from_pandas(known.astype(str), preserve_index=False), path)
    record.measure("the same as one Parquet file", path.stat().st_size / chunks * 1e6 / MIB, "MiB")


def _run(numbers: pd.DataFrame, client: Any) -> RunReport:
    pipeline = Pipeline("doubled", split=by_rows(1), stages=[double])
    return run_pipeline(pipeline, numbers, cluster=client, progress=False)


def _cpu(work: Callable[[], object]) -> float:
    """Processor time of this process, in which the scheduler runs too."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _size_of_store() -> int:
    """Bytes of the database once its log is merged into it."""
    with sqlite3.connect(STORE) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return STORE.stat().st_size


def _written(client: Any) -> int:
    """Bytes that this process and the workers handed to disks so far; 0 where nobody tells."""
    pids = [os.getpid(), *client.run(os.getpid).values()]
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        except OSError:
            return 0
        total += sum(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))
    return total


def _arrow_size(table: pa.Table, folder: Path) -> int:
    path = folder / "floor.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path.stat().st_size


def _sqlite_size(frame: pd.DataFrame, folder: Path) -> int:
    path = folder / "floor.db"
    path.unlink(missing_ok=True)
    plain = frame.astype({name: str for name in frame if frame[name].dtype == object})
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE attempts ({', '.join(plain.columns)})")
    rows = plain.astype(object).itertuples(index=False, name=None)
    connection.executemany(f"INSERT INTO attempts VALUES ({', '.join('?' * plain.shape[1])})", rows)
    connection.commit()
    connection.close()
    return path.stat().st_size
