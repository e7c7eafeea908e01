"""A Dask cluster that can be used: its client, its workers, its dashboard."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from distributed import Client

from batchrun.resources import MEMORY, Worker

__all__ = ["Connection", "close_client", "dashboard_of", "list_workers", "silence", "worker_facts"]


@dataclass
class Connection:
    """A cluster that can be used, and what must be let go of in the end."""

    client: Client
    """The Dask client."""
    description: str
    """What it is, in a few words, for people."""
    dashboard: str = ""
    """Address of Dask's dashboard without a path, like ``http://127.0.0.1:8787``; empty if it is off."""
    warnings: tuple[str, ...] = ()
    """What does not quite fit, as sentences without full stops."""
    local: bool = False
    """Whether batchrun started it, on this machine."""
    closing: Callable[[], None] = field(default=lambda: None, repr=False)
    """What `close` calls, once."""
    waits_for_more: Callable[[int], bool] = field(default=lambda count: False, repr=False)
    """Waits for workers that are being started again, if so many are not all; says whether it did."""

    def workers(self) -> list[Worker]:
        """The live workers."""
        return list_workers(self.client)

    @property
    def alive(self) -> bool:
        """Whether the client still has its scheduler."""
        return bool(self.client.status == "running")

    def close(self) -> None:
        """Let go of what opening it took; a second call does nothing."""
        closing, self.closing = self.closing, lambda: None
        closing()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def list_workers(client: Client, facts: dict[str, dict[str, Any]] | None = None) -> list[Worker]:
    """The live workers of a client's cluster, by host and name; *facts* are those of `worker_facts`.

    A worker without a ``MEMORY`` resource is counted by its memory limit, one without a limit by the memory
    of its machine.
    """
    facts = worker_facts(client) if facts is None else facts
    unlimited = [address for address, known in facts.items() if not _memory(known)]
    if unlimited:
        totals = client.run(_machine_memory, workers=unlimited, on_error="ignore")
        for address, total in totals.items():
            facts[address]["memory_limit"] = total
    workers = [_worker(address, known) for address, known in facts.items()]
    return sorted(workers, key=lambda worker: (worker.host, _natural(worker.name)))


def worker_facts(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker that is not about to leave, by address."""
    found = client.scheduler_info(n_workers=-1)["workers"]
    going = ("closing", "closing_gracefully", "closed", "failed", "stopped")
    return {address: known for address, known in found.items() if known.get("status") not in going}


def dashboard_of(client: Client) -> str:
    """Address of the dashboard without its path; empty if there is none."""
    link = str(client.dashboard_link or "")
    return link.removesuffix("/status").rstrip("/")


def close_client(client: Client | None) -> None:
    """Close a client; what Dask logs while connections end is of no use to anybody."""
    if client is not None:
        with silence(), contextlib.suppress(TimeoutError, OSError):
            client.close(timeout=5)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep Dask and what it builds upon from logging."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio", "bokeh")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _worker(address: str, facts: dict[str, Any]) -> Worker:
    tags = {tag: amount for tag, amount in (facts.get("resources") or {}).items() if tag != MEMORY}
    return Worker(
        address=address,
        name=str(facts.get("name") or address),
        threads=int(facts["nthreads"]),
        memory=_memory(facts),
        tags=tags,
        host=str(facts.get("host") or "localhost"),
    )


def _memory(facts: dict[str, Any]) -> int:
    return int((facts.get("resources") or {}).get(MEMORY) or facts.get("memory_limit") or 0)


def _machine_memory() -> int:
    """Runs on a worker."""
    import psutil

    return int(psutil.virtual_memory().total)


def _natural(name: str) -> tuple[str, int]:
    head, _, number = name.rpartition("-")
    return (head, int(number)) if number.isdecimal() else (name, 0)
