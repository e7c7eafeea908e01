"""Files by local path or fsspec URL: everything that goes to or comes from a disk passes through here."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from batchrun.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "check_writable",
    "copy_in",
    "exists",
    "filesystem",
    "has_folders",
    "is_local",
    "join",
    "local_path",
    "make_folder",
    "measure",
    "names",
    "open_for_reading",
    "reached",
    "read_bytes",
    "remove",
    "remove_folder",
    "resolve",
    "stamp",
    "write_arrow",
    "write_atomically",
    "write_bytes",
]

_LOCAL_PROTOCOLS = ("file://", "local://")
_GLOB = frozenset("*?[")
_OBJECT_STORES = ("s3://", "s3a://", "gs://", "gcs://", "abfs://", "abfss://", "az://", "oss://", "oci://")
"""They have no folders, only names with slashes in them, and making one would make a bucket."""
_LIBRARIES = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google"})
"""Packages whose errors say that an object store was not reached."""


def is_local(path: str) -> bool:
    """Whether *path* names a file of this machine rather than one behind an fsspec URL.

    >>> is_local("/data/pits.parquet"), is_local("file:///data"), is_local("s3://bucket/pits.parquet")
    (True, True, False)
    """
    return path.startswith(_LOCAL_PROTOCOLS) or ("://" not in path and "::" not in path)


def has_folders(path: str) -> bool:
    """Whether folders are there before files are in them, which is not so in object stores.

    >>> has_folders("/data"), has_folders("sftp://host/data"), has_folders("s3://bucket/data")
    (True, True, False)
    """
    return not path.startswith(_OBJECT_STORES)


def local_path(path: str) -> str:
    """The path of a local file without its protocol.

    >>> local_path("file:///data/pits.parquet")
    '/data/pits.parquet'
    """
    for protocol in _LOCAL_PROTOCOLS:
        if path.startswith(protocol):
            rest = path[len(protocol) :]
            # file:///C:/data names the drive C:
            return rest[1:] if os.name == "nt" and rest[2:3] == ":" else rest
    return path


def resolve(path: str | os.PathLike[str]) -> str:
    """The path in the form that any process of this machine can open: absolute, or a URL."""
    text = os.fspath(path)
    return os.path.abspath(os.path.expanduser(local_path(text))) if is_local(text) else text


def join(folder: str, *names: str) -> str:
    """A path below *folder*.

    >>> join("s3://bucket/runs/", "r1", "plan.arrow")
    's3://bucket/runs/r1/plan.arrow'
    """
    if is_local(folder):
        return os.path.join(local_path(folder), *names)
    return "/".join([folder.rstrip("/"), *names])


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system behind a URL, and the path as that file system writes it."""
    import fsspec

    # What is listed once would hide what other processes write later.
    options = {} if has_folders(path) else {"use_listings_cache": False}
    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(path, **options))
    except (ImportError, ValueError) as error:
        raise StoreError(f"{path} cannot be opened: {error}") from error


