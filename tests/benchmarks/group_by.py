"""Ten million flights, grouped and added up in 32 chunks on two workers, against pandas and against raw Dask.

Raw Dask is written as someone would who knows it well: only the columns that are needed, as Arrow tables,
scattered directly to the workers, or read by the workers from Parquet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun import Pipeline, by_rows, run_pipeline
from tests.benchmarks.big_flights import COLUMNS, STATISTICS, Statistic, big_flights, write_big_flights
from tests.benchmarks.contest import Record, Target, compete, judge

CHUNKS = 32
PANDAS = "pandas, one process"
SCATTERED = "dask, scattered as pandas"
SCATTERED_ARROW = "dask, scattered as Arrow"
READ = "dask, workers read Parquet"


def declared_columns(rows: int, rounds: int, statistic: str) -> Record:
    """A frame in memory of which three columns are declared."""
    frame, work = big_flights(rows), STATISTICS[statistic]
    with two_workers() as client, workplace():
        return _contest(
            "declared_columns",
            {
                "batchrun": lambda: _batchrun(work, frame, rows, client, COLUMNS),
                PANDAS: lambda: _in_one_process(work, frame),
                SCATTERED: lambda: _scattered(work, frame[COLUMNS], client),
                SCATTERED_ARROW: lambda: _scattered_as_arrow(work, frame[COLUMNS], client),
            },
            [
                Target("batchrun", (PANDAS,), 0.55),
                Target("batchrun", (SCATTERED, SCATTERED_ARROW), 1.0),
            ],
            {"rows": rows, "statistic": statistic},
            rounds,
        )


def all_columns(rows: int, rounds: int, statistic: str) -> Record:
    """The same frame, of which all 19 columns go to the workers."""
    frame, work = big_flights(rows), STATISTICS[statistic]
    with two_workers() as client, workplace():
        return _contest(
            "all_columns",
            {
                "batchrun": lambda: _batchrun(work, frame, rows, client, None),
                SCATTERED: lambda: _scattered(work, frame, client),
                SCATTERED_ARROW: lambda: _scattered_as_arrow(work, frame, client),
            },
            [Target("batchrun", (SCATTERED, SCATTERED_ARROW), 0.8)],
            {"rows": rows, "statistic": statistic},
            rounds,
        )


def from_parquet(rows: int, rounds: int, statistic: str) -> Record:
    """A Parquet file of 32 row groups, of which the workers read three columns."""
    work = STATISTICS[statistic]
    with two_workers() as client, workplace() as folder:
        path = write_big_flights(folder / "flights.parquet", rows, CHUNKS)
        return _contest(
            "from_parquet",
            {
                "batchrun": lambda: _batchrun(work, str(path), rows, client, COLUMNS),
                READ: lambda: _read_by_workers(work, path, client),
                PANDAS: lambda: _in_one_process(work, pd.read_parquet(path, columns=COLUMNS)),
            },
            [Target("batchrun", (READ,), 1.1)],
            {"rows": rows, "statistic": statistic},
            rounds,
        )


@contextmanager
def two_workers() -> Iterator[Any]:
    """A client of a local cluster of two workers with one thread each."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for inputs and for the store, below the current folder, and the current one meanwhile."""
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-", dir=".") as folder:
        place = Path(folder).resolve()
        with chdir(place):
            yield place


def _contest(
    name: str,
    contestants: dict[str, Callable[[], pd.DataFrame]],
    targets: list[Target],
    settings: dict[str, Any],
    rounds: int,
) -> Record:
    results = {contestant: run() for contestant, run in contestants.items()}
    first = next(iter(results.values()))
    for contestant, result in results.items():
        pd.testing.assert_frame_equal(first, result, check_dtype=False, obj=contestant)
    record = Record(name, {**settings, "chunks": CHUNKS, "rounds": rounds})
    compete(record, contestants, rounds, warm_up=0)
    judge(record, targets)
    return record


def _batchrun(work: Statistic, data: Any, rows: int, client: Any, columns: list[str] | None) -> pd.DataFrame:
    pipeline = Pipeline(
        "flights",
        split=by_rows(-(-rows // CHUNKS)),
        stages=[work.partial],
        combine=work.total,
        columns=columns,
    )
    return run_pipeline(pipeline, data, cluster=client, progress=False).results()


def _in_one_process(work: Statistic, frame: pd.DataFrame) -> pd.DataFrame:
    return work.total(iter([work.partial(frame)]))


def _scattered(work: Statistic, frame: pd.DataFrame, client: Any) -> pd.DataFrame:
    held = client.scatter(_pieces(frame), direct=True, hash=False)
    return work.total(iter(client.gather(client.map(work.partial, held, pure=False))))


def _scattered_as_arrow(work: Statistic, frame: pd.DataFrame, client: Any) -> pd.DataFrame:
    tables = [pa.Table.from_pandas(piece, preserve_index=False) for piece in _pieces(frame)]
    held = client.scatter(tables, direct=True, hash=False)
    parts = client.map(_partial_of_arrow, held, partial=work.partial, pure=False)
    return work.total(iter(client.gather(parts)))


def _pieces(frame: pd.DataFrame) -> list[pd.DataFrame]:
    size = -(-len(frame) // CHUNKS)
    return [frame.iloc[start : start + size] for start in range(0, len(frame), size)]


def _partial_of_arrow(table: pa.Table, partial: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    return partial(table.to_pandas())


def _read_by_workers(work: Statistic, path: Path, client: Any) -> pd.DataFrame:
    groups = range(pq.ParquetFile(path).num_row_groups)
    parts = client.map(_partial_of_row_group, groups, path=str(path), partial=work.partial, pure=False)
    return work.total(iter(client.gather(parts)))


def _partial_of_row_group(
    group: int, path: str, partial: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    return partial(pq.ParquetFile(path).read_row_group(group, columns=COLUMNS).to_pandas())
