"""batchrun: one expensive function over a large table, on Dask, with a report that accounts for every row.

>>> import pandas as pd
>>> from batchrun import by_rows, run_pipeline
>>> def score(chunk: pd.DataFrame, *, rate: float = 0.1) -> pd.DataFrame:
...     return chunk.assign(score=chunk["value"] * rate)
>>> customers = pd.DataFrame({"value": [10.0, 20.0, 30.0]})
>>> report = run_pipeline(score, customers, split=by_rows(2), cluster="inline", progress=False)
>>> report.state, report.rows_solved
(<RunState.SUCCEEDED: 'succeeded'>, 3)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrun.context import ChunkContext
    from batchrun.definition import Pipeline, pipeline
    from batchrun.errors import BatchrunError
    from batchrun.handle import RunHandle
    from batchrun.launch import open_report, resume_run, run_pipeline, submit_pipeline
    from batchrun.loading import load_pipeline
    from batchrun.outcome import Outcome, RunState
    from batchrun.queueing import QueueOptions
    from batchrun.report import RunReport
    from batchrun.requeue import requeue_run
    from batchrun.retry import RetryPolicy
    from batchrun.split import by_file, by_group, by_rows
    from batchrun.stage import Stage

__all__ = [
    "BatchrunError",
    "ChunkContext",
    "Outcome",
    "Pipeline",
    "QueueOptions",
    "RetryPolicy",
    "RunHandle",
    "RunReport",
    "RunState",
    "Stage",
    "by_file",
    "by_group",
    "by_rows",
    "load_pipeline",
    "open_report",
    "pipeline",
    "requeue_run",
    "resume_run",
    "run_pipeline",
    "submit_pipeline",
]

_HOMES = {
    "BatchrunError": "batchrun.errors",
    "ChunkContext": "batchrun.context",
    "Outcome": "batchrun.outcome",
    "Pipeline": "batchrun.definition",
    "QueueOptions": "batchrun.queueing",
    "RetryPolicy": "batchrun.retry",
    "RunHandle": "batchrun.handle",
    "RunReport": "batchrun.report",
    "RunState": "batchrun.outcome",
    "Stage": "batchrun.stage",
    "by_file": "batchrun.split",
    "by_group": "batchrun.split",
    "by_rows": "batchrun.split",
    "load_pipeline": "batchrun.loading",
    "open_report": "batchrun.launch",
    "pipeline": "batchrun.definition",
    "requeue_run": "batchrun.requeue",
    "resume_run": "batchrun.launch",
    "run_pipeline": "batchrun.launch",
    "submit_pipeline": "batchrun.launch",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives when it is first used, so that importing batchrun is quick."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("batchrun")
    raise AttributeError(f"module 'batchrun' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
