"""All that an executor runs on a worker."""

from __future__ import annotations

from collections.abc import Callable

from batchrun.status import TaskStatus
from batchrun.worker.fold import Fold, FoldResult, run_fold
from batchrun.worker.pack import Pack, PackResult, run_pack
from batchrun.worker.task import Task, TaskResult, run_task

__all__ = ["Work", "WorkResult", "run_work"]

Work = Task | Pack | Fold
"""One chunk, several short ones, or results to combine."""
WorkResult = TaskResult | PackResult | FoldResult


def run_work(
    program: bytes,
    work: Work,
    *,
    worker: str,
    report: Callable[[TaskStatus], None] | None = None,
    in_process: bool = False,
) -> WorkResult:
    """Run it; never raises because of what the user's code did. See run_task for the arguments."""
    match work:
        case Task():
            return run_task(program, work, worker=worker, report=report, in_process=in_process)
        case Pack():
            return run_pack(program, work, worker=worker, report=report)
        case Fold():
            return run_fold(program, work)
