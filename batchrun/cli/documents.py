"""Runs as JSON documents, and the files that are written of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrun.overview import Overview, RunStanding
    from batchrun.report import RunReport
    from batchrun.store.records import RunFailures, RunRecord

__all__ = ["document", "failure_document", "full_document", "overview_document", "write_report"]


def document(report: RunReport) -> dict[str, Any]:
    """A run as JSON."""
    from batchrun.store.run_document import record_document

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
        "failures": [
            {name: getattr(kind, name) for name in _FAILURE_FIELDS} for kind in report.failure_kinds
        ],
        "error": str(report.error) if report.error else None,
    }


_FAILURE_FIELDS = ("error_type", "error", "stage", "chunks", "rows", "first_chunk")


def full_document(report: RunReport) -> dict[str, Any]:
    """A run as JSON, with what runs at this moment and why the run stands where it stands."""
    live = report.live
    running = [asdict(chunk) for chunk in live.running] if live else []
    for chunk in running:
        del chunk["log"]  # `batchrun logs` has it
    sizing = [asdict(one) for one in report.sizing]
    return {**document(report), "running": running, "why": report.why(), "sizing": sizing}


def failure_document(record: RunRecord, failures: RunFailures | None) -> dict[str, Any]:
    """What the chunks of a run failed for, as JSON."""
    error = failures.error if failures else str(record.error) if record.error else None
    return {"chunks_failed": failures.chunks if failures else 0, "error": error}


def overview_document(overview: Overview) -> dict[str, Any]:
    """A store at one moment, as JSON."""
    return {
        "at": overview.at,
        "store": overview.place,
        "runs": [_standing_document(run) for run in overview.runs],
        "slots": [asdict(place) for place in overview.places],
        "failures": [asdict(failure) for failure in overview.failures],
    }


def _standing_document(run: RunStanding) -> dict[str, Any]:
    from batchrun.store.run_document import record_document

    running = [asdict(chunk) for chunk in run.live.running] if run.live else []
    for chunk in running:
        del chunk["log"]
    return {
        **record_document(run.record, run.entry),
        "share": run.share,
        "seconds_left": run.seconds_left,
        "running": running,
        "why": run.why or None,
    }


def write_report(report: RunReport, html: Path | None, excel: Path | None, *, always: bool) -> dict[str, str]:
    """Write the report files that were asked for, the HTML one *always* if so; returns their paths."""
    written = {}
    if html is not None or always:
        written["report"] = str(report.to_html(html))
    if excel is not None:
        written["excel"] = str(report.to_excel(excel))
    return written
