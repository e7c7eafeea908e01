"""Telling of the end of a run once the store has it, and recording whether that got through."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from batchrun.config import HookSettings
from batchrun.errors import LeaseLostError
from batchrun.hooks.deliver import deliver, longest
from batchrun.store.deliveries import Delivery
from batchrun.store.event_record import EventKind
from batchrun.store.run_document import record_document
from batchrun.store.runs import RunStore

__all__ = ["end_told", "run_hooks", "run_pending_hooks"]

logger = logging.getLogger("batchrun")

SLACK = 60.0
"""Seconds beside what hooks may take after which the process that called them counts as gone."""


def run_hooks(store: RunStore, hooks: HookSettings, run_id: str, *, after: int = 0) -> tuple[Delivery, ...]:
    """Tell of the end of a run, and record what became of it.

    What is interrupted before it is recorded is still to be told, so that a receiver may hear of the same end
    more than once: it has the same ``event`` each time.

    Args:
        store: The store that has the run.
        hooks: Who is told.
        run_id: The run's whole id.
        after: Only of an end whose event has a higher id.

    Returns what became of each hook; nothing if the run has not ended, or no hook wants it.
    """
    record, event = store.find(run_id), store.events.last(run_id, EventKind.RUN_ENDED)
    if not record.state.ended or event is None or event.id <= after:
        return ()
    document = {
        "event": event.id,
        "at": event.at,
        "kind": event.kind,
        **record_document(record),
        "error": event.data.get("error"),
    }
    deliveries = deliver(hooks, document)
    store.deliveries.record(run_id, event.id, deliveries)
    for delivery in deliveries:
        if not delivery.delivered:
            logger.warning(
                "the end of run %s was not told to the %s %s: %s",
                run_id,
                delivery.hook,
                delivery.target,
                delivery.error,
            )
    return deliveries


def run_pending_hooks(store: RunStore, hooks: HookSettings) -> list[str]:
    """Tell of the ends of queued runs that are still to be told; returns these runs.

    Each end is told by one process at a time. If that dies, another tells it a minute after the first can
    have been at it at the latest.

    Without hooks they are done with all the same, so that hooks which are set later do not tell of old runs.
    """
    told: list[str] = []
    while (run_id := store.deliveries.take(longest(hooks) + SLACK)) is not None:
        told.append(run_id)
        run_hooks(store, hooks, run_id)
    return told


@contextlib.contextmanager
def end_told(store: RunStore, hooks: HookSettings, run_id: str) -> Iterator[None]:
    """Within this context the run is driven; when it has ended, however that was, its end is told.

    A hook that fails is logged and does not touch the run.
    """
    if not hooks.on:
        yield
        return
    before, mine = store.events.newest(), True
    try:
        yield
    except LeaseLostError:
        mine = False  # it goes on elsewhere
        raise
    finally:
        if mine:
            try:
                run_hooks(store, hooks, run_id, after=before)
            except Exception:
                logger.warning("the hooks of run %s failed", run_id, exc_info=True)
