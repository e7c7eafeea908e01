"""The heartbeat of a service: renews its leases, whatever its runs do meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from batchrun.config import Settings
from batchrun.errors import StoreError
from batchrun.service.lookout import Lookout
from batchrun.store.runs import RunStore

__all__ = ["Heart"]

logger = logging.getLogger("batchrun.service")

BEATS = 6
"""Beats in the time of a lease."""
ASKED_EVERY = 0.5
"""Seconds between two looks whether the service was asked to stop, if somebody committed something."""
ASKED_ANYWAY = 5.0
"""Seconds between two such looks otherwise."""
RETRY_AFTER = 0.5
"""Seconds to the next try if the store cannot be reached."""


class Heart(threading.Thread):
    """Renews what the service holds until it is stopped.

    Args:
        settings: The service's.
        service: Its id.
        driven: Gives the runs that it drives, whose leases are renewed.
        held: Is called after each beat with the runs that the service still holds.
    """

    def __init__(
        self,
        settings: Settings,
        service: str,
        driven: Callable[[], Collection[str]],
        held: Callable[[set[str]], None],
    ) -> None:
        super().__init__(name="batchrun-heart", daemon=True)
        self.asked: str | None = None
        """How the service was asked to stop; None if it was not."""
        self._settings = settings
        self._service = service
        self._driven = driven
        self._held = held
        self._over = threading.Event()

    def stop(self) -> None:
        """Beat no more."""
        self._over.set()
        self.join(5.0)

    def run(self) -> None:
        """What the thread does."""
        lease = self._settings.service.lease
        looks = max(1, round(lease / BEATS / ASKED_EVERY))
        with RunStore(self._settings.store_url) as store:
            turn, lookout = 0, Lookout(0.0, ASKED_ANYWAY)
            while not self._over.is_set():
                try:
                    if turn % looks == 0:
                        self._held(store.queue.renew(self._service, lease, self._driven()))
                        store.services.beat(self._service)
                    if self.asked is None and lookout.due(store.version()):
                        self.asked = store.services.asked(self._service)
                    turn += 1
                    self._over.wait(min(ASKED_EVERY, lease / BEATS))
                except Exception as error:  # whatever it is, the runs are lost if nobody renews the leases
                    known = isinstance(error, StoreError)
                    logger.warning(
                        "the heart of %s missed a beat: %s", self._service, error, exc_info=not known
                    )
                    turn = 0
                    lookout.at_once()
                    self._over.wait(RETRY_AFTER)
