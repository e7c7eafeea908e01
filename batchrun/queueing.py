"""Puts runs into the queue of a store, for services to drive; the client is not needed afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchrun.allowance import read_allowance
from batchrun.chain import Chain
from batchrun.config import Settings
from batchrun.data import files
from batchrun.data.load import write_batches
from batchrun.data.opening import open_input
from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.definition import Pipeline
from batchrun.errors import UsageError
from batchrun.outcome import RunState
from batchrun.plan import read_plan
from batchrun.recording import named_source, new_record, new_run_id
from batchrun.resources import Worker, check_demands
from batchrun.selection import EVERYTHING, Selection, rerun
from batchrun.store.artifacts import RunFolder
from batchrun.store.driver import is_driven
from batchrun.store.queue import QueueEntry
from batchrun.store.runs import RunRecord, RunStore
from batchrun.store.services import ServiceRecord
from batchrun.store.turns import live_services
from batchrun.submission import Submission
from batchrun.worker.program import pickle_pipeline

__all__ = [
    "QueueOptions",
    "as_input",
    "check_abandoned",
    "plan_input",
    "put_back",
    "queue_run",
    "queue_runs",
]


@dataclass(frozen=True)
class QueueOptions:
    """How a run stands in the queue."""

    priority: int = 0
    """Runs of higher priority have their turn earlier, and twice as many slots for each step."""
    max_slots: int | None = None
    """The most tasks that it may have on the workers at once."""
    lock: str | None = None
    """Of all runs with the same lock one at a time is driven."""
    after: Sequence[str] = ()
    """Runs that must have ended well before; ids, or beginnings of them."""
    input_from: str | None = None
    """The run whose results are the input."""
    not_before: float | None = None
    """When it may begin, in seconds since the epoch."""
    unique: bool = False
    """Whether a run of the same pipeline, parameters and input that is under way or has succeeded will do."""


def queue_run(
    pipe: Pipeline,
    data: Any,
    *,
    settings: Settings,
    params: Mapping[str, Any] | None = None,
    max_quarantined: int | float | str | None = None,
    options: QueueOptions = QueueOptions(),
) -> str:
    """Check a run, plan its input, and put it into the queue of the store of *settings*.

    A frame in memory is written to the artifact root first. What only workers can do, bringing the rows of
    many groups together, is left for the service.

    Args:
        pipe: The pipeline; it is pickled as it is now, with the modules that are not installed.
        data: As in run_pipeline; None with ``options.input_from``.
        settings: Where the store and the artifact root are.
        params: Values for keyword-only arguments of the pipeline's functions.
        max_quarantined: As in run_pipeline.
        options: How the run stands in the queue.

    Returns the run's id; with ``options.unique`` maybe that of a run that exists.

    Raises UsageError if what was asked for cannot be done, StoreError if it cannot be written.
    """
    read_allowance(max_quarantined)
    bound = pipe.bind(params or {})
    if (data is None) == (options.input_from is None):
        raise UsageError("a run needs an input: give one, or the run whose results it shall be, and not both")
    program = pickle_pipeline(pipe)
    run_id = new_run_id(pipe.name)
    folder = RunFolder(files.join(settings.artifact_root, run_id))
    with RunStore(settings.store_url) as store:
        if any(demand.memory or demand.tags for demand in pipe.demands.values()):
            _check_demands(pipe, live_services(store))
        options = _resolved(store, options)
        submission = _submission(pipe, data, bound.record, max_quarantined, options)
        source = None if data is None else _planned_now(pipe, data, folder, submission)
        try:
            unique_key = _unique_key(pipe, bound.record, source, options) if options.unique else None
            there = store.queue.of_unique_key(unique_key) if unique_key else None
            if there is not None:
                files.remove_folder(folder.path)
                return there
            record = new_record(run_id, pipe, bound.record, settings, source, folder)
            entry = QueueEntry(
                queued=time.time(),
                prepared=source is not None,
                priority=options.priority,
                not_before=options.not_before,
                after=tuple(options.after),
                input_from=options.input_from,
                lock=options.lock,
                unique_key=unique_key,
                max_slots=options.max_slots,
                max_quarantined=submission.max_quarantined,
                submission=submission,
            )
            made = store.queue.submit(record, entry, program)
        except BaseException:
            files.remove_folder(folder.path)
            raise
        if made != run_id:
            files.remove_folder(folder.path)
        return made


def queue_runs(pipeline: Pipeline | Chain, data: Any, **how: Any) -> str:
    """Queue a pipeline as ``queue_run`` does, or each of a chain to follow the one before; returns the id of
    the last one's run."""
    if isinstance(pipeline, Pipeline):
        return queue_run(pipeline, data, **how)
    shares, options = pipeline.share(how.pop("params") or {}), how.pop("options")
    for following, params in zip(pipeline.pipelines, shares, strict=True):
        run_id = queue_run(following, data, params=params, options=options, **how)
        data, options = None, replace(options, input_from=run_id, after=(), not_before=None)
    return run_id


def as_input(data: Any, folder: RunFolder) -> tuple[Any, str | None]:
    """What is to be opened for *data*, and the run whose results that is, if it is a report: its results are
    written to the folder of the run first."""
    if isinstance(data, (str, os.PathLike)):
        return data, None
    from batchrun.report import RunReport

    if not isinstance(data, RunReport):
        return data, None
    path = files.join(folder.spool, "results.arrow")
    write_batches(data.batches(), path)
    return path, data.run_id


