"""The page of a store without a cluster, in a web server of its own."""

from __future__ import annotations

import functools
import gc
import socket
from collections.abc import Callable
from typing import Any

from batchrun.errors import UsageError

__all__ = ["serve"]

_NAMES = ("localhost", "127.0.0.1")


def serve(host: str, port: int, ready: Callable[[str, Callable[[], None]], object]) -> None:
    """Serve the page at ``/batchrun`` until it is stopped, in this thread.

    What it shows is the archive that is offered; see ``dashboard.archive``.

    Args:
        host: The name or IPv4 address to listen on; Bokeh knows no others.
        port: The port; 0 for a free one.
        ready: Called with the page's address, and with what stops the server, which any thread may call.

    Raises UsageError if nothing can listen there.
    """
    from bokeh.application import Application
    from bokeh.application.handlers.function import FunctionHandler
    from bokeh.server.server import Server

    from batchrun.dashboard.board import Board
    from batchrun.dashboard.opening import Ahead
    from batchrun.dashboard.pace import Pace
    from batchrun.dashboard.page import open_page

    shown = functools.partial(open_page, Board(), None, {"prefix": "/"}, pace=Pace())
    page = Application(FunctionHandler(shown), Ahead(shown))
    try:
        taken = _listen(host, port)
        names = {*_NAMES, host}
        server = Server(
            {"/batchrun": page},
            address=host,
            port=taken,
            allow_websocket_origin=sorted(f"{name}:{taken}" for name in names),
        )
    except OSError as error:
        raise UsageError(f"nothing can listen on {host}:{port}: {error}") from error
    loop: Any = server.io_loop
    server.start()
    # A look at half a million objects that stay holds up the loop for longer than all drawing does.
    gc.collect()
    gc.freeze()
    ready(f"http://{host}:{server.port}/batchrun", lambda: loop.add_callback(loop.stop))
    try:
        loop.start()
    finally:
        gc.unfreeze()
        server.stop()
        server.unlisten()


def _listen(host: str, port: int) -> int:
    """The port, or a free one for 0, which the names that may connect must have in them."""
    if port:
        return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
