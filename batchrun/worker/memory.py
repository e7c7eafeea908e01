"""How much memory a process and its children hold, sampled often at little cost."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from io import FileIO

from batchrun.worker.leftovers import below

__all__ = ["LEAST_LIMIT", "MemoryGauge", "high_water", "machine_kills", "resident"]

LEAST_LIMIT = 256 * 2**20
"""The least memory, in bytes, that an isolated stage is held to: Python, pandas and Arrow alone take about
150 MiB."""
_LIST_EVERY = 0.2
"""Seconds between two lists of a process's children at least."""
_LIST_SHARE = 1 / 800
"""The share of a core that listing children may take."""

_linux = sys.platform == "linux"
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident(pid: int) -> int:
    """Resident bytes of one process; 0 if it is gone."""
    if _linux:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
        return 0
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def high_water(pid: int) -> int:
    """The most bytes that one process held since its stage began; 0 where the system does not keep it."""
    if not _linux:
        return 0
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def machine_kills() -> int:
    """How many processes the kernel ended on this machine because memory was short; 0 if it does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0


class MemoryGauge:
    """Samples the resident memory of a process and of all its descendants."""

    def __init__(self, pid: int) -> None:
        self.now = 0
        """Bytes at the last sample."""
        self.peak = 0
        """The most so far."""
        self._pid = pid
        self._shared, self._share_at = 0, 0.0
        self._file: FileIO | None = None
        if _linux:
            with contextlib.suppress(OSError):
                self._file = FileIO(f"/proc/{pid}/statm")
        self.children: list[int] = []
        """The descendants, as they were listed last."""
        self.listed_at = 0.0
        """When that was, in seconds since the epoch."""
        self._list_at = time.monotonic() + _LIST_EVERY

    def sample(self, now: float) -> int:
        """Measure; *now* is the time by time.monotonic."""
        if now >= self._list_at:
            self._list(now)
        total = self._root()
        if total and self.children:
            total += sum(resident(pid) for pid in self.children)
        self.now = total or self.now
        self.peak = max(self.peak, self.now)
        return self.now

    def own(self) -> int:
        """The last sample without what forked processes share with each other; more work than a sample."""
        now = time.monotonic()
        if not self.children or not _linux:
            return self.now
        if now >= self._share_at:
            proportional = sum(map(_proportional, [self._pid, *self.children]))
            self._shared = max(0, self.now - proportional)
            self._share_at = now + _LIST_EVERY
        return self.now - self._shared

    def last_words(self) -> None:
        """Take the process's own high-water mark into account, before it is ended."""
        others = sum(resident(pid) for pid in self.children)
        self.raise_to(high_water(self._pid) + others)

    def raise_to(self, nbytes: int) -> None:
        """Somebody else knows of a higher peak."""
        self.peak = max(self.peak, nbytes)

    def restart(self) -> None:
        """Begin a new peak."""
        self.peak = 0

    def close(self) -> None:
        """Let go of the process."""
        if self._file is not None:
            self._file.close()

    def _root(self) -> int:
        if self._file is None:
            return resident(self._pid)
        try:
            return int(os.pread(self._file.fileno(), 128, 0).split()[1]) * _PAGE
        except (OSError, ValueError, IndexError):
            return 0

    def _list(self, now: float) -> None:
        began = time.thread_time()
        found = below(self._pid)
        if found or resident(self._pid):  # a dead process cannot be asked; the last list stands
            self.children, self.listed_at = found, time.time()
        self._list_at = now + max(_LIST_EVERY, (time.thread_time() - began) / _LIST_SHARE)


def _proportional(pid: int) -> int:
    """Resident bytes of one process, those that it shares with others counted in part."""
    path = f"/proc/{pid}/smaps_rollup"
    with contextlib.suppress(OSError, ValueError, IndexError), open(path, "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return resident(pid)
