"""Shared memory as a folder: what is written there is mapped by the workers of this machine and does not
go to a disk.

A run names files in there by a link in its own folder. So it can move them to the disk when it ends before
all is solved: memory is for runs that go on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from dataclasses import dataclass

from batchrun.errors import UsageError

__all__ = ["MemoryFolder", "folder_of", "leftovers", "linked_from", "move_to_disk", "offer_memory"]

ROOT = "/dev/shm"  # noqa: S108  each run makes a folder of its own there, which others cannot read
"""Where Linux shows shared memory."""
PREFIX = "batchrun-"
"""How the names of the folders of runs begin."""
_SPARE = 2
"""It must be free so many times over: solves want memory too."""


@dataclass(frozen=True)
class MemoryFolder:
    """A folder in shared memory that a run may use."""

    path: str
    """The folder; it is there, and only its owner can look into it."""
    required: bool = False
    """Whether to refuse a frame that does not fit, rather than to write it to the disk."""

    def takes(self, size: float) -> bool:
        """Whether so many bytes go there.

        Raises UsageError if they must and do not fit.
        """
        from batchrun.resources import format_bytes

        free = _free()
        if free >= _SPARE * size:
            return True
        if self.required:
            raise UsageError(
                f"the input takes {format_bytes(size)}, and {format_bytes(free)} of shared memory are free, "
                f"of which a run leaves half; set `run.spool` to auto or disk"
            )
        return False

    def link(self, path: str) -> None:
        """Make *path* another name of the folder. Raises OSError."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(self.path, path)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def offer_memory(run_id: str, *, required: bool = False) -> MemoryFolder | None:
    """Make the folder of a run in shared memory; None where there is no shared memory.

    Raises UsageError if it is *required* and there is none.
    """
    path = folder_of(run_id)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.mkdir(path, 0o700)
            return MemoryFolder(path, required)
    if required:
        raise UsageError(
            f"`run.spool` is memory, and there is no shared memory at {ROOT}; set it to auto or disk"
        )
    return None


def folder_of(run_id: str) -> str:
    """The path of the folder of a run, whether it is there or not."""
    return os.path.join(ROOT, PREFIX + run_id)


def linked_from(path: str) -> MemoryFolder | None:
    """The folder that *path* is another name of; None if it is a folder by itself, or a URL."""
    return MemoryFolder(os.readlink(path)) if os.path.islink(path) else None


def move_to_disk(path: str, patience: float) -> bool:
    """Put a folder that is on the disk in the place of the link at *path*, with the same files.

    Gives up, and leaves all as it was, when that takes more than *patience* seconds or the disk refuses.
    """
    memory, copy = os.readlink(path), f"{path}.copy"
    deadline = time.monotonic() + patience
    try:
        os.mkdir(copy)
        for name in os.listdir(memory):
            shutil.copyfile(os.path.join(memory, name), os.path.join(copy, name))
            if time.monotonic() > deadline:
                raise TimeoutError
        os.unlink(path)
        os.rename(copy, path)
    except OSError:
        shutil.rmtree(copy, ignore_errors=True)
        return False
    shutil.rmtree(memory, ignore_errors=True)
    return True


def leftovers() -> dict[str, int]:
    """The runs of this user that have something in shared memory, and how many bytes."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(ROOT):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    found[entry.name.removeprefix(PREFIX)] = sum(
                        file.stat().st_size for file in os.scandir(entry.path)
                    )
    return found


def _free() -> float:
    """Bytes that can be written to shared memory before it, or the machine's memory, is full."""
    import psutil

    status = os.statvfs(ROOT)
    return min(float(status.f_bavail * status.f_frsize), float(psutil.virtual_memory().available))
