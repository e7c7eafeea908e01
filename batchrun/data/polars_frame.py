"""Polars frames straight from Parquet files.

To decode a row group with Arrow and to make a polars frame of that takes three times as long. And polars
reads some rows of a row group without all the others.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from batchrun.data.files import is_local, local_path
from batchrun.data.opened import open_parquet
from batchrun.data.table import is_unnamed_index

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from batchrun.data.table import Slice

__all__ = ["read_polars"]


def read_polars(ref: Slice) -> pl.DataFrame | None:
    """The rows of a slice as polars itself reads them, equal to the polars frame of their Arrow table.

    None where Arrow must read them: of files that are not local Parquet, where rows are filtered or types
    cast, where a column is nested or has categories, and where polars cannot read a file, so that Arrow says
    what is wrong with it. Also None without polars.
    """
    plain = ref.format == "parquet" and ref.where is None and ref.schema is None
    if not plain or not ref.parts or not all(is_local(part.path) for part in ref.parts):
        return None
    try:
        import polars as pl
    except ImportError:
        return None
    frames = []
    try:
        for part in ref.parts:
            file = open_parquet(part.path)
            scan = _scan(part.path, file.mark, ref.columns)
            if scan is None:
                return None
            frame = scan.slice(file.first_row(part.first_block) + part.skip, part.rows).collect()
            if frame.height != part.rows:
                return None
            frames.append(frame)
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return None
    return frames[0] if len(frames) == 1 else pl.concat(frames)


@lru_cache(maxsize=64)
def _scan(path: str, mark: str, columns: tuple[str, ...] | None) -> pl.LazyFrame | None:
    """The columns of a file, of which polars keeps the footer; None if Arrow's would differ.

    *mark* is another one when the file has changed.
    """
    import polars as pl
    import pyarrow as pa

    schema = open_parquet(path).schema
    wanted = schema.names if columns is None else columns
    names = [name for name in wanted if not is_unnamed_index(name)]
    fields = [schema.field(name) for name in names]
    if not fields or not all(_is_plain(field.type) for field in fields):
        return None
    scan = pl.scan_parquet(local_path(path), glob=False, hive_partitioning=False).select(names)
    by_way_of_arrow = pl.from_arrow(pa.schema(fields).empty_table())
    same = list(scan.collect_schema().items()) == list(by_way_of_arrow.schema.items())  # type: ignore[union-attr]
    return scan if same else None


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a value is a number, a truth value, a time, text or bytes."""
    import pyarrow as pa

    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    octets = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(pa.types.is_primitive(kind) or text or octets)
