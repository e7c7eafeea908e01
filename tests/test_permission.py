"""Who may act from the page: only who opened it on this machine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from batchrun.dashboard.permission import may_act


def request(**headers: str) -> SimpleNamespace:
    """A request with these headers, ``Sec_Fetch_Dest`` for ``Sec-Fetch-Dest``."""
    return SimpleNamespace(headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "localhost:8787", "[::1]:8787", "127.0.0.1"])
def test_who_opened_the_page_on_this_machine_may(host: str) -> None:
    assert may_act(request(Host=host))
    assert may_act(request(Host=host, Origin=f"http://{host}", Sec_Fetch_Dest="websocket"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": ""},
        {"Host": "dask.example.org:8787"},
        {"Host": "192.168.1.7:8787"},
        {"Host": "localhost.example.org:8787"},
        {"Host": "127.0.0.1.example.org"},
        {"Host": "[::1"},
        {"Host": "127.0.0.1:8787", "Origin": "https://example.org"},
        {"Host": "127.0.0.1:8787", "Origin": "http://127.0.0.1:3000"},
        {"Host": "127.0.0.1:8787", "Origin": "null"},
        {"Host": "rebound.example.org:8787", "Origin": "http://rebound.example.org:8787"},
        {"Host": "127.0.0.1:8787", "X-Forwarded-For": "10.0.0.7"},
        {"Host": "127.0.0.1:8787", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_others_may_not(headers: dict[str, str]) -> None:
    assert not may_act(SimpleNamespace(headers=headers))


def test_what_a_token_says_of_headers_counts_for_nothing() -> None:
    class Proxied:
        """As Bokeh hands a request on: with the headers of the token, and the real one behind them."""

        def __init__(self) -> None:
            self.headers = {"Host": "127.0.0.1:8787"}
            self._request = request(Host="127.0.0.1:8787", Origin="https://example.org")

    assert not may_act(Proxied())


def test_without_a_request_nobody_may() -> None:
    assert not may_act(None)
