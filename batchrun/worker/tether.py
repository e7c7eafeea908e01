"""Ties a worker process to the process that started its cluster, and keeps it small. Dask loads it as a
preload of every worker of a local cluster.

Ctrl-C in a terminal reaches every process of the group; whether the run stops is for the driver to
decide, so workers do not hear it. And a worker that cannot notice that the driver was killed, because a
stage holds the interpreter's lock, is ended by the kernel where the kernel can do that.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from typing import Any

from batchrun.worker.allocation import Keeper

__all__ = ["dask_setup"]

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 0.2
"""Seconds between two looks at its memory, as often as the nanny looks."""


def dask_setup(worker: Any) -> None:
    """Called by Dask in the main thread of the worker process when it starts."""
    _keep_small(worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave_fork_server()
    # Workers share the terminal of the driver, which tells of errors in its own way.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if sys.platform == "linux":
        # The signal is tied to the thread that started this process: the only one of a fork server, or one
        # that Dask keeps, since it watches the process, until the process has ended.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            logging.getLogger(__name__).debug("prctl: %s", os.strerror(ctypes.get_errno()))


def _keep_small(worker: Any) -> None:
    """Give back memory before the nanny would end the worker for what is free in it."""
    from tornado.ioloop import PeriodicCallback

    limit = worker.memory_manager.memory_limit
    if limit:
        callback = PeriodicCallback(Keeper(int(limit)).look, _LOOK_EVERY * 1000)
        worker.periodic_callbacks["batchrun-memory"] = callback  # Dask starts it, and stops it
        callback.start()


def _leave_fork_server() -> None:
    """Be a process like any other, if a fork server made this one of itself."""
    server: Any = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    held = getattr(server, "_forkserver_alive_fd", None)
    if held is None:
        return
    # The server lives as long as anybody holds this, and its end is what ends a worker that hears nothing.
    server._forkserver_alive_fd = None
    os.close(held)
    numpy = sys.modules.get("numpy")
    if numpy is not None:  # else all workers would draw the same numbers
        numpy.random.seed()
