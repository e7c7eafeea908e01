"""Results: many small ones collected into few files, and all of them read back in input order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.data.files import filesystem, is_local, join, local_path, write_atomically
from batchrun.data.opened import ArrowFile, open_arrow
from batchrun.data.schema import conform
from batchrun.data.table import (
    LABELS_KEY,
    Stored,
    batches_of,
    decode,
    is_unnamed_index,
    to_frame,
    with_labels,
)
from batchrun.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.dataset as ds

    from batchrun.signature import FrameKind

__all__ = ["ResultRef", "ResultSet", "SegmentWriter"]

TO_THE_END = -1


@dataclass(frozen=True)
class ResultRef:
    """Where the result of one chunk lies."""

    path: str
    """An Arrow IPC file, by path or URL."""
    first_batch: int
    """The number of its first record batch in the file."""
    batches: int
    """How many record batches; -1 for all that follow."""
    rows: int
    """Rows of the result."""
    nbytes: int
    """Bytes that it takes in memory."""

    @classmethod
    def of(cls, stored: Stored) -> ResultRef:
        """The place of a result that a worker wrote to a file of its own."""
        return cls(stored.path, 0, TO_THE_END, stored.rows, stored.nbytes)


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
        self._waiting: dict[int, bytes] = {}
        self._bytes = 0

    @property
    def pending(self) -> int:
        """Results that wait to be written."""
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
        self._bytes += len(data) - len(self._waiting.get(chunk, b""))
        self._waiting[chunk] = data

    def flush(self) -> dict[int, ResultRef]:
        """Write what waits and say where each result lies.

        A segment holds results of one schema, chunks in rising order; results of other schemas go to
        further segments. All are durable on return. Raises StoreError, and then keeps what waits.
        """
        kinds: dict[bytes, list[tuple[int, pa.Table]]] = {}
        for chunk in sorted(self._waiting):
            table = decode(self._waiting[chunk])
            kinds.setdefault(_kind(table), []).append((chunk, table))
        refs: dict[int, ResultRef] = {}
        number = self._next
        for results in kinds.values():
            path = join(self._folder, f"segment-{number:06d}.arrow")
            refs.update(_write_segment(path, results))
            number += 1
        self._next = number
        self._waiting.clear()
        self._bytes = 0
        return refs


def _kind(table: pa.Table) -> bytes:
    """What tables must share to lie in one file; how many categories each has is no part of it."""
    plain = with_labels(table, None).schema
    return re.sub(rb'"num_categories": \d+', b"", bytes(plain.serialize()))


def _write_segment(path: str, results: Sequence[tuple[int, pa.Table]]) -> dict[int, ResultRef]:
    import pyarrow as pa

    refs = {}
    schema = with_labels(results[0][1], None).schema
    tables = _one_dictionary([with_labels(table, None) for _, table in results])
    position = 0
    with write_atomically(path) as file, pa.ipc.new_file(file, schema) as writer:
        for (chunk, table), plain in zip(results, tables, strict=True):
            note = (table.schema.metadata or {}).get(LABELS_KEY)
            batches = batches_of(plain)
            for batch in batches:
                writer.write_batch(batch, custom_metadata={LABELS_KEY: note} if note else None)
            refs[chunk] = ResultRef(path, position, len(batches), table.num_rows, table.nbytes)
            position += len(batches)
    return refs


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


class ResultSet:
    """The results of a run.

    Args:
        chunks: The numbers of the chunks that have a result, in any order.
        refs: Where the result of each lies.
    """

    def __init__(self, chunks: Sequence[int], refs: Sequence[ResultRef]) -> None:
        order = sorted(range(len(chunks)), key=lambda position: chunks[position])
        self._chunks = [chunks[position] for position in order]
        self._refs = [refs[position] for position in order]

    def __len__(self) -> int:
        return len(self._refs)

    @property
    def rows(self) -> int:
        """Rows of all results together."""
        return sum(ref.rows for ref in self._refs)

    def parts(self, kind: FrameKind) -> Iterator[Any]:
        """The result of each chunk as a frame, in chunk order; those without a column are left out."""
        for table in self._tables():
            if table.num_columns or table.num_rows:
                yield to_frame(table, kind)

    def to_table(self) -> pa.Table:
        """All results as one Arrow table, in chunk order.

        Columns come in order of first appearance; one that a chunk lacks is filled with nulls there, and
        numbers of different types widen. Raises ResultError if a column is text in one chunk and a number
        in another.
        """
        from batchrun.data.joining import join_tables

        return join_tables(self._tables())

    def to_pandas(self) -> pd.DataFrame:
        """All results as one pandas frame, in chunk order, with the index that the stages gave.

        Plain row numbers that begin anew in every chunk are numbered through.
        """
        frame: pd.DataFrame = to_frame(self.to_table(), "pandas")
        return frame

    def scan(self) -> ds.Dataset:
        """All results as a lazy pyarrow dataset, for more than fits in memory.

        Files come in the order of their first chunk, and the rows of a file in chunk order: chunks that were
        written together stand together, so the whole is in input order only as far as chunks ended in it.
        A pandas index is a column if it has a name, and is left out if it has none. Columns and types are
        settled as in ``to_table``.
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        from batchrun.data.joining import common_schema

        by_path: dict[str, list[ResultRef]] = {}
        for ref in self._refs:
            by_path.setdefault(ref.path, []).append(ref)
        files = {path: _opened(path) for path in by_path}
        schema = _plain_schema(common_schema([file.schema for file in files.values() if file.schema.names]))
        whole: list[str] = []
        datasets: list[ds.Dataset] = []
        for path, refs in by_path.items():
            if files[path].schema.names and _covers(refs, files[path].blocks):
                whole.append(path)
            elif files[path].schema.names:
                # A chunk was done again: what the file holds of its first time does not count.
                tables = [with_labels(read_result(ref), None) for ref in refs]
                datasets.append(ds.dataset([conform(table, schema, fill=True) for table in tables]))
        if whole:
            datasets.insert(0, _file_dataset(whole, schema))
        if not datasets:
            return ds.dataset(pa.schema(schema).empty_table())
        return datasets[0] if len(datasets) == 1 else ds.dataset(datasets)

    def _tables(self) -> Iterator[pa.Table]:
        for ref in self._refs:
            yield read_result(ref)


