"""What a stage prints and logs: its head and its tail, whatever its length."""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

__all__ = ["Capture", "HeadTail", "chunk_logger"]

HEAD = TAIL = 32 * 1024
"""Bytes that are kept of the start and of the end of an attempt's output."""
NEWS = 4 * 1024
"""Bytes of new output that one status carries at most."""
_BLOCK = 2**18
_LINGER = 0.5
"""Seconds between looks whether a pipe that others hold open is still wanted."""


class HeadTail:
    """Bytes that come in pieces, of which the first and the last ones are kept. Safe to use from threads."""

    def __init__(self, head: int = HEAD, tail: int = TAIL) -> None:
        self._most = head, tail
        self._lock = threading.Lock()
        self._clear()
        self._news = bytearray()
        self._missed = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        head, tail = self._most
        with self._lock:
            room = head - len(self._head)
            if room > 0:
                self._head += data[:room]
            rest = memoryview(data)[max(room, 0) :]
            self._after += len(rest)
            self._tail += rest[-tail:]
            if len(self._tail) > 2 * tail:
                del self._tail[:-tail]
            self._missed = self._missed or len(self._news) + len(data) > NEWS
            self._news += data[-NEWS:]
            del self._news[:-NEWS]

    @property
    def has_news(self) -> bool:
        """Whether anything came since the last call of `news`."""
        return bool(self._news)

    def news(self) -> str:
        """What came since the last call, or the end of it if that is more than a few KiB."""
        with self._lock:
            if self._missed:
                self._decoder.reset()
            text = ("…" if self._missed else "") + self._decoder.decode(bytes(self._news))
            self._news.clear()
            self._missed = False
        return text

    def forget(self) -> None:
        """Begin anew, with no news either."""
        self.take()
        self.news()

    def take(self) -> str:
        """All that was kept since the last call, with a line on what was left out; begins anew."""
        with self._lock:
            tail = bytes(self._tail[-self._most[1] :])
            left_out = self._after - len(tail)
            head = bytes(self._head)
            self._clear()
        if not left_out:
            return (head + tail).decode(errors="replace")
        note = f"\n… {left_out} bytes left out …\n"
        return head.decode(errors="replace") + note + tail.decode(errors="replace")

    def _clear(self) -> None:
        self._head, self._tail, self._after = bytearray(), bytearray(), 0


class Capture:
    """Reads a child's output all the time, in a thread of its own, into a HeadTail."""

    def __init__(self, pipe: BinaryIO) -> None:
        self.text = HeadTail()
        self._pipe = pipe
        self._fd = pipe.fileno()
        self._lock = threading.Lock()
        self._open = True
        self._wanted = True
        self.thread = threading.Thread(target=self._read, name="batchrun-capture", daemon=True)
        self.thread.start()

    def drain(self, timeout: float = 1.0) -> None:
        """Wait until all that was written so far has been read, at most *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with self._lock:
                if not self._open or not _readable(self._fd, 0):
                    return
                if sys.platform != "win32":
                    self._take()
            if sys.platform == "win32":
                time.sleep(0.001)

    def close(self) -> None:
        """Read what is there, then let the pipe go, also where a process that was left behind holds it."""
        self.drain()
        self._wanted = False

    def _read(self) -> None:
        while self._open and self._wanted:
            if _readable(self._fd, _LINGER):
                with self._lock:
                    self._take()
        with self._lock:
            self._open = False
            self._pipe.close()

    def _take(self) -> None:
        """Read one block that is there, with the lock held."""
        if not self._open or not _readable(self._fd, 0):
            return
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(self._fd, _BLOCK)
        if data:
            self.text.add(data)
        else:
            self._open = False


def _readable(fd: int, timeout: float) -> bool:
    """Whether *fd* has data, or has ended, within *timeout* seconds."""
    if sys.platform == "win32":
        import _winapi
        import msvcrt

        deadline = time.monotonic() + timeout
        while True:
            try:
                if _winapi.PeekNamedPipe(msvcrt.get_osfhandle(fd), 0)[0]:
                    return True
            except OSError:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def chunk_logger(write: Callable[[str], None]) -> logging.Logger:
    """A logger whose lines, like ``12:30:59 INFO message``, go to *write* and nowhere else."""
    logger = logging.Logger("batchrun.chunk", logging.INFO)
    logger.addHandler(_Lines(write))
    return logger


class _Lines(logging.Handler):
    """Gives each record to a function, as a line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a message that cannot be formatted is shown as it was given."""
        try:
            line = self.format(record)
        except Exception as error:
            line = f"{record.levelname} {record.msg!r} (cannot be formatted: {type(error).__name__})"
        self._write(line + "\n")
