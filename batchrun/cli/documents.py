"""Runs as JSON documents, and the files that are written of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrun.report import RunReport
    from batchrun.store.queue import QueueEntry
    from batchrun.store.runs import RunRecord

__all__ = ["document", "full_document", "record_document", "write_report"]


def document(report: RunReport) -> dict[str, Any]:
    """A run as JSON."""
    html = Path(report.folder, "report.html")
    return {
        **record_document(report.record, report.queue),
        "report": str(html) if html.exists() else None,
        "cluster": report.cluster,
        "seconds": report.seconds,
        "params": report.params,
        "input": report.input,
        "split": report.split,
        "stages": report.stages,
        "attempts": sum(report.counts.attempts.values()),
        "failures": report.failures.drop(columns="traceback").to_dict("records"),
        "error": str(report.error) if report.error else None,
    }


def full_document(report: RunReport) -> dict[str, Any]:
    """A run as JSON, with what runs at this moment and why the run stands where it stands."""
    live = report.live
    running = [asdict(chunk) for chunk in live.running] if live else []
    for chunk in running:
        del chunk["log"]  # `batchrun logs` has it
    return {**document(report), "running": running, "why": report.why()}


def record_document(record: RunRecord, entry: QueueEntry | None) -> dict[str, Any]:
    """What the store knows of a run as a whole, as JSON; *entry* is how it stands in the queue."""
    from batchrun.store.turns import is_under_way

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


def write_report(report: RunReport, html: Path | None, excel: Path | None, *, always: bool) -> dict[str, str]:
    """Write the report files that were asked for, the HTML one *always* if so; returns their paths."""
    written = {}
    if html is not None or always:
        written["report"] = str(report.to_html(html))
    if excel is not None:
        written["excel"] = str(report.to_excel(excel))
    return written
