"""Where a table is, as small values that travel to workers, and the forms a table takes.

Inside batchrun every table is an Arrow table. A pandas row index that is a plain range is kept as three
numbers beside the columns (see Labels); any other pandas index is one or more columns, marked as pandas
itself marks them in Arrow metadata.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchrun.errors import ResultError

if TYPE_CHECKING:
    import pyarrow as pa

    from batchrun.data.filtering import Filter
    from batchrun.signature import FrameKind

__all__ = [
    "Inline",
    "Labels",
    "Part",
    "Slice",
    "Stored",
    "TableRef",
    "decode",
    "each_labels_of",
    "encode",
    "labels_of",
    "to_frame",
    "to_table",
    "with_each_labels",
    "with_labels",
]

LABELS_KEY = b"batchrun.labels"
"""The key of the Arrow schema metadata that holds Labels."""
EACH_LABELS_KEY = b"batchrun.labels.each"
"""The key for Labels that begin anew with the rows of each chunk of a table that holds several."""
_LARGE = 2**16
"""Bytes from which on it pays to measure a stream before it is written."""
INDEX = "__index_level_0__"
"""The column that pandas makes of an index without a name."""


@dataclass(frozen=True)
class Labels:
    """A pandas RangeIndex: row *i* of the table is called ``start + i * step``."""

    start: int
    """The label of the first row."""
    step: int = 1
    """The difference between neighbouring labels."""
    name: str | int | None = None
    """The name of the index."""

    def after(self, rows: int) -> Labels:
        """The labels that follow when so many rows are left out at the start."""
        return Labels(self.start + rows * self.step, self.step, self.name)


@dataclass(frozen=True)
class Part:
    """Consecutive blocks of one file: row groups of Parquet, record batches of Arrow IPC."""

    path: str
    """The file, a path or a URL."""
    first_block: int
    """The number of the first block within the file."""
    blocks: int
    """How many blocks."""
    skip: int
    """Rows at the start of the first block that are left out."""
    rows: int
    """Rows that are taken after those."""


@dataclass(frozen=True)
class Slice:
    """Consecutive rows of a planned input, which a worker reads for itself."""

    format: Literal["parquet", "arrow"]
    """How the files are written."""
    parts: tuple[Part, ...]
    """Where the rows lie, in order."""
    columns: tuple[str, ...] | None
    """The columns to read, those of a pandas index among them; None for all."""
    first_row: int
    """The number of the first row within the input."""
    rows: int
    """How many rows."""
    labels: Labels | None = None
    """The labels of the rows where they are a range; None where they are columns."""
    schema: bytes | None = None
    """The Arrow schema to cast to, serialized; None where every file has it already."""
    where: Filter | None = None
    """Which of the rows are passed on; None for all."""


@dataclass(frozen=True)
class Inline:
    """A table in its own bytes."""

    data: bytes
    """An Arrow IPC stream."""


@dataclass(frozen=True)
class Stored:
    """A table in a file of its own."""

    path: str
    """An Arrow IPC file, by path or URL."""
    rows: int
    """Rows of the table."""
    nbytes: int
    """Bytes that it takes in memory."""


TableRef = Slice | Inline | Stored


def encode(table: pa.Table) -> bytes:
    """The table as an Arrow IPC stream."""
    import pyarrow as pa

    if table.nbytes >= _LARGE:
        from batchrun.data.buffers import encode_to_bytes

        return encode_to_bytes(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in batches_of(table):
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode(data: bytes) -> pa.Table:
    """The table in an Arrow IPC stream, without a copy."""
    import pyarrow as pa

    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


def batches_of(table: pa.Table, rows: int | None = None) -> list[pa.RecordBatch]:
    """The table as record batches of at most so many rows, one at least, so that a row count survives."""
    import pyarrow as pa

    if table.num_rows and table.num_columns:
        return [batch for batch in table.to_batches(max_chunksize=rows) if batch.num_rows]
    if table.num_columns == 0:
        return list(rows_without_columns(table.num_rows, table.schema.metadata).to_batches())
    # The chunks of a column without rows may still know its categories.
    empty = [column.chunk(0) if column.num_chunks else pa.array([], column.type) for column in table.columns]
    return [pa.RecordBatch.from_arrays(empty, schema=table.schema)]


def rows_without_columns(rows: int, metadata: Mapping[bytes, bytes] | None) -> pa.Table:
    """A table that has rows and no columns."""
    import pyarrow as pa

    batch = pa.RecordBatch.from_struct_array(pa.nulls(rows, pa.struct([])))
    return pa.Table.from_batches([batch.replace_schema_metadata(metadata)])


def with_metadata(table: pa.Table, metadata: Mapping[bytes, bytes] | None) -> pa.Table:
    """The table with other schema metadata."""
    if table.num_columns == 0:  # Arrow would forget the number of rows
        return rows_without_columns(table.num_rows, metadata)
    return table.replace_schema_metadata(metadata)


def labels_of(schema: pa.Schema) -> Labels | None:
    """The range labels that a schema carries; None if it carries none."""
    text = (schema.metadata or {}).get(LABELS_KEY)
    return Labels(*json.loads(text)) if text else None


def with_labels(table: pa.Table, labels: Labels | None) -> pa.Table:
    """The table with these range labels, or with none."""
    metadata = dict(table.schema.metadata or {})
    if labels is None and not metadata.keys() & {LABELS_KEY, EACH_LABELS_KEY}:
        return table
    metadata.pop(LABELS_KEY, None)
    metadata.pop(EACH_LABELS_KEY, None)
    if labels is not None:
        metadata[LABELS_KEY] = json.dumps([labels.start, labels.step, labels.name]).encode()
    return with_metadata(table, metadata or None)


def each_labels_of(schema: pa.Schema) -> Labels | None:
    """The labels that begin anew with each chunk of a table; None if they do not."""
    text = (schema.metadata or {}).get(EACH_LABELS_KEY)
    return Labels(*json.loads(text)) if text else None


def with_each_labels(table: pa.Table, labels: Labels) -> pa.Table:
    """The table of several chunks, the labels of each of which begin anew with *labels*."""
    metadata = dict(table.schema.metadata or {})
    metadata.pop(LABELS_KEY, None)
    metadata[EACH_LABELS_KEY] = json.dumps([labels.start, labels.step, labels.name]).encode()
    return with_metadata(table, metadata)


def labelled(table: pa.Table) -> pa.Table:
    """The table with its range labels turned into a column, so that rows keep them wherever they go."""
    import numpy as np
    import pyarrow as pa

    labels = labels_of(table.schema)
    if labels is None:
        return table
    table = with_labels(table, None)
    named = isinstance(labels.name, str) and labels.name not in table.column_names
    field = str(labels.name) if named else INDEX
    metadata = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
    entry = {"name": labels.name, "field_name": field, "pandas_type": "int64", "numpy_type": "int64"}
    metadata["columns"] = [*metadata.get("columns", []), entry | {"metadata": None}]
    metadata["index_columns"] = [field]
    metadata.setdefault("column_indexes", [])
    kept = {**(table.schema.metadata or {}), b"pandas": json.dumps(metadata).encode()}
    values = labels.start + labels.step * np.arange(table.num_rows, dtype=np.int64)
    columns = [*table.columns, pa.chunked_array([values])]
    return pa.Table.from_arrays(columns, names=[*table.column_names, field], metadata=kept)


def is_unnamed_index(column: str) -> bool:
    """Whether a column holds a level of a pandas index that has no name."""
    return column.startswith("__index_level_") and column.endswith("__")


def to_table(frame: Any, *, owner: str) -> pa.Table:
    """A pandas, polars or Arrow frame as an Arrow table; None is a table without rows and columns.

    *owner* names whose frame it is in errors, as in "stage `score`".

    Raises ResultError for anything else, and for a frame that Arrow cannot hold: it says which column
    and what to do.
    """
    import pyarrow as pa

    if frame is None:
        return pa.table({})
    if isinstance(frame, pa.Table):
        return _checked(frame, owner)
    if isinstance(frame, pa.RecordBatch):
        return _checked(pa.Table.from_batches([frame]), owner)
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        from batchrun.data.pandas_frame import table_from_pandas

        return table_from_pandas(frame, owner=owner)
    polars = sys.modules.get("polars")
    if polars is not None and isinstance(frame, polars.DataFrame):
        return _from_polars(frame, owner, polars)
    raise ResultError(f"{owner} returned {_describe(frame)}")


def to_frame(table: pa.Table, kind: FrameKind) -> Any:
    """The table as the frame that a stage asks for.

    A pandas frame gets its row index back and may be changed in place. In polars and Arrow frames a
    pandas index is a column if it has a name, and is left out if it has none.

    Raises ResultError if polars is asked for and not installed.
    """
    if kind == "pandas":
        from batchrun.data.pandas_frame import table_to_pandas

        return table_to_pandas(table)
    plain = _without_unnamed_index(table)
    if kind == "arrow":
        return plain
    try:
        import polars
    except ImportError as error:
        raise ResultError(
            "a stage asks for polars frames, and polars is not installed here; pip install 'batchrun[polars]'"
        ) from error
    return polars.from_arrow(plain)


def _from_polars(frame: Any, owner: str, polars: Any) -> pa.Table:
    for name, kind in frame.schema.items():
        if kind == polars.Object:
            raise ResultError(
                f"{owner} has a column {name!r} of Python objects, which cannot be stored; "
                "turn it into numbers, text, dates, lists or structs"
            )
    # The oldest layout of strings is the one that every reader of Arrow knows.
    return frame.to_arrow(compat_level=polars.CompatLevel.oldest())


def _checked(table: pa.Table, owner: str) -> pa.Table:
    """Refuse a table whose columns cannot be told apart."""
    names = table.column_names
    if len(set(names)) != len(names):
        raise ResultError(duplicate_message(names, owner))
    return table


def duplicate_message(names: list[Any], owner: str) -> str:
    """What to say when two columns share a name."""
    twice = next(name for position, name in enumerate(names) if name in names[:position])
    return f"{owner} has two columns named {twice!r}; rename one of them"


def _without_unnamed_index(table: pa.Table) -> pa.Table:
    names = [name for name in table.column_names if not is_unnamed_index(name)]
    plain = table if len(names) == table.num_columns else table.select(names)
    return with_labels(plain, None)


def _describe(value: Any) -> str:
    """What a function gave back instead of a frame, and what to do."""
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__
    package = kind.__module__.partition(".")[0]
    advice = "return a pandas, polars or Arrow frame, or None for no rows"
    if kind.__name__ == "Series":
        advice = "return a frame: .to_frame() makes one of it"
    elif package == "polars" and kind.__name__ == "LazyFrame":
        advice = "return a frame: .collect() makes one of it"
    elif package.startswith("dask"):
        advice = "return a frame: .compute() makes one of it"
    elif kind.__name__ == "RecordBatchReader":
        advice = "return a table: .read_all() makes one of it"
    elif isinstance(value, (dict, list)):
        advice = "return a frame: pd.DataFrame(...) makes one of it"
    return f"{name}, which is not a table; {advice}"
