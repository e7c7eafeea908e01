"""One document to each hook that there is."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from batchrun.config import HookSettings
from batchrun.hooks.command import run_command
from batchrun.hooks.webhook import post, wait_before
from batchrun.store.deliveries import Delivery

__all__ = ["deliver", "longest"]


def deliver(
    hooks: HookSettings,
    document: Mapping[str, Any],
    *,
    pause: Callable[[float], object] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> tuple[Delivery, ...]:
    """Give a document to each hook that wants it.

    Args:
        hooks: The hooks.
        document: The run as JSON values; ``run`` and ``state`` are among them.
        pause: Called with the seconds to wait before another try.
        chance: Gives numbers from 0 to 1, by which waits of many runs differ.

    Returns what became of each hook; nothing if no hook wants it. A hook that fails is no exception.
    """
    if hooks.only and document["state"] not in hooks.only:
        return ()
    body = json.dumps(document).encode()
    deliveries = []
    if hooks.command is not None:
        names = {"BATCHRUN_RUN": str(document["run"]), "BATCHRUN_STATE": str(document["state"])}
        deliveries.append(run_command(hooks.command, body, names, hooks.timeout))
    if hooks.webhook is not None:
        deliveries.append(post(hooks.webhook, body, pause=pause, chance=chance))
    return tuple(deliveries)


def longest(hooks: HookSettings) -> float:
    """Seconds that it may take to give a document to all hooks.

    >>> longest(HookSettings(webhook={"url": "https://example.org", "retries": 2, "timeout": "10s"}))
    33.0
    """
    seconds = hooks.timeout if hooks.command is not None else 0.0
    if hooks.webhook is not None:
        retries = hooks.webhook.retries
        seconds += (retries + 1) * hooks.webhook.timeout
        seconds += sum(wait_before(retry, 1.0) for retry in range(1, retries + 1))
    return seconds
