"""The rows of an input as they become readable, and as they are no longer needed.

A frame in memory is written block by block while the first chunks are computed already. What a run wrote for
itself goes again as soon as all its rows are solved.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from batchrun.data import files
from batchrun.data.shared_memory import linked_from, move_to_disk
from batchrun.errors import StoreError

if TYPE_CHECKING:
    from batchrun.data.source import Integers, Source

__all__ = ["Supply"]

logger = logging.getLogger("batchrun")

PATIENCE = 5.0
"""Seconds that ``close`` takes for each thing that makes it possible to resume the run."""


class Supply:
    """What workers can read of a source.

    Args:
        source: The planned input.
        write: Writes the file of that number, and is called with each in turn, in a thread; None if all
            files are there.
        needed: The first rows of the chunks that are not solved and one past their last, of a run that goes
            on; None for all rows.
    """

    def __init__(
        self,
        source: Source,
        write: Callable[[int], None] | None = None,
        *,
        needed: tuple[Integers, Integers] | None = None,
    ) -> None:
        self._spool = source.spool
        self._memory = linked_from(source.spool) if source.spool is not None else None
        self._files = source.files
        lengths = np.bincount(
            source.block_files, weights=np.diff(source.block_starts), minlength=len(source.files)
        )
        self._edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths.astype(np.int64))])
        self._left = np.diff(self._edges) if needed is None else self._count(*needed)
        self._there = np.ones(len(self._files), bool)
        self._changed = threading.Condition()
        self._ready = source.rows if write is None else 0
        self._writing = write is not None
        self._stop = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._remover: ThreadPoolExecutor | None = None
        if write is not None:
            self._thread = threading.Thread(
                target=self._write, args=(write,), name="batchrun-spool", daemon=True
            )
            self._thread.start()

    @property
    def ready(self) -> int:
        """Rows from the start of the input that workers can read now."""
        return self._ready

    @property
    def done(self) -> bool:
        """Whether workers can read all rows."""
        return not self._writing and self._error is None and not self._stop

    def wait(self, rows: int, timeout: float | None = None) -> bool:
        """Wait until so many rows can be read; False if that takes longer than *timeout* seconds.

        Raises StoreError as ``check`` does.
        """
        with self._changed:
            self._changed.wait_for(lambda: 0 < rows <= self._ready or not self._writing, timeout)
        self.check()
        return self._ready >= rows

    def check(self) -> None:
        """Raise StoreError if the rows could not be written, because the disk is full, for example."""
        if isinstance(self._error, StoreError):
            raise StoreError(str(self._error)) from self._error
        if self._error is not None:
            raise StoreError(f"the input could not be written: {self._error}") from self._error

    def settled(self, starts: Integers, stops: Integers) -> None:
        """The rows of chunks are solved: files that the run wrote go when all their rows are.

        *starts* and *stops* are the first rows of chunks and one past their last, shape (chunks,); each row
        is told once.
        """
        if self._spool is None or not len(starts):
            return
        self._left -= self._count(starts, stops)
        over = np.flatnonzero((self._left <= 0) & self._there)
        self._there[over] = False
        if len(over):
            if self._remover is None:
                self._remover = ThreadPoolExecutor(1, thread_name_prefix="batchrun-spool-remover")
            self._remover.submit(self._remove_files, over.tolist())

    def close(self, patience: float = PATIENCE) -> None:
        """Let go.

        If all rows are solved, all that the run wrote is removed. Else the rest is kept for a resume: what is
        not written yet is written, and what is in shared memory moves to the disk, as far as that takes no
        more than *patience* seconds each.
        """
        if self._thread is not None:
            self._thread.join(patience)
        self._end_threads()
        if self._spool is None:
            return
        if not (self._left > 0).any():
            self._remove()
        elif self._memory is not None and not move_to_disk(self._spool, patience):
            logger.warning(
                "the input stays in shared memory at %s; remove it if the run will not be resumed",
                self._memory.path,
            )

    def discard(self) -> None:
        """Stop writing and remove all that the run wrote."""
        self._end_threads()
        self._remove()

    def _remove_files(self, numbers: list[int]) -> None:
        """In a thread: memory is given back page by page, which takes a second for some gigabytes."""
        for number in numbers:
            with contextlib.suppress(StoreError):  # what cannot be removed now goes with its folder
                files.remove(self._files[number])

    def _remove(self) -> None:
        if self._memory is not None:
            self._memory.remove()
            with contextlib.suppress(StoreError):
                files.remove(self._spool or "")
        elif self._spool is not None:
            files.remove_folder(self._spool)

    def _count(self, starts: Integers, stops: Integers) -> Integers:
        """How many of the rows of chunks lie in each file, shape (files,)."""
        counts = np.zeros(len(self._files), np.int64)
        first = np.searchsorted(self._edges, starts, side="right") - 1
        last = np.searchsorted(self._edges, stops, side="left") - 1
        np.add.at(counts, first, np.minimum(stops, self._edges[first + 1]) - starts)
        for at in np.flatnonzero(last > first).tolist():
            rest = slice(int(first[at]) + 1, int(last[at]) + 1)
            counts[rest] += np.minimum(self._edges[1:][rest], stops[at]) - self._edges[:-1][rest]
        return counts

    def _end_threads(self) -> None:
        self._stop = self._writing
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._remover is not None:
            self._remover.shutdown()
            self._remover = None

    def _write(self, write: Callable[[int], None]) -> None:
        try:
            for number in range(len(self._files)):
                if self._stop:
                    break
                write(number)
                with self._changed:
                    self._ready = int(self._edges[number + 1])
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
