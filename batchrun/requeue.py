"""Runs that failed, and again: the one place that decides where they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from batchrun.launch import check_abandoned, resume_run
from batchrun.opener import settings_of
from batchrun.outcome import FAILED_STATES, RunState
from batchrun.plan import read_plan
from batchrun.report import RunReport
from batchrun.selection import Selection, rerun
from batchrun.store.runs import RunRecord, RunStore
from batchrun.store.turns import live_services

if TYPE_CHECKING:
    from batchrun.config import Settings
    from batchrun.definition import Pipeline
    from batchrun.events import Observer

__all__ = ["failed_runs", "requeue_run"]


def requeue_run(
    run_id: str = "last",
    *,
    quarantined: bool = False,
    chunks: Sequence[int] = (),
    pipeline: Pipeline | None = None,
    cluster: Any = None,
    progress: bool = True,
    observers: Sequence[Observer] = (),
    settings: Settings | None = None,
) -> RunReport:
    """Run chunks of a run again that ended without a result, into the same report.

    What was not asked for stays as it is: solved, quarantined or cancelled. Attempts and logs of before are
    kept, and attempts go on counting; the retries that a stage allows begin anew. The results are combined
    again.

    A run that came from the queue goes back there if a service is up, unless *cluster* is ``"inline"`` or a
    *pipeline* is given: the report is that of a run that waits then, and a RunHandle can wait for its end.

    Args:
        run_id: The run, or the beginning of its id, or ``last``.
        quarantined: Only the chunks that were given up.
        chunks: Only the chunks of these numbers; of one that was cut, the parts without a result. By default
            all that has no result runs, given up or never tried, as in resume_run.
        pipeline, cluster, progress, observers, settings: As in resume_run.

    Raises UsageError as resume_run does, and if a chunk that was asked for does not exist or is solved.
    """
    only = Selection.of(quarantined=quarantined, chunks=chunks)
    settings = settings or settings_of(cluster)
    if cluster != "inline" and pipeline is None and (queued := _put_back(run_id, only, settings)):
        return RunReport(settings.store_url, queued)
    return resume_run(
        run_id,
        pipeline=pipeline,
        cluster=cluster,
        progress=progress,
        observers=observers,
        settings=settings,
        only=only,
    )


def _put_back(text: str, only: Selection, settings: Settings) -> str | None:
    """Let a service run chunks of a run again: its id, or None if no service can."""
    with RunStore(settings.store_url) as store:
        record = store.find(text)
        done = record.state is RunState.SUCCEEDED and only.everything
        if done or store.queue.entry(record.run_id) is None or not live_services(store):
            return None
        check_abandoned(store, record)
        again = rerun(record.run_id, only, read_plan(record.files), store.settled(record.run_id)).chunks
        chunks = None if again is None else again.tolist()
        return record.run_id if store.queue.requeue(record.run_id, only=chunks) else None


def failed_runs(*, cluster: Any = None, settings: Settings | None = None) -> list[RunRecord]:
    """All runs of the store that ended failed or partial, oldest first."""
    settings = settings or settings_of(cluster)
    with RunStore(settings.store_url) as store:
        return store.list(limit=None, states=FAILED_STATES)[::-1]
