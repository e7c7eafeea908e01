"""Results that came inline, many of them collected into few files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.data.files import join, write_arrow
from batchrun.data.refs import ResultRefs
from batchrun.data.table import EACH_LABELS_KEY, LABELS_KEY, batches_of, decode, with_labels

if TYPE_CHECKING:
    import pyarrow as pa

    from batchrun.outcome import Integers

__all__ = ["SegmentWriter"]


class SegmentWriter:
    """Collects results that came inline and writes them together.

    Args:
        folder: Where segments go, a path or a URL; made when the first one is written.
        first_number: The number of the first segment; segments that a killed process left behind under
            higher numbers are replaced.
    """

    def __init__(self, folder: str, first_number: int) -> None:
        self._folder = folder
        self._next = first_number
        self._waiting: dict[int, _Results] = {}
        self._bytes = 0

    @property
    def pending(self) -> int:
        """Results that wait to be written, those of a pack counted as one."""
        return len(self._waiting)

    @property
    def pending_bytes(self) -> int:
        """Bytes of those."""
        return self._bytes

    @property
    def next_number(self) -> int:
        """The number that the next segment gets."""
        return self._next

    def add(self, chunk: int, data: bytes) -> None:
        """Take the result of a chunk, an Arrow IPC stream; it replaces an earlier one of the same chunk."""
        import numpy as np

        self._take(chunk, _Results(np.array([chunk], np.int64), None, data))

    def add_pack(self, chunks: Integers, rows_out: Integers, data: bytes) -> None:
        """Take the results of several chunks, one below the other in an Arrow IPC stream.

        *rows_out* is how many rows each has; 0 is possible. Range labels run through all of them, or begin
        anew with each, as a note of the stream says; see with_each_labels.
        """
        self._take(int(chunks[0]), _Results(chunks, rows_out, data))

    def flush(self) -> tuple[Integers, ResultRefs]:
        """Write what waits, and say of which chunks it is and where the result of each lies.

        A segment holds results of one schema, in the order of their chunks or the first chunks of packs;
        results of other schemas go to further segments. All are durable on return. Raises StoreError, and
        then keeps what waits.
        """
        import numpy as np

        kinds: dict[bytes, list[tuple[_Results, pa.Table]]] = {}
        for chunk in sorted(self._waiting):
            table = decode(self._waiting[chunk].data)
            kinds.setdefault(_kind(table), []).append((self._waiting[chunk], table))
        chunks = [np.zeros(0, np.int64)]
        places: list[ResultRefs] = []
        number = self._next
        for results in kinds.values():
            places += _write_segment(join(self._folder, f"segment-{number:06d}.arrow"), results)
            chunks += [result.chunks for result, _ in results]
            number += 1
        self._next = number
        self._waiting.clear()
        self._bytes = 0
        return np.concatenate(chunks), ResultRefs.joined(places)

    def _take(self, first: int, results: _Results) -> None:
        before = self._waiting.get(first)
        self._bytes += len(results.data) - (len(before.data) if before else 0)
        self._waiting[first] = results


@dataclass(frozen=True)
class _Results:
    """What waits under one number."""

    chunks: Integers
    rows: Integers | None
    """Rows of each chunk; None for all that there are, of the one chunk."""
    data: bytes


def _kind(table: pa.Table) -> bytes:
    """What tables must share to lie in one file; how many categories each has is no part of it."""
    plain = with_labels(table, None).schema
    return re.sub(rb'"num_categories": \d+', b"", bytes(plain.serialize()))


def _write_segment(path: str, results: Sequence[tuple[_Results, pa.Table]]) -> list[ResultRefs]:
    import numpy as np

    places = []
    schema = with_labels(results[0][1], None).schema
    tables = _one_dictionary([with_labels(table, None) for _, table in results])
    position = 0
    with write_arrow(path, schema) as writer:
        for (result, table), plain in zip(results, tables, strict=True):
            metadata = table.schema.metadata or {}
            note = {key: metadata[key] for key in (LABELS_KEY, EACH_LABELS_KEY) if key in metadata}
            batches = batches_of(plain)
            for batch in batches:
                writer.write_batch(batch, custom_metadata=note or None)
            rows = np.array([table.num_rows], np.int64) if result.rows is None else result.rows
            if int(rows.sum()) != table.num_rows:
                raise ValueError(f"a pack has {table.num_rows} rows, its chunks have {rows.sum()}")
            places.append(
                ResultRefs.of_pack(path, rows, table.nbytes, first_batch=position, batches=len(batches))
            )
            position += len(batches)
    return places


def _one_dictionary(tables: list[pa.Table]) -> list[pa.Table]:
    """Tables whose dictionary columns share one dictionary, as a file wants it."""
    import pyarrow as pa

    if not any(pa.types.is_dictionary(field.type) for field in tables[0].schema):
        return tables
    whole = pa.concat_tables(tables).unify_dictionaries()
    cut, start = [], 0
    for table in tables:
        cut.append(whole.slice(start, table.num_rows))
        start += table.num_rows
    return cut
