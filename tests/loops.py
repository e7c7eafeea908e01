"""Event loops for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def run_apart(main: Coroutine[object, object, Result]) -> Result:
    """What a coroutine gives, in a loop and a thread of its own: once a browser was used, Playwright keeps a
    loop running in the thread of the tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, main).result()