def plan_input(pipe: Pipeline, data: Any, folder: RunFolder, regroup: Callable[..., Source]) -> Source:
    """Plan an input, bring what is no file yet to the artifact root, and write the plan down."""
    supply: Supply | None = None
    try:
        opened, results_of = as_input(data, folder)
        source, supply = open_input(
            opened,
            columns=pipe.input_columns(),
            split=pipe.split,
            where=pipe.where,
            spool=folder.spool,
            regroup=regroup,
        )
        supply.wait(source.rows)
        source = named_source(source, results_of)
        source.save(folder.source)
    except BaseException:
        if supply is not None:
            supply.discard()
        raise
    supply.close()
    return source


class _NeedsWorkersError(Exception):
    """Groups must be brought together on workers."""


def _planned_now(pipe: Pipeline, data: Any, folder: RunFolder, submission: Submission) -> Source | None:
    """The planned input; None if that takes workers."""

    def regroup(*_: Any) -> Source:
        raise _NeedsWorkersError

    def regroup_here(*arguments: Any) -> Source:
        from batchrun.data.regroup import regroup_here

        return regroup_here(*arguments)

    try:
        return plan_input(pipe, data, folder, regroup_here if submission.input is None else regroup)
    except _NeedsWorkersError:
        return None
    except BaseException:
        files.remove_folder(folder.path)
        raise


def _submission(
    pipe: Pipeline,
    data: Any,
    params: Mapping[str, Any],
    max_quarantined: int | float | str | None,
    options: QueueOptions,
) -> Submission:
    path = files.resolve(data) if isinstance(data, (str, os.PathLike)) else None
    return Submission(
        pipeline=pipe.target or pipe.name,
        folder=os.getcwd(),
        input=path,
        params=dict(params),
        input_from=options.input_from,
        max_quarantined=None if max_quarantined is None else str(max_quarantined),
        priority=options.priority,
        lock=options.lock,
        max_slots=options.max_slots,
        after=tuple(options.after),
        not_before=options.not_before,
        unique=options.unique,
    )


def _resolved(store: RunStore, options: QueueOptions) -> QueueOptions:
    """The options with whole ids. Raises UsageError for a run that is not there or ended without a result."""
    if options.max_slots is not None and options.max_slots < 1:
        raise UsageError(f"max_slots={options.max_slots} would never run anything; use 1 or more")
    input_from = options.input_from
    wanted = [*options.after, *([input_from] if input_from else [])]
    records = {name: store.find(name) for name in wanted}
    for record in records.values():
        if record.state in (RunState.FAILED, RunState.CANCELLED):
            raise UsageError(
                f"run {record.run_id} has ended {record.state}, so nothing can follow it; go on with it "
                f"first: batchrun resume {record.run_id}"
            )
    after = dict.fromkeys(record.run_id for record in records.values())
    return replace(options, after=tuple(after), input_from=records[input_from].run_id if input_from else None)


def _check_demands(pipe: Pipeline, services: Sequence[ServiceRecord]) -> None:
    """Refuse what no service could ever run, as far as they have told what they have."""
    workers = [
        Worker(
            address=one["name"],
            name=one["name"],
            threads=one["threads"],
            memory=one["memory"],
            tags=one["tags"],
            host=one["host"],
        )
        for service in services
        for one in service.workers
    ]
    if workers:
        check_demands(pipe.demands, workers)


def _unique_key(
    pipe: Pipeline, params: Mapping[str, Any], source: Source | None, options: QueueOptions
) -> str:
    """Stands for the result: the same for the same pipeline, parameters and input."""
    if source is None and options.input_from is None:
        raise UsageError(
            "whether this run is unique cannot be told before workers have brought its groups together; "
            "sort the input by its groups, or leave `unique` out"
        )
    of_what = {
        "pipeline": pipe.target or pipe.name,
        "split": str(pipe.split),
        "params": dict(params),
        "input": source.fingerprint if source is not None else options.input_from,
    }
    return hashlib.sha256(json.dumps(of_what, sort_keys=True).encode()).hexdigest()


def put_back(text: str, store_url: str, only: Selection = EVERYTHING) -> str | None:
    """Let a service run chunks of a run again.

    Args:
        text: The run's id, or its beginning.
        store_url: The store.
        only: Which of the chunks that have no result.

    Returns the run's id; None if no service can, since the run was never in the queue or no service is up.
    Raises UsageError if the run is under way.
    """
    with RunStore(store_url) as store:
        record = store.find(text)
        done = record.state is RunState.SUCCEEDED and only.everything
        if done or store.queue.entry(record.run_id) is None or not live_services(store):
            return None
        check_abandoned(store, record)
        again = rerun(record.run_id, only, read_plan(record.files), store.settled(record.run_id)).chunks
        chunks = None if again is None else again.tolist()
        return record.run_id if store.queue.requeue(record.run_id, only=chunks) else None


def check_abandoned(store: RunStore, record: RunRecord) -> None:
    """Refuse to drive a run that another process drives at this moment, or that is for a service to drive."""
    if not record.state.ended and store.queue.entry(record.run_id) is not None:
        raise UsageError(
            f"run {record.run_id} is in the queue, where a service finds it (`batchrun up` starts one); look "
            f"at it with `batchrun watch {record.run_id}`, or cancel it first"
        )
    if is_driven(record):
        raise UsageError(
            f"run {record.run_id} is driven by another process ({record.driver}) at this moment; wait for "
            "it, or stop that process first"
        )
