"""Worker processes that do not run the user's script again.

Python starts a fresh process by importing the main script in it once more, so that what is pickled by
reference can be found. Workers need none of that: the code of a run travels by value. A script would be read
again by every worker, at its full cost, and one that starts a run without a main guard would start it again,
which ends in a traceback from each worker.

Python has no switch for this, so while a local cluster is open the function that says what a new process is
told is wrapped, for worker processes of Dask alone.
"""

from __future__ import annotations

import multiprocessing.spawn
import threading
from typing import Any

__all__ = ["keep_main_out", "let_main_in"]

_WORKER_NAME = "Dask Worker process"
_lock = threading.Lock()
_open = 0
_original = multiprocessing.spawn.get_preparation_data


def keep_main_out() -> None:
    """From now on workers start without the main script; counts its calls."""
    global _open  # noqa: PLW0603  there is one interpreter to wrap
    with _lock:
        _open += 1
        multiprocessing.spawn.get_preparation_data = _without_main


def let_main_in() -> None:
    """Take one call of `keep_main_out` back."""
    global _open  # noqa: PLW0603
    with _lock:
        _open -= 1
        if not _open:
            multiprocessing.spawn.get_preparation_data = _original


def _without_main(name: str) -> dict[str, Any]:
    told = _original(name)
    if name.startswith(_WORKER_NAME):
        told.pop("init_main_from_name", None)
        told.pop("init_main_from_path", None)
    return told
