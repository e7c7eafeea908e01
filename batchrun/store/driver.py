"""The process that drives a run: its name in the run's record, and whether it is still there."""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from batchrun.store.recorder import HEARTBEAT_SECONDS
from batchrun.store.runs import RunRecord
from batchrun.store.services import ServiceRecord

__all__ = ["driver_name", "driving", "is_alive", "is_driven", "is_gone"]

SILENCE = 6 * HEARTBEAT_SECONDS
"""Seconds without a heartbeat after which a driver that cannot be looked at counts as gone."""

_driven_here: set[str] = set()


def driver_name() -> str:
    """Host, process id and start time of this process, which together name it for good."""
    return _name_of(socket.gethostname(), os.getpid())


@functools.lru_cache(maxsize=1)
def _name_of(host: str, process: int) -> str:
    """Asked for once in each process, a forked one included."""
    import psutil

    return f"{host}/{process}/{psutil.Process(process).create_time():.2f}"


@contextmanager
def driving(run_id: str) -> Iterator[None]:
    """Within this context, this process drives the run."""
    _driven_here.add(run_id)
    try:
        yield
    finally:
        _driven_here.discard(run_id)


def is_driven(record: RunRecord) -> bool:
    """Whether a run has not ended and the process that drives it seems to be alive.

    On the driver's own host the process itself is looked for; elsewhere the age of the run's heartbeat must
    do.
    """
    if record.state.ended or not record.driver:
        return False
    host, process, born = record.driver.rsplit("/", 2)
    if host != socket.gethostname():
        return _beats(record)
    if int(process) == os.getpid():
        return record.run_id in _driven_here
    there = _is_there(int(process), float(born))
    return _beats(record) if there is None else there


def is_alive(service: ServiceRecord, now: float) -> bool:
    """Whether a service seems to be at work; *now* is the time by the store's clock.

    Of one on this host the process is looked for; one that is there and silent for longer than its lease is
    not at work either.
    """
    return now - service.heartbeat <= service.lease and not is_gone(service.process)


def is_gone(name: str) -> bool:
    """Whether the process of that name is certain to have ended: it was of this host, and is not there."""
    host, process, born = name.rsplit("/", 2)
    return host == socket.gethostname() and _is_there(int(process), float(born)) is False


def _is_there(process: int, born: float) -> bool | None:
    """Whether that process is there and is no later one of the same number; None if that is not known."""
    import psutil

    try:
        found = psutil.Process(process)
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
        # A clock that was set shifts start times as well.
        return True if abs(found.create_time() - born) < 1 else None
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return None


def _beats(record: RunRecord) -> bool:
    """Whether the driver was at work a short while ago."""
    return time.time() - (record.heartbeat or 0.0) < SILENCE
