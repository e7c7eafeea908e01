"""How much memory the client needs for a Parquet input that is far larger than what it may hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun import Pipeline, by_rows, run_pipeline
from tests.benchmarks.contest import Record
from tests.benchmarks.group_by import two_workers, workplace

COLUMNS = 10
GROUP_ROWS = 250_000
LIMIT = 500 * 2**20


def client_memory(rows: int, rounds: int, statistic: str) -> Record:
    """Reads *rows* rows of ten 8-byte columns, 80 bytes a row, once, and adds them up.

    Every row group holds one value a column, so the file is small and takes its full size in the memory of
    whoever reads it: 125 million rows are 10 GB.
    """
    with two_workers() as client, workplace() as folder:
        small = write_constant(folder / "small.parquet", 4 * GROUP_ROWS)
        large = write_constant(folder / "large.parquet", rows)
        sums = Pipeline("sums", split=by_rows(GROUP_ROWS), stages=[add_up])
        run_pipeline(sums, str(small), cluster=client, progress=False)
        began = time.perf_counter()
        with watch_memory() as growth:
            report = run_pipeline(sums, str(large), cluster=client, progress=False)
        seconds = time.perf_counter() - began
        groups = -(-rows // GROUP_ROWS)
        results = report.results()
        assert len(results) == groups
        assert int(results["rows"].sum()) == report.rows_solved == rows
    record = Record("client_memory", {"rows": rows, "chunks": groups})
    record.facts = {
        "input in memory, MiB": round(rows * COLUMNS * 8 / 2**20),
        "seconds": round(seconds, 2),
        "client peak growth, MiB": round(growth[0] / 2**20, 1),
        "wanted below, MiB": LIMIT // 2**20,
        "met": growth[0] < LIMIT,
    }
    return record


def add_up(chunk: pd.DataFrame) -> pd.DataFrame:
    """One row that tells how many rows there were and what they add up to."""
    return pd.DataFrame({"rows": [len(chunk)], "total": [float(chunk.to_numpy().sum())]})


def write_constant(path: Path, rows: int) -> Path:
    """A file whose row groups hold one value a column."""
    names = [f"value_{number}" for number in range(COLUMNS)]
    schema = pa.schema([(name, pa.float64()) for name in names])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, GROUP_ROWS):
            size = min(GROUP_ROWS, rows - start)
            values = pa.array(np.full(size, float(start)))
            writer.write_table(pa.table([values] * COLUMNS, schema=schema), row_group_size=size)
    return path


@contextmanager
def watch_memory(every: float = 0.02) -> Iterator[list[int]]:
    """Samples this process's resident memory; the list holds its peak growth in bytes."""
    process = psutil.Process()
    before = process.memory_info().rss
    growth = [0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(every):
            growth[0] = max(growth[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()
