"""Ends tasks that run on Dask workers, which Dask itself cannot do: cancelling a future stops nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from batchrun.worker.running import recall, stop_tasks

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ask_back", "ask_to_stop", "end_tasks"]

_log = logging.getLogger(__name__)

_ANSWER = 2.0
"""Seconds that a worker has to answer; one whose event loop is blocked does not."""
_SETTLE = 0.3
"""Seconds in which a stage that only has to return can do so before its worker is restarted."""


def ask_to_stop(client: Client, tasks: Mapping[str, Sequence[str]], *, keep_best: bool, grace: float) -> None:
    """Tell the workers of *tasks* (address: keys) to stop them; does not wait for an answer."""

    async def ask() -> None:
        await asyncio.gather(*(_stop(client, at, keys, keep_best, grace) for at, keys in tasks.items()))

    if tasks:
        client.loop.add_callback(ask)


def ask_back(client: Client, tasks: Mapping[str, Sequence[str]], tell: Callable[[str, int], None]) -> None:
    """Tell the workers of *tasks* (address: keys) that no further chunk of them shall begin; does not wait.

    *tell* hears of each task that has not ended how many of its chunks have begun.
    """

    async def ask(address: str, keys: Sequence[str]) -> None:
        try:
            answer = await client.run(recall, list(keys), workers=[address])
        except Exception as error:
            _log.debug("worker %s is gone: %s", address, error)
            return
        for key, begun in answer.get(address, {}).items():
            tell(key, begun)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(address, keys) for address, keys in tasks.items()))

    if tasks:
        client.loop.add_callback(ask_all)


def end_tasks(client: Client, tasks: Mapping[str, Sequence[str]]) -> None:
    """Stop tasks for good, and return when they are gone, or when all is done that can be done.

    Child processes are killed. A task that goes on in the worker's own process is ended by restarting the
    worker if nobody else has work there.
    """

    async def end() -> None:
        await asyncio.gather(*(_end(client, at, keys) for at, keys in tasks.items()))

    if tasks:
        client.sync(end)


async def _stop(
    client: Client, address: str, keys: Sequence[str], keep_best: bool, grace: float
) -> Sequence[str]:
    """Ask a worker to stop tasks; returns the keys of those that it has, or of all if it does not answer."""
    asked = client.run(stop_tasks, list(keys), keep_best=keep_best, grace=grace, workers=[address])
    try:
        answer = await asyncio.wait_for(asked, _ANSWER)
    except TimeoutError:
        return keys
    except Exception as error:
        _log.debug("worker %s is gone: %s", address, error)
        return ()
    found: Sequence[str] = answer.get(address, ())
    return found


async def _end(client: Client, address: str, keys: Sequence[str]) -> None:
    left = await _stop(client, address, keys, False, 0.0)
    if left:
        await asyncio.sleep(_SETTLE)
        left = await _stop(client, address, left, False, 0.0)
    if left:
        await _restart(client, address, keys)


async def _restart(client: Client, address: str, keys: Sequence[str]) -> None:
    """Restart a worker, unless others have work there."""
    try:
        there = (await client.processing(workers=[address])).get(address, ())
        if set(map(str, there)) - set(keys):
            raise ValueError("others have work there")
        await client.restart_workers([address], timeout=30, raise_for_error=False)
    except Exception as error:
        _log.warning(
            "a stage goes on on worker %s until it ends, because the worker cannot be restarted (%s); "
            "a stage with isolate=True can always be stopped",
            address,
            error,
        )
