"""A run as a JSON document."""

from __future__ import annotations

from typing import Any

from batchrun.store.driver import is_driven
from batchrun.store.records import RunRecord

__all__ = ["record_document"]


def record_document(record: RunRecord) -> dict[str, Any]:
    """What the store knows of a run as a whole, as JSON."""
    keys = ("pipeline", "rows_in", "rows_solved", "rows_quarantined", "rows_cancelled", "chunks", "folder")
    times = ("created", "started", "ended")
    return {
        "run": record.run_id,
        "state": record.state.value,
        "driven": is_driven(record),
        **{key: getattr(record, key) for key in (*keys, *times)},
    }
