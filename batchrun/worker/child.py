"""The child process: runs the tasks of one program, one after the other, as its worker tells it.

Started as ``python -c`` with `batchrun.worker.process.BOOT`. Only the standard library is imported before
the process is tied to its worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import queue
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchrun.worker.allocation import c_library, give_back
from batchrun.worker.faults import die, die_at, fault_at

if TYPE_CHECKING:
    from batchrun.outcome import Cause
    from batchrun.worker.channel import Channel
    from batchrun.worker.leg import StageEnd
    from batchrun.worker.listener import ChildListener

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINE_BUFFERED = 1


def main(read_handle: int, write_handle: int, parent: int) -> None:
    """Serve the worker process *parent* over two inherited pipes until it closes them."""
    read_fd, write_fd = _adopt(read_handle, os.O_RDONLY), _adopt(write_handle, os.O_WRONLY)
    _tie_to(parent)
    # Workers ignore it, and what a stage starts would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable()
    _buffer_lines()

    from batchrun.worker.channel import Channel

    channel = Channel(read_fd, write_fd)
    # What nearly every task needs, before there is one.
    import pandas
    import pyarrow.ipc

    from batchrun.data.pandas_frame import table_to_pandas

    table_to_pandas(pyarrow.Table.from_pandas(pandas.DataFrame({"warm": [1]})))
    _Servant(channel).serve()


class _Servant:
    """Takes orders and runs tasks; the host of their stages."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._orders: queue.SimpleQueue[tuple[Any, bytes] | None] = queue.SimpleQueue()
        self._program = b""
        self._busy = False
        self._start = 0
        self._asked: Cause | None = None
        self._listener: ChildListener | None = None
        self._names: tuple[str, ...] = ()
        self._own_pid = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def serve(self) -> None:
        """Run tasks until the worker lets go."""
        from batchrun.worker.messages import Hello, Start, UseProgram

        threading.Thread(target=self._hear, name="batchrun-orders", daemon=True).start()
        die_at("hello")
        self._channel.send(Hello())
        while (order := self._orders.get()) is not None:
            message, payload = order
            if isinstance(message, UseProgram):
                self._program = payload
            elif isinstance(message, Start):
                self._run(message, payload)

    def _run(self, order: Any, payload: bytes) -> None:
        from batchrun.data.buffers import encode_in_place
        from batchrun.data.table import Inline
        from batchrun.worker.leg import StageEnd, load_steps, run_leg
        from batchrun.worker.messages import Settled
        from batchrun.worker.program import load_program

        die_at("task received")
        self._busy, self._asked, self._start = True, None, order.start
        task = order.task
        if isinstance(task.input, Inline) and not task.input.data:
            task = replace(task, input=Inline(payload))
        steps = load_steps(lambda: load_program(self._program), task.leg)
        self._leave_if_forked()
        die_at("program loaded")
        if isinstance(steps, StageEnd):
            self.end(steps)
        else:
            self._names = tuple(step.name for step in steps)
            run_leg(
                steps,
                task,
                self,
                worker=order.worker,
                start=order.start,
                encode=encode_in_place,
                caught=(BaseException,),
            )
        limit = task.demand.memory
        del task, payload, order
        memory = _tidy(limit)
        self._busy = False
        self._channel.send(Settled(memory))

    def may_begin(self, position: int) -> bool:
        """The worker decides."""
        if position == self._start:
            return True
        order = self._orders.get()
        if order is None:
            os._exit(0)
        die_at("next stage")
        return bool(order[0].on)

    def begin(self, position: int) -> ChildListener:
        from batchrun.outcome import Cause
        from batchrun.worker.listener import ChildListener
        from batchrun.worker.messages import Began

        if self._asked is not Cause.CANCEL:
            self._asked = None
        _forget_peak()
        self._channel.send(Began(position))
        die_at("stage began")
        self._listener = ChildListener(self._channel, self._names[position], lambda: self._asked)
        return self._listener

    def loaded(self, rows: int) -> None:
        from batchrun.worker.messages import Loaded

        self._channel.send(Loaded(rows))

    def left(self) -> None:
        """A forked copy goes no further than the user's function."""
        self._leave_if_forked()
        if self._listener is not None:
            self._listener.flush()

    def stop_seen(self) -> Cause | None:
        return self._listener.seen if self._listener is not None else None

    def end(self, ended: StageEnd) -> None:
        from batchrun.data.table import Inline
        from batchrun.worker.channel import frame
        from batchrun.worker.messages import Ended

        self._leave_if_forked()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        die_at("stage ended")
        _flush_output()
        payload: bytes | memoryview = b""
        if isinstance(ended.output, Inline):
            payload, ended = ended.output.data, replace(ended, output=Inline(b""))
        message = Ended(ended, _peak())
        if fault_at("result half written"):
            head, _ = frame(message, payload)
            os.write(self._channel.fds[1], (head + bytes(payload))[: len(head) + len(payload) // 2])
            die()
        self._channel.send(message, payload)
        die_at("result sent")

    def _hear(self) -> None:
        """Take in what the worker says; without a worker there is nothing left to do."""
        from batchrun.worker.channel import ChannelError
        from batchrun.worker.messages import Stop

        while True:
            try:
                message, payload = self._channel.receive()
            except (EOFError, ChannelError, OSError):
                if self._busy:
                    os._exit(0)
                self._orders.put(None)
                return
            if isinstance(message, Stop):
                self._asked = message.cause
            else:
                self._orders.put((message, payload))

    def _forked(self) -> None:
        for fd in self._channel.fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _leave_if_forked(self) -> None:
        if os.getpid() != self._own_pid:
            failed = sys.exc_info()[1] is not None
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(1 if failed else 0)


def _adopt(handle: int, flags: int) -> int:
    """The file descriptor of a handle that was inherited."""
    if sys.platform == "win32":
        import msvcrt

        return msvcrt.open_osfhandle(handle, flags)
    os.set_inheritable(handle, False)
    return handle


def _tie_to(parent: int) -> None:
    """Never outlive the worker, and be what the kernel ends first when memory is short."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # Processes that the stage starts and abandons become this one's, so that it can find them.
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def _buffer_lines() -> None:
    """Let C code write whole lines, not blocks that come late or never."""
    libc = c_library()
    name = "__stdoutp" if sys.platform == "darwin" else "stdout"
    with contextlib.suppress(AttributeError, ValueError, OSError):
        if libc is not None:
            libc.setvbuf(ctypes.c_void_p.in_dll(libc, name), None, _LINE_BUFFERED, ctypes.c_size_t(0))


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    libc = c_library()
    with contextlib.suppress(AttributeError, OSError):
        if libc is not None:
            libc.fflush(None)


def _forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak() -> int:
    from batchrun.worker.memory import high_water

    return high_water(os.getpid())


def _tidy(limit: int) -> int:
    """End what the task left behind, give memory back, and tell how much is held."""
    from batchrun.worker.leftovers import end_leftovers
    from batchrun.worker.memory import resident

    end_leftovers()
    give_back()
    held = resident(os.getpid())
    if limit and held > limit // 2:  # it would be replaced for that, which takes longer than this
        gc.collect()
        give_back()
        held = resident(os.getpid())
    return held
