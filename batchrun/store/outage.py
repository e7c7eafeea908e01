"""Going on while the store cannot be written for a while: a full disk, a database that restarts."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from batchrun.errors import StoreError
from batchrun.resources import format_seconds

__all__ = ["Outage", "insist"]

logger = logging.getLogger("batchrun")

RETRY_EVERY = 0.5
"""Seconds between two tries."""

_Value = TypeVar("_Value")


@dataclass
class Outage:
    """Whether the store can be written, as far as is known, and for how long it cannot.

    Args:
        patience: Seconds after which an outage is an error.
        clock: Seconds on a clock that never goes back.
    """

    patience: float
    clock: Callable[[], float] = time.monotonic
    _since: float | None = field(default=None, init=False)
    _again_at: float = field(default=float("-inf"), init=False)

    @property
    def on(self) -> bool:
        """Whether the last try failed."""
        return self._since is not None

    @property
    def may_try(self) -> bool:
        """Whether it is time for another try."""
        return self.clock() >= self._again_at

    @property
    def wait(self) -> float | None:
        """Seconds until the next try; None where nothing is wrong."""
        return max(0.0, self._again_at - self.clock()) if self.on else None

    @contextlib.contextmanager
    def tolerated(self) -> Iterator[None]:
        """Within this context, errors of the store are put up with as long as there is patience."""
        try:
            yield
        except StoreError as error:
            self._failed(error)
        else:
            if self.on:
                logger.warning("the store can be written again")
            self._since, self._again_at = None, float("-inf")

    def _failed(self, error: StoreError) -> None:
        now = self.clock()
        if self._since is None:
            self._since = now
            if self.patience:
                logger.warning("%s (trying again for %s)", error, format_seconds(self.patience))
        if now - self._since >= self.patience:
            raise error
        self._again_at = now + RETRY_EVERY


def insist(write: Callable[[], _Value], patience: float) -> _Value:
    """What *write* gives, which is called again and again for as long as the store fails, and for so many
    seconds at most."""
    outage = Outage(patience)
    while True:
        with outage.tolerated():
            return write()
        time.sleep(outage.wait or 0.0)
