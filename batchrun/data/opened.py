"""Files that this process has open: their footers are read once, their pages mapped once.

A worker reads many slices of few files. What is kept is small: a footer, a mapping, and at most a few
decoded row groups, because a row group that is larger than a chunk would else be decoded for every one.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batchrun.data.files import is_local, open_for_reading, stamp

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ArrowFile", "ParquetFile", "close_files", "open_arrow", "open_parquet"]

_MOST_FILES = 64
"""Files kept open."""
_MOST_DECODED = 128 * 2**20
"""Bytes of decoded row groups kept."""


@dataclass
class ArrowFile:
    """An open Arrow IPC file."""

    reader: Any
    """A pyarrow RecordBatchFileReader, limited to some columns."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """The reader is not made for several threads."""

    @property
    def schema(self) -> pa.Schema:
        """The columns that it reads."""
        return self.reader.schema

    @property
    def blocks(self) -> int:
        """Record batches in the file."""
        return int(self.reader.num_record_batches)

    def batch(self, number: int) -> pa.RecordBatch:
        """One record batch, mapped if the file is local and not compressed."""
        with self.lock:
            return self.reader.get_batch(number)

    def batch_with_note(self, number: int) -> tuple[pa.RecordBatch, dict[bytes, bytes]]:
        """One record batch and what was written beside it."""
        with self.lock:
            both = self.reader.get_batch_with_custom_metadata(number)
        return both.batch, dict(both.custom_metadata or {})


@dataclass(frozen=True)
class ParquetFile:
    """The footer of a Parquet file."""

    path: str
    """Where it is."""
    mark: str
    """Size and time of change when the footer was read."""
    metadata: Any
    """A pyarrow FileMetaData."""
    schema: pa.Schema
    """All columns."""

    def first_row(self, group: int) -> int:
        """The number of the first row of a row group within the file; of one past the last, all rows."""
        return self._starts[group]

    @cached_property
    def _starts(self) -> list[int]:
        groups = range(self.metadata.num_row_groups)
        rows = (int(self.metadata.row_group(group).num_rows) for group in groups)
        return list(itertools.accumulate(rows, initial=0))

    def read(self, first: int, count: int, columns: list[str] | None, *, partly: bool) -> pa.Table:
        """Some row groups; kept for the next time if only a part of them is wanted now."""
        if not partly:
            return self._decode(first, count, columns)
        import pyarrow as pa

        tables = []
        for group in range(first, first + count):
            key = (self.path, self.mark, group, tuple(columns) if columns is not None else None)
            table = _decoded.get(key)
            if table is None:
                table = self._decode(group, 1, columns)
                _decoded.put(key, table)
            tables.append(table)
        return pa.concat_tables(tables) if len(tables) > 1 else tables[0]

    def _decode(self, first: int, count: int, columns: list[str] | None) -> pa.Table:
        import pyarrow.parquet as pq

        with (
            open_for_reading(self.path) as file,
            pq.ParquetFile(file, metadata=self.metadata, pre_buffer=True) as reader,
        ):
            table = reader.read_row_groups(list(range(first, first + count)), columns=columns)
        return table if columns is None else table.select(columns)


class _Opened:
    """The files opened last, by path; forgotten when they changed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[Any, tuple[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, mark: str) -> Any:
        with self._lock:
            found = self._files.get(key)
            if found is None or found[0] != mark:
                return None
            self._files.move_to_end(key)
            return found[1]

    def put(self, key: Any, mark: str, file: Any) -> None:
        with self._lock:
            self._files[key] = (mark, file)
            self._files.move_to_end(key)
            while len(self._files) > self._most:
                self._files.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._files.clear()


class _Decoded:
    """The row groups decoded last, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._tables: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> Any:
        with self._lock:
            table = self._tables.get(key)
            if table is not None:
                self._tables.move_to_end(key)
            return table

    def put(self, key: Any, table: Any) -> None:
        size = table.nbytes
        if size > self._most:
            return
        with self._lock:
            if key in self._tables:
                return
            self._tables[key] = table
            self._bytes += size
            while self._bytes > self._most:
                _, gone = self._tables.popitem(last=False)
                self._bytes -= gone.nbytes

    def clear(self) -> None:
        with self._lock:
            self._tables.clear()
            self._bytes = 0


_arrow = _Opened(_MOST_FILES)
_parquet = _Opened(_MOST_FILES)
_decoded = _Decoded(_MOST_DECODED)


def open_arrow(path: str, columns: tuple[str, ...] | None = None, *, keep: bool = True) -> ArrowFile:
    """An Arrow IPC file, limited to *columns*, opened now or before.

    Without *keep* a local file is mapped anew, and its pages go with the tables that are read from it. Pages
    of a mapping that stays count as memory of the process: a worker that reads slice after slice of one large
    file would be ended for memory that it does not hold.

    Raises OSError or a pyarrow error if it is missing or not such a file, KeyError for a missing column.
    """
    import pyarrow as pa

    keep = keep or not is_local(path)
    mark = stamp(path) if keep else ""
    key = (path, columns)
    file = _arrow.get(key, mark) if keep else None
    if file is None:
        reader = pa.ipc.open_file(open_for_reading(path))
        if columns is not None and list(columns) != reader.schema.names:
            wanted = [_position(reader.schema, name) for name in columns]
            if wanted:  # an empty list would mean every column
                options = pa.ipc.IpcReadOptions(included_fields=wanted)
                reader = pa.ipc.open_file(open_for_reading(path), options=options)
        file = ArrowFile(reader)
        if keep:
            _arrow.put(key, mark, file)
    opened: ArrowFile = file
    return opened


def open_parquet(path: str) -> ParquetFile:
    """A Parquet file whose footer is read now or was read before.

    Raises OSError or a pyarrow error if it is missing or not such a file.
    """
    import pyarrow.parquet as pq

    mark = stamp(path)
    file = _parquet.get(path, mark)
    if file is None:
        with open_for_reading(path) as source, pq.ParquetFile(source) as reader:
            file = ParquetFile(path, mark, reader.metadata, reader.schema_arrow)
        _parquet.put(path, mark, file)
    return file  # type: ignore[no-any-return]


def close_files() -> None:
    """Let go of every file, as is needed before a folder can be removed on Windows."""
    for cache in (_arrow, _parquet, _decoded):
        cache.clear()


def _position(schema: pa.Schema, name: str) -> int:
    position = schema.get_field_index(name)
    if position < 0:
        raise KeyError(name)
    return int(position)
