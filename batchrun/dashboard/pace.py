"""How often pages are drawn: twice a second, or more rarely where that would take too much of the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["LOOK_EVERY", "Pace"]

LOOK_EVERY: Final = 0.1
"""Seconds between two looks whether it is a page's turn."""
_DRAW_EVERY: Final = 0.5
"""Seconds between two drawings of one page at least."""
_SHARE: Final = 0.05
"""Of the loop's time, what all drawing together may take; sending takes about as much again."""
_AT_ONCE: Final = 0.01
"""Seconds after which the next part of a page is left for another turn of the loop."""
_LONGEST: Final = 5.0
"""Seconds that pages wait at most for a loop that is late."""


class Pace:
    """Shared by all pages of one loop: many open tabs draw more rarely, and do not hold up a scheduler.

    After each drawing there is none for a time that makes up for it, and for as long as the loop is late,
    since then others have work for it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._free_at = float("-inf")

    def is_turn(self, drawn: float, looked: float) -> bool:
        """Whether a page may be drawn that was drawn last at *drawn*, and looked last at *looked*."""
        now = self._clock()
        late = now - looked - LOOK_EVERY
        if late > LOOK_EVERY:
            self._free_at = max(self._free_at, now + min(late, _LONGEST))
        return now - drawn >= _DRAW_EVERY and now >= self._free_at

    @contextmanager
    def drawing(self) -> Iterator[Callable[[], bool]]:
        """Around the drawing of a page or a part of it, which counts.

        What it gives says whether there is time for another part, before others get their turn on the loop.
        """
        began = self._clock()
        yield lambda: self._clock() - began < _AT_ONCE
        ended = self._clock()
        rest = (ended - began) * (1 / _SHARE - 1)
        self._free_at = min(max(self._free_at, ended) + rest, ended + _LONGEST)

    def now(self) -> float:
        """The time by which pages are drawn, in seconds."""
        return self._clock()
