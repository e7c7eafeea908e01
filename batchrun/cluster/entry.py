"""What a task of a Dask graph calls on its worker: the program of a run."""

from __future__ import annotations

import pickle
from dataclasses import asdict

from distributed import get_worker

from batchrun.status import TaskStatus
from batchrun.worker.work import Work, WorkResult, run_work

__all__ = ["Entry"]


class Entry:
    """The program of a run, callable on a worker; what runs tells how it is doing under *topic*."""

    def __init__(self, program: bytes, topic: str) -> None:
        self._program = program
        self._topic = topic

    def __call__(self, task: bytes) -> WorkResult:
        loaded: Work = pickle.loads(task)  # noqa: S301  it comes from the runner, as all code here does
        worker = get_worker()

        def report(status: TaskStatus) -> None:
            worker.log_event(self._topic, {"status": asdict(status)})

        return run_work(self._program, loaded, worker=str(worker.name), report=report)
