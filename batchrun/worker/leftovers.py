"""Processes that a stage started and did not end: none of them outlives its task."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["MARKER", "below", "end_leftovers", "end_marked"]

MARKER = "BATCHRUN_CHILD"
"""The environment variable that a child and all that it starts carry: the worker's token, a dot, and the
child's own."""


def end_leftovers() -> None:
    """End all processes below this one; called by the child between two tasks. Never raises.

    None is waited for: who started one may still want to know how it ended.
    """
    deadline = time.monotonic() + 2.0
    with contextlib.suppress(Exception):
        while (pids := _left()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            # What they had started in turn is ours by now, see PR_SET_CHILD_SUBREAPER.
            time.sleep(0.001)


def _left() -> list[int]:
    """The processes below this one that run; but Python's own resource tracker, which ends with it."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    spared = getattr(tracker, "_pid", None)
    pids = below(os.getpid(), deep=sys.platform != "linux")
    return [pid for pid in pids if pid != spared and _runs(pid)]


def _runs(pid: int) -> bool:
    """Whether a process has not ended; one that ended and that nobody has waited for is left out."""
    if sys.platform != "linux":
        return True
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    return False


def end_marked(token: str) -> None:
    """End every process whose environment carries the marker *token*, or one that begins with it and a dot.

    Never raises.
    """
    with contextlib.suppress(Exception):
        for _ in range(10):
            found = [pid for pid in _pids() if pid != os.getpid() and _carries(pid, token)]
            if not found:
                return
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            time.sleep(0.005)


def below(pid: int, *, deep: bool = True) -> list[int]:
    """The processes that a process started, and those that they started in turn; only its own children if
    not *deep*. Never raises."""
    if sys.platform == "linux":
        try:
            found = _children(pid)
        except OSError:
            found = [] if not os.path.exists(f"/proc/{pid}") else _below_slowly(pid, deep)
        else:
            for child in found if deep else ():
                with contextlib.suppress(OSError):
                    found += _children(child)
        return found
    return _below_slowly(pid, deep)


def _children(pid: int) -> list[int]:
    """Cheaper by far than to look at all processes of the machine."""
    return [
        int(child)
        for thread in os.listdir(f"/proc/{pid}/task")
        for child in Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split()
    ]


def _below_slowly(pid: int, deep: bool) -> list[int]:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return [child.pid for child in psutil.Process(pid).children(recursive=deep)]
    return []


def _pids() -> Iterable[int]:
    if sys.platform == "linux":
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    import psutil

    return psutil.pids()


def _carries(pid: int, token: str) -> bool:
    """Whether the process is alive and was started with the marker."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            entry = f"{MARKER}={token}".encode()
            data = b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
            return b"\0" + entry + b"\0" in data or b"\0" + entry + b"." in data
        return False
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        value = psutil.Process(pid).environ().get(MARKER, "")
        return value == token or value.startswith(token + ".")
    return False
