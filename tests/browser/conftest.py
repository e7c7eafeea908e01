"""A real Chromium, and real clusters for it to look at."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from distributed import Client
    from playwright.sync_api import Browser, Page


@pytest.fixture
def open_tab(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens browser tabs; the test fails if a script of their pages does, or if a page opens a dialog."""
    pages: list[Page] = []
    complaints: list[str] = []

    def refuse(dialog: object) -> None:
        complaints.append(f"a dialog: {dialog}")
        dialog.dismiss()  # type: ignore[attr-defined]

    def opened(**looks: object) -> Page:
        page = chromium.new_page(**({"viewport": {"width": 1280, "height": 800}} | looks))
        pages.append(page)
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", refuse)
        return page

    yield opened
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture
def tab(open_tab: Callable[..., Page]) -> Page:
    """A tab as wide as a small desktop screen."""
    return open_tab()


@pytest.fixture
def dask_processes(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler that was started by hand, as on somebody's cluster, with one worker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **quiet)

    here = ("--host", "127.0.0.1")
    processes = [
        start("scheduler", *here, "--port", str(port), "--dashboard-address", "127.0.0.1:0"),
        start("worker", address, *here, "--nthreads", "1", "--memory-limit", "1GiB", "--no-dashboard"),
    ]
    try:
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(20)


@pytest.fixture
def bare() -> Iterator[tuple[Client, str]]:
    """A scheduler with the page, and a client to tell it anything."""
    from distributed import Client, LocalCluster

    from batchrun.dashboard.plugin import install

    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client, install(client)


@pytest.fixture
def shown() -> Callable[[Page], list[int]]:
    """Reads what the map in a tab shows: the code of each tile."""

    def codes(page: Page) -> list[int]:
        script = "() => Array.from(Bokeh.documents[0].get_model_by_name('batchrun-chunks').data.code)"
        return page.evaluate(script)

    return codes
