"""Who may act from a page, and not only look at it.

The dashboard has no login, and Dask's lets any web site open a connection to it from a browser. So who acts
must have opened the page itself, on this machine: the browser says in ``Host`` which address it asked for,
and in ``Origin`` which page asked. A page behind a proxy, or within another page, shows everything and has no
buttons.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

__all__ = ["may_act"]


def may_act(request: Any) -> bool:
    """Whether the one who sent *request*, one of Bokeh's, may stop runs and start them again."""
    # Bokeh lets the page's token replace the headers, and whoever connects can write a token.
    request = getattr(request, "_request", request)
    if request is None:
        return False
    headers = request.headers
    host = headers.get("Host", "")
    origin = headers.get("Origin")
    if any(name in headers for name in ("Forwarded", "X-Forwarded-For")):
        return False
    if headers.get("Sec-Fetch-Dest", "document") not in ("document", "websocket", "empty"):
        return False  # a frame, whose buttons another site could lay something over
    if not _is_loopback(f"//{host}"):
        return False
    return origin is None or (urlsplit(origin).netloc == host and _is_loopback(origin))


def _is_loopback(address: str) -> bool:
    try:
        host = urlsplit(address).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
