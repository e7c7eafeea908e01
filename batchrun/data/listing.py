"""Which files an input names: a file, a folder, a glob or a URL of one."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchrun.data.files import filesystem, is_local, reached, resolve
from batchrun.errors import InputError, StoreError, near_miss

__all__ = ["Format", "Listing", "list_input"]

Format = Literal["parquet", "csv", "arrow"]

_ENDINGS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".parq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".csv.bz2": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_MAGIC: dict[bytes, Format] = {b"PAR1": "parquet", b"ARRO": "arrow"}


@dataclass(frozen=True)
class Listing:
    """The files of an input."""

    format: Format
    """How they are written."""
    files: tuple[str, ...]
    """Absolute paths or URLs, sorted; at least one."""
    description: str
    """The name of the file or folder, or the glob."""


def list_input(given: str | os.PathLike[str]) -> Listing:
    """The files that a path, folder, glob or URL names, sorted by path.

    A folder is searched with all that is below it; names that begin with ``.`` or ``_`` are skipped, as
    Hadoop and Spark mean them to be.

    Raises InputError if there are none, or if they are not all of one known format.
    """
    path = resolve(given)
    try:
        with reached(path):
            files = _list_local(path) if is_local(path) else _list_remote(path)
    except (OSError, ImportError, StoreError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    formats: dict[Format, str] = {}
    for file in files:
        formats.setdefault(_format(file), file)
    if len(formats) > 1:
        (one, first), (other, second) = list(formats.items())[:2]
        raise InputError(
            f"{path} holds files of several formats: {first} is {one}, {second} is {other}; "
            f"name the ones you mean with a glob, like {path.rstrip('/')}/*.{one}"
        )
    return Listing(next(iter(formats)), tuple(files), _base_name(path))


def _list_local(path: str) -> Sequence[str]:
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        return _or_refuse(_below(path), f"the folder {path} holds no data files")
    if glob.has_magic(path):
        found: list[str] = []
        for match in glob.glob(path, recursive=True):
            found.extend(_below(match) if os.path.isdir(match) else [match])
        return _or_refuse(found, f"no file matches {path}")
    folder, name = os.path.split(path)
    there = os.listdir(folder) if os.path.isdir(folder) else []
    hint = near_miss(name, there) or (
        "" if there or os.path.isdir(folder) else f" There is no folder {folder}."
    )
    raise InputError(f"there is no file {path}.{hint}")


def _below(folder: str) -> list[str]:
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        found.extend(os.path.join(root, name) for name in names if not _hidden(name))
    return found


def _list_remote(path: str) -> Sequence[str]:
    fs, name = filesystem(path)
    found: list[str] = []
    if glob.has_magic(name):
        for match in fs.glob(name):
            found.extend(_below_remote(fs, match) if fs.isdir(match) else [match])
        return _or_refuse([_url(fs, file) for file in found], f"no file matches {path}")
    if fs.isfile(name):
        return [path]
    if fs.isdir(name):
        found = _below_remote(fs, name)
        return _or_refuse([_url(fs, file) for file in found], f"the folder {path} holds no data files")
    raise InputError(f"there is no file {path}; check the path")


def _below_remote(fs: Any, folder: str) -> list[str]:
    root = folder.rstrip("/") + "/"
    return [file for file in fs.find(folder) if not any(map(_hidden, file.removeprefix(root).split("/")))]


def _url(fs: Any, name: str) -> str:
    return str(fs.unstrip_protocol(name))


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _or_refuse(files: Sequence[str], message: str) -> Sequence[str]:
    if not files:
        raise InputError(f"{message}; check the path")
    return sorted(files)


def _format(file: str) -> Format:
    """The format of a file by its ending, else by its first bytes."""
    name = file.lower()
    for ending, known in _ENDINGS.items():
        if name.endswith(ending):
            return known
    try:
        if is_local(file):
            with open(file, "rb") as opened:
                start = opened.read(4)
        else:
            fs, inner = filesystem(file)
            start = bytes(fs.cat_file(inner, start=0, end=4))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    if start in _MAGIC:
        return _MAGIC[start]
    raise InputError(
        f"{file} is of no known format; batchrun reads Parquet (.parquet), CSV (.csv, .csv.gz) and "
        "Arrow IPC (.arrow, .feather)"
    )


def _base_name(path: str) -> str:
    parts = path.replace(os.sep, "/").rstrip("/").split("/")
    return "/".join(parts[-2:]) if glob.has_magic(parts[-1]) and len(parts) > 1 else parts[-1]
