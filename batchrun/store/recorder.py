"""Makes results and records durable in groups, so that many small chunks do not cost many writes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from batchrun.data import files
from batchrun.data.load import write_table
from batchrun.data.refs import TO_THE_END, ResultRef, ResultRefs
from batchrun.data.segments import SegmentWriter
from batchrun.data.table import Inline, Stored, encode
from batchrun.errors import StoreError
from batchrun.outcome import Attempt, SolvedAttempts
from batchrun.store import telling
from batchrun.store.artifacts import RunFolder
from batchrun.store.event_record import News
from batchrun.store.live import LiveState
from batchrun.store.records import SettledChunk, SettledChunks
from batchrun.store.requests import CancelRequest
from batchrun.store.writer import RunWriter

if TYPE_CHECKING:
    import pyarrow as pa

    from batchrun.outcome import Integers

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
    attempts: int = 20_000
    """Once so many attempts were collected, so that a commit never takes long."""


@dataclass
class Recorder:
    """The one writer of a run's records.

    A chunk counts as settled when ``flush`` returns it, not before: by then its result, or the rows of it
    that were set apart, are on disk and the record of it is committed, together with its attempts, in one
    transaction.
    """

    writer: RunWriter
    folder: RunFolder
    session: str
    """A token of this session of the run; segments of different sessions never meet."""
    policy: FlushPolicy = FlushPolicy()
    clock: Callable[[], float] = time.monotonic
    rows: dict[str, int] = field(default_factory=lambda: {"rows_solved": 0, "rows_quarantined": 0})
    """Rows settled so far, by column of the run's record."""

    def __post_init__(self) -> None:
        self._segments = SegmentWriter(self.folder.segments(self.session), 0)
        self._quarantine = SegmentWriter(self.folder.quarantine(self.session), 0)
        self._attempts: list[Attempt] = []
        self._solved: list[SolvedAttempts] = []
        self._settled: list[SettledChunk] = []
        self._together: list[SettledChunks] = []
        self._news: list[News] = []
        self._number = 0
        self._keys: list[str] = []
        self._written: list[tuple[Integers, ResultRefs]] = []
        self._since: float | None = None
        self._beaten = self.clock()
        self._asked = self._told = self.clock()

    def attempt(self, attempt: Attempt) -> None:
        """Collect the record of an attempt."""
        self._attempts.append(attempt)
        self._touch()

    def attempts(self, attempts: SolvedAttempts) -> None:
        """Collect the records of many attempts that went well."""
        self._solved.append(attempts)
        self._touch(len(attempts))

    def solved(self, chunk: SettledChunk, output: Inline | Stored, key: str) -> None:
        """Collect a chunk's result; *key* is the task that holds it until it is durable."""
        if isinstance(output, Stored):
            chunk = replace(chunk, result=ResultRef.of(output))
        else:
            self._segments.add(chunk.chunk, output.data)
        self._settled.append(chunk)
        self._keys.append(key)
        self._touch()

    def solved_together(self, chunks: SettledChunks, output: Inline | Stored, key: str) -> None:
        """Collect the results of chunks of one pack, one below the other in *output*."""
        if isinstance(output, Stored):
            places = ResultRefs.of_pack(
                output.path, chunks.rows_out, output.nbytes, first_batch=0, batches=TO_THE_END
            )
            chunks = replace(chunks, results=places)
        else:
            self._segments.add_pack(chunks.chunks, chunks.rows_out, output.data)
        self._together.append(chunks)
        self._keys.append(key)
        self._touch()

    def given_up(self, chunk: SettledChunk, rows: pa.Table | None) -> None:
        """Collect a chunk that failed for good, and its input *rows*; None if they cannot be read."""
        stored = self._stored_alone(chunk.chunk, rows) if rows is not None else None
        if stored is not None:
            chunk = replace(chunk, result=stored)
        elif rows is not None:
            self._quarantine.add(chunk.chunk, encode(rows))
        self._settled.append(chunk)
        self._touch()

    def cancelled(self, chunk: SettledChunk) -> None:
        """Collect a chunk that was cancelled: it is neither solved nor given up."""
        self._settled.append(chunk)
        self._touch()

    def cut(self, chunk: int, parts: Sequence[int], rows: Sequence[int]) -> None:
        """Collect that a chunk was cut into *parts* with so many *rows* each."""
        self._news.append(telling.chunk_cut(chunk, parts, rows))
        self._touch()

    def stopping(self, running: int) -> None:
        """Collect that the run starts nothing new while so many chunks run."""
        self._news.append(telling.run_stopping(running))
        self._touch()

    def due_in(self) -> float | None:
        """Seconds until a flush is due; None if nothing was collected."""
        if self._since is None:
            return None
        much = self._segments.pending_bytes + self._quarantine.pending_bytes >= self.policy.nbytes
        if much or self._number >= self.policy.attempts:
            return 0.0
        return max(0.0, self._since + self.policy.seconds - self.clock())

    def flush(self, *, chunks: int) -> tuple[SettledChunks, list[str]]:
        """Write all that was collected; if that fails, all of it is still there for another try.

        *chunks* is the number of chunks planned so far. Returns the chunks that are settled by this, and
        the keys of tasks that may be forgotten.
        """
        if self._since is None:
            return SettledChunks.empty(), []
        self._written += [self._segments.flush(), self._quarantine.flush()]
        settled = SettledChunks.joined([SettledChunks.of(self._settled), *self._together])
        for numbers, places in self._written:
            settled = settled.placed(numbers, places)
        rows = {
            "rows_solved": self.rows["rows_solved"] + int(settled.rows[settled.solved].sum()),
            "rows_quarantined": self.rows["rows_quarantined"] + int(settled.rows[settled.given_up].sum()),
        }
        self.writer.commit(
            self._attempts, settled, self._solved, self._news, heartbeat=time.time(), chunks=chunks, **rows
        )
        self.rows, keys = rows, self._keys
        self._attempts, self._solved, self._settled, self._together, self._news = [], [], [], [], []
        self._keys, self._written, self._since, self._number = [], [], None, 0
        return settled, keys

    def beat(self) -> None:
        """Say every few seconds that the run's driver is at work."""
        if self.clock() - self._beaten >= HEARTBEAT_SECONDS:
            self._beaten = self.clock()
            self.writer.update(heartbeat=time.time())

    def requests(self, every: float = 0.25) -> list[CancelRequest]:
        """What others asked of the run since the last call; looks at most every so many seconds."""
        now = self.clock()
        if now - self._asked < every:
            return []
        self._asked = now
        return list(self.writer.take_requests())

    def live(self, state: Callable[[], LiveState], every: float = 1.0) -> None:
        """Tell other processes how the run is doing; *state* is called at most every so many seconds."""
        now = self.clock()
        if now - self._told >= every:
            self._told = now
            self.writer.save_live(state())

    def _stored_alone(self, chunk: int, rows: pa.Table) -> ResultRef | None:
        """Where many rows of one chunk were written; None if they are few, or wait for the next flush."""
        if rows.nbytes < self.policy.nbytes:
            return None
        path = files.join(self.folder.quarantine(self.session), f"{chunk:09d}.arrow")
        with contextlib.suppress(StoreError):
            return ResultRef.of(write_table(rows, path))
        return None

    def _touch(self, number: int = 1) -> None:
        self._number += number
        if self._since is None:
            self._since = self.clock()
