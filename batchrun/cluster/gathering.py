"""Fetching results of tasks that have ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from distributed import Client, Future

from batchrun.worker.work import WorkResult

__all__ = ["gather"]

_log = logging.getLogger(__name__)


def gather(client: Client, futures: Mapping[str, Future]) -> dict[str, WorkResult | None]:
    """The results of those futures that are finished, by the same keys; what cannot be read is left out."""
    finished = {key: future for key, future in futures.items() if future.status == "finished"}
    if not finished:
        return {}
    try:
        gathered: dict[str, WorkResult | None] = client.gather(finished, errors="skip")
        return gathered
    except Exception as error:  # one result that cannot be read must not hide the others
        _log.debug("a batch of results could not be read at once: %s", error)
    one_by_one: dict[str, WorkResult | None] = {}
    for key, future in finished.items():
        try:
            one_by_one[key] = client.gather([future], errors="skip")[0]
        except Exception as error:
            _log.debug("%s: %s", key, error)
    return one_by_one
