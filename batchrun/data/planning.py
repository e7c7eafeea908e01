"""From files to a source: blocks, types and labels, read from their metadata alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from batchrun.data.files import stamp
from batchrun.data.listing import list_input
from batchrun.data.opened import open_arrow, open_parquet
from batchrun.data.pandas_frame import pandas_metadata
from batchrun.data.schema import common_type, row_bytes
from batchrun.data.source import Source
from batchrun.data.table import LABELS_KEY, Labels, labels_of
from batchrun.errors import InputError, near_miss

if TYPE_CHECKING:
    from batchrun.data.source import Integers

__all__ = ["missing_column", "path_keys", "plan_blocks", "plan_files", "range_labels"]


@dataclass(frozen=True)
class FilePlan:
    """What the metadata of one file says."""

    path: str
    """The file."""
    mark: str
    """Size and time of change."""
    schema: pa.Schema
    """All its columns."""
    rows: Sequence[int]
    """Rows of each block."""
    text_bytes: float
    """Bytes of a value without a fixed size, estimated."""


def plan_files(given: str | os.PathLike[str], columns: tuple[str, ...] | None, spool: str) -> Source:
    """The source of a path, folder, glob or URL; CSV is written to *spool* first.

    Raises InputError for what cannot be found or read, and for a missing column.
    """
    listing = list_input(given)
    if listing.format == "csv":
        from batchrun.data.csv_spool import spool_csv

        return spool_csv(listing, columns, spool)
    return plan_blocks(listing.format, listing.files, columns, listing.description)


def plan_blocks(
    kind: Literal["parquet", "arrow"],
    files: Sequence[str],
    columns: tuple[str, ...] | None,
    description: str,
) -> Source:
    """The source of Parquet or Arrow IPC files. Raises InputError as plan_files does."""
    read = _plan_parquet if kind == "parquet" else _plan_arrow
    plans: list[FilePlan] = []
    wanted: tuple[str, ...] | None = None
    schema = pa.schema([])
    cast = False
    for path in files:
        plan = _explained(path, read, columns)
        if not plans:
            wanted = _with_index(plan, columns)
            schema = _project(plan, wanted)
        else:
            schema, differs = _agree(schema, plan, wanted, plans[0].path)
            cast = cast or differs
        plans.append(plan)
    rows = np.array([count for plan in plans for count in plan.rows], dtype=np.int64)
    counts = np.array([len(plan.rows) for plan in plans], dtype=np.int64)
    numbers = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = (rows > 0) | ((np.arange(len(rows)) == 0) & (rows.sum() == 0))
    file_rows = np.array([sum(plan.rows) for plan in plans], dtype=np.int64)
    labels = range_labels(schema, int(rows.sum()))
    if labels is not None and len(plans) > 1:
        labels = Labels(0)  # each file has labels of its own, which may be the same
    marks = tuple(plan.mark for plan in plans)
    text = float(np.mean([plan.text_bytes for plan in plans]))
    return Source(
        format=kind,
        files=tuple(files),
        stamps=marks,
        block_files=np.repeat(np.arange(len(plans), dtype=np.int64), counts)[held],
        block_numbers=numbers[held].astype(np.int64),
        block_starts=_starts(rows[held]),
        columns=wanted,
        schema=_without_labels(schema),
        cast=cast,
        labels=labels,
        bytes_per_row=row_bytes(schema.types, text),
        description=description,
        fingerprint=_fingerprint(files, marks, wanted),
        file_starts=_starts(file_rows)[:-1],
        file_keys=path_keys(files),
    )


def path_keys(files: Sequence[str]) -> Integers:
    """A hash of each path, the same in every process, shape (files,)."""
    digests = [hashlib.blake2b(path.encode(), digest_size=8).digest() for path in files]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def missing_column(name: str, have: Sequence[str], where: str) -> InputError:
    """The error for a column that is not there."""
    shown = ", ".join(have[:30]) + (f" and {len(have) - 30} more" if len(have) > 30 else "")
    return InputError(f"{where} has no column {name!r}.{near_miss(name, have)} It has: {shown or 'none'}")


def _explained(path: str, read: Any, columns: tuple[str, ...] | None) -> FilePlan:
    try:
        return read(path, columns)  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; check the path") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read; it is damaged or of another format: {error}") from error


def _plan_parquet(path: str, columns: tuple[str, ...] | None) -> FilePlan:
    file = open_parquet(path)
    groups = file.metadata.num_row_groups
    rows = [int(file.metadata.row_group(group).num_rows) for group in range(groups)]
    return FilePlan(path, file.mark, file.schema, rows, _text_bytes(file.metadata, columns))


def _plan_arrow(path: str, columns: tuple[str, ...] | None) -> FilePlan:
    schema = open_arrow(path).schema
    # A compressed batch is decompressed to learn its length: one narrow column is enough for that.
    narrow = min(schema, key=lambda field: row_bytes([field.type]), default=None)
    file = open_arrow(path, (narrow.name,) if narrow is not None and _unique(schema) else None)
    rows = [file.batch(number).num_rows for number in range(file.blocks)]
    return FilePlan(path, stamp(path), schema, rows, 16.0)


def _unique(schema: pa.Schema) -> bool:
    return len(set(schema.names)) == len(schema.names)


def _text_bytes(metadata: Any, columns: tuple[str, ...] | None) -> float:
    """Bytes of a text value, from the smallest and largest value of the first row group."""
    lengths = []
    if metadata.num_row_groups:
        group = metadata.row_group(0)
        for number in range(min(group.num_columns, 200)):
            column = group.column(number)
            if column.physical_type != "BYTE_ARRAY" or not column.is_stats_set:
                continue
            statistics = column.statistics
            if statistics.has_min_max and (columns is None or column.path_in_schema in columns):
                lengths.append((len(statistics.min_raw) + len(statistics.max_raw)) / 2)
    return float(np.mean(lengths)) if lengths else 16.0


def _with_index(plan: FilePlan, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The columns to read, checked, and those that hold a pandas index."""
    names = plan.schema.names
    if not _unique(plan.schema):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{plan.path} has two columns named {twice!r}; rename one of them")
    if columns is None:
        return None
    for name in columns:
        if name not in names:
            raise missing_column(name, names, plan.path)
    index = [name for name in _index_columns(plan.schema) if name in names]
    return tuple(dict.fromkeys([*columns, *index]))