@contextlib.contextmanager
def write_atomically(path: str, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a whole file, or nothing: a context that gives a binary file to write into.

    The bytes go to a temporary name beside *path*, which takes the real name when the block ends; an error
    in the block leaves no trace. Parent folders are made. With *durable* a local file is on the disk, not
    only in the page cache, when the block has ended.

    Raises StoreError, naming the path and what to do, when the disk is full or refuses.
    """
    write = _write_local(local_path(path), durable) if is_local(path) else _write_remote(path)
    with _explained(path, "written"), write as file:
        yield file


@contextlib.contextmanager
def _write_local(path: str, durable: bool) -> Iterator[BinaryIO]:
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable and os.name == "posix":
        _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Put the new name itself on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; they put names on the disk by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _write_remote(path: str) -> Iterator[BinaryIO]:
    """Collect the bytes in a local file and send them in one go, which object stores do atomically."""
    fs, name = filesystem(path)
    folder = tempfile.mkdtemp(prefix="batchrun-")
    try:
        local = os.path.join(folder, "upload")
        with open(local, "xb") as file:
            yield file
        if has_folders(path):
            with contextlib.suppress(FileExistsError, NotImplementedError):
                fs.makedirs(fs._parent(name), exist_ok=True)
        fs.put_file(local, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: str, data: bytes) -> None:
    """Write *data* as a whole file, or nothing. Raises StoreError as write_atomically does."""
    with write_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def write_arrow(path: str, schema: pa.Schema, *, durable: bool = True) -> Iterator[pa.RecordBatchFileWriter]:
    """Write an Arrow IPC file, whole or not at all: a context that gives what takes its record batches.

    Arrow writes by itself: a Python file would need the interpreter's lock for each buffer, and every other
    thread that computes keeps it for 5 ms. See write_atomically for *durable* and errors.
    """
    import pyarrow as pa

    with (
        write_atomically(path, durable=durable) as file,
        pa.OSFile(file.name, "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        yield writer


def read_bytes(path: str) -> bytes:
    """The content of a file. Raises StoreError if it is missing or cannot be read."""
    with _explained(path, "read"):
        if is_local(path):
            return Path(local_path(path)).read_bytes()
        fs, name = filesystem(path)
        return bytes(fs.cat_file(name))


def open_for_reading(path: str) -> Any:
    """A file for Arrow to read at any place: mapped into memory if it is local.

    Of a remote file exactly the ranges are fetched that Arrow asks for: it puts neighbours together itself,
    and fsspec would read ahead of each.

    Raises OSError as the file system does.
    """
    import pyarrow as pa

    if not is_local(path):
        fs, name = filesystem(path)
        return pa.PythonFile(fs.open(name, "rb", cache_type="none"), mode="r")
    name = local_path(path)
    # An empty file cannot be mapped.
    return pa.memory_map(name) if os.path.getsize(name) else pa.BufferReader(b"")


def exists(path: str) -> bool:
    """Whether a file or folder of that name is there."""
    with _explained(path, "read"):
        if is_local(path):
            return os.path.exists(local_path(path))
        fs, name = filesystem(path)
        return bool(fs.exists(name))


def names(folder: str) -> list[str]:
    """The names of the files in a folder, in order; none if there is no such folder."""
    with _explained(folder, "read"):
        try:
            if is_local(folder):
                return sorted(os.listdir(local_path(folder)))
            fs, name = filesystem(folder)
            fs.invalidate_cache(name)
            return sorted(path.rstrip("/").rpartition("/")[2] for path in fs.ls(name, detail=False))
        except FileNotFoundError:
            return []


def measure(folder: str) -> tuple[int, float]:
    """How many bytes the files in a folder take, and when one of them changed last.

    That time is in seconds since the epoch. Both are zero for a folder that is not there; files that go
    meanwhile do not count.
    """
    with _explained(folder, "read"):
        if is_local(folder):
            found = [_status(path) for path in _walk(local_path(folder))]
            return sum(size for size, _ in found), max((changed for _, changed in found), default=0.0)
        fs, name = filesystem(folder)
        fs.invalidate_cache(name)
        infos = fs.find(name, detail=True).values() if fs.exists(name) else []
        times = [info.get("LastModified", info.get("mtime", info.get("created"))) for info in infos]
        return sum(info.get("size") or 0 for info in infos), max(map(_seconds, times), default=0.0)


def _walk(folder: str) -> Iterator[str]:
    """A folder, and all that is in it; what its links lead to as well."""
    if os.path.isdir(folder):
        yield folder
    for place, folders, found in os.walk(folder, followlinks=True):
        yield from (os.path.join(place, name) for name in (*folders, *found))


def _status(path: str) -> tuple[int, float]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0.0
    return 0 if stat.S_ISDIR(status.st_mode) else status.st_size, status.st_mtime


def _seconds(moment: Any) -> float:
    """A time as file systems tell it, in seconds since the epoch; now if it is not known."""
    if hasattr(moment, "timestamp"):
        return float(moment.timestamp())
    return float(moment) if isinstance(moment, (int, float)) else time.time()


def stamp(path: str) -> str:
    """Size and time of change of a file as text: another one means another content.

    Raises OSError if there is no such file.
    """
    if is_local(path):
        status = os.stat(local_path(path))
        return f"{status.st_size} {status.st_mtime_ns}"
    fs, name = filesystem(path)
    info = fs.info(name)
    marks = ("ETag", "etag", "mtime", "LastModified", "created")
    changed = next((info[key] for key in marks if key in info), "")
    return f"{info.get('size')} {changed}"


def make_folder(path: str) -> None:
    """Make a folder and its parents; one that is there already is kept, and object stores need none."""
    with _explained(path, "written"):
        if is_local(path):
            os.makedirs(local_path(path), exist_ok=True)
        elif has_folders(path):
            fs, name = filesystem(path)
            fs.makedirs(name, exist_ok=True)


def check_writable(folder: str) -> None:
    """Write a small file into a folder or below a URL, and remove it again.

    Raises StoreError, which says what to do, if that cannot be done.
    """
    probe = join(folder, f".probe-{uuid.uuid4().hex}")
    write_bytes(probe, b"batchrun")
    remove(probe)


def remove(path: str) -> None:
    """Remove a file; one that is not there is no error."""
    with _explained(path, "removed"), contextlib.suppress(FileNotFoundError):
        if is_local(path):
            os.unlink(local_path(path))
        else:
            fs, name = filesystem(path)
            fs.rm_file(name)


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it; one that is not there is no error."""
    with _explained(path, "removed"), contextlib.suppress(FileNotFoundError):
        if is_local(path):
            shutil.rmtree(local_path(path))
        else:
            fs, name = filesystem(path)
            fs.rm(name, recursive=True)


def copy_in(local: str, path: str) -> None:
    """Bring a file of this machine to *path*, whole or not at all."""
    with write_atomically(path) as file, open(local, "rb") as source:
        shutil.copyfileobj(source, file, 2**20)


@contextlib.contextmanager
def reached(path: str) -> Iterator[None]:
    """Turn errors of the libraries that speak to object stores into those of the operating system."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if is_local(path) or type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        if "redentials" in f"{type(error).__name__} {error}":
            raise PermissionError(errno.EACCES, str(error)) from error
        raise ConnectionError(str(error)) from error


@contextlib.contextmanager
def _explained(path: str, done: str) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        with reached(path):
            yield
    except OSError as error:
        advice = _advice(error) if is_local(path) else _advice_far(error, path)
        raise StoreError(f"{path} cannot be {done}: {advice}") from error


def _advice_far(error: OSError, path: str) -> str:
    """What went wrong at a server and what to do about it."""
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    if isinstance(error, PermissionError):
        return f"access is refused ({reason}); check the credentials, and what they allow"
    if isinstance(error, FileNotFoundError):
        bucket = "/".join(path.split("/")[:3])
        missing = not has_folders(path) and "bucket" in reason.lower()
        return f"there is no {bucket}; make it first, or name another one" if missing else "it is not there"
    if isinstance(error, ConnectionError):
        return f"{reason}; is the server reachable from here?"
    return f"{reason}; check the URL and the server"


def _advice(error: OSError) -> str:
    """What went wrong and what to do about it."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)) or "No space left" in str(error):
        return "the disk is full; free some space, or choose another folder for artifacts"
    if error.errno == errno.EROFS:
        return "the file system is read-only; choose another folder for artifacts"
    if isinstance(error, PermissionError):
        return "permission denied; check who owns the folder, or choose another one for artifacts"
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    return f"{reason}; check the path and the disk"
