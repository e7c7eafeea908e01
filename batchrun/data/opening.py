"""From what a user gives as input to a planned source, and the supply of its rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from batchrun.data.files import join
from batchrun.data.filtering import bind_where
from batchrun.data.shared_memory import MemoryFolder, linked_from
from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.errors import InputError
from batchrun.split import ByFile, ByGroup, Split
from batchrun.where import Where, where_columns

__all__ = ["open_input", "open_source"]

IN_MEMORY_LIMIT = 256 * 2**20
"""Bytes of input, in memory, up to which the client itself brings groups together."""

Regroup = Callable[[Source, tuple[str, ...], str], Source]
"""Lays a source out anew so that groups are whole, given the group columns and a folder."""


def open_input(
    data: Any,
    *,
    columns: tuple[str, ...] | None,
    split: Split,
    spool: str,
    regroup: Regroup,
    where: Where | None = None,
    memory: MemoryFolder | None = None,
    in_memory_limit: int = IN_MEMORY_LIMIT,
) -> tuple[Source, Supply]:
    """Plan any input: a pandas, polars or Arrow frame, or the path, folder, glob or URL of files.

    Parquet and Arrow IPC files are planned from their metadata and stay where they are; of a split by group
    the group columns are read. A frame, and CSV, is written once. A frame is planned before it is: the supply
    writes it in the background, and tells which rows can be read. ``key=value`` folders are read as
    folders; they add no columns.

    Args:
        data: The input.
        columns: The columns to keep; None for all. Those of a pandas index are kept too.
        split: How the input will be cut; by group, the rows of a group become neighbours.
        spool: A folder, by path or URL, for what must be written; it is made when it is needed.
        regroup: Called only where groups are not whole and the input is larger than *in_memory_limit*.
        where: Which rows workers pass on; see ``batchrun.where``.
        memory: A folder in shared memory for a frame that fits there; None writes to *spool*.
        in_memory_limit: Bytes in memory up to which groups are brought together in this process.

    Raises InputError if the input is missing, unreadable, lacks a column or is of an unknown kind.
    """
    named = where_columns(where)
    hidden = tuple(name for name in named if name not in columns) if columns is not None else ()
    wanted = None if columns is None else (*columns, *hidden)
    supply: Supply | None = None
    try:
        source, supply = _planned(data, wanted, split, spool, regroup, memory, in_memory_limit)
        if where is not None:
            source = replace(source, where=bind_where(where, source.schema, source.description, hidden))
    except BaseException:
        if supply is not None:
            supply.discard()
        if memory is not None:
            memory.remove()
        raise
    if memory is not None and (source.spool is None or linked_from(source.spool) is None):
        memory.remove()
    return source, supply


def open_source(data: Any, **options: Any) -> Source:
    """Plan any input as ``open_input`` does, and wait until all of it can be read."""
    source, supply = open_input(data, **options)
    supply.wait(source.rows)
    return source


def _planned(
    data: Any,
    columns: tuple[str, ...] | None,
    split: Split,
    spool: str,
    regroup: Regroup,
    memory: MemoryFolder | None,
    in_memory_limit: int,
) -> tuple[Source, Supply]:
    groups = split.columns if isinstance(split, ByGroup) else None
    if isinstance(data, (str, os.PathLike)):
        from batchrun.data.planning import plan_files

        source = plan_files(data, columns, join(spool, "input"))
        supply = Supply(source)
    else:
        source, supply = _spooled(data, columns, split, spool, memory, in_memory_limit)
    if groups is None or source.group_starts is not None:
        return source, supply
    from batchrun.data.regroup import find_groups, regroup_here

    try:
        supply.wait(source.rows)
        found = find_groups(source, groups)
        if found is not None:
            return replace(source, group_starts=found.starts, group_keys=found.keys), supply
        small = source.rows * source.bytes_per_row <= in_memory_limit
        again = (regroup_here if small else regroup)(source, groups, join(spool, "grouped"))
    except BaseException:
        supply.discard()
        raise
    supply.discard()
    return again, Supply(again)


def _spooled(
    data: Any,
    columns: tuple[str, ...] | None,
    split: Split,
    spool: str,
    memory: MemoryFolder | None,
    in_memory_limit: int,
) -> tuple[Source, Supply]:
    """Plan a frame and begin to write it."""
    if isinstance(split, ByFile):
        raise InputError("by_file() needs files: give a path, a glob or a folder, not a frame in memory")
    from batchrun.data.frame_rows import rows_of_frame
    from batchrun.data.regroup import spool_grouped
    from batchrun.data.spool import row_cuts, spool_rows

    frame, description = rows_of_frame(data, columns), _kind_of(data)
    folder = join(spool, "input")
    if memory is not None and memory.takes(frame.nbytes):
        memory.link(folder)
    if isinstance(split, ByGroup) and frame.nbytes <= in_memory_limit:
        return spool_grouped(frame, split.columns, folder, description)
    return spool_rows(frame, folder, description, row_cuts(split, frame.rows))


def _kind_of(frame: Any) -> str:
    """What a frame in memory is called in reports."""
    package = type(frame).__module__.partition(".")[0]
    prefix = {"polars": "polars ", "pyarrow": "Arrow "}.get(package, "")
    return prefix + type(frame).__name__
