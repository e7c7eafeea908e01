"""Looks whether a run would find what it needs. Observes only: it starts and writes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from batchrun.config import ConnectSettings, LocalSettings
from batchrun.data.files import filesystem as filesystem_of
from batchrun.data.files import has_folders
from batchrun.data.shared_memory import folder_of, leftovers
from batchrun.errors import ClusterError, VersionMismatchError
from batchrun.resources import describe_workers, format_bytes

if TYPE_CHECKING:
    from batchrun.config import Settings

__all__ = ["Check", "diagnose"]

_PACKAGES = ("batchrun", "dask", "distributed", "pandas", "pyarrow", "polars", "bokeh", "sqlalchemy")
_LITTLE_DISK = 2 * 2**30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What was looked at, in a word or two."""
    ok: bool | None
    """Whether it is as a run needs it; None where a run may go well or not."""
    detail: str
    """What was seen."""
    advice: str = ""
    """What to do; empty if nothing is to be done."""


def diagnose(settings: Settings) -> list[Check]:
    """Look at versions, cluster, store and disk, as *settings* name them.

    A scheduler elsewhere is asked, within the timeout of the settings. A local cluster is not started: what
    it would take is compared with this machine.
    """
    return [
        _configuration(settings),
        _versions(),
        *(_cluster(settings)),
        _store(settings.store_url),
        _disk(settings.artifact_root),
        *_shared_memory(settings.artifact_root),
    ]


def _configuration(settings: Settings) -> Check:
    if settings.path is None:
        return Check("configuration", True, "no cluster.yaml here or above; the built-in defaults hold")
    return Check("configuration", True, str(settings.path))


def _versions() -> Check:
    found = [f"Python {platform.python_version()}"]
    missing = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            if package != "polars":
                missing.append(package)
    advice = f"install {', '.join(missing)}: `pip install batchrun` brings all of them" if missing else ""
    return Check("versions", not missing, ", ".join(found), advice)


def _cluster(settings: Settings) -> Iterator[Check]:
    if isinstance(settings.cluster, ConnectSettings):
        yield from _remote(settings)
    else:
        yield from _machine(settings.cluster)


def _machine(local: LocalSettings) -> Iterator[Check]:
    """What the worker groups would take of this machine."""
    import psutil

    groups = [group for group in local.workers.values() if group.count]
    tags = sorted({tag for group in groups for tag in group.resources})
    wanted = sum(group.count * group.memory for group in groups)
    largest = max(group.memory for group in groups)
    threads = sum(group.count * group.threads for group in groups)
    memory, cores = int(psutil.virtual_memory().total), os.cpu_count() or 1
    count = sum(group.count for group in groups)
    tagged = f", tags {', '.join(tags)}" if tags else ""
    yield Check("cluster", True, f"local, {count} workers, {threads} threads{tagged}; started when needed")
    advice = ""
    if largest > memory:
        advice = f"one worker may take {format_bytes(largest)}, more than there is; lower its `memory`"
    elif wanted > memory:
        advice = "if all workers fill up together the machine runs short; lower `memory` or `count`"
    ok = False if largest > memory else None if advice else True
    yield Check("memory", ok, f"{format_bytes(wanted)} for workers, {format_bytes(memory)} here", advice)
    advice = "solves will share cores; lower `count` or `threads`" if threads > cores else ""
    yield Check("cores", None if advice else True, f"{threads} worker threads, {cores} cores here", advice)


def _remote(settings: Settings) -> Iterator[Check]:
    """What the scheduler elsewhere says."""
    from batchrun.cluster.connect import connect

    assert isinstance(settings.cluster, ConnectSettings)  # noqa: S101  for the type checker
    try:
        connection = connect(settings)
    except VersionMismatchError as error:
        yield Check("cluster", False, f"reached {settings.cluster.address}", str(error))
        return
    except ClusterError as error:
        yield Check("cluster", False, f"cannot use {settings.cluster.address}", str(error))
        return
    with connection:
        workers = connection.workers()
        tags = sorted({tag for worker in workers for tag in worker.tags})
        yield Check("cluster", True, f"{settings.cluster.address}: {describe_workers(workers)}")
        yield Check(
            "tags",
            True if tags else None,
            ", ".join(tags) or "no worker has a tag",
            "" if tags else 'give workers tags where stages need them: `dask worker --resources "HIGHMEM=1"`',
        )
        fit = not connection.warnings
        detail = "client and workers agree" if fit else "; ".join(connection.warnings)
        advice = "" if fit else "install the same versions on both sides"
        yield Check("cluster versions", True if fit else None, detail, advice)


