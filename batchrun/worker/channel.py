"""Messages between a worker and its child process, over two pipes that nothing else is written to."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import sys
import threading
from typing import Any

from batchrun.data.buffers import blank_bytes

__all__ = ["Channel", "ChannelError"]

_HEADER = struct.Struct("<8sIQ")
_MAGIC = b"batchrun"
_MOST_CONTROL = 2**28
_MOST_PAYLOAD = 2**44
_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 2**20
_IN_PLACE = 2**20
"""Payloads of so many bytes and more are read into memory of their own, past any buffer."""


class ChannelError(Exception):
    """What came through the pipe is no message, or no whole one."""


class Channel:
    """One end of the way between worker and child. Any thread may send; one thread receives.

    A message is a small object, pickled, and a payload of raw bytes that is copied only by the kernel.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        """Own the two file descriptors from now on."""
        self.fds = (read_fd, write_fd)
        self._reader = io.BufferedReader(io.FileIO(read_fd), 2**16)
        self._write_fd = write_fd
        self._sending = threading.Lock()
        self._writable = True

    def send(self, message: object, payload: bytes | memoryview = b"") -> None:
        """Send one message whole.

        Raises OSError if the other end is gone.
        """
        with self._sending:
            if not self._writable:
                raise BrokenPipeError("the channel is closed")
            for data in frame(message, payload):
                self._write(memoryview(data))

    def receive(self) -> tuple[Any, bytes]:
        """Wait for the next message and its payload.

        Raises EOFError if the other end closed the pipe between two messages, ChannelError for what is no
        whole message.
        """
        head = self._reader.read(_HEADER.size)
        if not head:
            raise EOFError("the pipe was closed")
        if len(head) < _HEADER.size:
            raise ChannelError("the pipe was closed in the middle of a message")
        magic, control_size, payload_size = _HEADER.unpack(head)
        if magic != _MAGIC or control_size > _MOST_CONTROL or payload_size > _MOST_PAYLOAD:
            raise ChannelError(f"the pipe carried {head!r}, which is no message")
        control = self._whole(control_size)
        payload = self._whole(payload_size) if payload_size else b""
        try:
            return pickle.loads(control), payload  # noqa: S301  it comes from our own worker or child
        except Exception as error:
            raise ChannelError(f"a message could not be read: {type(error).__name__}: {error}") from error

    def finish(self) -> None:
        """Send nothing more: the other end reads the end of the pipe."""
        with self._sending:
            if self._writable:
                self._writable = False
                with contextlib.suppress(OSError):
                    os.close(self._write_fd)

    def close_reader(self) -> None:
        """Let the other pipe go; called by the thread that reads."""
        with contextlib.suppress(OSError):
            self._reader.close()

    def _whole(self, size: int) -> bytes:
        if size < _IN_PLACE:
            data = self._reader.read(size)
            got = len(data)
        else:
            data, view = blank_bytes(size)
            got = self._reader.readinto(view)
            view.release()
        if got < size:
            raise ChannelError(f"the pipe was closed after {got} of {size} bytes")
        return data

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._write_fd, data) :]


def frame(message: object, payload: bytes | memoryview = b"") -> tuple[bytes, bytes | memoryview]:
    """A message as it goes through the pipe: its head, and its payload."""
    control = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(_MAGIC, len(control), len(payload)) + control, payload


def enlarge(fd: int) -> None:
    """Give a pipe a large buffer where the system can, so that large payloads take few switches."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)
