"""The flights, repeated until there are as many rows as a benchmark wants, and what is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.flights import count_delays, flights_table, total

COLUMNS = ["carrier", "month", "arr_delay"]


def big_flights(rows: int) -> pd.DataFrame:
    """The flights tiled to *rows* rows, with all 19 columns and an index of its own."""
    flights = flights_table()
    copies = -(-rows // len(flights))
    return pd.concat([flights] * copies, ignore_index=True).head(rows).copy()


def write_big_flights(path: Path, rows: int, row_groups: int) -> Path:
    """The same as a Parquet file of *row_groups* row groups."""
    table = pa.Table.from_pandas(big_flights(rows), preserve_index=False)
    pq.write_table(table, path, row_group_size=-(-rows // row_groups))
    return path


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


STATISTICS = {"delays": Statistic(count_delays, total), "sums": Statistic(add_up, put_together)}
"""``delays`` is what ``pipelines.flights`` computes; ``sums`` is as light as a group-by can be."""
