"""The messenger of a service: tells the hooks when runs have ended, however long that takes."""

from __future__ import annotations

import logging
import threading

from batchrun.config import Settings
from batchrun.errors import BatchrunError
from batchrun.hooks import run_pending_hooks
from batchrun.service.lookout import Lookout
from batchrun.store.runs import RunStore

__all__ = ["Messenger"]

logger = logging.getLogger("batchrun.service")

LOOK_EVERY = 1.0
"""Seconds between two looks for runs that have ended, if somebody committed something."""
LOOK_ANYWAY = 10.0
"""Seconds between two such looks otherwise: a process that was to tell of an end may be gone."""
END_WITHIN = 10.0
"""Seconds that it gets to tell of the last ends; what is not told by then, the next service tells."""


class Messenger(threading.Thread):
    """Tells of the ends of queued runs until it is stopped.

    Args:
        settings: The service's.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="batchrun-messenger", daemon=True)
        self._settings = settings
        self._over = threading.Event()

    def stop(self) -> None:
        """Tell of the runs that have ended by now, and end."""
        self._over.set()
        self.join(END_WITHIN)

    def run(self) -> None:
        """What the thread does."""
        lookout = Lookout(0.0, LOOK_ANYWAY)
        with RunStore(self._settings.store_url) as store:
            while True:
                last = self._over.is_set()
                try:
                    if lookout.due(store.version()) or last:
                        run_pending_hooks(store, self._settings.hooks)
                except BatchrunError as error:
                    logger.warning("the ends of runs are told later: %s", error)
                    lookout.at_once()
                if last:
                    return
                self._over.wait(LOOK_EVERY)