def read_result(ref: ResultRef) -> pa.Table:
    """The result of one chunk. Raises StoreError if its file is gone or cannot be read."""
    import pyarrow as pa

    file = _opened(ref.path)
    stop = file.blocks if ref.batches == TO_THE_END else ref.first_batch + ref.batches
    try:
        read = [file.batch_with_note(number) for number in range(ref.first_batch, stop)]
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{ref.path} cannot be read: {error}") from error
    table = pa.Table.from_batches([batch for batch, _ in read], schema=file.schema)
    note = read[0][1].get(LABELS_KEY) if read else None
    if note is None:
        return table
    return table.replace_schema_metadata({**(table.schema.metadata or {}), LABELS_KEY: note})


def _opened(path: str) -> ArrowFile:
    import pyarrow as pa

    try:
        return open_arrow(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns that a dataset shows."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(field.name, field.type) for field in schema if not is_unnamed_index(field.name)]
    )


def _covers(refs: Sequence[ResultRef], blocks: int) -> bool:
    """Whether these results are all that a file holds."""
    return any(ref.batches == TO_THE_END for ref in refs) or sum(ref.batches for ref in refs) == blocks


def _file_dataset(paths: Sequence[str], schema: pa.Schema) -> ds.Dataset:
    import pyarrow.dataset as ds
    import pyarrow.fs

    if is_local(paths[0]):
        return ds.FileSystemDataset.from_paths(
            [local_path(path) for path in paths],
            schema=schema,
            format=ds.IpcFileFormat(),
            filesystem=pyarrow.fs.LocalFileSystem(use_mmap=True),
        )
    fs, _ = filesystem(paths[0])
    return ds.FileSystemDataset.from_paths(
        [filesystem(path)[1] for path in paths],
        schema=schema,
        format=ds.IpcFileFormat(),
        filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
    )
