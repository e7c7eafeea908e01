"""How the worker processes of a local cluster are started.

**From a process that has loaded what they need.** A fresh interpreter takes three seconds of a processor
until it is a worker, most of it to load Dask, pandas and Arrow: for every worker, and again for each that
was lost. So on Linux they are forked by a server that loads all that once; see ``forking``. Elsewhere, and
where Dask's configuration says otherwise, each is spawned by itself.

**Without the user's script.** Python starts a process by importing the main script in it once more, so that
what is pickled by reference can be found. Workers need none of that: the code of a run travels by value. A
script would be read again by every worker, at its full cost, and one that starts a run without a main guard
would start it again, which ends in a traceback from each worker. Python has no switch for this, so while a
local cluster is open the function that says what a new process is told is wrapped, for worker processes of
Dask alone.
"""

from __future__ import annotations

import multiprocessing.spawn
import os
import threading
from typing import Any

import dask
import distributed.utils

from batchrun.cluster.forking import may_fork, start_server
from batchrun.worker.allocation import own_ways

__all__ = ["EARLY", "begin_to_start_workers", "early_variables", "environment", "start_no_more_workers"]

_WORKER_NAME = "Dask Worker process"
_METHOD = "distributed.worker.multiprocessing-method"
EARLY = "distributed.nanny.pre-spawn-environ"
"""Where Dask's configuration names the variables that a worker has before its first import."""
_lock = threading.Lock()
_open = 0
_before: Any = None
_original = multiprocessing.spawn.get_preparation_data


def begin_to_start_workers() -> None:
    """From now on workers are started in our way; counts its calls."""
    global _open, _before  # noqa: PLW0603  there is one interpreter to wrap
    with _lock:
        _open += 1
        multiprocessing.spawn.get_preparation_data = _without_main
        if _open == 1 and _can_fork():
            start_server(early_variables())
            distributed.utils._forkserver_preload_set = True  # else Dask would load its own list here too
            _before = dask.config.set({_METHOD: "forkserver"})


def start_no_more_workers() -> None:
    """Take one call of `begin_to_start_workers` back."""
    global _open, _before  # noqa: PLW0603
    with _lock:
        _open -= 1
        if not _open:
            multiprocessing.spawn.get_preparation_data = _original
            if _before is not None:
                _before.__exit__(None, None, None)
                _before = None


def early_variables() -> dict[str, str]:
    """The variables that a worker is to have before its first import: those of Dask's configuration, with our
    own way of giving memory back. Those of this process go before them."""
    asked: dict[str, object] = dask.config.get(EARLY)
    return own_ways({name: str(value) for name, value in asked.items() if value is not None})


def environment() -> dict[str, str]:
    """The variables that a worker is to have: those of this process, whose changes no fork server sees."""
    return dict(os.environ)


def _can_fork() -> bool:
    """Whether workers may be forked, and nobody asked for anything else in Dask's files either."""
    return may_fork() and dask.config.get(_METHOD) == "spawn"


def _without_main(name: str) -> dict[str, Any]:
    told = _original(name)
    if name.startswith(_WORKER_NAME):
        told.pop("init_main_from_name", None)
        told.pop("init_main_from_path", None)
    return told
