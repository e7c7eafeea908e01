"""The children of this worker process that wait for a task: warm, of one program at a time."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time

from batchrun.worker.process import Child, start_child
from batchrun.worker.warden import Warden

__all__ = ["Pool", "close_children", "pool"]

IDLE_SECONDS = 60.0
"""How long a child waits for another task before it is ended."""


class Pool:
    """Children without a task. Safe to use from all threads that run tasks."""

    def __init__(self, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._changed = threading.Condition()
        self._idle: list[tuple[Child, float]] = []
        self._idle_seconds = idle_seconds
        self._reaping = False
        self._closed = False

    def take(self, program: bytes, *, fresh: bool = False) -> Child:
        """A child for a task of *program*: a warm one if there is one, else a new one.

        With *fresh*, only one that has run nothing. Idle children of other programs are ended. Raises OSError
        if no child can be started.
        """
        with self._changed:
            self._closed = False
            idle = [child for child, _ in self._idle]
            usable = [child for child in idle if child.program in (None, program) and _well(child)]
            fit = [child for child in usable if not (fresh and child.tasks)]
            chosen = max(fit, key=lambda child: (child.program is not None, child.greeted), default=None)
            kept = [child for child in usable if child is not chosen]
            self._idle = [(child, since) for child, since in self._idle if child in kept]
        for child in idle:
            if child is not chosen and child not in kept:
                retire(child)
        return chosen or start_child()

    def give_back(self, child: Child) -> None:
        """The child may have another task."""
        with self._changed:
            if not self._closed:
                self._idle.append((child, time.monotonic()))
                self._changed.notify()
                if not self._reaping:
                    self._reaping = True
                    threading.Thread(target=self._reap, name="batchrun-reaper", daemon=True).start()
                return
        retire(child)

    def replace(self) -> None:
        """Start a child for whatever comes next, if none is there, and do not wait until it is ready."""
        with self._changed:
            if self._closed or any(child.program is None for child, _ in self._idle):
                return
        with contextlib.suppress(OSError):
            self.give_back(start_child())

    def close(self) -> None:
        """End all idle children now."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify()
        enders = [threading.Thread(target=child.finish) for child, _ in idle]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()

    def _reap(self) -> None:
        """End children that nobody has wanted for long, until there is none."""
        while True:
            with self._changed:
                if not self._idle:
                    self._reaping = False
                    return
                oldest = min(since for _, since in self._idle)
                self._changed.wait(max(0.05, oldest + self._idle_seconds - time.monotonic()))
                late = time.monotonic() - self._idle_seconds
                over = [child for child, since in self._idle if since <= late]
                self._idle = [(child, since) for child, since in self._idle if child not in over]
            for child in over:
                child.finish()


def retire(child: Child) -> None:
    """End a child that is not to have another task, in the background."""
    threading.Thread(target=child.finish, name="batchrun-retire", daemon=True).start()


def _well(child: Child) -> bool:
    return child.returncode() is None


_lock = threading.Lock()
_pools: dict[int, Pool] = {}


def pool() -> Pool:
    """The pool of this process."""
    with _lock:
        if os.getpid() not in _pools:
            _pools.clear()  # a fork of a worker has its parent's children in its memory, and no right to them
            _pools[os.getpid()] = Pool()
            atexit.register(_at_exit, os.getpid())
        return _pools[os.getpid()]


def close_children() -> None:
    """End all idle children of this process now; those that run a task go on."""
    pool().close()


def _at_exit(pid: int) -> None:
    if pid == os.getpid():
        pool().close()
        Warden.of_this_process().close()
