"""Groups brought together on the workers, for input that is larger than memory.

It is Dask's peer-to-peer shuffle (https://docs.dask.org/en/stable/dataframe-groupby.html#groupby-shuffle),
which keeps its pieces on the disks of the workers. What is shuffled are not rows but packets: from each
piece of the input, all rows that belong to one partition, as an Arrow stream. So every type of column comes
through as it was, and a row costs no more than its bytes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchrun.cluster.connection import list_workers, worker_facts
from batchrun.data.files import join, make_folder
from batchrun.data.load import load
from batchrun.data.regroup import RegroupedFile, assemble, labelled, partition_numbers, write_regrouped
from batchrun.data.table import Slice, decode, encode
from batchrun.errors import BatchrunError, ClusterError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client, Future

    from batchrun.data.source import Source

__all__ = ["regroup_on_workers"]

PIECE_BYTES = 128 * 2**20
"""Bytes of a piece of input and of an output partition, at most."""
_MEMORY_SHARE = 1 / 10
"""The share of a worker thread's memory that a piece may take; it is held, cut and encoded at once."""
_PAUSED_SECONDS = 30.0
"""Seconds that all workers may be paused for want of memory."""


@dataclass(frozen=True)
class _Written:
    """One partition as a worker wrote it."""

    file: RegroupedFile
    """The file."""
    schema: bytes
    """Its Arrow schema, serialized."""


def regroup_on_workers(client: Client, source: Source, columns: Sequence[str], folder: str) -> Source:
    """Lay the rows of *source* out anew in *folder*, which workers share, as whole groups.

    Within a partition groups are in order of their first row, and the rows of a group keep their order.

    Raises InputError if the input cannot be read, ClusterError if the workers cannot do it.
    """
    import dask
    import dask.dataframe as dd
    import pyarrow as pa

    make_folder(folder)
    size = _piece_bytes(client)
    total = max(1.0, source.rows * source.bytes_per_row)
    partitions = max(2, math.ceil(total / size))
    slices = _pieces(source, size)
    with dask.config.set({"dataframe.convert-string": False}):
        packets = dd.from_map(
            _packets,
            list(enumerate(slices)),
            group_columns=tuple(columns),
            labels=_labels(partitions),
            meta=_frame([], [], []),
            enforce_metadata=False,
        )
        parts = packets.shuffle("partition", npartitions=partitions, shuffle_method="p2p").to_delayed()
    write = dask.delayed(_write, pure=False)
    tasks = [
        write(part, tuple(columns), join(folder, f"part-{number:05d}.arrow"))
        for number, part in enumerate(parts)
    ]
    try:
        written = _gather(client, client.compute(tasks))
    except UsageError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, BatchrunError) else f"{type(error).__name__}: {error}"
        raise ClusterError(
            f"the rows could not be brought together by {', '.join(columns)} on the workers: "
            f"{reason}. Give the workers more memory or disk, or sort the input by "
            "its groups, which needs no regrouping"
        ) from error
    schema = pa.ipc.read_schema(pa.py_buffer(written[0].schema))
    return assemble(source, schema, [item.file for item in written], folder)


def _gather(client: Client, futures: list[Future]) -> list[_Written]:
    """What the workers wrote, empty partitions left out.

    Raises ClusterError when all workers are paused for so long that none will go on: a shuffle cannot be
    taken back piece by piece, and would wait for ever.
    """
    looked = last_running = time.monotonic()
    try:
        while not all(future.done() for future in futures):
            if any(future.status == "error" for future in futures):
                break
            time.sleep(0.05)
            if time.monotonic() - looked < 1:
                continue
            looked = time.monotonic()
            if any(known.get("status") != "paused" for known in worker_facts(client).values()):
                last_running = looked
            elif looked - last_running > _PAUSED_SECONDS:
                raise ClusterError("every worker has reached 80 % of its memory")
        return [item for item in client.gather(futures) if item is not None]
    finally:
        client.cancel(futures)


def _piece_bytes(client: Client) -> float:
    """Bytes that one thread of the smallest worker can handle at once."""
    workers = list_workers(client)
    least = min(worker.memory / max(1, worker.threads) for worker in workers)
    return max(2**20, min(PIECE_BYTES, least * _MEMORY_SHARE))


def _pieces(source: Source, size: float) -> list[Slice]:
    """Consecutive slices of about so many bytes, cut between blocks, which a worker would decode twice."""
    rows = max(1, int(size / max(1e-9, source.bytes_per_row)))
    cuts = [0]
    for start, stop in itertools.pairwise(source.block_starts.tolist()):
        if stop - cuts[-1] > rows and start > cuts[-1]:
            cuts.append(start)
        cuts.extend(range(cuts[-1] + rows, stop, rows))
    return [source.slice(start, stop) for start, stop in itertools.pairwise([*cuts, source.rows])]


def _labels(partitions: int) -> tuple[float, ...]:
    """For each partition a number that Dask's hash sends to a partition of its own.

    Dask sends a row to ``hash(value) % partitions``, numbers taken as floats. Were its hash another one some
    day, partitions would be uneven, and all else as it is.
    """
    import pandas as pd

    numbers = np.arange(partitions * (20 + 2 * partitions.bit_length()), dtype=np.float64)
    hashes = pd.util.hash_pandas_object(pd.DataFrame({"partition": numbers}), index=False).to_numpy()
    _, first = np.unique(hashes % np.uint64(partitions), return_index=True)
    found = numbers[first].tolist()
    return tuple(found[number % len(found)] for number in range(partitions))


def _packets(
    numbered: tuple[int, Slice], *, group_columns: tuple[str, ...], labels: tuple[float, ...]
) -> pd.DataFrame:
    """Runs on a worker: read a piece and sort its rows into packets, one for each partition."""
    import pyarrow as pa

    number, piece = numbered
    table = labelled(load(piece))
    places = partition_numbers(table, group_columns, len(labels))
    order = np.argsort(places, kind="stable")
    bounds = np.searchsorted(places[order], np.arange(len(labels) + 1))
    held = [place for place in range(len(labels)) if bounds[place] < bounds[place + 1]]
    rows = [encode(table.take(pa.array(order[bounds[place] : bounds[place + 1]]))) for place in held]
    del table
    pa.default_memory_pool().release_unused()  # Dask stops a worker by what its process holds
    return _frame([labels[place] for place in held], [number] * len(held), rows)


def _write(packets: pd.DataFrame, columns: tuple[str, ...], path: str) -> _Written | None:
    """Runs on a worker: write the packets of one partition as whole groups, rows in input order."""
    import pyarrow as pa

    if not len(packets):
        return None
    packets = packets.sort_values("piece", kind="stable")
    pa.default_memory_pool().release_unused()
    table = pa.concat_tables([decode(data) for data in packets["rows"]])
    return _Written(write_regrouped(table, columns, path), bytes(table.schema.serialize()))


def _frame(partitions: list[float], pieces: list[int], rows: list[bytes]) -> pd.DataFrame:
    """Packets as the shuffle takes them."""
    import pandas as pd
    import pyarrow as pa

    return pd.DataFrame(
        {
            "partition": pd.Series(partitions, dtype="float64"),
            "piece": pd.Series(pieces, dtype="int64"),
            "rows": pd.Series(rows, dtype=pd.ArrowDtype(pa.large_binary())),
        }
    )
