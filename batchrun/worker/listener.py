"""Who hears what a stage says in a child process, and tells the worker: at once where that is cheap, of
many words in quick succession only the last."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batchrun.errors import ResultError
from batchrun.outcome import Cause
from batchrun.worker.capture import chunk_logger
from batchrun.worker.faults import die_at
from batchrun.worker.incumbent import check_incumbent, encode_table, snapshot
from batchrun.worker.messages import Point, Progress, Published

if TYPE_CHECKING:
    from batchrun.worker.channel import Channel

__all__ = ["ChildListener"]

INCUMBENT_EVERY = 0.05
"""Seconds between two answers that are sent."""
PROGRESS_EVERY = 0.25
"""Seconds between two words of progress that are sent."""


class ChildListener:
    """Hears one stage. In a copy of the process that the stage forked it hears nothing."""

    def __init__(self, channel: Channel, stage: str, asked: Callable[[], Cause | None]) -> None:
        self.log = chunk_logger(_write)
        self.seen: Cause | None = None
        self._channel = channel
        self._stage = stage
        self._asked = asked
        self._own_pid = os.getpid()
        self._clock = time.monotonic()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._frame: Any = None
        self._points: list[Point] = []
        self._progress: Progress | None = None
        self._progress_sent = self._frame_sent = -PROGRESS_EVERY
        self._error: ResultError | None = None
        self._flusher: threading.Thread | None = None
        self._closed = False

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Tell now, or soon if something was told just before."""
        if os.getpid() != self._own_pid:
            return
        with self._changed:
            self._progress = Progress(done, total, message)
            self._wake()

    def incumbent(self, frame: Any, objective: float | None, bound: float | None) -> None:
        """Send the answer now, or within 50 ms if one was sent just before."""
        if os.getpid() != self._own_pid:
            return
        check_incumbent(frame, self._stage)
        if self._error is not None:
            raise self._error
        now = time.monotonic()
        kept = snapshot(frame)
        with self._changed:
            self._frame = kept
            self._points.append((now - self._clock, objective, bound))
            at_once = now - self._frame_sent >= INCUMBENT_EVERY
            if at_once:
                self._frame_sent = now
            else:
                self._wake()
        if at_once:
            self._send_frame()

    def should_stop(self) -> bool:
        """Whether the worker asked for it; from the first time on that it says so, the stage knows."""
        self.seen = self.seen or self._asked()
        return self.seen is not None

    def stopped_early(self) -> None:
        self.seen = self.seen or Cause.DEADLINE

    def flush(self) -> None:
        """Send what waits."""
        with self._changed:
            progress, self._progress = self._progress, None
        if progress is not None:
            self._channel.send(progress)
        self._try_frame()

    def close(self) -> None:
        """The stage is over; nothing more is sent."""
        with self._sending, self._changed:
            self._closed = True
            self._changed.notify()

    def _send_frame(self) -> None:
        with self._sending:
            with self._changed:
                frame, points = self._frame, tuple(self._points)
                self._frame, self._points = None, []
                closed = self._closed
            if frame is None or closed:
                return
            payload = encode_table(frame, self._stage)
            self._channel.send(Published(points), payload)
            die_at("incumbent sent")

    def _wake(self) -> None:
        """With the lock held: let the flusher see to it."""
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_late, name="batchrun-flusher", daemon=True)
            self._flusher.start()
        self._changed.notify()

    def _flush_late(self) -> None:
        while True:
            with self._changed:
                while not self._closed and self._frame is None and self._progress is None:
                    self._changed.wait()
                if self._closed:
                    return
                now = time.monotonic()
                frame_wait = self._frame_sent + INCUMBENT_EVERY - now if self._frame is not None else 1.0
                progress_wait = self._progress_sent + PROGRESS_EVERY - now if self._progress else 1.0
                wait = min(frame_wait, progress_wait)
                progress = None
                if progress_wait <= 0:
                    progress, self._progress, self._progress_sent = self._progress, None, now
                if frame_wait <= 0:
                    self._frame_sent = now
            if progress is not None:
                self._channel.send(progress)
            if frame_wait <= 0:
                self._try_frame()
            elif progress is None:
                # A sleep, for a wait would be woken by each of ten thousand answers a second.
                time.sleep(min(wait, INCUMBENT_EVERY))

    def _try_frame(self) -> None:
        try:
            self._send_frame()
        except ResultError as error:
            self._error = error
            self.log.warning("an incumbent was not kept: %s", error)


def _write(text: str) -> None:
    """Add to the output of the process, after what was printed so far."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    data = memoryview(text.encode(errors="replace"))
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(1, data) :]
