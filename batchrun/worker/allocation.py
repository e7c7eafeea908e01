"""How the C library gives memory back, in workers of a cluster that is started here and in child processes.

Dask has it give back at once what is free at the end of the heap, so that a worker seems no larger than
what it holds. That does more than it says: to name one threshold ends the adapting of the other, beyond
which memory is mapped by itself. Every array of more than 128 KiB is then mapped, filled with zeros page by
page and given back, each time: a stage that groups flights with pandas takes twice as long.

Here the thresholds are those to which the library adapts by itself in a process like any other. What is
beyond them is given back all the same, and so is all that is free when a process is large.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping

__all__ = ["Keeper", "c_library", "give_back", "own_ways"]

TRIM = "MALLOC_TRIM_THRESHOLD_"
"""Names the bytes beyond which what is free at the end of the heap is given back, to the GNU C library."""
DASKS_CHOICE = "65536"
_OWN = {TRIM: str(64 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}


def own_ways(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that is to be started, without Dask's choice; anybody else's is kept.

    >>> own_ways({"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"})["MALLOC_TRIM_THRESHOLD_"]
    '67108864'
    >>> own_ways({"MALLOC_TRIM_THRESHOLD_": "4096"})
    {'MALLOC_TRIM_THRESHOLD_': '4096'}
    """
    return {**variables, **_OWN} if variables.get(TRIM) == DASKS_CHOICE else dict(variables)


def give_back() -> None:
    """Give memory that is free back to the system."""
    import pyarrow as pa

    with contextlib.suppress(Exception):
        pa.default_memory_pool().release_unused()
    libc = c_library()
    with contextlib.suppress(AttributeError):
        if libc is not None:
            libc.malloc_trim(ctypes.c_size_t(0))


class Keeper:
    """Gives back what is free whenever this process has grown to more than half of *limit* bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = limit // 2
        """Bytes that it held when there was nothing more to give back."""

    def look(self) -> None:
        """To be called several times a second; quick as long as the process does not grow."""
        from batchrun.worker.memory import resident

        held = resident(os.getpid())
        if held > self._held + self._limit // 20:
            give_back()
            held = resident(os.getpid())
            self._held = held
        self._held = max(self._limit // 2, min(self._held, held))


def c_library() -> ctypes.CDLL | None:
    """The C library of this process."""
    with contextlib.suppress(OSError, TypeError):
        return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    return None
