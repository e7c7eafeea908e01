"""pandas frames to Arrow tables and back, so that a frame comes out as it went in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchrun.data.table import Labels, duplicate_message, labels_of, rows_without_columns, with_labels
from batchrun.errors import BatchrunError, ResultError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["joined_metadata", "pandas_metadata", "table_from_pandas", "table_to_pandas"]

OBJECTS_KEY = b"batchrun.objects"
"""The key of the Arrow schema metadata that names columns of Python objects."""


def table_from_pandas(
    frame: pd.DataFrame,
    *,
    owner: str,
    columns: Sequence[Any] | None = None,
    error: type[BatchrunError] = ResultError,
) -> pa.Table:
    """A pandas frame as an Arrow table, the row index included, with a copy only where Arrow needs one.

    *columns* are the labels of the columns to keep; None keeps all. *owner* names the frame in errors.

    Raises *error* for what Arrow cannot hold: columns of one name, columns of mixed types, column names
    that would come back as something else.
    """
    import pandas as pd
    import pyarrow as pa

    if not frame.columns.is_unique:
        raise error(duplicate_message(list(frame.columns), owner))
    kept = frame.columns if columns is None else pd.Index(columns)
    ordinary = frame.columns.names == [None] and all(type(name) is str for name in kept)
    if not ordinary:
        _check_names(frame, kept, owner, error)
    plain = isinstance(frame.index, pd.RangeIndex)
    if frame.attrs:
        # Arrow would put them into the schema, where they make the schemas of two chunks differ.
        frame = frame.copy(deep=False)
        frame.attrs = {}
    try:
        table = pa.Table.from_pandas(
            frame,
            columns=None if columns is None else list(columns),
            # A range in the metadata would make them differ, too.
            preserve_index=False if plain and ordinary else None,
        )
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as problem:
        raise error(_explain(frame, kept, owner, problem)) from problem
    if b'"numpy_type": "object"' in table.schema.metadata[b"pandas"]:
        table = _with_objects(table, [str(name) for name in kept if frame[name].dtype == object])
    if not plain:
        return table
    if not ordinary:
        table = table.replace_schema_metadata(_without_range(table.schema))
    if table.num_columns == 0 and len(frame):
        table = rows_without_columns(len(frame), table.schema.metadata)
    span: Any = frame.index
    name = span.name if isinstance(span.name, (str, int, type(None))) else str(span.name)
    return with_labels(table, Labels(int(span.start), int(span.step), name))


def table_to_pandas(table: pa.Table) -> pd.DataFrame:
    """The table as a pandas frame with its row index, whose values may be changed in place."""
    import pandas as pd

    labels = labels_of(table.schema)
    if table.num_columns == 0:
        frame = pd.DataFrame(index=pd.RangeIndex(table.num_rows))
    else:
        frame = table.to_pandas()
        _restore_objects(frame, table)
        _make_writable(frame, table)
    if labels is not None:
        stop = labels.start + table.num_rows * labels.step
        frame.index = pd.RangeIndex(labels.start, stop, labels.step, name=labels.name)
    return frame


def pandas_metadata(schema: pa.Schema) -> dict[str, Any]:
    """What pandas wrote into a schema about itself; empty if it wrote nothing."""
    text = (schema.metadata or {}).get(b"pandas")
    return dict(json.loads(text)) if text else {}


def _with_objects(table: pa.Table, names: list[str]) -> pa.Table:
    """Mark the columns that pandas held as Python objects and that Arrow would give back as something else.

    pandas marks them, too, but there it says nothing any more: older versions held all text as objects.
    """
    import pyarrow as pa

    changed = [
        name
        for name in names
        if _is_text(table.schema.field(name).type) or pa.types.is_primitive(table.schema.field(name).type)
    ]
    if not changed:
        return table
    marked = {**(table.schema.metadata or {}), OBJECTS_KEY: json.dumps(changed).encode()}
    return table.replace_schema_metadata(marked)


def _objects(schema: pa.Schema) -> list[str]:
    """The columns that ``_with_objects`` marked."""
    text = (schema.metadata or {}).get(OBJECTS_KEY)
    return list(json.loads(text)) if text else []


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _restore_objects(frame: pd.DataFrame, table: pa.Table) -> None:
    """Give back as Python objects what pandas held as such; Arrow makes text and numbers of them.

    A missing value among them is None.
    """
    import pandas as pd

    objects = _objects(table.schema)
    if not objects:
        return
    index = pandas_metadata(table.schema).get("index_columns", [])
    names = [name for name in table.column_names if name not in index]
    for position, name in enumerate(names):
        if name not in objects or frame.iloc[:, position].dtype == object:
            continue
        column = table.column(name)
        values = column.to_numpy() if _is_text(column.type) else column.to_pylist()
        frame.isetitem(position, pd.Series(values, index=frame.index, dtype=object))  # type: ignore[arg-type]


def joined_metadata(
    schemas: Sequence[pa.Schema], types: Mapping[str, pa.DataType]
) -> dict[bytes, bytes] | None:
    """What pandas wrote about tables that are put together, as far as it still holds for these *types*.

    Where the tables do not have the same index columns, those are ordinary columns afterwards.
    """
    known = [(schema, pandas_metadata(schema)) for schema in schemas]
    known = [(schema, metadata) for schema, metadata in known if metadata]
    if not known:
        return None
    joined = dict(known[0][1])
    indexes = [metadata["index_columns"] for _, metadata in known]
    same = len(known) == len(schemas) and all(index == indexes[0] for index in indexes)
    joined["index_columns"] = indexes[0] if same else []
    columns: dict[str, Any] = {}
    for schema, metadata in known:
        for column in metadata["columns"]:
            name = column["field_name"]
            position = schema.get_field_index(name)
            holds = name in joined["index_columns"] or (
                position >= 0 and schema.field(position).type == types[name]
            )
            if holds:
                columns.setdefault(name, column)
    joined["columns"] = list(columns.values())
    objects = dict.fromkeys(name for schema, _ in known for name in _objects(schema) if name in columns)
    marked = {OBJECTS_KEY: json.dumps(list(objects)).encode()} if objects else {}
    return {b"pandas": json.dumps(joined).encode(), **marked}


def _make_writable(frame: pd.DataFrame, table: pa.Table) -> None:
    """Copy the columns that are views of Arrow's memory, which is not to be written to.

    Arrow copies plain columns on its way to pandas; only what pandas wraps by itself may be a view.
    """
    import numpy as np
    import pyarrow as pa

    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if not (pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType)):
            continue
        for position in (place for place, label in enumerate(frame.columns) if str(label) == name):
            column = frame.iloc[:, position]
            held = [getattr(column.array, inner, None) for inner in ("_ndarray", "_left", "_right")]
            views = [
                values for values in held if isinstance(values, np.ndarray) and not values.flags.writeable
            ]
            if views:
                frame.isetitem(position, column.copy())  # type: ignore[arg-type]  # the stubs lack Series


def _without_range(schema: pa.Schema) -> dict[bytes, bytes]:
    """The metadata of a schema, the range that pandas keeps there left out."""
    metadata = pandas_metadata(schema) | {"index_columns": []}
    return {**(schema.metadata or {}), b"pandas": json.dumps(metadata).encode()}


def _check_names(frame: pd.DataFrame, kept: pd.Index, owner: str, error: type[BatchrunError]) -> None:
    """Refuse column names that would not come back as they are."""
    import pandas as pd
    import pyarrow as pa

    if pd.api.types.infer_dtype(kept, skipna=False).startswith("mixed") and kept.nlevels == 1:
        name = next(name for name in kept if not isinstance(name, str))
        raise error(f"{owner} has a column named {name!r} beside others of another kind; name all by text")
    try:
        empty = frame.iloc[:0][list(kept)].reset_index(drop=True)
        back = list(pa.Table.from_pandas(empty).to_pandas().columns)
    except (pa.ArrowException, TypeError, ValueError, KeyError) as problem:
        raise error(f"{owner} has column names that cannot be stored: {problem}; use text") from problem
    for name, returned in zip(kept, back, strict=True):
        if type(name) is not type(returned) or name != returned:
            raise error(f"{owner} has a column named {name!r}, which comes back as {returned!r}; use text")


def _explain(frame: pd.DataFrame, kept: pd.Index, owner: str, problem: Exception) -> str:
    """Which column cannot be stored, why, and what to do."""
    import pyarrow as pa

    for name in kept:
        column = frame[name]
        try:
            pa.Array.from_pandas(column)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as reason:
            if column.dtype == object:
                kinds = sorted({type(value).__name__ for value in column.dropna().head(10_000)})
                if len(kinds) > 1:
                    return (
                        f"{owner} has a column {name!r} of mixed types ({', '.join(kinds)}), which cannot be "
                        f"stored; make it one type, for example frame[{name!r}].astype(str)"
                    )
                found = kinds[0] if kinds else "object"
                return (
                    f"{owner} has a column {name!r} of Python objects ({found}), which cannot be stored; "
                    "turn it into numbers, text, dates, lists or dicts"
                )
            return f"{owner} has a column {name!r} of type {column.dtype}, which cannot be stored: {reason}"
    return f"{owner} cannot be stored: {problem}"
