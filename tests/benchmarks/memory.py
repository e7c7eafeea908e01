"""How much memory the client needs, whatever the size of the input."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun import Pipeline, by_rows, run_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Record

COLUMNS = 10
GROUP_ROWS = 250_000
MIB = 2**20


def client_memory(arena: Arena, size: int, rounds: int) -> Record:
    """Reads a Parquet file of ten 8-byte columns, 80 bytes a row, once, and adds it up: far more than the
    client may hold.

    Every row group holds one value a column, so the file is small and takes its full size in the memory of
    whoever reads it: 125 million rows are 10 GB. The scheduler runs in the process of the client and counts.
    """
    client = arena.client
    small = write_constant(arena.folder / "small.parquet", min(size, 4 * GROUP_ROWS))
    large = write_constant(arena.folder / "large.parquet", size)
    sums = Pipeline("sums", split=by_rows(GROUP_ROWS), stages=[add_up])
    run_pipeline(sums, str(small), cluster=client, progress=False)
    began = time.perf_counter()
    with watch_memory() as growth:
        report = run_pipeline(sums, str(large), cluster=client, progress=False)
    seconds = time.perf_counter() - began
    groups = -(-size // GROUP_ROWS)
    results = report.results()
    assert len(results) == groups
    assert int(results["rows"].sum()) == report.rows_solved == size
    record = Record("client_memory", {"rows": size, "chunks": groups})
    record.measure("input in memory", size * COLUMNS * 8 / MIB, "MiB")
    record.measure("time", seconds, "s")
    record.want_at_most("growth of client and scheduler", growth.peak / MIB, "MiB", 500)
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


@dataclass
class Growth:
    """How far the resident memory of this process rose above what it was at first."""

    peak: int = 0
    """At most, in bytes."""


@contextmanager
def watch_memory(every: float = 0.02) -> Iterator[Growth]:
    """Samples this process's resident memory, after what is free was given back."""
    give_back()
    process = psutil.Process()
    before = process.memory_info().rss
    growth = Growth()
    done = threading.Event()

    def sample() -> None:
        while not done.wait(every):
            growth.peak = max(growth.peak, process.memory_info().rss - before)

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()


def give_back() -> None:
    """Return free memory to the system, so that one contestant does not live on what another one left."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
