"""Any input, planned: where its rows lie, without having read them.

A source is a list of blocks (row groups, record batches) in arrays. Any range of rows can be cut from it
in the time of a binary search, and the cut is a small value that a worker can read by itself.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from batchrun.data.files import stamp
from batchrun.data.table import Labels, Part, Slice
from batchrun.errors import InputError, StoreError
from batchrun.split import ByFile, ByGroup, Split

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

__all__ = ["Source", "open_source"]

IN_MEMORY_LIMIT = 256 * 2**20
"""Bytes of input, in memory, up to which the client itself brings groups together."""


@dataclass(frozen=True, eq=False)
class Source:
    """A planned input."""

    format: Literal["parquet", "arrow"]
    """How its files are written."""
    files: tuple[str, ...]
    """Its files, absolute paths or URLs, in order."""
    stamps: tuple[str, ...]
    """Size and time of change of each file when it was planned."""
    block_files: Integers
    """The number of the file of each block, shape (blocks,); blocks without rows are left out."""
    block_numbers: Integers
    """The number of each block within its file, shape (blocks,)."""
    block_starts: Integers
    """The first row of each block, and one past the last row, shape (blocks + 1,)."""
    columns: tuple[str, ...] | None
    """The columns to read, those of a pandas index among them; None for all."""
    schema: pa.Schema
    """The columns and their types, projected."""
    cast: bool
    """Whether some file has other types than the schema, so that slices must be cast."""
    labels: Labels | None
    """The pandas labels of the rows where they are a range; None where they are columns."""
    bytes_per_row: float
    """Bytes that a row takes in memory, projected; an estimate for text and nested columns of files."""
    description: str
    """What it is, for people: "flights.parquet", "DataFrame"."""
    fingerprint: str
    """Equal for equal inputs; another one means another input."""
    file_starts: Integers | None
    """The first row of each file of the input, shape (files,); None for a frame in memory."""
    group_starts: Integers | None = None
    """The first row of each group of a split by group, shape (groups,); None for other splits."""

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return int(self.block_starts[-1])

    def slice(self, start: int, stop: int) -> Slice:
        """The rows from *start* up to *stop*, clipped to those there are."""
        import numpy as np

        start = min(max(start, 0), self.rows)
        stop = min(max(stop, start), self.rows)
        parts: list[Part] = []
        if stop == start and len(self.block_files):
            # A block read for none of its rows gives the types, categories included.
            parts = [Part(self.files[int(self.block_files[0])], int(self.block_numbers[0]), 1, 0, 0)]
        elif stop > start:
            first = int(np.searchsorted(self.block_starts, start, side="right")) - 1
            last = int(np.searchsorted(self.block_starts, stop, side="left"))
            parts = self._parts(first, last, start, stop)
        labels = self.labels.after(start) if self.labels is not None else None
        schema = self._schema_bytes if self.cast or not parts else None
        return Slice(self.format, tuple(parts), self.columns, start, stop - start, labels, schema)

    def _parts(self, first: int, last: int, start: int, stop: int) -> list[Part]:
        """Blocks *first* up to *last*, neighbours of one file put together."""
        import numpy as np

        files = self.block_files[first:last]
        numbers = self.block_numbers[first:last]
        breaks = (np.diff(files) != 0) | (np.diff(numbers) != 1)
        edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), last - first]
        parts = []
        for low, high in itertools.pairwise(edges):
            begin = int(self.block_starts[first + low])
            end = int(self.block_starts[first + high])
            skip = max(0, start - begin)
            rows = min(end, stop) - begin - skip
            parts.append(Part(self.files[files[low]], int(numbers[low]), high - low, skip, rows))
        return parts

    @property
    def _schema_bytes(self) -> bytes:
        return bytes(self.schema.serialize())

    def check_unchanged(self) -> None:
        """Make sure that the files are those that were planned.

        Raises InputError, naming the file, if one was changed or removed.
        """
        for path, planned in zip(self.files, self.stamps, strict=True):
            try:
                now = stamp(path)
            except OSError as error:
                raise InputError(f"{path} was removed after the run was planned; start a new run") from error
            if now != planned:
                raise InputError(f"{path} was changed after the run was planned; start a new run")

    def save(self, path: str) -> None:
        """Write the plan as one Arrow file, for another process to go on with. Raises StoreError."""
        import pyarrow as pa

        from batchrun.data.load import write_table

        head = {
            "format": self.format,
            "columns": self.columns,
            "cast": self.cast,
            "labels": None
            if self.labels is None
            else [self.labels.start, self.labels.step, self.labels.name],
            "bytes_per_row": self.bytes_per_row,
            "description": self.description,
            "fingerprint": self.fingerprint,
        }
        numbers = pa.large_list(pa.int64())
        names = pa.large_list(pa.string())
        fields: dict[str, pa.Array] = {
            "head": pa.array([json.dumps(head)]),
            "schema": pa.array([self._schema_bytes], pa.large_binary()),
            "files": pa.array([self.files], names),
            "stamps": pa.array([self.stamps], names),
        }
        for name in ("block_files", "block_numbers", "block_starts", "file_starts", "group_starts"):
            fields[name] = pa.array([getattr(self, name)], numbers)
        write_table(pa.table(fields), path)

    @classmethod
    def read(cls, path: str) -> Source:
        """The plan that ``save`` wrote. Raises StoreError if it is gone or cannot be read."""
        import pyarrow as pa

        from batchrun.data.load import read_stored

        table = read_stored(path)
        if table.num_rows != 1 or "head" not in table.column_names:
            raise StoreError(f"{path} is not the plan of an input")
        head = json.loads(table["head"][0].as_py())

        def numbers(name: str) -> Any:
            values = table[name][0].values
            return None if values is None else values.to_numpy(zero_copy_only=False)

        return cls(
            format=head["format"],
            files=tuple(table["files"][0].as_py()),
            stamps=tuple(table["stamps"][0].as_py()),
            block_files=numbers("block_files"),
            block_numbers=numbers("block_numbers"),
            block_starts=numbers("block_starts"),
            columns=None if head["columns"] is None else tuple(head["columns"]),
            schema=pa.ipc.read_schema(pa.py_buffer(table["schema"][0].as_py())),
            cast=head["cast"],
            labels=None if head["labels"] is None else Labels(*head["labels"]),
            bytes_per_row=head["bytes_per_row"],
            description=head["description"],
            fingerprint=head["fingerprint"],
            file_starts=numbers("file_starts"),
            group_starts=numbers("group_starts"),
        )


def open_source(
    data: Any,
    *,
    columns: tuple[str, ...] | None,
    split: Split,
    spool: str,
    regroup: Callable[[Source, tuple[str, ...], str], Source],
    in_memory_limit: int = IN_MEMORY_LIMIT,
) -> Source:
    """Plan any input: a pandas, polars or Arrow frame, or the path, folder, glob or URL of files.

    Parquet and Arrow IPC files are planned from their metadata and stay where they are; of a split by group
    the group columns are read. A frame, and CSV, is written once into *spool*, a folder that is made when it
    is needed. ``key=value`` folders are read as folders; they add no columns.

    Args:
        data: The input.
        columns: The columns to keep; None for all. Those of a pandas index are kept too.
        split: How the input will be cut; by group, the rows of a group become neighbours.
        spool: A folder, by path or URL, for what must be written.
        regroup: Lays a source out anew so that groups are whole, given the group columns and a folder;
            called only where the input is larger than *in_memory_limit*.
        in_memory_limit: Bytes in memory up to which groups are brought together in this process.

    Raises InputError if the input is missing, unreadable, lacks a column or is of an unknown kind.
    """
    from batchrun.data.files import join
    from batchrun.data.regroup import group_starts, regroup_here, spool_grouped

    groups = split.columns if isinstance(split, ByGroup) else None
    if isinstance(data, (str, os.PathLike)):
        from batchrun.data.planning import plan_files

        source = plan_files(data, columns, spool)
    else:
        if isinstance(split, ByFile):
            raise InputError("by_file() needs files: give a path, a glob or a folder, not a frame in memory")
        from batchrun.data.spool import input_table, spool_table

        table, path = input_table(data, columns), join(spool, "input.arrow")
        if groups is not None and table.nbytes <= in_memory_limit:
            return spool_grouped(table, groups, path, _kind_of(data))
        source = spool_table(table, path, _kind_of(data))
    if groups is None:
        return source
    starts = group_starts(source, groups)
    if starts is not None:
        return replace(source, group_starts=starts)
    small = source.rows * source.bytes_per_row <= in_memory_limit
    return (regroup_here if small else regroup)(source, groups, join(spool, "grouped"))


def _kind_of(frame: Any) -> str:
    """What a frame in memory is called in reports."""
    package = type(frame).__module__.partition(".")[0]
    prefix = {"polars": "polars ", "pyarrow": "Arrow "}.get(package, "")
    return prefix + type(frame).__name__
