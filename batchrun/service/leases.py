"""Tells the scheduler of a service how old the leases of its runs are, for its metrics."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["LeaseTeller"]

logger = logging.getLogger("batchrun.service")

END_WITHIN = 2.0
"""Seconds that it gets to say that the service holds nothing any more."""


class LeaseTeller(threading.Thread):
    """Remembers when each lease was renewed last, and says so after each renewal.

    It has a thread of its own, so that a scheduler that does not answer holds up nobody, the heart least of
    all.

    Args:
        service: The id of the service.
        seconds: How long its leases last.
        publish: Tells the scheduler; what it raises is logged.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        service: str,
        seconds: float,
        publish: Callable[[Mapping[str, Any]], object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="batchrun-leases", daemon=True)
        self._service = service
        self._seconds = seconds
        self._publish = publish
        self._clock = clock
        self._renewed: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._over = False

    def taken(self, run_id: str, pipeline: str) -> None:
        """The service has taken a run just now."""
        with self._lock:
            self._renewed[run_id] = pipeline, self._clock()
        self._news.set()

    def released(self, run_id: str) -> None:
        """The service has no lease of that run any more."""
        with self._lock:
            self._renewed.pop(run_id, None)
        self._news.set()

    def beat(self, held: Collection[str], driven: Mapping[str, str]) -> None:
        """The leases of those runs among *held* that are *driven* were renewed just now, and no others are
        held; *driven* has the pipeline of each."""
        now = self._clock()
        with self._lock:
            kept = {run_id: told for run_id, told in self._renewed.items() if run_id in held}
            renewed = {run_id: (pipeline, now) for run_id, pipeline in driven.items() if run_id in held}
            self._renewed = kept | renewed
        self._news.set()

    def stop(self) -> None:
        """Say that the service holds nothing any more, and end."""
        with self._lock:
            self._renewed.clear()
            self._over = True
        self._news.set()
        self.join(END_WITHIN)

    def run(self) -> None:
        """What the thread does."""
        told, over = True, False
        while not over:
            self._news.wait()
            self._news.clear()
            over, message = self._over, self._message()
            if message["runs"] or told:  # once that there is none is enough
                self._tell(message)
            told = bool(message["runs"])

    def _message(self) -> dict[str, Any]:
        from batchrun.dashboard.leases import lease_message

        with self._lock:
            now = self._clock()
            ages = {run_id: (pipeline, now - at) for run_id, (pipeline, at) in self._renewed.items()}
        return lease_message(self._service, self._seconds, ages)

    def _tell(self, message: Mapping[str, Any]) -> None:
        try:
            self._publish(message)
        except Exception:
            logger.debug("the scheduler could not be told of leases", exc_info=True)
