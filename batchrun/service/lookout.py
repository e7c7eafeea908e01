"""When it is worth to look at a store again."""

from __future__ import annotations

import time

__all__ = ["Lookout"]


class Lookout:
    """Says when a look is due: soon after somebody committed something, and every so often anyway.

    A service with nothing to do then does next to nothing.

    Args:
        soon: The least seconds between two looks.
        anyway: The seconds after which a look is due though nothing was committed; see ``again_in``.
    """

    def __init__(self, soon: float, anyway: float) -> None:
        self._soon = soon
        self._anyway = self._wait = max(soon, anyway)
        self._looked = float("-inf")
        self._version: int | None = None
        self._stale = True

    def due(self, version: int | None) -> bool:
        """Whether to look now; it is taken to be done.

        *version* is the store's, which is another one after each commit; None if it cannot tell.
        """
        self._stale = self._stale or version is None or version != self._version
        self._version = version
        now = time.monotonic()
        if now - self._looked < (self._soon if self._stale else self._wait):
            return False
        self._looked, self._stale, self._wait = now, False, self._anyway
        return True

    def again_in(self, seconds: float) -> None:
        """The next look is due in so many seconds from the last one, if that is earlier than it would be."""
        self._wait = min(self._anyway, max(self._soon, seconds))

    def at_once(self) -> None:
        """The next look is due now."""
        self._looked = float("-inf")
