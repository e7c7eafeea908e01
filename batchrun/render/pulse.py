"""A beat for displays that must move while nothing happens."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

__all__ = ["Pulse"]


class Pulse:
    """Calls *act* every so many seconds in a thread of its own, from ``start`` until ``stop``.

    The thread has the context variables of the one that started it, and does not keep the process alive.
    """

    def __init__(self, act: Callable[[], None], every: float) -> None:
        self._act = act
        self._every = every
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._thread is None:
            context = contextvars.copy_context()
            self._thread = threading.Thread(
                target=context.run, args=(self._beat,), name="batchrun-display", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End it; nothing is called any more once this returns. May be called without a start, and twice."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._every):
            self._act()
