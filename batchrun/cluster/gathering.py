"""Fetching results of tasks that have ended."""

from __future__ import annotations

import logging

from distributed import Client, Future

from batchrun.worker.work import WorkResult

__all__ = ["fetch"]

_log = logging.getLogger(__name__)


async def fetch(client: Client, future: Future) -> WorkResult | None:
    """The result of a task once it has ended; None if it has none, or it cannot be read.

    To be awaited on the client's loop.
    """
    try:
        found: list[WorkResult] = await client.gather([future], errors="skip", asynchronous=True)
        return found[0] if found else None
    except Exception as error:
        _log.debug("the result of %s could not be read: %s", future.key, error)
        return None
