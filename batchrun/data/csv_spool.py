"""CSV, streamed once into Arrow files that workers can map, in bounded memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyarrow import csv

from batchrun.data.files import filesystem, is_local, join, local_path, stamp
from batchrun.data.listing import Listing
from batchrun.data.planning import missing_column, path_keys, plan_blocks
from batchrun.data.schema import common_type
from batchrun.data.source import Source
from batchrun.data.spool import write_batches
from batchrun.errors import InputError

__all__ = ["spool_csv"]

_BLOCK_BYTES = 4 * 2**20
"""Bytes of CSV in a block; each becomes a record batch, and the first decides the types."""
_NULLS = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
    *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""What pandas reads as a missing value."""

Types = dict[str, pa.DataType]


def spool_csv(listing: Listing, columns: tuple[str, ...] | None, folder: str) -> Source:
    """Write each CSV file, projected, as an Arrow IPC file in *folder*, and plan those.

    Column types are read from the first block of each file. A column whose later values do not fit is
    widened (whole numbers, floats, text) and the file is read again from its start. Missing values are
    read as pandas reads them; dates and times are recognized.

    Raises InputError for a file that cannot be read or parsed, and for a missing column.
    """
    headers = [_header(path) for path in listing.files]
    wanted = columns if columns is not None else tuple(headers[0])
    for path, header in zip(listing.files, headers, strict=True):
        _check_header(path, header, wanted, listing.files[0] if columns is None else None)
    marks = [stamp(path) for path in listing.files]
    types: Types = {}
    for path, header in zip(listing.files, headers, strict=True):
        types = _join(types, _first_types(path, header, wanted))
    paths = [join(folder, f"input-{number:05d}.arrow") for number in range(len(listing.files))]
    stale = True
    while stale:
        before = types
        for path, header, target in zip(listing.files, headers, paths, strict=True):
            types = _spool_file(path, header, target, wanted, types)
        # A column that a later file has widened is read anew in the files before it: text made of a number
        # would not be the text that was written.
        stale = types != before and len(paths) > 1
    source = plan_blocks("arrow", paths, columns, listing.description)
    seal = hashlib.sha256(repr((columns, listing.files, marks)).encode()).hexdigest()[:32]
    return replace(source, fingerprint=seal, file_keys=path_keys(listing.files), spool=folder)


class _MisfitError(Exception):
    """A value that is not of its column's type."""

    def __init__(self, column: str, value: str) -> None:
        super().__init__(column, value)
        self.column = column
        self.value = value


def _spool_file(path: str, header: list[str], target: str, wanted: Sequence[str], types: Types) -> Types:
    """Write one file with *types*, wider ones where they do not fit; gives back those that fitted."""
    while True:
        try:
            with _reader(path, header, wanted, types) as reader:
                write_batches(target, reader.schema, _batches(reader, path, header))
        except _MisfitError as misfit:
            types = _widen(types, misfit, path)
        else:
            return types


def _batches(reader: Any, path: str, header: list[str]) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            yield reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:
            raise _problem(error, path, header) from error


def _reader(path: str, header: list[str], wanted: Sequence[str], types: Types) -> Any:
    """A streaming reader of one file."""
    options = csv.ConvertOptions(
        column_types=types,
        null_values=list(_NULLS),
        strings_can_be_null=True,
        include_columns=list(wanted),
    )
    try:
        return csv.open_csv(
            _open(path),
            read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=options,
        )
    except (OSError, pa.ArrowException) as error:
        raise _problem(error, path, header) from error


def _open(path: str) -> Any:
    import fsspec

    if is_local(path):
        return local_path(path)
    fs, name = filesystem(path)
    return fs.open(name, "rb", compression=fsspec.utils.infer_compression(name))


def _first_types(path: str, header: list[str], wanted: Sequence[str]) -> Types:
    """The types of the columns by the first block of a file."""
    types: Types = {}
    while True:
        try:
            with _reader(path, header, wanted, types) as reader:
                found = {field.name: field.type for field in reader.schema}
        except _MisfitError as misfit:
            types = _widen(types, misfit, path)
        else:
            if any(pa.types.is_binary(kind) for kind in found.values()):
                raise _problem(ValueError("invalid UTF8"), path, header)
            return found


def _header(path: str) -> list[str]:
    """The names of all columns of a file, read as text."""
    try:
        with csv.open_csv(
            _open(path), parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=_skip)
        ) as reader:
            return list(reader.schema.names)
    except (OSError, pa.ArrowException) as error:
        raise _problem(error, path, []) from error


def _skip(row: Any) -> str:
    """Pass over a row that is not whole; the reader that reads the values will not."""
    return "skip"


def _check_header(path: str, header: list[str], wanted: Sequence[str], first: str | None) -> None:
    """Refuse a file without a wanted column; *first* is the file that set what is wanted, if one did."""
    for name in wanted:
        if name not in header:
            raise missing_column(name, header, path)
        if header.count(name) > 1:
            raise InputError(f"{path} has two columns named {name!r}; rename one of them")
    extra = [name for name in header if name not in wanted]
    if first is not None and extra:
        raise InputError(
            f"{path} has a column {extra[0]!r} that {first} does not have; say which columns to read with "
            "columns=[...]"
        )


def _problem(error: Exception, path: str, header: list[str]) -> Exception:
    """What an error of the reader means: a value that does not fit, or a file that cannot be read."""
    text = str(error)
    found = re.search(r"In CSV column #(\d+):.*invalid value '(.*)'", text, re.DOTALL)
    if found and int(found[1]) < len(header):
        return _MisfitError(header[int(found[1])], found[2])
    if isinstance(error, FileNotFoundError):
        return InputError(f"there is no file {path}; check the path")
    if "invalid UTF8" in text:
        return InputError(f"{path} is not written in UTF-8; convert it, for example with iconv")
    if "Empty CSV" in text:
        return InputError(f"{path} is empty; a CSV file needs a header line with the names of its columns")
    return InputError(f"{path} cannot be read as CSV: {text}")


def _widen(types: Types, misfit: _MisfitError, path: str) -> Types:
    """The types with one column wide enough for a value that did not fit."""
    now = types.get(misfit.column)
    if now is None:
        return {**types, misfit.column: pa.string()}
    if pa.types.is_string(now):
        raise InputError(f"{path} holds {misfit.value!r} in column {misfit.column!r}, which is no text")
    joined = common_type(now, _type_of(misfit.value))
    return {**types, misfit.column: pa.string() if joined is None or joined == now else joined}


def _type_of(value: str) -> pa.DataType:
    """The type that the reader would see in one value."""
    text = '"' + value.replace('"', '""') + '"'
    try:
        return csv.read_csv(
            pa.BufferReader(f"x\n{text}\n".encode()),
            parse_options=csv.ParseOptions(newlines_in_values=True),
        )["x"].type
    except pa.ArrowException:
        return pa.string()


def _join(types: Types, more: Types) -> Types:
    """Types that hold the values of two files."""
    joined = dict(types)
    for name, kind in more.items():
        joined[name] = common_type(joined.get(name, kind), kind) or pa.string()
    return joined
