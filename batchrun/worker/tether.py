"""Ties a worker process to the process that started its cluster. Dask loads it as a preload of every
worker of a local cluster.

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

__all__ = ["dask_setup"]

_PR_SET_PDEATHSIG = 1


def dask_setup(worker: object) -> None:
    """Called by Dask in the main thread of the worker process when it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers share the terminal of the driver, which tells of errors in its own way.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if sys.platform == "linux":
        # The signal is tied to the thread that started this process: Dask keeps that thread, which watches
        # the process, until the process has ended.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            logging.getLogger(__name__).debug("prctl: %s", os.strerror(ctypes.get_errno()))
