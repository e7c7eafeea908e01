"""Many chunks with next to nothing in them: what a chunk costs, all of them recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from batchrun import Pipeline, by_rows, run_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Figure, Record, Target, race

DASK = "dask, map and gather"


def trivial_chunks(arena: Arena, size: int, rounds: int) -> Record:
    """Chunks of one row, doubled. Raw Dask and joblib double as many integers, which is less work, and record
    nothing."""
    numbers, client = pd.DataFrame({"x": range(size)}), arena.client
    record = Record(
        "trivial_chunks", {"chunks": size, "workers": 2, "rounds": rounds}, work=Figure(size, "chunks")
    )
    race(
        record,
        {
            "batchrun": lambda: by_batchrun(double, numbers, client),
            "batchrun, an Arrow stage": lambda: by_batchrun(double_arrow, numbers, client),
            DASK: lambda: by_dask(size, client),
            "joblib, 2 processes": lambda: _by_joblib(size),
        },
        rounds,
    )
    record.judge([Target("batchrun", (DASK,), 1 / 20), Target("batchrun, an Arrow stage", (DASK,), 1 / 20)])
    return record


def double(chunk: pd.DataFrame) -> pd.DataFrame:
    """Twice each number."""
    return chunk * 2


def double_arrow(chunk: pa.Table) -> pa.Table:
    """Twice each number."""
    return pa.table({"x": pc.multiply(chunk["x"], 2)})


def double_number(number: int) -> int:
    """Twice the number."""
    return number * 2


def by_batchrun(stage: Callable[..., Any], numbers: pd.DataFrame, cluster: Any) -> pd.DataFrame:
    """Double each row as a chunk of its own, recorded and durable."""
    pipeline = Pipeline("doubled", split=by_rows(1), stages=[stage])
    report = run_pipeline(pipeline, numbers, cluster=cluster, progress=False)
    return report.results().reset_index(drop=True)


def by_dask(size: int, client: Any) -> pd.DataFrame:
    """Double each number in a task of its own."""
    return pd.DataFrame({"x": client.gather(client.map(double_number, range(size), pure=False))})


def _by_joblib(size: int) -> pd.DataFrame:
    import joblib

    calls = (joblib.delayed(double_number)(number) for number in range(size))
    return pd.DataFrame({"x": joblib.Parallel(n_jobs=2)(calls)})
