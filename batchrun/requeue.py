"""Runs that failed, and again: the one place that decides where they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from batchrun.launch import resume_run
from batchrun.opener import settings_of
from batchrun.outcome import FAILED_STATES
from batchrun.queueing import put_back
from batchrun.report import RunReport
from batchrun.selection import Selection
from batchrun.store.runs import RunRecord, RunStore

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
    if cluster != "inline" and pipeline is None and (queued := put_back(run_id, settings.store_url, only)):
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


def failed_runs(*, cluster: Any = None, settings: Settings | None = None) -> list[RunRecord]:
    """All runs of the store that ended failed or partial, oldest first."""
    settings = settings or settings_of(cluster)
    with RunStore(settings.store_url) as store:
        return store.list(limit=None, states=FAILED_STATES)[::-1]
