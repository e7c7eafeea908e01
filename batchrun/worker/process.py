"""One child process as its worker holds it: started, spoken to, ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from batchrun.outcome import ErrorRecord
from batchrun.worker.allocation import own_ways
from batchrun.worker.capture import Capture
from batchrun.worker.channel import Channel, ChannelError, enlarge
from batchrun.worker.leftovers import MARKER, below, end_marked
from batchrun.worker.warden import Warden

__all__ = ["BOOT", "Broken", "Child", "died", "start_child"]

BOOT = (
    "import sys, json; path, *rest = json.loads(sys.argv.pop(1)); sys.path[:] = path; "
    "from batchrun.worker.child import main; main(*rest)"
)
"""What the child runs: the worker's own search path, then `batchrun.worker.child`."""
_DIES_WITHIN = 5.0
"""Seconds that the system may take to end a process that was killed."""

T = TypeVar("T")


@dataclass(frozen=True)
class Broken:
    """In the inbox of a child: nothing more will come."""

    problem: str
    """What was wrong with the pipe; empty if it was closed between two messages."""


class Child:
    """A child process. One thread at a time drives it; threads of its own read what it says and prints."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, token: str) -> None:
        assert process.stdout is not None  # noqa: S101  it was asked for
        self.pid = process.pid
        self.token = token
        self.inbox: queue.SimpleQueue[tuple[Any, bytes]] = queue.SimpleQueue()
        """Messages with their payloads; a Broken is the last one."""
        self.capture = Capture(process.stdout)  # type: ignore[arg-type]
        self.program: bytes | None = None
        """The program that it serves; None as long as it could take any."""
        self.tasks = 0
        """How many tasks it was given."""
        self.greeted = False
        """Whether it has said that it is ready."""
        self.clean = True
        """Whether nothing is known against giving it another task."""
        self._process = process
        self._channel = channel
        threading.Thread(target=self._hear, name="batchrun-child", daemon=True).start()

    def send(self, *messages: tuple[object, bytes]) -> None:
        """Send messages with their payloads, in order; what cannot be sent shows as the end of the inbox."""
        if sum(len(payload) for _, payload in messages) > 2**16:
            # A child that does not read must not hold the thread that watches it.
            name = "batchrun-sender"
            threading.Thread(target=self._send, args=messages, name=name, daemon=True).start()
        else:
            self._send(*messages)

    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float) -> int | None:
        """Wait for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def kill(self, known: Iterable[int] = (), *, seen_at: float = 0.0) -> None:
        """End it and all that it started, at once. Never raises, and may be called again.

        Args:
            known: Processes that were below it, for when it is gone and can no longer be asked.
            seen_at: When they were, in seconds since the epoch; a younger one only has the same number.
        """
        with contextlib.suppress(Exception):
            started = below(self.pid)
            _kill_group(self.pid)
            self._process.kill()
            for pid in started:
                with contextlib.suppress(OSError):
                    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            self.wait(_DIES_WITHIN)
        for pid in known:
            _kill_if_older(pid, seen_at)
        end_marked(self.token)
        self._let_go()

    def finish(self, timeout: float = 1.0) -> None:
        """Let it end by itself, as an idle one does when nothing more will come; else kill it."""
        self._channel.finish()
        self.wait(timeout)
        self.kill()

    def _let_go(self) -> None:
        self._channel.finish()
        self.capture.close()
        Warden.of_this_process().forget(self.pid)

    def _send(self, *messages: tuple[object, bytes]) -> None:
        with contextlib.suppress(OSError):  # a child that died is heard of by the end of its own pipe
            for message, payload in messages:
                self._channel.send(message, payload)

    def _hear(self) -> None:
        problem = ""
        try:
            while True:
                self.inbox.put(self._channel.receive())
        except EOFError:
            pass
        except (ChannelError, OSError, MemoryError) as error:
            problem = str(error) or type(error).__name__
        self.inbox.put((Broken(problem), b""))
        self._channel.close_reader()


def start_child() -> Child:
    """Start a child process; it is ready when it says Hello.

    Raises OSError if the system has no room for it.
    """
    warden = Warden.of_this_process()
    token = f"{warden.token}.{uuid.uuid4().hex}"
    child = _on_launcher(lambda: _start(token))
    warden.watch(child.pid)
    return child


def _start(token: str) -> Child:
    ends: list[int] = []
    try:
        ends += [*os.pipe(), *os.pipe()]
        theirs_in, ours_out, ours_in, theirs_out = ends
        for fd in ends:
            enlarge(fd)
        handles, options = _inherit(theirs_in, theirs_out)
        arguments = json.dumps([[str(place) for place in sys.path], *handles, os.getpid()])
        process = subprocess.Popen(
            [sys.executable, "-c", BOOT, arguments],
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=own_ways({**os.environ, MARKER: token, "PYTHONUNBUFFERED": "1"}),
            **options,
        )
    except BaseException:
        for fd in ends:
            os.close(fd)
        raise
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        if process.stdout is not None:
            enlarge(process.stdout.fileno())
        return Child(process, Channel(ours_in, ours_out), token)
    except BaseException:  # no thread could be started
        process.kill()
        process.wait()
        raise


def _inherit(*fds: int) -> tuple[list[int], dict[str, Any]]:
    """How these file descriptors are named in the child, and what lets it have them and no others."""
    if sys.platform == "win32":
        import msvcrt

        handles = [msvcrt.get_osfhandle(fd) for fd in fds]
        for handle in handles:
            os.set_handle_inheritable(handle, True)
        info = subprocess.STARTUPINFO(lpAttributeList={"handle_list": handles})
        return handles, {"startupinfo": info, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return list(fds), {"pass_fds": fds, "start_new_session": True}


def _kill_group(pid: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def _kill_if_older(pid: int, moment: float) -> None:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if process.create_time() <= moment:
            process.kill()


def died(code: int | None) -> ErrorRecord:
    """What is recorded of a process that ended before its stage did."""
    if code is not None and code < 0:
        name, meaning = f"signal {-code}", ""
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            meaning = (signal.strsignal(-code) or "").lower()
        message = f"the stage's process was ended by {name}" + (f" ({meaning})" if meaning else "")
        detail = name
    elif code is not None:
        message = f"the stage's process left with exit code {code}, as os._exit does, before the stage ended"
        detail = f"exit code {code}"
    else:
        message, detail = "the stage's process closed its pipe and could not be ended", "unknown"
    return ErrorRecord(
        "ProcessDied",
        message,
        classes=("ProcessDied", "Exception"),
        signature=f"ProcessDied: {detail}",
    )


class _Launcher:
    """The thread that starts all children of this process.

    The kernel ends a child with the *thread* that started it (PR_SET_PDEATHSIG), and the threads that run
    tasks come and go.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._orders: queue.SimpleQueue[tuple[Any, Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="batchrun-launcher", daemon=True).start()

    def call(self, function: Callable[[], T]) -> T:
        future: Future[T] = Future()
        self._orders.put((function, future))
        return future.result()

    def _run(self) -> None:
        while True:
            function, future = self._orders.get()
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            del function, future


_lock = threading.Lock()
_launcher: _Launcher | None = None


def _on_launcher(function: Callable[[], T]) -> T:
    global _launcher  # noqa: PLW0603  one for the process
    with _lock:
        if _launcher is None or _launcher.pid != os.getpid():
            _launcher = _Launcher()
    return _launcher.call(function)


def wait_until_dead(child: Child, timeout: float) -> int | None:
    """The exit code of a child whose pipe has ended; None if it still runs after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while (code := child.returncode()) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return code
