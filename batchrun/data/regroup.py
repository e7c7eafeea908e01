"""Bringing the rows of a group together.

Two rows are of one group if their values in the group columns are equal, missing values included: null
equals null, NaN counts as missing, and -0.0 equals 0.0, as in a pandas group-by with ``dropna=False``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchrun.data.files import stamp
from batchrun.data.frame_rows import FrameRows, rows_of_table
from batchrun.data.load import load
from batchrun.data.planning import missing_column
from batchrun.data.schema import plain_type
from batchrun.data.spool import spool_rows, write_rows
from batchrun.data.supply import Supply
from batchrun.data.table import labelled, with_labels
from batchrun.errors import InputError

if TYPE_CHECKING:
    from batchrun.data.source import Integers, Source

__all__ = [
    "Groups",
    "RegroupedFile",
    "assemble",
    "find_groups",
    "labelled",
    "partition_numbers",
    "regroup_here",
    "spool_grouped",
    "write_regrouped",
]


@dataclass(frozen=True)
class Groups:
    """Where groups lie whose rows are neighbours."""

    starts: Integers
    """The first row of each group, shape (groups,)."""
    keys: Integers
    """A hash of the values of each group, the same in every run and process, shape (groups,)."""


def find_groups(source: Source, columns: Sequence[str]) -> Groups | None:
    """The groups of a source if the rows of every group are neighbours; else None.

    Reads only the group columns, block by block, and stops soon after the first group that comes back.

    Raises InputError if a column is missing or of a kind that cannot be compared.
    """
    starts: list[Integers] = []
    hashes: list[Any] = []
    last: pa.Table | None = None
    count, checked, row = 0, 1024, 0
    for block in _key_blocks(source, columns):
        joined = block if last is None else pa.concat_tables([last, block])
        fresh = np.flatnonzero(np.diff(group_codes(joined), prepend=-1 if last is None else 0) != 0)
        starts.append(fresh + (row if last is None else row - 1))
        hashes.append(_hashes(joined.take(pa.array(fresh))))
        last = joined.slice(joined.num_rows - 1)
        row += block.num_rows
        count += len(fresh)
        if count >= checked:
            if not _all_distinct(hashes):
                return None
            checked = 2 * count
    if not starts:
        return Groups(np.zeros(0, np.int64), np.zeros(0, np.int64))
    if not _all_distinct(hashes):
        return None
    return Groups(np.concatenate(starts), np.concatenate(hashes).view(np.int64))


def regroup_here(source: Source, columns: Sequence[str], folder: str) -> Source:
    """Lay the rows out anew in this process, in files in *folder*: whole groups, by their first row.

    The rows of a group keep their order, and all rows keep their labels.
    """
    table = load(source.slice(0, source.rows))
    again, supply = spool_grouped(rows_of_table(table), columns, folder, source.description)
    supply.wait(again.rows)
    return replace(again, fingerprint=source.fingerprint)


def spool_grouped(
    frame: FrameRows, columns: Sequence[str], folder: str, description: str
) -> tuple[Source, Supply]:
    """Plan rows as files of whole groups in *folder*, and begin to write them; see ``spool_rows``.

    Raises InputError if a column is missing or cannot be compared.
    """
    table = frame.convert(0, frame.rows)
    order, groups = _arrange(keys_of(table, columns))
    if order is not None:
        frame = rows_of_table(labelled(with_labels(table, frame.labels)))
    cuts = groups.starts if len(groups.starts) else np.zeros(1, np.int64)
    source, supply = spool_rows(frame, folder, description, cuts, order)
    return replace(source, group_starts=groups.starts, group_keys=groups.keys), supply


def _arrange(keys: pa.Table) -> tuple[Integers | None, Groups]:
    """The order that brings the groups of ``keys_of`` a table together, None if they are, and the groups."""
    codes = group_codes(keys)
    sizes = np.bincount(codes).astype(np.int64) if len(codes) else np.zeros(0, np.int64)
    starts = np.cumsum(sizes) - sizes
    whole = len(codes) == 0 or bool((np.diff(codes) >= 0).all())
    order = None if whole else np.argsort(codes, kind="stable")
    first = starts if order is None else order[starts]
    return order, Groups(starts, _hashes(keys.take(pa.array(first))).view(np.int64))


@dataclass(frozen=True)
class RegroupedFile:
    """One file of whole groups, written by a worker."""

    path: str
    """An Arrow IPC file, by path or URL."""
    lengths: tuple[int, ...]
    """Rows of each of its record batches."""
    groups: bytes
    """Rows of each of its groups in order, as int64."""
    keys: bytes
    """A hash of the values of each of them, as int64."""


def partition_numbers(table: pa.Table, columns: Sequence[str], partitions: int) -> Integers:
    """For each row the partition that its group belongs to, from 0; equal in every process. Shape (rows,)."""
    numbers: Integers = (_hashes(keys_of(table, columns)) % np.uint64(partitions)).astype(np.int64)
    return numbers


def write_regrouped(table: pa.Table, columns: Sequence[str], path: str) -> RegroupedFile:
    """Write the rows of one partition as whole groups, in order of first appearance, rows in their order.

    The rows must be in the order of the input, and every row of each group must be among them.
    """
    order, groups = _arrange(keys_of(table, columns))
    lengths = write_rows(table, path, order)
    sizes = np.diff(groups.starts, append=table.num_rows)
    return RegroupedFile(path, tuple(lengths), sizes.tobytes(), groups.keys.tobytes())


def assemble(source: Source, schema: pa.Schema, files: Sequence[RegroupedFile], folder: str) -> Source:
    """The source of files that ``write_regrouped`` wrote from *source* to *folder*, in the order given.

    *schema* is that of the files.
    """
    none = np.zeros(0, np.int64)
    lengths = [np.array(file.lengths, np.int64) for file in files]
    groups = np.concatenate([none, *(np.frombuffer(file.groups, np.int64) for file in files)])
    keys = np.concatenate([none, *(np.frombuffer(file.keys, np.int64) for file in files)])
    counts = [len(length) for length in lengths]
    return replace(
        source,
        format="arrow",
        files=tuple(file.path for file in files),
        stamps=tuple(stamp(file.path) for file in files),
        block_files=np.repeat(np.arange(len(files), dtype=np.int64), counts),
        block_numbers=np.concatenate([none, *(np.arange(count, dtype=np.int64) for count in counts)]),
        block_starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([none, *lengths]))]),
        columns=None,
        schema=schema,
        cast=False,
        labels=None,
        file_starts=None,
        file_keys=None,
        group_starts=np.cumsum(groups) - groups,
        group_keys=keys,
        spool=folder,
    )


def keys_of(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The group columns in a form whose values can be compared: plain types, NaN missing, no -0.0."""
    keys = []
    for name in columns:
        if name not in table.column_names:
            raise missing_column(name, table.column_names, "the input")
        column = table.column(name)
        kind = plain_type(column.type)
        if kind != column.type:
            column = column.cast(kind)
        if pa.types.is_floating(kind):
            column = column.cast(pa.float64())
            column = pc.add(pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column), 0.0)
        if pa.types.is_nested(kind):
            raise InputError(
                f"by_group({name!r}): values of type {kind} cannot be compared; use a plain column"
            )
        keys.append(column)
    return pa.table(keys, names=[str(number) for number in range(len(keys))])


