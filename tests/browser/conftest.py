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
    from playwright.sync_api import Browser, Page


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """A browser tab; the test fails if a script of the page does, or if the page opens a dialog."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def refuse(dialog: object) -> None:
        complaints.append(f"a dialog: {dialog}")
        dialog.dismiss()  # type: ignore[attr-defined]

    page.on("dialog", refuse)
    yield page
    page.close()
    assert complaints == []


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
def shown() -> Callable[[Page], list[int]]:
    """Reads what the map in a tab shows: the code of each tile."""

    def codes(page: Page) -> list[int]:
        script = "() => Array.from(Bokeh.documents[0].get_model_by_name('batchrun-chunks').data.code)"
        return page.evaluate(script)

    return codes
