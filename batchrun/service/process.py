"""Services as processes: started in the background, asked to stop, waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from batchrun.config import Settings
from batchrun.errors import BatchrunError, ClusterError, UsageError
from batchrun.store.driver import is_gone
from batchrun.store.runs import RunStore
from batchrun.store.services import ServiceRecord
from batchrun.store.turns import live_services

__all__ = ["default_log", "start_detached", "stop_services"]

START_WITHIN = 90.0
"""Seconds in which a service must have its cluster."""
POLL_EVERY = 0.05
"""Seconds between two looks."""
_DETACHED = 0x00000008 | 0x00000200 if os.name == "nt" else 0
"""DETACHED_PROCESS and CREATE_NEW_PROCESS_GROUP: it does not end with the terminal that started it."""
LOG_LINES = 12
"""Lines of the log of a service that did not come up that are shown."""


def default_log(settings: Settings) -> Path:
    """Where a service in the background writes its log: beside the store, if that is a file."""
    from sqlalchemy import make_url

    url = make_url(settings.store_url)
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database).absolute().parent / "service.log"
    return Path.cwd() / "batchrun-service.log"


def start_detached(settings: Settings, arguments: Sequence[str], log: Path) -> ServiceRecord:
    """Start ``batchrun up`` with *arguments* in the background, and wait until it has its cluster.

    It outlives this process and its terminal; what it says goes to *log*.

    Raises ClusterError, with the end of the log, if it ends or does not come up in time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    size = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "batchrun", "up", "--log", str(log), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            creationflags=_DETACHED,
            start_new_session=os.name == "posix",
        )
    until = time.monotonic() + START_WITHIN
    with RunStore(settings.store_url) as store:
        while time.monotonic() < until and process.poll() is None:
            for service in store.services.all():
                if service.process.split("/")[1] == str(process.pid) and service.state == "running":
                    return service
            time.sleep(POLL_EVERY)
    said = log.read_bytes()[size:].decode(errors="replace").strip().splitlines()[-LOG_LINES:]
    how = f"ended with code {process.returncode}" if process.poll() is not None else "has no cluster yet"
    raise ClusterError("\n".join([f"the service {how}; its log is {log}", *said]))


def stop_services(settings: Settings, how: str, *, timeout: float | None) -> list[ServiceRecord]:
    """Ask all services of a store to stop, and wait until they have.

    Args:
        settings: Where the store is.
        how: What becomes of the runs that they drive: ``leave`` puts them back into the queue, ``finish``
            lets them end, ``cancel`` cancels them.
        timeout: The longest to wait, in seconds; None waits for as long as it takes.

    Returns the services that were asked.

    Raises UsageError if there is none, BatchrunError if one is not gone in time.
    """
    with RunStore(settings.store_url) as store:
        asked = live_services(store)
        for service in store.services.all():
            if service not in asked and is_gone(service.process):
                store.services.remove(service.service)
        if not asked:
            raise UsageError(f"no service is up on {store.place}; `batchrun up` starts one")
        for service in asked:
            store.services.ask(service.service, how)
        until = None if timeout is None else time.monotonic() + timeout
        while left := _still_up(store, asked):
            if until is not None and time.monotonic() > until:
                raise BatchrunError(
                    f"{left[0].service} ({left[0].process}) was asked to stop and is still there after "
                    f"{timeout:g} s; it goes on to end"
                )
            time.sleep(POLL_EVERY)
    return asked


def _still_up(store: RunStore, asked: Sequence[ServiceRecord]) -> list[ServiceRecord]:
    known = {service.service for service in store.services.all()}
    return [one for one in asked if one.service in known and not is_gone(one.process)]