def group_codes(keys: pa.Table) -> Integers:
    """The number of each row's group, counted by first appearance, shape (rows,), for ``keys_of`` a table."""
    codes: Integers | None = None
    for column in keys.columns:
        more, size = _codes(column)
        codes = more if codes is None else _codes(pa.array(codes * size + more))[0]
    return codes if codes is not None else np.zeros(keys.num_rows, np.int64)


def _codes(column: Any) -> tuple[Integers, int]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    encoded = pc.dictionary_encode(array, null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), len(encoded.dictionary)


def _key_blocks(source: Source, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The keys of each block in turn."""
    for name in columns:
        if source.schema.get_field_index(name) < 0:
            raise missing_column(name, source.schema.names, source.description)
    narrow = replace(
        source,
        columns=tuple(columns),
        schema=pa.schema([source.schema.field(name) for name in columns]),
        labels=None,
        where=None,
    )
    for start, stop in itertools.pairwise(source.block_starts.tolist()):
        if stop > start:
            yield keys_of(load(narrow.slice(start, stop)), columns)


def _all_distinct(hashes: list[Any]) -> bool:
    """Whether no group begins twice; the list is put together on the way.

    Two groups of one hash look like one that comes back, and cost a regrouping that was not needed; of a
    hundred million groups that happens once in some thousand inputs.
    """
    hashes[:] = [np.concatenate(hashes)]
    ordered = np.sort(hashes[0])
    return bool((ordered[1:] != ordered[:-1]).all())


def _hashes(keys: pa.Table) -> Any:
    """A hash of each row of ``keys_of`` a table, the same in every process, as uint64 of shape (rows,)."""
    mixed = np.zeros(keys.num_rows, np.uint64)
    for column in keys.columns:
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + _column_hashes(column)
    return mixed ^ (mixed >> np.uint64(32))


def _column_hashes(column: pa.ChunkedArray) -> Any:
    """A hash of each value that does not depend on the width of a number, nulls and zeros apart."""
    import pandas as pd

    kind = column.type
    null = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        column, kind = column.cast(pa.int32()), pa.int32()
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        values = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy().astype(np.uint64)
    elif pa.types.is_floating(kind):
        values = column.fill_null(0.0).to_numpy().view(np.uint64)
    else:
        binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        text = column.fill_null(b"") if binary else column.cast(pa.large_string()).fill_null("")
        values = pd.util.hash_array(text.to_numpy(zero_copy_only=False), categorize=True)
    values = np.where(null, np.uint64(0xD1B54A32D192ED03), values)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(27))
