"""Counts, sums and maxima of flights, as every data frame library computes them in a line of its own.

This is not what batchrun is for: a query engine plans the whole of such a query and need not record or
isolate anything. It is here to show the distance.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun import Pipeline, by_rows, run_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.big_flights import COLUMNS, SUMS, big_flights, write_big_flights
from tests.benchmarks.contest import Record, Target, race
from tests.benchmarks.group_by import (
    CHUNKS,
    PANDAS,
    READ,
    SCATTERED_ARROW,
    as_arrow,
    batchrun,
    in_one_process,
    new_record,
    partial_of_arrow,
    partial_of_row_group,
    read_by_workers,
    scattered_as_arrow,
)

THREADS = min(2, os.cpu_count() or 1)
BATCHRUN_POLARS = "batchrun, a polars stage"
QUERY = """
    SELECT carrier, month, count(arr_delay) AS count, coalesce(sum(arr_delay), 0) AS sum,
        max(arr_delay) AS max
    FROM {source} GROUP BY carrier, month ORDER BY carrier, month
"""


def sums_in_memory(arena: Arena, size: int, rounds: int) -> Record:
    """Three columns of a pandas frame in memory, whose rows query engines on two threads need not
    move to another process."""
    frame, client = big_flights(size)[COLUMNS].copy(), arena.workers
    record = new_record("sums_in_memory", size, rounds)
    race(
        record,
        {
            "batchrun": lambda: batchrun(SUMS, frame, size, client, COLUMNS),
            PANDAS: lambda: in_one_process(SUMS, frame),
            SCATTERED_ARROW: lambda: scattered_as_arrow(SUMS, frame, client),
            "dask.dataframe": lambda: _dask_dataframe(frame, client),
            "joblib, Arrow to 2 processes": lambda: _joblib(frame),
            "polars, 2 threads": lambda: _polars(pl.from_pandas(frame).lazy()),
            "DuckDB, 2 threads": lambda: _duckdb_table(pa.Table.from_pandas(frame, preserve_index=False)),
        },
        rounds,
    )
    return record


def sums_from_parquet(arena: Arena, size: int, rounds: int) -> Record:
    """The same from a Parquet file of 32 row groups, of which everybody reads three columns."""
    path, client = write_big_flights(arena.inputs, size, CHUNKS), arena.workers
    record = new_record("sums_from_parquet", size, rounds)
    race(
        record,
        {
            "batchrun": lambda: batchrun(SUMS, str(path), size, client, COLUMNS),
            BATCHRUN_POLARS: lambda: _batchrun_polars(path, size, client),
            PANDAS: lambda: in_one_process(SUMS, pd.read_parquet(path, columns=COLUMNS)),
            READ: lambda: read_by_workers(SUMS, path, client),
            "dask.dataframe": lambda: _dask_dataframe(path, client),
            "joblib, 2 processes read": lambda: _joblib(path),
            "polars, 2 threads": lambda: _polars(pl.scan_parquet(path)),
            "DuckDB, 2 threads": lambda: _duckdb_file(path),
        },
        rounds,
    )
    record.judge([Target("batchrun", (READ,), 1.1)])
    return record


def polars_parquet(arena: Arena, size: int, rounds: int) -> Record:
    """A hundred million flights in a Parquet file: a stage that is written with polars, against polars and
    DuckDB alone on the same file."""
    path, client = write_big_flights(arena.inputs, size, CHUNKS), arena.workers
    record = new_record("polars_parquet", size, rounds)
    race(
        record,
        {
            BATCHRUN_POLARS: lambda: _batchrun_polars(path, size, client),
            "polars, 2 threads": lambda: _polars(pl.scan_parquet(path)),
            "DuckDB, 2 threads": lambda: _duckdb_file(path),
        },
        rounds,
    )
    record.judge([Target(BATCHRUN_POLARS, ("polars, 2 threads",), 1.3)])
    return record


def add_up_polars(chunk: pl.DataFrame) -> pl.DataFrame:
    """Count, sum and maximum by carrier and month."""
    return _summed(chunk.lazy()).collect()


def put_together_polars(parts: Iterator[pl.DataFrame]) -> pl.DataFrame:
    """The counts, sums and maxima of all chunks."""
    groups = pl.concat(list(parts)).group_by("carrier", "month")
    return groups.agg(pl.sum("count"), pl.sum("sum"), pl.max("max")).sort("carrier", "month")


def _batchrun_polars(path: Path, rows: int, client: Any) -> pd.DataFrame:
    pipeline = Pipeline(
        "flights",
        split=by_rows(-(-rows // CHUNKS)),
        stages=[add_up_polars],
        combine=put_together_polars,
        columns=COLUMNS,
    )
    return run_pipeline(pipeline, str(path), cluster=client, progress=False).results()


def _polars(flights: pl.LazyFrame) -> pd.DataFrame:
    return _summed(flights).sort("carrier", "month").collect().to_pandas()


def _summed(flights: pl.LazyFrame) -> pl.LazyFrame:
    delay = pl.col("arr_delay")
    return flights.group_by("carrier", "month").agg(
        delay.count().cast(pl.Int64).alias("count"), delay.sum().alias("sum"), delay.max().alias("max")
    )


def _duckdb_table(flights: pa.Table) -> pd.DataFrame:
    import duckdb

    with duckdb.connect(config={"threads": THREADS}) as connection:
        connection.register("flights", flights)
        return connection.sql(QUERY.format(source="flights")).df()


def _duckdb_file(path: Path) -> pd.DataFrame:
    import duckdb

    with duckdb.connect(config={"threads": THREADS}) as connection:
        return connection.sql(QUERY.format(source=f"read_parquet('{path}')")).df()


def _dask_dataframe(data: pd.DataFrame | Path, client: Any) -> pd.DataFrame:
    import dask.dataframe as dd

    frame = (
        dd.read_parquet(data, columns=COLUMNS, split_row_groups=True)
        if isinstance(data, Path)
        else dd.from_pandas(data, npartitions=CHUNKS)
    )
    sums = frame.groupby(["carrier", "month"])["arr_delay"].agg(["count", "sum", "max"])
    found: pd.DataFrame = client.compute(sums).result()
    return found.sort_index().reset_index()


def _joblib(data: pd.DataFrame | Path) -> pd.DataFrame:
    import joblib

    if isinstance(data, Path):
        groups = range(pq.ParquetFile(data).num_row_groups)
        calls = [joblib.delayed(partial_of_row_group)(group, str(data), SUMS.partial) for group in groups]
    else:
        calls = [joblib.delayed(partial_of_arrow)(table, SUMS.partial) for table in as_arrow(data)]
    return SUMS.total(iter(joblib.Parallel(n_jobs=2)(calls)))
