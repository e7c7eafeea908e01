"""Ten million flights, grouped and added up in 32 chunks on two workers, against pandas and against raw Dask.

Raw Dask is written as someone would who knows it well: only the columns that are needed, as Arrow tables,
scattered directly to the workers, or read by the workers from Parquet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun import Pipeline, by_rows, run_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.big_flights import COLUMNS, DELAYS, Statistic, big_flights, write_big_flights
from tests.benchmarks.contest import Figure, Record, Target, race

CHUNKS = 32
PANDAS = "pandas, one process"
SCATTERED = "dask, scattered as pandas"
SCATTERED_ARROW = "dask, scattered as Arrow"
READ = "dask, workers read Parquet"
READ_ELSEWHERE = "the same on a plain LocalCluster"


def declared_columns(arena: Arena, size: int, rounds: int) -> Record:
    """The delays of flights by carrier and month, from a frame in memory of which three columns are
    declared. All who take part have the same workers, those of a cluster that batchrun started."""
    frame, client = big_flights(size), arena.workers
    record = new_record("declared_columns", size, rounds)
    race(
        record,
        {
            "batchrun": lambda: batchrun(DELAYS, frame, size, client, COLUMNS),
            PANDAS: lambda: in_one_process(DELAYS, frame),
            SCATTERED: lambda: scattered(DELAYS, frame[COLUMNS], client),
            SCATTERED_ARROW: lambda: scattered_as_arrow(DELAYS, frame[COLUMNS], client),
        },
        rounds,
    )
    record.judge([Target("batchrun", (PANDAS,), 0.55), Target("batchrun", (SCATTERED, SCATTERED_ARROW), 1.0)])
    return record


def all_columns(arena: Arena, size: int, rounds: int) -> Record:
    """The same frame, of which all 19 columns go to the workers."""
    frame, client = big_flights(size), arena.workers
    record = new_record("all_columns", size, rounds)
    race(
        record,
        {
            "batchrun": lambda: batchrun(DELAYS, frame, size, client, None),
            SCATTERED: lambda: scattered(DELAYS, frame, client),
            SCATTERED_ARROW: lambda: scattered_as_arrow(DELAYS, frame, client),
        },
        rounds,
    )
    record.judge([Target("batchrun", (SCATTERED, SCATTERED_ARROW), 0.8)])
    return record


def from_parquet(arena: Arena, size: int, rounds: int) -> Record:
    """The same delays from a Parquet file of 32 row groups, of which the workers read three columns. Raw Dask
    goes once more on a LocalCluster as it comes, whose workers give memory back as soon as it is free."""
    path, client = write_big_flights(arena.inputs, size, CHUNKS), arena.workers
    record = new_record("from_parquet", size, rounds)
    race(
        record,
        {
            "batchrun": lambda: batchrun(DELAYS, str(path), size, client, COLUMNS),
            READ: lambda: read_by_workers(DELAYS, path, client),
            READ_ELSEWHERE: lambda: read_by_workers(DELAYS, path, arena.client),
            PANDAS: lambda: in_one_process(DELAYS, pd.read_parquet(path, columns=COLUMNS)),
        },
        rounds,
    )
    record.judge([Target("batchrun", (READ,), 1.1)])
    return record


def new_record(name: str, rows: int, rounds: int) -> Record:
    """The record of a case on so many flights."""
    return Record(
        name, {"rows": rows, "chunks": CHUNKS, "workers": 2, "rounds": rounds}, work=Figure(rows, "rows")
    )


def batchrun(work: Statistic, data: Any, rows: int, client: Any, columns: list[str] | None) -> pd.DataFrame:
    """The statistic by batchrun, with every chunk recorded and durable."""
    pipeline = Pipeline(
        "flights",
        split=by_rows(-(-rows // CHUNKS)),
        stages=[work.partial],
        combine=work.total,
        columns=columns,
    )
    return run_pipeline(pipeline, data, cluster=client, progress=False).results()


def in_one_process(work: Statistic, frame: pd.DataFrame) -> pd.DataFrame:
    """The statistic by pandas alone."""
    return work.total(iter([work.partial(frame)]))


def scattered(work: Statistic, frame: pd.DataFrame, client: Any) -> pd.DataFrame:
    """The statistic by raw Dask, frames scattered."""
    held = client.scatter(pieces(frame), direct=True, hash=False)
    return work.total(iter(client.gather(client.map(work.partial, held, pure=False))))


def scattered_as_arrow(work: Statistic, frame: pd.DataFrame, client: Any) -> pd.DataFrame:
    """The statistic by raw Dask, Arrow tables scattered, which go over the wire without a copy."""
    held = client.scatter(as_arrow(frame), direct=True, hash=False)
    parts = client.map(partial_of_arrow, held, partial=work.partial, pure=False)
    return work.total(iter(client.gather(parts)))


def read_by_workers(work: Statistic, path: Path, client: Any) -> pd.DataFrame:
    """The statistic by raw Dask, a task for each row group."""
    groups = range(pq.ParquetFile(path).num_row_groups)
    parts = client.map(partial_of_row_group, groups, path=str(path), partial=work.partial, pure=False)
    return work.total(iter(client.gather(parts)))


def pieces(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The frame in so many pieces as there are chunks."""
    size = -(-len(frame) // CHUNKS)
    return [frame.iloc[start : start + size] for start in range(0, len(frame), size)]


def as_arrow(frame: pd.DataFrame) -> list[pa.Table]:
    """The pieces as Arrow tables."""
    return [pa.Table.from_pandas(piece, preserve_index=False) for piece in pieces(frame)]


def partial_of_arrow(table: pa.Table, partial: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """The statistic of one Arrow table."""
    return partial(table.to_pandas())


def partial_of_row_group(
    group: int, path: str, partial: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """The statistic of one row group of a file."""
    return partial(pq.ParquetFile(path).read_row_group(group, columns=COLUMNS).to_pandas())
