"""A cluster on this machine: started from worker groups, kept warm between calls, always closed."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import socket
import threading
from dataclasses import dataclass, field
from multiprocessing import current_process
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from tornado.ioloop import PeriodicCallback

from batchrun.cluster.connection import Connection, close_client, dashboard_of, list_workers, silence
from batchrun.cluster.forking import deaf_to_interrupts
from batchrun.cluster.spawning import (
    EARLY,
    begin_to_start_workers,
    early_variables,
    environment,
    start_no_more_workers,
)
from batchrun.config import LocalSettings, WorkerGroup
from batchrun.errors import ClusterError, UsageError
from batchrun.resources import MEMORY, Worker, format_seconds, summarize_workers

if TYPE_CHECKING:
    from batchrun.config import Settings

__all__ = ["close_local_clusters", "local_cluster", "start_local"]

_LOOPBACK = "127.0.0.1"
_START_TIMEOUT = 60.0
_log = logging.getLogger(__name__)

_CALM = {
    # A process that wakes up fifty times a second is not idle. What is late still shows, to half a second.
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "1s",
}
_SCHEDULER_CONFIG = {
    **_CALM,
    # Nannies see at once when a worker dies. A worker that is silent is busy, maybe for hours, in code that
    # holds the interpreter's lock, and must not be killed for it.
    "distributed.scheduler.worker-ttl": None,
    # How often nannies look at what their workers hold, all day long.
    "distributed.worker.memory.monitor-interval": "200ms",
    # Every task is pinned to its worker.
    "distributed.scheduler.work-stealing": False,
}


def start_local(settings: Settings) -> Connection:
    """Start the worker groups of *settings* on this machine, reachable from this machine only.

    Closing the connection ends the cluster.

    Raises ClusterError if the workers do not come up, UsageError if this process is itself a worker that
    is being started.
    """
    warm = _start(settings)
    return warm.connect(closing=warm.close)


def local_cluster(settings: Settings) -> Connection:
    """A connection to the warm local cluster for *settings*, which is started if there is none that lives.

    Closing the connection leaves the cluster warm.

    Raises as `start_local` does.
    """
    key = (os.getpid(), settings.cluster.model_dump_json())
    with _warm_lock:
        found = _warm.get(key)
        if found is not None and not found.alive:
            _warm.pop(key).close()
            found = None
        if found is None:
            found = _warm[key] = _start(settings)
        return found.connect()


def close_local_clusters() -> None:
    """Close every warm local cluster of this process."""
    with _warm_lock:
        mine = [key for key in _warm if key[0] == os.getpid()]
        found = [_warm.pop(key) for key in mine]
    for warm in found:
        warm.close()


atexit.register(close_local_clusters)


class _GroupCluster(SpecCluster):  # type: ignore[misc]  # distributed has no types
    """A SpecCluster that puts back workers that its nannies gave up.

    SpecCluster itself closes the nanny of a worker that was away for `lost-worker-timeout` and starts no
    other; and a nanny in a crash loop may close by itself.
    """

    _guard: PeriodicCallback | None = None

    def _update_worker_status(self, op: str, msg: Any) -> None:
        Cluster._update_worker_status(self, op, msg)

    async def guard(self) -> None:
        """Begin to watch."""
        self._guard = PeriodicCallback(self._put_back, 2000)
        self._guard.start()

    async def _put_back(self) -> None:
        if self.status != Status.running or self._correct_state_waiting:
            return
        ended = (Status.closed, Status.failed)
        gone = [name for name, nanny in self.workers.items() if nanny.status in ended]
        for name in gone:
            _log.warning("worker %s was lost for good and is started again", name)
            del self.workers[name]
        if gone:
            await self._correct_state()

    async def _close(self) -> None:
        if self._guard is not None:
            self._guard.stop()
        await super()._close()


@dataclass
class _Warm:
    """A local cluster that runs."""

    cluster: _GroupCluster
    client: Client
    settings: LocalSettings
    spare: list[Client] = field(default_factory=list)
    """Clients that nobody uses at the moment, for the next calls."""
    given_up: int = 0
    """Workers that did not come back within a minute; no later call waits for them."""

    @property
    def alive(self) -> bool:
        return bool(self.cluster.status == Status.running and self.client.status == "running")

    @property
    def expected(self) -> int:
        """How many workers it has when none is about to be started again."""
        return sum(group.count for group in self.settings.workers.values())

    def connect(self, closing: Any = None) -> Connection:
        """A connection with a client of its own; *closing* is called after that was closed.

        Waits up to a minute for workers that died and are started again, once for each of them.
        """
        client = self._spare_client() or Client(
            self.cluster, set_as_default=False, direct_to_workers=True, timeout=10
        )

        workers = self._whole(client)

        def close() -> None:
            if self.alive and client.status == "running":
                self.spare.append(client)
            else:
                close_client(client)
            if closing is not None:
                closing()

        return Connection(
            client=client,
            description=f"local cluster: {summarize_workers(workers)}",
            dashboard=dashboard_of(client) if self.settings.dashboard else "",
            local=True,
            closing=close,
            waits_for_more=lambda count: self._misses(count) and bool(self._whole(client)),
        )

    def _misses(self, count: int) -> bool:
        """Whether so many workers are not all that can be had."""
        return count < self.expected - self.given_up

    def _whole(self, client: Client) -> list[Worker]:
        """The workers, once those that died are back: without them, what only they can run is refused."""
        workers = list_workers(client)
        if self._misses(len(workers)):
            with contextlib.suppress(TimeoutError):
                client.wait_for_workers(self.expected - self.given_up, timeout=_START_TIMEOUT)
            workers = list_workers(client)
            self.given_up = self.expected - len(workers)
            if self.given_up:
                _log.warning(
                    "%d of %d workers did not come back within %s; calls go on without them",
                    self.given_up,
                    self.expected,
                    format_seconds(_START_TIMEOUT),
                )
        self.given_up = min(self.given_up, max(0, self.expected - len(workers)))
        return workers

    def _spare_client(self) -> Client | None:
        while self.spare:
            client = self.spare.pop()
            if client.status == "running":
                return client
            close_client(client)
        return None

    def close(self) -> None:
        while self.spare:
            close_client(self.spare.pop())
        _close_quietly(self.client, self.cluster)
        start_no_more_workers()


_warm: dict[tuple[int, str], _Warm] = {}
_warm_lock = threading.Lock()


def _start(settings: Settings) -> _Warm:
    local = settings.cluster
    if not isinstance(local, LocalSettings):
        raise UsageError("a local cluster needs `kind: local`")
    _refuse_in_child()
    scheduler = {"cls": Scheduler, "options": _scheduler_options(local)}
    workers = {
        f"{group}-{number}": {"cls": Nanny, "options": _nanny_options(shape)}
        for group, shape in local.workers.items()
        for number in range(shape.count)
    }
    client = cluster = None
    begin_to_start_workers()
    try:
        with dask.config.set({**_SCHEDULER_CONFIG, EARLY: early_variables()}):
            cluster = _start_deaf_to_interrupts(scheduler, workers)
        client = Client(cluster, set_as_default=False, timeout=_START_TIMEOUT)
        client.wait_for_workers(len(workers), timeout=_START_TIMEOUT)
        cluster.sync(cluster.guard)
    except BaseException as error:
        _close_quietly(client, cluster)
        start_no_more_workers()
        if not isinstance(error, Exception):
            raise
        raise ClusterError(
            f"the local cluster did not start: {type(error).__name__}: {error}. `batchrun doctor` compares "
            "cluster.yaml with this machine"
        ) from error
    return _Warm(cluster, client, local)


def _scheduler_options(local: LocalSettings) -> dict[str, Any]:
    return {
        "host": _LOOPBACK,
        "port": 0,
        "protocol": "tcp",
        "dashboard": local.dashboard is not None,
        "dashboard_address": _free_endpoint(local.dashboard or f"{_LOOPBACK}:0"),
    }


def _nanny_options(group: WorkerGroup) -> dict[str, Any]:
    return {
        "host": _LOOPBACK,
        "nthreads": group.threads,
        "memory_limit": group.memory,
        "resources": {**group.resources, MEMORY: group.memory},
        "env": environment(),
        "dashboard": False,
        "dashboard_address": f"{_LOOPBACK}:0",
        "preload": ["batchrun.worker.tether"],
        "preload_argv": [],
        "silence_logs": logging.ERROR,
        "death_timeout": 60,
        "config": {
            # A shuffle may buffer a gigabyte by default, whatever a worker has.
            "distributed.p2p.comm.buffer": min(2**30, group.memory // 16),
            "distributed.p2p.storage.buffer": min(100 * 2**20, group.memory // 16),
            # A paused worker keeps its tasks and never starts them: a stage that leaves much memory behind
            # would hang its run. Past 95 % the nanny ends the worker, which is seen and recovered from.
            "distributed.worker.memory.pause": False,
            # By default a hundred looks a second at what its threads do, which an idle worker pays for too.
            "distributed.worker.profile.interval": "100ms",
            **_CALM,
        },
    }


def _start_deaf_to_interrupts(scheduler: dict[str, Any], workers: dict[str, Any]) -> _GroupCluster:
    """Start the cluster so that Ctrl-C never reaches its processes, not even while they start: those are
    started by a thread of the cluster's event loop, which takes its mask from this one."""
    with deaf_to_interrupts():
        return _GroupCluster(
            workers=workers, scheduler=scheduler, name="batchrun", silence_logs=logging.ERROR
        )


def _refuse_in_child() -> None:
    """A script without a main guard is run again by each process that it starts itself; say so."""
    if getattr(current_process(), "_inheriting", False):
        raise UsageError(
            "this process is one that your script starts, and reads the script once more; put the call under "
            '`if __name__ == "__main__":`'
        )


def _free_endpoint(endpoint: str) -> str:
    """The endpoint, or one with a free port if its port is in use."""
    host, _, port = endpoint.rpartition(":")
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bare, int(port)))
        except OSError:
            return f"{host}:0"
    return endpoint


def _close_quietly(client: Client | None, cluster: _GroupCluster | None) -> None:
    """Close both; what Dask logs while connections end is of no use to anybody."""
    with silence():
        close_client(client)
        if cluster is not None:
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                cluster.close(timeout=20)
