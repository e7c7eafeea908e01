"""Any input, planned: where its rows lie, without having read them.

A source is a list of blocks (row groups, record batches) in arrays. Any range of rows can be cut from it
in the time of a binary search, and the cut is a small value that a worker can read by itself.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from batchrun.data.files import exists, is_local, stamp
from batchrun.data.filtering import Filter
from batchrun.data.table import Labels, Part, Slice
from batchrun.errors import InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

__all__ = ["Source"]

_NUMBERS = (
    *("block_files", "block_numbers", "block_starts"),
    *("file_starts", "file_keys", "group_starts", "group_keys"),
)
"""The fields that are arrays of int64."""


@dataclass(frozen=True, eq=False)
class Source:
    """A planned input."""

    format: Literal["parquet", "arrow"]
    """How its files are written."""
    files: tuple[str, ...]
    """Its files, absolute paths or URLs, in order."""
    stamps: tuple[str, ...]
    """Size and time of change of each file when it was planned; empty for one that was yet to be written."""
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
    file_keys: Integers | None = None
    """A hash of the path of each file of the input, shape (files,); None for a frame in memory."""
    group_starts: Integers | None = None
    """The first row of each group of a split by group, shape (groups,); None for other splits."""
    group_keys: Integers | None = None
    """A hash of the values of each of these groups, the same in every run and process, shape (groups,)."""
    spool: str | None = None
    """The folder of its files where the run wrote them itself; None where they are the user's."""
    where: Filter | None = None
    """Which rows workers pass on; None for all. It takes no rows from the input: those that are left out are
    rows without a result."""

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return int(self.block_starts[-1])

    @property
    def is_mapped(self) -> bool:
        """Whether its rows are there as soon as they are asked for: local files that need no decoding."""
        return self.format == "arrow" and all(map(is_local, self.files))

    def slice(self, start: int, stop: int) -> Slice:
        """The rows from *start* up to *stop*, clipped to those there are."""
        starts = self._starts
        start = min(max(start, 0), starts[-1])
        stop = min(max(stop, start), starts[-1])
        parts: tuple[Part, ...] = ()
        if stop > start:
            first = bisect_right(starts, start) - 1
            begin = starts[first]
            if stop <= starts[first + 1]:
                parts = (Part(*self._block(first), 1, start - begin, stop - start),)
            else:
                parts = self._parts(first, bisect_left(starts, stop), start, stop)
        elif len(self.block_files):
            # A block read for none of its rows gives the types, categories included.
            parts = (Part(*self._block(0), 1, 0, 0),)
        labels = self.labels.after(start) if self.labels is not None else None
        schema = self._schema_bytes if self.cast or not parts else None
        return Slice(self.format, parts, self.columns, start, stop - start, labels, schema, self.where)

    def keys(self, starts: Integers, stops: Integers) -> Integers:
        """A number for each chunk by which it is known in other runs, never 0, shape (chunks,).

        *starts* and *stops* are the first rows of chunks and one past their last, shape (chunks,). The key of
        a chunk of whole groups is made of their values, that of a whole file of its path, any other of the
        fingerprint of the input and its rows.
        """
        import numpy as np

        if self.group_starts is not None and self.group_keys is not None:
            sums = np.cumsum(_mixed(self.group_keys.view(np.uint64)))
            sums = np.concatenate([np.zeros(1, np.uint64), sums])
            first = np.searchsorted(self.group_starts, starts)
            last = np.searchsorted(self.group_starts, stops)
            found = _mixed(sums[last] - sums[first])
        else:
            seed = np.uint64(int(self.fingerprint[:16], 16))
            rows = _mixed(np.asarray(starts).astype(np.uint64) ^ seed)
            found = _mixed(rows + np.asarray(stops).astype(np.uint64))
            if self.file_starts is not None and self.file_keys is not None and len(self.file_starts):
                ends = np.append(self.file_starts[1:], self.rows)
                at = np.searchsorted(self.file_starts, starts, side="right") - 1
                whole = (self.file_starts[at] == starts) & (ends[at] == stops)
                found = np.where(whole, self.file_keys[at].view(np.uint64), found)
        return np.where(found == 0, np.uint64(1), found).view(np.int64)

    def _block(self, number: int) -> tuple[str, int]:
        """The file of a block and its number in there."""
        return self.files[self._block_files[number]], self._block_numbers[number]

    def _parts(self, first: int, last: int, start: int, stop: int) -> tuple[Part, ...]:
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
        return tuple(parts)

    # Views of the arrays whose items are plain integers, which is what makes slicing fast.

    @cached_property
    def _starts(self) -> memoryview:
        return self.block_starts.data

    @cached_property
    def _block_files(self) -> memoryview:
        return self.block_files.data

    @cached_property
    def _block_numbers(self) -> memoryview:
        return self.block_numbers.data

    @cached_property
    def _schema_bytes(self) -> bytes:
        return bytes(self.schema.serialize())

    def check_unchanged(self, needed: tuple[Integers, Integers] | None = None) -> None:
        """Make sure that the files are there and are those that were planned.

        *needed* holds the first rows of the chunks that are not solved and one past their last: of what the
        run wrote itself only that is looked for, since the rest was removed. None stands for all rows.

        Raises InputError, naming the file, if one was changed or removed.
        """
        numbers = range(len(self.files))
        if self.spool is not None and needed is not None:
            numbers = self._files_of(*needed)
        for number in numbers:
            path, planned = self.files[number], self.stamps[number]
            try:
                now = stamp(path)
            except OSError as error:
                raise InputError(self._why_gone(path)) from error
            if planned and now != planned:
                raise InputError(f"{path} was changed after the run was planned; start a new run")

    def _files_of(self, starts: Integers, stops: Integers) -> Any:
        """The numbers of the files in which those rows lie, rising."""
        import numpy as np

        depth = np.zeros(len(self.block_files) + 1, np.int64)
        np.add.at(depth, np.searchsorted(self.block_starts, starts, side="right") - 1, 1)
        np.add.at(depth, np.searchsorted(self.block_starts, stops, side="left"), -1)
        return np.unique(self.block_files[np.cumsum(depth)[:-1] > 0]).tolist()

    def _why_gone(self, path: str) -> str:
        if self.spool is None:
            return f"{path} was removed after the run was planned; start a new run"
        if exists(self.spool):
            return (
                f"{self.description} was not written in full before the run was stopped, and {path} is not "
                "there; start a new run with it"
            )
        return (
            f"what was written of {self.description} is no longer there; shared memory does not outlive a "
            "restart of the machine, and is not seen from another one. Start a new run"
        )

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
            "spool": self.spool,
            "hidden": None if self.where is None else self.where.hidden,
        }
        conditions = None if self.where is None else self.where.conditions
        fields: dict[str, pa.Array] = {
            "head": _strings(pa.large_string(), [json.dumps(head).encode()]),
            "schema": _strings(pa.large_binary(), [self._schema_bytes]),
            "files": _listed(_strings(pa.large_string(), [file.encode() for file in self.files])),
            "stamps": _listed(_strings(pa.large_string(), [text.encode() for text in self.stamps])),
            "where": _strings(pa.large_binary(), [conditions])
            if conditions
            else pa.nulls(1, pa.large_binary()),
        }
        for name in _NUMBERS:
            numbers = getattr(self, name)
            fields[name] = (
                pa.nulls(1, pa.large_list(pa.int64())) if numbers is None else _listed(_numbers(numbers))
            )
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
            columns=None if head["columns"] is None else tuple(head["columns"]),
            schema=pa.ipc.read_schema(pa.py_buffer(table["schema"][0].as_py())),
            cast=head["cast"],
            labels=None if head["labels"] is None else Labels(*head["labels"]),
            bytes_per_row=head["bytes_per_row"],
            description=head["description"],
            fingerprint=head["fingerprint"],
            spool=head["spool"],
            where=None
            if head["hidden"] is None
            else Filter(table["where"][0].as_py(), tuple(head["hidden"])),
            **{name: numbers(name) for name in _NUMBERS},
        )


# A plan is written by who queues a run, at once. ``pa.array`` would import pandas first, for half a second.


def _numbers(values: Integers) -> pa.Array:
    """An array of int64 over the numbers, which are not copied."""
    import numpy as np
    import pyarrow as pa

    data = pa.py_buffer(np.ascontiguousarray(values, np.int64))
    return pa.Array.from_buffers(pa.int64(), len(values), [None, data])


def _strings(kind: pa.DataType, values: Sequence[bytes]) -> pa.Array:
    """An array of large strings or large binaries."""
    import numpy as np
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, values)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _listed(values: pa.Array) -> pa.Array:
    """An array of one list, of all the values."""
    import numpy as np
    import pyarrow as pa

    ends = pa.py_buffer(np.array([0, len(values)], np.int64))
    return pa.Array.from_buffers(pa.large_list(values.type), 1, [None, ends], children=[values])


def _mixed(values: Any) -> Any:
    """Numbers in which every bit depends on every bit of *values*, uint64 (S. Vigna's splitmix64)."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
