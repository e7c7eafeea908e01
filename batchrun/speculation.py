"""Which running chunks deserve a second start on another worker. Values in, values out.

A chunk can take long because of its worker: the machine is busy with something else, its disk fails, its
process hangs. Then the same chunk on another worker may well end first (backup tasks: J. Dean, S. Ghemawat,
2004). A chunk that is long by itself looks the same from outside, and its second start is in vain. So only
slots that would be idle are spent on it, and only a few of them.

A stage that tells how far it is shows how long it still needs. It is left alone if it will end before a
second start would (M. Zaharia and others, 2008).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchrun.forecast import Pace

__all__ = ["Underway", "most_copies", "stragglers"]

SOONEST = 2.0
"""Seconds that a chunk has run before it may be started again; what is shorter is not worth the trouble."""
SLOTS_A_COPY = 10
"""There is one second start at a time for so many slots."""


@dataclass(frozen=True)
class Underway:
    """A chunk that runs in a task of its own."""

    chunk: int
    """Its number."""
    leg: int
    """The leg that it is at."""
    rows: int
    """Its input rows."""
    elapsed: float
    """Seconds since it was handed to its worker."""
    forecast: float | None = None
    """Seconds that it may well take, by earlier runs; None if that is not known."""
    left: float | None = None
    """Seconds that it still needs, by what its stage tells; None if it does not tell."""


def most_copies(slots: int) -> int:
    """How many chunks may run twice at the same time on so many slots.

    >>> most_copies(3), most_copies(40)
    (1, 4)
    """
    return max(1, slots // SLOTS_A_COPY)


def stragglers(underway: Iterable[Underway], paces: Sequence[Pace]) -> list[Underway]:
    """The chunks that a second start would help, longest running first; *paces* has one for each leg."""
    found = [one for one in underway if _is_straggler(one, paces[one.leg])]
    return sorted(found, key=lambda one: (-one.elapsed, one.chunk))


def _is_straggler(one: Underway, pace: Pace) -> bool:
    if one.elapsed < SOONEST or not pace.straggling(one.rows, one.elapsed, one.forecast):
        return False
    usual = pace.expect(one.rows, one.forecast)
    return one.left is None or usual is None or one.left > usual