def _index_columns(schema: pa.Schema) -> list[str]:
    kept = pandas_metadata(schema).get("index_columns", [])
    return [name for name in kept if isinstance(name, str)]


def _project(plan: FilePlan, wanted: tuple[str, ...] | None) -> pa.Schema:
    if wanted is None:
        return plan.schema
    return pa.schema([plan.schema.field(name) for name in wanted], metadata=plan.schema.metadata)


def _agree(
    schema: pa.Schema, plan: FilePlan, wanted: tuple[str, ...] | None, first: str
) -> tuple[pa.Schema, bool]:
    """The schema that holds the rows of one more file too, and whether anything differs."""
    if plan.schema.equals(schema):
        return schema, False
    if not _unique(plan.schema):
        _with_index(plan, None)
    names = plan.schema.names
    if wanted is None:
        extra = [name for name in names if schema.get_field_index(name) < 0]
        if extra:
            raise InputError(
                f"{plan.path} has a column {extra[0]!r} that {first} does not have; say which columns to "
                "read with columns=[...]"
            )
    differs = wanted is None and names != schema.names
    fields = []
    for field in schema:
        position = plan.schema.get_field_index(field.name)
        if position < 0:
            raise missing_column(field.name, names, plan.path)
        other = plan.schema.field(position)
        kind = common_type(field.type, other.type)
        if kind is None:
            raise InputError(
                f"column {field.name!r} is {other.type} in {plan.path} and {field.type} before; "
                "write the files with one type"
            )
        joined = pa.field(field.name, kind, field.nullable or other.nullable, field.metadata)
        differs = differs or not (joined.equals(field) and joined.equals(other))
        fields.append(joined)
    return pa.schema(fields, metadata=schema.metadata), differs


def range_labels(schema: pa.Schema, rows: int) -> Labels | None:
    """How pandas would label the rows of one table: as it labelled them before, else by number.

    None if the labels are columns of the table.
    """
    own = labels_of(schema)
    if own is not None:
        return own
    index = pandas_metadata(schema).get("index_columns", [])
    if any(isinstance(name, str) and schema.get_field_index(name) >= 0 for name in index):
        return None
    kept = next((entry for entry in index if isinstance(entry, dict)), None)
    if kept is None:
        return Labels(0)
    fits = len(range(kept["start"], kept["stop"], kept["step"])) == rows
    return Labels(kept["start"], kept["step"], kept["name"]) if fits else Labels(0, 1, kept["name"])


def _without_labels(schema: pa.Schema) -> pa.Schema:
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != LABELS_KEY}
    return schema.with_metadata(metadata or None)


def _starts(counts: Integers) -> Integers:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _fingerprint(files: Sequence[str], marks: Sequence[str], columns: tuple[str, ...] | None) -> str:
    text = "\n".join([repr(columns), *(f"{path} {mark}" for path, mark in zip(files, marks, strict=True))])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
