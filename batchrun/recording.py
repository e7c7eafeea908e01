"""The record of a run that begins: its id, and all that is known of it by then."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batchrun.config import Settings
from batchrun.data.files import join
from batchrun.data.source import Source
from batchrun.definition import Pipeline
from batchrun.executor import Executor
from batchrun.outcome import RunState
from batchrun.store.artifacts import RunFolder
from batchrun.store.driver import driver_name
from batchrun.store.runs import RunRecord
from batchrun.submission import Submission

__all__ = ["describe_stages", "input_record", "named_source", "new_record", "new_run_id", "unplanned_record"]


_RESULTS_OF = "results of run "


def new_run_id(pipeline: str) -> str:
    """An id that nobody else makes, and that sorts by time within the pipeline of that name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", pipeline)[:60].strip("-.") or "run"
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def new_record(
    run_id: str,
    pipeline: Pipeline,
    params: Mapping[str, Any],
    settings: Settings,
    source: Source | None,
    folder: RunFolder,
    executor: Executor | None = None,
) -> RunRecord:
    """The record of a run that this process drives on *executor*, or that waits for a service.

    *source* is None as long as the input is not planned.
    """
    now = time.time()
    driven = executor is not None
    return RunRecord(
        run_id=run_id,
        pipeline=pipeline.name,
        target=pipeline.target,
        state=RunState.QUEUED,
        created=now,
        driver=driver_name() if driven else None,
        heartbeat=now if driven else None,
        fence=1 if driven else 0,
        split=str(pipeline.split),
        folder=folder.path,
        rows_in=source.rows if source is not None else 0,
        params=dict(params),
        settings=_settings_record(settings),
        input=input_record(source, folder) if source is not None else {},
        stages=describe_stages(pipeline),
        cluster=executor.description if executor is not None else "",
        versions=dict(_versions()),
    )


def unplanned_record(submission: Submission, settings: Settings, now: float) -> RunRecord:
    """The record of a run of which only that is known that was asked for, made at *now*, in seconds since the
    epoch.

    What the pipeline is called, how it splits and what its stages are becomes known when the run is prepared.
    """
    module, _, name = submission.pipeline.partition(":")
    run_id = new_run_id(name or module)
    return RunRecord(
        run_id=run_id,
        pipeline=name or module,
        target=submission.pipeline,
        state=RunState.QUEUED,
        created=now,
        split="",
        folder=join(settings.artifact_root, run_id),
        rows_in=0,
        params=submission.params,
        settings=_settings_record(settings),
        input={"description": submission.input or f"results of {submission.input_from}"},
        versions=dict(_versions()),
    )


def describe_stages(pipeline: Pipeline, memory_from: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The stages as the store keeps them, JSON values."""
    legs = {stage: leg for leg, stages in enumerate(pipeline.legs) for stage in stages}
    return [
        {
            "name": stage.name,
            "memory": stage.demand.memory,
            "memory_from": (memory_from or {}).get(stage.name),
            "resources": dict(stage.demand.tags),
            "timeout": stage.timeout,
            "stop_after": stage.stop_after,
            "isolated": stage.isolated,
            "leg": legs[number],
        }
        for number, stage in enumerate(pipeline.stages)
    ]


def _settings_record(settings: Settings) -> list[dict[str, str]]:
    return [
        {"key": entry.key, "value": str(entry.value), "source": entry.source} for entry in settings.entries()
    ]


def named_source(source: Source, results_of: str | None) -> Source:
    """The source by what it is, where that is the results of another run."""
    return source if results_of is None else replace(source, description=f"{_RESULTS_OF}{results_of}")


def input_record(source: Source, folder: RunFolder) -> dict[str, Any]:
    """A planned input as the record of its run tells it."""
    known = {
        "description": source.description,
        "rows": source.rows,
        "bytes_per_row": source.bytes_per_row,
        "fingerprint": source.fingerprint,
    }
    if folder.take:
        known["take"] = folder.take
    if source.description.startswith(_RESULTS_OF):
        known["results_of"] = source.description.removeprefix(_RESULTS_OF)
    return known


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("batchrun", "dask", "distributed", "pandas", "numpy", "pyarrow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
