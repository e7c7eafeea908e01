"""Pages that are open: each fetches the page and listens to what the server sends it, as a browser does.

``python -m tests.benchmarks.open_pages ADDRESS COUNT`` opens so many and says ``open``; once its input is
closed it prints what came, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Listened", "open_pages"]

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Listened:
    """What pages got while they were open."""

    pages: int
    """How many there were."""
    answered: float = 0.0
    """Seconds until the server had given all of them the page."""
    seconds: float = 0.0
    """How long they were open."""
    messages: int = 0
    """Messages to all of them."""
    nbytes: int = 0
    """Bytes in these."""
    heard: dict[str, float] = field(default_factory=dict)
    """Seconds until a text was first in a message, by the text."""


@contextmanager
def open_pages(address: str, count: int, *texts: str) -> Iterator[Listened]:
    """Keep so many pages open meanwhile, in a process of their own; *texts* are waited for, before they are
    left."""
    listened = Listened(count)
    if not count:
        yield listened
        return
    command = [sys.executable, "-m", "tests.benchmarks.open_pages", address, str(count), *texts]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "open"
        yield listened
        said, _ = process.communicate()
    listened.__dict__.update(json.loads(said))


async def _listen(
    address: str, listened: Listened, began: float, opened: asyncio.Event, texts: list[str]
) -> None:
    """Open one page and count what comes, until cancelled."""
    from bokeh.protocol import Protocol
    from tornado.httpclient import AsyncHTTPClient
    from tornado.websocket import websocket_connect

    page = await AsyncHTTPClient().fetch(address, request_timeout=60)
    found = re.search(r'"token":\s*"([^"]+)"', page.body.decode())
    assert found is not None, f"{address} is no page of Bokeh"
    listened.answered = time.perf_counter() - began
    socket = address.partition("?")[0].replace("http", "ws", 1) + "/ws"
    connection = await websocket_connect(socket, subprotocols=["bokeh", found.group(1)])
    while '"ACK"' not in str(await connection.read_message()):
        pass
    request = Protocol().create("PULL-DOC-REQ")
    for part in (request.header_json, request.metadata_json, request.content_json):
        await connection.write_message(part)
    while (frame := await connection.read_message()) is not None:
        listened.nbytes += len(frame)
        if isinstance(frame, str) and '"msgtype"' in frame:
            listened.messages += 1
            if '"PULL-DOC-REPLY"' in frame:
                opened.set()
        for text in texts:
            if text not in listened.heard and isinstance(frame, str) and text in frame:
                listened.heard[text] = time.perf_counter() - began
    raise OSError(f"the server closed the connection: {connection.close_code} {connection.close_reason}")


async def _main(address: str, count: int, texts: list[str]) -> None:
    listened, began = Listened(count), time.perf_counter()
    opened = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(_listen(address, listened, began, event, texts)) for event in opened]
    for task, event in zip(tasks, opened, strict=True):
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    print("open", flush=True)
    since = time.perf_counter()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while len(listened.heard) < len(texts) and time.perf_counter() - began < 300:
        await asyncio.sleep(0.05)
    listened.seconds = time.perf_counter() - since
    for task in tasks:
        task.cancel()
    print(json.dumps(listened.__dict__))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
