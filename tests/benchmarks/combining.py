"""Very many partial results, put together into one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from batchrun import Pipeline, by_rows, run_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Figure, Record
from tests.benchmarks.memory import MIB, watch_memory

GROUPS = 10
"""Rows of a chunk, and of its partial result."""


def combined_results(arena: Arena, size: int, rounds: int) -> Record:
    """Partial results of ten rows each, added up: by batchrun on the workers, in a tree, because the pipeline
    says that it may; by batchrun at the client; and by pandas at the client, from what raw Dask gathered.

    What is judged is by how much the process of driver and scheduler grows. Each goes once, batchrun first.
    """
    client = arena.client
    numbers = pd.DataFrame({"x": range(size * GROUPS)})
    contestants: dict[str, Callable[[], pd.DataFrame]] = {
        "batchrun, on the workers": lambda: _by_batchrun(numbers, client, associative=True),
        "batchrun, at the client": lambda: _by_batchrun(numbers, client, associative=False),
        "dask, gather and concat": lambda: _by_dask(size, client),
    }
    record = Record("combined_results", {"chunks": size, "workers": 2}, work=Figure(size, "chunks"))
    _by_batchrun(numbers.head(GROUPS * 10), client, associative=True)
    results = []
    for name, run in contestants.items():
        began = time.perf_counter()
        with watch_memory() as growth:
            results.append(run())
        record.seconds[name] = [time.perf_counter() - began]
        record.measure(f"growth, {name}", growth.peak / MIB, "MiB")
    for result in results[1:]:
        pd.testing.assert_frame_equal(results[0], result, check_dtype=False)
    on_workers = record.figures["growth, batchrun, on the workers"].value
    record.want_at_most("growth, batchrun, on the workers", on_workers, "MiB", 100)
    return record


def partial(chunk: pd.DataFrame) -> pd.DataFrame:
    """One row a remainder: how many numbers have it, and their sum."""
    groups = chunk.assign(group=chunk["x"] % GROUPS).groupby("group")["x"]
    return groups.agg(["count", "sum"]).reset_index()


def total(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The counts and sums of many."""
    return pd.concat(list(parts), ignore_index=True).groupby("group").sum().reset_index()


def partial_of(number: int) -> pd.DataFrame:
    """The partial result of a chunk by its number."""
    return partial(pd.DataFrame({"x": range(number * GROUPS, (number + 1) * GROUPS)}))


def _by_batchrun(numbers: pd.DataFrame, client: Any, *, associative: bool) -> pd.DataFrame:
    pipeline = Pipeline(
        "combined", split=by_rows(GROUPS), stages=[partial], combine=total, associative=associative
    )
    return run_pipeline(pipeline, numbers, cluster=client, progress=False).results()


def _by_dask(size: int, client: Any) -> pd.DataFrame:
    return total(client.gather(client.map(partial_of, range(size), pure=False)))