def _store(url: str) -> Check:
    if url.startswith("sqlite:///"):
        return _sqlite(Path(url.removeprefix("sqlite:///")))
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    if folder.startswith("/"):
        return _server_by_socket(Path(folder) / f".s.PGSQL.{parts.port or 5432}")
    place = f"{parts.hostname or 'localhost'}:{parts.port or 5432}"
    try:
        with socket.create_connection((parts.hostname or "localhost", parts.port or 5432), timeout=5):
            return Check("store", True, f"{parts.scheme} at {place} answers")
    except OSError as error:
        return Check("store", False, f"{parts.scheme} at {place}: {error}", "is the database server running?")


def _server_by_socket(path: Path) -> Check:
    """What answers at a socket of this machine."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            return Check("store", True, f"a server at {path} answers")
    except OSError as error:
        return Check("store", False, f"{path}: {error}", "is the database server running?")


def _sqlite(path: Path) -> Check:
    if not path.exists():
        parent = _existing(path.parent)
        if parent.is_dir() and os.access(parent, os.W_OK):
            return Check("store", True, f"{path} will be made by the first run")
        why = "is not writable" if parent.is_dir() else "is a file"
        return Check("store", False, f"{path} cannot be made: {parent} {why}", _ELSEWHERE)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        return Check("store", False, f"{path} cannot be read: {error}", _ELSEWHERE)
    if head and not head.startswith(b"SQLite format 3"):
        return Check("store", False, f"{path} is not an SQLite database", "move it away, or set `store`")
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return Check("store", False, f"{path} is not writable", _ELSEWHERE)
    return Check("store", True, f"{path}, {format_bytes(path.stat().st_size)}")


_ELSEWHERE = "change its permissions, or set `store` in cluster.yaml to a folder that you may write"


def _disk(root: str) -> Check:
    if "://" in root:
        return _remote_root(root)
    folder = _existing(Path(root))
    if not folder.is_dir():
        return Check("disk", False, f"{folder} is a file", "set `artifacts` in cluster.yaml to a folder")
    if not os.access(folder, os.W_OK):
        advice = "change its permissions, or set `artifacts` in cluster.yaml"
        return Check("disk", False, f"{folder} is not writable", advice)
    free = shutil.disk_usage(folder).free
    advice = "free some space, or set `artifacts` to another disk" if free < _LITTLE_DISK else ""
    return Check("disk", None if advice else True, f"{format_bytes(free)} free for {root}", advice)


def _shared_memory(root: str) -> Iterator[Check]:
    """What runs that are gone left in shared memory; nothing to tell if there is none."""
    found = {run: size for run, size in leftovers().items() if not _known(root, run)}
    if found:
        yield Check(
            "shared memory",
            None,
            f"{format_bytes(sum(found.values()))} of runs that are not in {root}: {', '.join(sorted(found))}",
            f"if no other store has them, remove them: rm -r {' '.join(map(folder_of, sorted(found)))}",
        )


def _known(root: str, run_id: str) -> bool:
    """Whether a run has its folder, from which it can be resumed."""
    return "://" in root or (Path(root) / run_id).is_dir()


def _remote_root(root: str) -> Check:
    try:
        filesystem, path = filesystem_of(root)
        there = filesystem.exists(path)
        bucket = path.partition("/")[0]
        if not (there or has_folders(root) or filesystem.exists(bucket)):
            return Check("disk", False, f"{root}: there is no bucket {bucket}", "make it, or name another")
    except Exception as error:  # every file system has errors of its own
        reason = f"{type(error).__name__}: {error}"
        return Check("disk", False, f"{root}: {reason}", "check the URL and the credentials")
    return Check("disk", True, root if there else f"{root} will be made by the first run")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
