"""A tiny watchdog beside each worker process that has children: when the worker is gone, however it went,
the warden ends all that the worker's children left, and itself.

It runs as a script, and imports nothing of batchrun before the worker is gone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

__all__ = ["Warden"]

_LOOK_EVERY = 0.5
"""Seconds between looks whether the worker is still the parent; the pipe's end tells it at once, unless
another process holds the pipe."""


class Warden:
    """The worker's side: starts the watchdog, and tells it which process groups to end."""

    _lock = threading.Lock()
    _current: Warden | None = None

    def __init__(self) -> None:
        self.token = uuid.uuid4().hex
        """What the markers of all children of this process begin with."""
        self._pid = os.getpid()
        self._telling = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of_this_process(cls) -> Warden:
        """The one warden of this process."""
        with cls._lock:
            if cls._current is None or cls._current._pid != os.getpid():
                cls._current = cls()
            return cls._current

    def watch(self, group: int) -> None:
        """End this process group when the worker is gone."""
        with self._telling:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The process group is gone."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the watchdog, and with it whatever it watches."""
        with self._telling:
            process, self._process = self._process, None
        if process is not None and process.stdin is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tell(self, line: str) -> None:
        with self._telling, contextlib.suppress(OSError, ValueError):
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.write(line.encode())

    def _start(self) -> subprocess.Popen[bytes] | None:
        bare = [] if sys.platform == "win32" else ["-I", "-S"]
        with contextlib.suppress(OSError):
            return subprocess.Popen(
                [sys.executable, *bare, str(Path(__file__)), self.token, str(os.getpid())],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=os.path.abspath(os.sep),
                start_new_session=sys.platform != "win32",
            )
        return None


def main(token: str, parent: int) -> None:
    """Wait until the worker is gone, then end what it left."""
    import signal

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    groups = _listen(parent)
    for group in groups:
        _end_group(group)
    _end_marked(token)


def _listen(parent: int) -> set[int]:
    """The groups to end, once the worker is gone."""
    groups: set[int] = set()
    rest = b""
    while True:
        if sys.platform != "win32":
            import select

            if not select.select([0], [], [], _LOOK_EVERY)[0]:
                if os.getppid() != parent:
                    return groups
                continue
        data = os.read(0, 4096)
        if not data:
            return groups
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))


def _end_group(group: int) -> None:
    if sys.platform != "win32":
        import signal

        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
        return
    import psutil

    with contextlib.suppress(psutil.Error):
        root = psutil.Process(group)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _end_marked(token: str) -> None:
    """End what left its group, by the marker in its environment."""
    import runpy

    module = runpy.run_path(str(Path(__file__).with_name("leftovers.py")))
    module["end_marked"](token)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
