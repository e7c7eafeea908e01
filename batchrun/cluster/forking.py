"""The fork server: a process that has loaded what workers need, and makes them of itself.

It takes as long to load that as the driver takes until it can start a cluster. So it is started as soon as
it is known that there will be one, and loads on another core meanwhile. It is Python's own
(``multiprocessing``), runs nothing, has nothing of the driver in it, and ends with the driver.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import current_process, forkserver, resource_tracker

from batchrun.worker.allocation import own_ways

__all__ = ["deaf_to_interrupts", "load_early", "may_fork", "start_server"]

_LOADED = (
    "distributed.nanny",
    "distributed.worker",
    "pandas",
    "pyarrow.parquet",
    "batchrun.cluster.entry",
    "batchrun.worker.pack",
    "batchrun.worker.tether",
)
"""What every worker needs. None of it begins a thread that would be missed after a fork."""
_DASKS_VARIABLES = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What Dask gives workers before their first import, unless its configuration says otherwise."""
_HASH_SEED = "6640"
"""That which Dask gives them, so that all agree on the hash of a text."""

_lock = threading.Lock()
_started_with: dict[str, str] | None = None
"""The variables that the fork server was given; None as long as it was not started here."""


def may_fork() -> bool:
    """Whether the fork server is there and safe, and the environment asks for nothing else.

    Before Python 3.11.1 any user of the machine could tell it what to run.
    """
    chosen = os.environ.get("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD")
    return sys.platform == "linux" and sys.version_info >= (3, 11, 1) and chosen is None


def load_early() -> None:
    """Start the fork server, if there is to be one, and do not wait until it has loaded.

    Imports nothing that takes long itself, and is to be called before what does.
    """
    if not may_fork() or "batchrun.cluster.local" in sys.modules or _is_being_started():
        return
    start_server(own_ways(_DASKS_VARIABLES))
    # What ends first here would else wait for what is still being loaded there: whoever reads its output.
    # It was registered before the cluster's own end was, so it comes after that.
    atexit.register(_end_server, os.getpid())


def start_server(variables: Mapping[str, str]) -> None:
    """Start the fork server, if it is not there, and do not wait until it has loaded.

    One that was started with other *variables* is ended first, so no worker of it may be left. They are for
    what is read only once, before or while something is loaded; those of this process go before them.
    """
    global _started_with  # noqa: PLW0603  a process has one
    with _lock:
        if _started_with not in (None, variables):
            _end_server(os.getpid())
            forkserver._forkserver._stop()  # type: ignore[attr-defined]
        multiprocessing.set_forkserver_preload(list(_LOADED))
        told = own_ways({**variables, **os.environ})
        if told.get("PYTHONHASHSEED", "0") == "0":
            told["PYTHONHASHSEED"] = _HASH_SEED
        with _environment(told), deaf_to_interrupts():
            forkserver.ensure_running()
        _started_with = dict(variables)


@contextlib.contextmanager
def _environment(told: Mapping[str, str]) -> Iterator[None]:
    """Have these variables for a moment, since the fork server is told nothing but those of this process."""
    before = {name: os.environ.get(name) for name, value in told.items() if os.environ.get(name) != value}
    os.environ.update({name: told[name] for name in before})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile never hear Ctrl-C: they are born with the mask of this thread."""
    # The first thing that a new process needs undoes the mask where it is started.
    resource_tracker.ensure_running()
    mask = getattr(signal, "pthread_sigmask", None)
    before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else None
    try:
        yield
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)


def _is_being_started() -> bool:
    """Whether this is a process that is read the main script once more, and must start none itself."""
    return bool(getattr(current_process(), "_inheriting", False))


def _end_server(owner: int) -> None:
    pid = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if pid is not None and os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)
