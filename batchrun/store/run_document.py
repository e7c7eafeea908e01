"""A run as a JSON document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.store.records import RunRecord
from batchrun.store.turns import is_under_way

if TYPE_CHECKING:
    from batchrun.store.queue import QueueEntry

__all__ = ["record_document"]


def record_document(record: RunRecord, entry: QueueEntry | None = None) -> dict[str, Any]:
    """What the store knows of a run as a whole, as JSON; *entry* is how it stands in the queue."""
    keys = ("pipeline", "rows_in", "rows_solved", "rows_quarantined", "rows_cancelled", "chunks", "folder")
    times = ("created", "started", "ended")
    return {
        "run": record.run_id,
        "state": record.state.value,
        "driven": is_under_way(record, entry),
        "driver": None if record.state.ended else record.driver,
        "queue": None if entry is None or record.state.ended else _queue_document(entry),
        **{key: getattr(record, key) for key in (*keys, *times)},
    }


def _queue_document(entry: QueueEntry) -> dict[str, Any]:
    """How a run stands in the queue, as JSON."""
    keys = ("queued", "priority", "not_before", "after", "input_from", "lock", "max_slots", "schedule")
    return {**{key: getattr(entry, key) for key in keys}, "service": entry.owner}
