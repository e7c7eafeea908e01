"""A cancel that waits until it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun import console
from batchrun.outcome import RunState

if TYPE_CHECKING:
    from batchrun.config import Settings
    from batchrun.report import RunReport

__all__ = ["Cancellation", "cancel_run"]

PATIENCE = 10.0
"""Seconds to wait for the driver to do what was asked."""
POLL_EVERY = 0.25
"""Seconds between two looks."""


@dataclass(frozen=True)
class Cancellation:
    """What came of a request to cancel."""

    run_id: str
    """The run."""
    cancelled: bool
    """Whether the run, or the chunk, was stopped by then."""
    state: RunState
    """Where the run stands."""
    message: str
    """What happened, for people."""


def cancel_run(
    run: str, settings: Settings, *, chunk: int | None, keep_best: bool, patience: float = PATIENCE
) -> Cancellation:
    """Ask for a run or one chunk to be stopped, and wait for it, saying on standard error for what.

    Raises UsageError if it has ended, or there is no such run or chunk.
    """
    from batchrun.handle import RunHandle

    handle = RunHandle.attach(run, cluster=settings)
    until = time.monotonic() + patience
    report = handle.report
    # A request that comes before the run begins would be taken for one to its last session, and before its
    # input is cut there is no chunk to name.
    while report.driven and not _has_begun(report, chunk) and time.monotonic() < until:
        time.sleep(POLL_EVERY)
        report = handle.report
    abandoned, queued = report.abandoned, report.queued
    handle.cancel(chunk, keep_best=keep_best)
    said = ""
    while not _is_done(report := handle.report, chunk) and time.monotonic() < until:
        waits = _waits_for(report, chunk)
        if waits and waits != said:
            console.print_note(waits)
            said = waits
        time.sleep(POLL_EVERY)
    if report.abandoned and chunk is None:
        abandoned = True
        handle.cancel()
        report = handle.report
    return _told(report, chunk, keep_best=keep_best, abandoned=abandoned, queued=queued, patience=patience)


def _has_begun(report: RunReport, chunk: int | None) -> bool:
    return report.state is not RunState.QUEUED and (chunk is None or bool(report.outcomes))


def _is_done(report: RunReport, chunk: int | None) -> bool:
    if report.state.ended or report.abandoned:
        return True
    if chunk is None:
        return False
    live = report.live
    if live is not None and any(running.chunk == chunk for running in live.running):
        return False
    return "pending" not in report.outcomes_of(chunk)


def _waits_for(report: RunReport, chunk: int | None) -> str:
    """What still has to stop, for people; empty if that is not known."""
    live = report.live
    if live is None:
        return ""
    running = [one for one in live.running if chunk in (None, one.chunk)]
    if not running:
        return ""
    if len(running) == 1:
        (one,) = running
        return f"waiting for chunk {one.chunk} to stop, which runs `{one.stage}` on {one.worker}"
    chunks = list(dict.fromkeys(one.chunk for one in running))
    if len(chunks) == 1:
        workers = " and ".join(one.worker for one in running)
        return f"waiting for chunk {chunks[0]} to stop, which runs on {workers}"
    numbers = ", ".join(map(str, chunks[:8]))
    more = ", …" if len(chunks) > 8 else ""
    return f"waiting for {len(chunks)} running chunks to stop: {numbers}{more}"


def _told(
    report: RunReport,
    chunk: int | None,
    *,
    keep_best: bool,
    abandoned: bool,
    queued: bool,
    patience: float,
) -> Cancellation:
    why = report.why(chunk)
    if not _is_done(report, chunk):
        message = f"asked, but not done after {patience:g} s; the request stands: {why}"
        return Cancellation(report.run_id, False, report.state, message)
    if chunk is None:
        kept = keep_best and "stopped_with_solution" in report.outcomes
        cancelled = report.state is RunState.CANCELLED or kept
    else:
        outcomes = report.outcomes_of(chunk)
        cancelled = "cancelled" in outcomes or (keep_best and "stopped_with_solution" in outcomes)
    if not cancelled:
        why = f"not cancelled, it ended first: {why}"
    elif queued:
        why = f"it was in the queue, and will not be taken from there: {why}"
    elif abandoned:
        why = f"nothing drives the run, so it is recorded as cancelled from here: {why}"
    return Cancellation(report.run_id, cancelled, report.state, why)
