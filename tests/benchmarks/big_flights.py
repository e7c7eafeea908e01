"""The flights, repeated until there are as many rows as a benchmark wants, and what is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.flights import count_delays, flights_table, total

COLUMNS = ["carrier", "month", "arr_delay"]


def big_flights(rows: int) -> pd.DataFrame:
    """The flights tiled to *rows* rows, with all 19 columns and an index of its own."""
    flights = _flights()
    copies = -(-rows // len(flights))
    return pd.concat([flights] * copies, ignore_index=True).head(rows).copy()


def write_big_flights(folder: Path, rows: int, row_groups: int) -> Path:
    """The same as a Parquet file of *row_groups* row groups in *folder*, unless it is there already.

    It is written row group by row group, so that it may be larger than memory.
    """
    path = folder / f"flights-{rows}-{row_groups}.parquet"
    if path.exists():
        return path
    flights = pa.Table.from_pandas(_flights(), preserve_index=False)
    unfinished = path.with_suffix(".part")
    size = -(-rows // row_groups)
    with pq.ParquetWriter(unfinished, flights.schema) as writer:
        for start in range(0, rows, size):
            writer.write_table(_rows_of(flights, start, min(size, rows - start)), row_group_size=size)
    return unfinished.replace(path)


@cache
def _flights() -> pd.DataFrame:
    return flights_table()


def _rows_of(flights: pa.Table, start: int, rows: int) -> pa.Table:
    """So many rows of the endless repetition of *flights*, from row *start* of it on."""
    offset = start % flights.num_rows
    copies = -(-(offset + rows) // flights.num_rows)
    return pa.concat_tables([flights] * copies).slice(offset, rows)


@dataclass(frozen=True)
class Statistic:
    """What is computed, in parts that ``total`` puts together."""

    partial: Callable[[pd.DataFrame], pd.DataFrame]
    """From a chunk."""
    total: Callable[[Iterator[pd.DataFrame]], pd.DataFrame]
    """From what the chunks gave."""


def add_up(chunk: pd.DataFrame) -> pd.DataFrame:
    """Count, sum and maximum by carrier and month: next to no work, so that moving rows is what costs."""
    groups = chunk.groupby(["carrier", "month"])["arr_delay"]
    return groups.agg(["count", "sum", "max"]).reset_index()


def put_together(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
    """The counts, sums and maxima of all chunks."""
    groups = pd.concat(list(parts), ignore_index=True).groupby(["carrier", "month"])
    return groups.agg({"count": "sum", "sum": "sum", "max": "max"}).reset_index()


DELAYS = Statistic(count_delays, total)
"""What ``pipelines.flights`` computes: sums, extremes and a histogram."""
SUMS = Statistic(add_up, put_together)
"""As light as a group-by can be, and what every data frame library can write in one line."""
