"""Commands for services and pages: up, down, dashboard."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchrun import console
from batchrun.cli.options import Cluster, Json, Override, settings_of
from batchrun.cli.program import app
from batchrun.errors import UsageError

if TYPE_CHECKING:
    from batchrun.store.services import ServiceRecord

__all__ = ["dashboard", "down", "up"]

LOOPBACK = ("127.0.0.1", "localhost")
MOST_PORT = 65_535


@app.command(
    epilog="""\b
Examples:
  batchrun up
  batchrun up --detach -c cluster.yaml
"""
)
def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Go on in the background, with a log.")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", help="The log, by default service.log beside the store."),
    ] = None,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Start the cluster of cluster.yaml, and the service that runs what is queued.

    Without --detach it stays in the foreground until Ctrl-C, which leaves what runs in the queue.
    """
    from batchrun.service.process import default_log, start_detached

    if cluster == "inline":
        raise UsageError("a service needs a cluster; leave `-c inline` out, or name a cluster.yaml")
    settings = settings_of(cluster, override)
    if detach:
        path = (log or default_log(settings)).absolute()
        service = start_detached(settings, _arguments(cluster, override), path)
        if as_json:
            console.print_json({"service": _document(service)})
        else:
            console.print_note(f"{service.service} is up, {service.cluster}")
            if service.dashboard:
                console.print_note(f"dashboard: {service.dashboard}")
            console.print_note(f"log: {path}; `batchrun down` stops it")
        return
    if settings.cluster.kind == "local":
        from batchrun.cluster.forking import load_early

        load_early()
    from batchrun.service import Service

    _log_to_terminal()
    service_here = Service(settings, log=str(log.absolute()) if log else None)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service_here.stop())
    service_here.run()


@app.command()
def down(
    finish: Annotated[bool, typer.Option("--finish", help="Let what runs end before.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel what runs.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="The longest to wait for it.")
    ] = None,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Stop the services of the store.

    What they drive goes back into the queue, where the next service finds it; what is solved is kept.
    """
    from batchrun.service.process import stop_services

    if finish and cancel:
        raise UsageError("--finish and --cancel exclude each other; choose one")
    how = "finish" if finish else "cancel" if cancel else "leave"
    stopped = stop_services(settings_of(cluster, override), how, timeout=timeout)
    if as_json:
        console.print_json({"stopped": [service.service for service in stopped], "how": how})
    else:
        for service in stopped:
            console.print_note(f"{service.service} has ended")


@app.command()
def dashboard(
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8788",
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    expose: Annotated[
        bool, typer.Option("--expose", help="Allow a host that other machines can reach. It has no login.")
    ] = False,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Show the runs of the store in the browser, without a cluster, until Ctrl-C.

    It is the page that a cluster's dashboard has too: each run with its chunks, and why they stand so.
    """
    from batchrun.archive import offer_store
    from batchrun.dashboard.server import serve

    host, port = _endpoint(address)
    if host not in LOOPBACK and not expose:
        raise UsageError(
            f"{address} can be reached from other machines, and the page has no login; use 127.0.0.1, or say "
            "--expose if that is meant"
        )
    settings = settings_of(cluster, override)
    archive = offer_store(settings.store_url, acts=settings.dashboard_buttons)

    def ready(link: str, stop: Callable[[], None]) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop())
        if as_json:
            console.print_json({"dashboard": link, "store": archive.place})
        else:
            console.print_note(f"{link} shows the runs of {archive.place}; Ctrl-C ends it")
        if open_it:
            typer.launch(link)

    try:
        serve(host, port, ready)
    finally:
        archive.close()


def _endpoint(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or ":" in host or not port.isdecimal() or int(port) > MOST_PORT:
        raise UsageError(f"--address {address!r} is not of the form HOST:PORT, like 127.0.0.1:8788")
    return host, int(port)


def _arguments(cluster: str | None, override: Sequence[str] | None) -> list[str]:
    """The options of this command that its process in the background needs too."""
    chosen = ["--cluster", cluster] if cluster else []
    return [*chosen, *(word for pair in override or () for word in ("--set", pair))]


def _document(service: ServiceRecord) -> dict[str, Any]:
    return asdict(service)


def _log_to_terminal() -> None:
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    logging.getLogger("batchrun").setLevel(logging.INFO)
