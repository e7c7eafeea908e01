"""Find a Dask cluster to run on: one of this machine, one at an address, one that the caller has."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import distributed
from distributed import Client
from distributed.comm import connect as open_comm
from distributed.core import Status
from distributed.deploy.cluster import Cluster

from batchrun.cluster.connection import Connection, close_client, dashboard_of, list_workers, silence
from batchrun.cluster.local import close_local_clusters, local_cluster, start_local
from batchrun.cluster.versions import PACKAGES, Difference, compare_versions, require_fit
from batchrun.config import ConnectSettings, LocalSettings, settings_for_address
from batchrun.errors import ClusterError, ClusterUnreachableError, UsageError
from batchrun.resources import summarize_workers

if TYPE_CHECKING:
    from batchrun.config import Settings

__all__ = [
    "Connection",
    "active_client",
    "close_local_clusters",
    "connect",
    "list_workers",
    "local_cluster",
    "open_cluster",
    "start_local",
    "version_differences",
    "wrap",
]


def open_cluster(settings: Settings) -> Connection:
    """The cluster that *settings* describe: the warm local one, or a connection.

    Closing a local one leaves it warm for the next call; it ends with the process, or by
    `close_local_clusters`.

    Raises as `local_cluster` and `connect` do.
    """
    if isinstance(settings.cluster, LocalSettings):
        return local_cluster(settings)
    return connect(settings)


def connect(target: Settings | str) -> Connection:
    """Connect to a scheduler that runs elsewhere; closing the connection leaves the cluster as it is.

    Raises ClusterUnreachableError if nothing answers within the timeout, ClusterError if there is no
    worker, VersionMismatchError if versions do not fit.
    """
    settings = settings_for_address(target) if isinstance(target, str) else target
    remote = settings.cluster
    if not isinstance(remote, ConnectSettings):
        raise UsageError("connecting needs `kind: connect` and an `address`")
    deadline = time.monotonic() + remote.timeout
    return _checked_or_closed(_reach(remote), remote.address, deadline)


def wrap(target: Client | Cluster) -> Connection:
    """Use the cluster of a Dask client or cluster object that the caller has; neither is closed.

    The connection has a client of its own: a client hears a topic of events through one handler only, and
    the caller may have set it.

    Raises as `connect` does.
    """
    if target.status not in ("running", Status.running):
        kind = "cluster" if isinstance(target, Cluster) else "client"
        status = target.status.name if isinstance(target.status, Status) else target.status
        raise ClusterError(f"the Dask {kind} given is {status}; make a new one")
    address = target.scheduler_address if isinstance(target, Cluster) else target.scheduler.address
    client = Client(address, security=target.security, timeout=10, set_as_default=False)
    return _checked_or_closed(client, address, None)


def active_client() -> Client | None:
    """The default Dask client of this process, if it has one."""
    try:
        client = distributed.default_client()
    except ValueError:
        return None
    return client if client.status == "running" else None


def version_differences(client: Client) -> list[Difference]:
    """What differs between this process and the scheduler and workers of *client*."""
    found = client.get_versions(packages=[name for name in PACKAGES if name != "python"])
    there = {"scheduler": (found["scheduler"] or {}).get("packages", {})}
    for address, versions in found["workers"].items():
        there[address] = (versions or {}).get("packages", {})
    return compare_versions(found["client"]["packages"], there)


def _reach(remote: ConnectSettings) -> Client:
    security = None
    if remote.security is not None:
        security = distributed.Security(
            tls_ca_file=remote.security.ca_file,
            tls_client_cert=remote.security.cert_file,
            tls_client_key=remote.security.key_file,
            require_encryption=True,
        )
    try:
        with silence(), ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a loop that runs
            thread.submit(asyncio.run, _greet(remote, security)).result()
            return Client(remote.address, timeout=remote.timeout, security=security, set_as_default=False)
    except Exception as error:  # what is no scheduler may answer anything
        raise ClusterUnreachableError(
            f"no Dask scheduler answers at {remote.address} within {remote.timeout:g} s ({_short(error)}). "
            "Is `dask scheduler` running there, is the port right (8786 unless told otherwise; 8787 is the "
            "dashboard's), and does no firewall lie between?"
        ) from error


async def _greet(remote: ConnectSettings, security: distributed.Security | None) -> None:
    """Shake hands with the scheduler; a Client would wait for ever for a peer that says nothing."""
    arguments = security.get_connection_args("client") if security else {}

    async def shake_hands() -> None:
        comm = await open_comm(remote.address, timeout=remote.timeout, **arguments)
        comm.abort()

    try:
        await asyncio.wait_for(shake_hands(), remote.timeout)
    except TimeoutError as error:
        raise TimeoutError("something is there, but says nothing") from error


def _checked_or_closed(client: Client, address: str, deadline: float | None) -> Connection:
    """A connection that owns *client*, once there is a worker and the versions fit."""
    try:
        _require_worker(client, address, deadline)
        warnings = require_fit(version_differences(client), address)
        return Connection(
            client=client,
            description=f"Dask cluster at {address}: {summarize_workers(list_workers(client))}",
            dashboard=dashboard_of(client),
            warnings=warnings,
            closing=lambda: close_client(client),
        )
    except BaseException:
        close_client(client)
        raise


def _require_worker(client: Client, address: str, deadline: float | None) -> None:
    left = max(1.0, deadline - time.monotonic()) if deadline is not None else 10.0
    try:
        client.wait_for_workers(1, timeout=left)
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler at {address} has no worker. Start one beside it: `dask worker {address} "
            '--resources "MEMORY=8e9"`'
        ) from error


def _short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
