"""The observer that tells a run's events to the page, a few messages a second."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from batchrun.dashboard.changes import Changes
from batchrun.dashboard.message import CUT, RUNNING, FailureLine, Message, code_of, pack_cuts
from batchrun.events import (
    AttemptEnded,
    AttemptsSolved,
    ChunkCut,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksRecalled,
    ChunksReturned,
    ChunksSettled,
    Event,
    RunEnded,
    RunStarted,
    SlotsChanged,
)
from batchrun.outcome import Attempt, Outcome
from batchrun.progress import Progress, RunningLine

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Publisher"]

_log = logging.getLogger("batchrun.dashboard")

_FAILURES = 12
_CHUNKS_NAMED = 5
_TEXT = 400
_RUNNING = 50
_RUNNING_EVERY = 1.0
_SAID = 120
_CHANGES = 32_768
"""Chunks in one message; at four messages a second, more than a runner can settle."""
_CODES = {outcome: code_of(outcome) for outcome in Outcome}


class Publisher:
    """Gathers the events of one run at a time and hands them on in messages.

    *publish* is called in a thread of the publisher's own, so that a slow scheduler does not hold up the
    runner, at most once in *interval* seconds, and at least once in *heartbeat* seconds. What it raises is
    logged and tried again: a page that cannot be reached is no reason to stop a run. A message tells of some
    ten thousand chunks at most, so that it stays small; the rest follow with the next ones.

    RunEnded sends what is left before it returns, waiting five seconds for it at most.
    """

    def __init__(
        self,
        publish: Callable[[dict[str, object]], None],
        *,
        interval: float = 0.25,
        heartbeat: float = 10.0,
    ) -> None:
        self._publish = publish
        self._interval = interval
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._tally: _Tally | None = None

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, RunStarted):
            self.close()
            self._tally = _Tally(event)
            self._closing.clear()
            self._thread = threading.Thread(target=self._send_all, name="batchrun-dashboard", daemon=True)
            self._thread.start()
        if self._tally is None:
            return
        with self._lock:
            self._tally.take(event)
            # What chunks say of themselves is told once a second, however many they are.
            worth_telling = not isinstance(event, ChunkReported) or self._tally.running_due(time.time())
        if worth_telling:
            self._wake.set()
        if isinstance(event, RunEnded):
            self.close()

    def close(self) -> None:
        """Send what is left and stop; safe to call again, and without a run."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._closing.set()
        self._wake.set()
        thread.join(timeout=5.0)

    def _send_all(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._heartbeat)
            self._wake.clear()
            reached = self._send()
            if reached and self._more():
                self._wake.set()
            self._closing.wait(self._interval if reached else self._heartbeat)
        while self._send() and self._more():
            pass

    def _more(self) -> bool:
        """Whether there are more chunks to tell of than the last message could."""
        with self._lock:
            return self._tally is not None and self._tally.changes.left

    def _send(self) -> bool:
        tally = self._tally
        if tally is None:
            return True
        with self._lock:
            message, changes, cuts = tally.message(), tally.changes.take(_CHANGES), tally.cuts
            tally.cuts = {}
        try:
            self._publish(message | {"changed": changes.pack(), "cuts": pack_cuts(cuts)})
        except Exception:
            _log.debug("the dashboard page could not be told how the run stands", exc_info=True)
            with self._lock:
                tally.changes.tell_again(changes)
                tally.cuts = cuts | tally.cuts
            return False
        return True


