"""What is told of a task while it runs: not too often, and never with an error for the task."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from batchrun.status import TaskStatus

__all__ = ["Reporter"]

REPORT_EVERY = 0.5
"""Seconds between two statuses of a task at least."""
LOOK_EVERY = 0.1
"""Seconds between two looks whether what had to wait may be told."""

_log = logging.getLogger(__name__)


class Reporter:
    """Tells whoever watches how a task is doing.

    Args:
        report: Who is told; nobody, if it is None.
        every: Seconds between two statuses at least.
    """

    def __init__(self, report: Callable[[TaskStatus], None] | None, *, every: float = REPORT_EVERY) -> None:
        self._report = report
        self._every = every
        self._lock = threading.Lock()
        self._last = time.monotonic()

    @property
    def idle(self) -> float:
        """Seconds since the last status."""
        return time.monotonic() - self._last

    def due(self) -> bool:
        """Whether a status may be told now; if so, this is taken for the time of it."""
        if self._report is None:
            return False
        with self._lock:
            now = time.monotonic()
            if now - self._last < self._every:
                return False
            self._last = now
        return True

    def tell(self, status: TaskStatus) -> None:
        """Tell a status, after `due` allowed it."""
        if self._report is None:
            return
        try:
            self._report(status)
        except Exception:
            _log.debug("a status could not be told", exc_info=True)

    def offer(self, status: Callable[[], TaskStatus]) -> None:
        """Tell what *status* gives now, or as soon as it is due: in another thread, unless more is offered or
        it is forgotten before."""
        if self.due():
            _waiting.drop(self)
            self.tell(status())
        elif self._report is not None:
            _waiting.add(self, status)

    def forget(self) -> None:
        """What was offered and not told is told no more: it is so no longer."""
        _waiting.drop(self)


class _Waiting:
    """Statuses that are not due yet; one thread looks after those of all tasks of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offered: dict[Reporter, Callable[[], TaskStatus]] = {}
        self._some = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, reporter: Reporter, status: Callable[[], TaskStatus]) -> None:
        with self._lock:
            self._offered[reporter] = status
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._look, name="batchrun-reporter", daemon=True)
                self._thread.start()
        self._some.set()

    def drop(self, reporter: Reporter) -> None:
        if self._offered:
            with self._lock:
                self._offered.pop(reporter, None)

    def _look(self) -> None:
        while self._some.wait():
            time.sleep(LOOK_EVERY)
            with self._lock:
                due = [(reporter, status) for reporter, status in self._offered.items() if reporter.due()]
                for reporter, _ in due:
                    del self._offered[reporter]
                if not self._offered:
                    self._some.clear()
            for reporter, status in due:
                reporter.tell(status())


_waiting = _Waiting()
