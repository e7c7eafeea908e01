"""Makes results and records durable in groups, so that many small chunks do not cost many writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from batchrun.data.results import ResultRef, SegmentWriter
from batchrun.data.table import Inline, Stored
from batchrun.outcome import Attempt
from batchrun.store.artifacts import RunFolder
from batchrun.store.runs import RunStore, SettledChunk

__all__ = ["HEARTBEAT_SECONDS", "FlushPolicy", "Recorder"]

HEARTBEAT_SECONDS = 5.0
"""How often the driver of a run says that it is at work."""


@dataclass(frozen=True)
class FlushPolicy:
    """When what was collected is written."""

    seconds: float = 0.5
    """At the latest so long after the first thing was collected."""
    nbytes: int = 8 * 2**20
    """Once so many bytes of results were collected."""


@dataclass
class Recorder:
    """The one writer of a run's records.

    A chunk counts as settled when ``flush`` returns it, not before: by then its result is on disk and the
    record of it is committed, together with its attempts, in one transaction.
    """

    store: RunStore
    run_id: str
    folder: RunFolder
    session: str
    """A token of this session of the run; segments of different sessions never meet."""
    policy: FlushPolicy = FlushPolicy()
    clock: Callable[[], float] = time.monotonic
    rows: dict[str, int] = field(default_factory=lambda: {"rows_solved": 0, "rows_quarantined": 0})
    """Rows settled so far, by column of the run's record."""

    def __post_init__(self) -> None:
        self._segments = SegmentWriter(self.folder.segments(self.session), 0)
        self._attempts: list[Attempt] = []
        self._settled: list[SettledChunk] = []
        self._keys: list[str] = []
        self._refs: dict[int, ResultRef] = {}
        self._since: float | None = None
        self._beaten = self.clock()

    def attempt(self, attempt: Attempt) -> None:
        """Collect the record of an attempt."""
        self._attempts.append(attempt)
        self._touch()

    def solved(self, chunk: SettledChunk, output: Inline | Stored, key: str) -> None:
        """Collect a chunk's result; *key* is the task that holds it until it is durable."""
        if isinstance(output, Stored):
            chunk = replace(chunk, result=ResultRef.of(output))
        else:
            self._segments.add(chunk.chunk, output.data)
        self._settled.append(chunk)
        self._keys.append(key)
        self._touch()

    def given_up(self, chunk: SettledChunk) -> None:
        """Collect a chunk that has no result."""
        self._settled.append(chunk)
        self._touch()

    def due_in(self) -> float | None:
        """Seconds until a flush is due; None if nothing was collected."""
        if self._since is None:
            return None
        if self._segments.pending_bytes >= self.policy.nbytes:
            return 0.0
        return max(0.0, self._since + self.policy.seconds - self.clock())

    def flush(self, *, chunks: int) -> tuple[list[SettledChunk], list[str]]:
        """Write all that was collected; if that fails, all of it is still there for another try.

        *chunks* is the number of chunks planned so far. Returns the chunks that are settled by this, and
        the keys of tasks that may be forgotten.
        """
        if self._since is None:
            return [], []
        self._refs.update(self._segments.flush())
        settled = [
            replace(chunk, result=self._refs[chunk.chunk]) if chunk.chunk in self._refs else chunk
            for chunk in self._settled
        ]
        rows = dict(self.rows)
        for chunk in settled:
            rows["rows_solved" if chunk.outcome.solved else "rows_quarantined"] += chunk.rows
        self.store.commit(self.run_id, self._attempts, settled, heartbeat=time.time(), chunks=chunks, **rows)
        self.rows, keys = rows, self._keys
        self._attempts, self._settled, self._keys, self._refs, self._since = [], [], [], {}, None
        return settled, keys

    def beat(self) -> None:
        """Say every few seconds that the run's driver is at work."""
        if self.clock() - self._beaten >= HEARTBEAT_SECONDS:
            self._beaten = self.clock()
            self.store.update(self.run_id, heartbeat=time.time())

    def _touch(self) -> None:
        if self._since is None:
            self._since = self.clock()