class _Tally:
    """How the run stands, by the events so far."""

    def __init__(self, start: RunStarted) -> None:
        self.changes = Changes()
        self.cuts: dict[int, tuple[int, ...]] = {}
        self._cut = 0
        self._known = 0
        self._progress = Progress()
        self._running_at = float("-inf")
        self._head: dict[str, object] = {
            "run_id": start.run_id,
            "pipeline": start.pipeline,
            "cluster": start.cluster,
            "started": start.at,
            "rows_in": start.rows,
        }
        self._rows: Counter[str] = Counter()
        self._failures: dict[str, FailureLine] = {}
        self._last_stage = start.stages[-1] if start.stages else ""

    def take(self, event: Event) -> None:
        """Count one event in."""
        self._progress.tell(event)
        match event:
            case ChunksSettled():
                self._settle(event)
            case AttemptEnded():
                self._count_attempt(event.attempt)
            case AttemptsSolved():
                if event.attempts.stage != self._last_stage:
                    self.changes.wait(event.attempts.chunks)
            case ChunksPlaced():
                self._number(max(event.chunks, default=-1) + 1)
                self.changes.mark(np.array(event.chunks, np.int64), RUNNING)
            case ChunksReturned():
                self.changes.wait(np.array(event.chunks, np.int64))
            case ChunkCut():
                self._cut += 1
                self.cuts[event.chunk] = event.parts
                self.changes.mark(np.array([event.chunk]), CUT)
                self._number(max(event.parts) + 1)
            case ChunksPlanned():
                self._number(event.chunks + self._cut)
                self._head |= {
                    "rows_planned": event.rows,
                    "chunks_before": event.settled,
                    "rows_before": event.settled_rows,
                }
            case ChunksRecalled():
                self._number(int(event.chunks.max(initial=-1)) + 1)
                self.changes.mark(event.chunks, _codes_of(event.outcomes), event.rows)
            case SlotsChanged():
                self._head["slots"] = [
                    (slot.tag, slot.capacity, slot.used, slot.waiting) for slot in event.slots
                ]
                self._head["workers"] = event.workers
            case RunEnded():
                self._head |= {
                    "state": event.state.value,
                    "rows_ended": [event.rows_solved, event.rows_quarantined, event.rows_cancelled],
                    "seconds": event.seconds,
                    "error": _clip(str(event.error)) if event.error else "",
                }

    def running_due(self, now: float) -> bool:
        """Whether it is time to tell again of chunks that run."""
        return now - self._running_at >= _RUNNING_EVERY

    def message(self) -> dict[str, object]:
        """The message without its chunks."""
        now, running = time.time(), None
        if self.running_due(now) or self._progress.ended is not None:
            running = tuple(map(_short, self._progress.running_lines(now, _RUNNING)))
            self._running_at = now
        message = Message(
            at=now,
            running=running,
            chunks={outcome.value: chunks for outcome, chunks in self._progress.outcomes.items()},
            rows=dict(self._rows),
            attempts={outcome.value: tries for outcome, tries in self._progress.attempts.items()},
            failures=tuple(reversed(self._failures.values())),
            **self._head,  # type: ignore[arg-type]
        )
        return message.as_dict()

    def _number(self, chunks: int) -> None:
        """There are chunks of so many numbers, at least."""
        self._known = self._head["chunks_planned"] = max(chunks, self._known)

    def _settle(self, event: ChunksSettled) -> None:
        codes = _codes_of(event.outcomes)
        self.changes.mark(event.chunks, codes, event.rows, event.seconds)
        rows = np.bincount(codes, weights=event.rows)
        for outcome in set(event.outcomes):
            self._rows[outcome.value] += int(rows[_CODES[outcome]])

    def _count_attempt(self, attempt: Attempt) -> None:
        if not attempt.outcome.solved:
            self._count_failure(attempt)
        elif attempt.stage == self._last_stage:
            return  # it is about to be settled; until then it is no more waiting than it was
        if attempt.chunk not in self._progress.running:  # else another try of it goes on
            self.changes.wait(np.array([attempt.chunk]))

    def _count_failure(self, attempt: Attempt) -> None:
        error = attempt.error
        if error is None and attempt.outcome is Outcome.CANCELLED:
            return  # another try of the chunk was faster
        kind = error.type if error else attempt.outcome.value
        signature = f"{attempt.stage}\0{attempt.outcome.value}\0{(error.signature if error else '') or kind}"
        before = self._failures.pop(signature, None)
        named = (attempt.chunk, *(before.chunks if before else ()))
        self._failures[signature] = FailureLine(
            type=_clip(kind),
            message=_clip(error.message if error else attempt.outcome.description),
            stage=attempt.stage,
            outcome=attempt.outcome.value,
            attempts=(before.attempts if before else 0) + 1,
            chunks=tuple(dict.fromkeys(named))[:_CHUNKS_NAMED],
        )
        if len(self._failures) > _FAILURES:
            del self._failures[next(iter(self._failures))]


def _codes_of(outcomes: tuple[Outcome, ...]) -> npt.NDArray[np.uint8]:
    return np.fromiter(map(_CODES.__getitem__, outcomes), np.uint8, len(outcomes))


def _short(line: RunningLine) -> RunningLine:
    """A line whose texts are short enough for a message of many."""
    return replace(line, stage=line.stage[:_SAID], worker=line.worker[:_SAID], message=line.message[:_SAID])


def _clip(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
