"""From what a user says to a run: pipeline, input, parameters and cluster, checked before anything starts."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

from batchrun.allowance import read_allowance
from batchrun.chain import Chain
from batchrun.config import Settings
from batchrun.data import files
from batchrun.data.opening import open_input
from batchrun.data.shared_memory import MemoryFolder, folder_of
from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.definition import Pipeline, as_pipeline
from batchrun.displays import displays
from batchrun.errors import PipelineError, RunNotFoundError, UsageError
from batchrun.events import Observer
from batchrun.executor import Executor
from batchrun.handle import BackgroundDrive, RunHandle
from batchrun.hooks import end_told
from batchrun.loading import load_pipeline, load_runnable
from batchrun.opener import Opener, settings_of
from batchrun.outcome import RunState
from batchrun.plan import read_plan, rows_to_do
from batchrun.queueing import QueueOptions, as_input, check_abandoned, queue_runs
from batchrun.recording import named_source, new_record, new_run_id
from batchrun.report import RunReport
from batchrun.resources import check_demands
from batchrun.selection import EVERYTHING, Selection, rerun
from batchrun.split import Split
from batchrun.stage import Stage
from batchrun.staging import make_session
from batchrun.store.artifacts import RunFolder
from batchrun.store.driver import driving
from batchrun.store.runs import RunRecord, RunStore
from batchrun.store.turns import live_services
from batchrun.worker.program import pickle_program

__all__ = ["open_report", "resume_run", "run_pipeline", "submit_pipeline"]

logger = logging.getLogger("batchrun")

INTERRUPT = "■ stops the run and keeps what is solved"
"""What a notebook says about its stop button, which reaches a run of the main thread only."""

Runnable = Pipeline | Chain | Stage | Callable[..., Any] | str
"""What can be run."""


@overload
def run_pipeline(
    pipeline: Runnable, data: Any, *, wait: Literal[True] = True, **options: Any
) -> RunReport: ...


@overload
def run_pipeline(pipeline: Runnable, data: Any, *, wait: Literal[False], **options: Any) -> RunHandle: ...


def run_pipeline(  # type: ignore[misc]  # the options are those below
    pipeline: Runnable,
    data: Any,
    *,
    wait: bool = True,
    params: Mapping[str, Any] | None = None,
    cluster: Any = None,
    split: Split | None = None,
    combine: Callable[..., Any] | None = None,
    columns: Sequence[str] | None = None,
    max_quarantined: int | float | str | None = None,
    max_slots: int | None = None,
    progress: bool = True,
    observers: Sequence[Observer] = (),
    settings: Settings | None = None,
) -> RunReport | RunHandle:
    """Run a pipeline over a table and wait for its report.

    Args:
        pipeline: A Pipeline, its name as ``"module:name"``, or a plain function together with *split*. Of
            pipelines that follow each other, ``first | second``, each has a run of its own on the results
            of the one before, and the report is that of the last one that was run.
        data: A pandas, polars or Arrow frame; or the path, glob, folder or fsspec URL of Parquet, CSV or
            Arrow IPC files; or the report of another run, for its results.
        params: Values for keyword-only arguments of the pipeline's functions.
        cluster: The path of a ``cluster.yaml``, the address of a Dask scheduler, a Dask client or cluster,
            Settings, or ``"inline"`` for this process. None takes the active Dask client, else the nearest
            ``cluster.yaml``, else two local workers, which stay warm for the next call.
        split: How to cut the input; needed for a plain function, and replaces the split of a pipeline.
        combine: For a plain function: takes an iterator of result frames and gives one frame.
        columns: For a plain function: the input columns to read.
        max_quarantined: End the run early once more rows than this are quarantined: a number, or a share like
            ``"5%"`` or 0.05. By default what ``cluster.yaml`` says.
        max_slots: Run no more than so many tasks at a time; None for as many as the workers have slots.
        progress: Whether to show a live display, in a notebook or terminal.
        observers: Called with each event of the run.
        settings: Store and run settings, in place of those that go with *cluster*.
        wait: False gives a handle at once, as submit_pipeline does.

    Returns:
        The report; its ``state`` says whether all rows were solved. A failing chunk is not an exception.

    Raises UsageError before anything runs if what was asked for cannot be done, ClusterError if the cluster
    cannot be reached or is lost, StoreError if results cannot be written, and KeyboardInterrupt after the
    run was stopped by Ctrl-C and recorded as cancelled. The stop button of a notebook ends the run likewise,
    keeps the best answers of solves that run, and raises nothing.

    >>> import pandas as pd
    >>> from batchrun import by_rows
    >>> def double(chunk):
    ...     return chunk * 2
    >>> report = run_pipeline(double, pd.DataFrame({"x": range(4)}), split=by_rows(2), cluster="inline",
    ...                       progress=False)
    >>> report.results()["x"].tolist()
    [0, 2, 4, 6]
    """
    if not wait:
        return submit_pipeline(
            pipeline,
            data,
            params=params,
            cluster=cluster,
            split=split,
            combine=combine,
            columns=columns,
            max_quarantined=max_quarantined,
            max_slots=max_slots,
            progress=progress,
            observers=observers,
            settings=settings,
        )
    chain = _chain(pipeline)
    if chain is not None:
        again = partial(
            run_pipeline,
            cluster=cluster,
            max_quarantined=max_quarantined,
            max_slots=max_slots,
            progress=progress,
            observers=observers,
            settings=settings,
        )
        return _run_chain(chain, data, chain.share(params or {}), again)
    pipe = _as_pipeline(pipeline, split=split, combine=combine, columns=columns)
    allowance = read_allowance(max_quarantined)
    if max_slots is not None and max_slots < 1:
        raise UsageError(f"max_slots={max_slots} leaves the run no slot; give 1 or more, or leave it out")
    bound = pipe.bind(params or {})
    settings = settings or settings_of(cluster)
    run_id = new_run_id(pipe.name)
    program = pickle_program(pipe, bound, run_id)
    folder = RunFolder(files.join(settings.artifact_root, run_id))
    _check_reachable(settings.artifact_root)
    with RunStore(settings.store_url) as store, contextlib.ExitStack() as stack:
        opener = Opener(cluster, settings, pipe, stack)
        refused = stack.enter_context(contextlib.ExitStack())
        refused.callback(_discard_unless_recorded, store, run_id, folder)
        source, supply, executor = _prepare(run_id, pipe, data, folder, opener)
        stack.callback(supply.close)
        writer = store.create(new_record(run_id, pipe, bound.record, settings, source, folder, executor))
        refused.pop_all()  # it was not
        watching = [*observers, *_shown(progress, executor, settings, stack)]
        session = make_session(
            run_id,
            pipe,
            bound.record,
            source,
            folder,
            store,
            writer,
            executor,
            settings,
            watching,
            allowance,
            supply=supply,
            max_slots=max_slots,
            program=program,
        )
        with end_told(store, settings.hooks, session.run_id), driving(session.run_id):
            session.drive()
    return RunReport(settings.store_url, run_id)


def submit_pipeline(
    pipeline: Runnable,
    data: Any = None,
    *,
    observers: Sequence[Observer] = (),
    queue: bool | QueueOptions | None = None,
    **options: Any,
) -> RunHandle:
    """Run a pipeline over a table in the background, and return as soon as it is queued, or has begun here.

    With a service up (``batchrun up``) on the store that goes with *cluster*, the run is queued, a frame is
    written to the artifact root first, and this process is not needed any more. Without one, or on a cluster
    that only this process has, the run is driven by a thread of this process and ends with it;
    ``resume_run`` goes on then. Ctrl-C does not reach it: ``handle.cancel()`` stops it, as does
    ``batchrun cancel`` from anywhere.

    Args:
        pipeline, data: As in run_pipeline; no data with ``QueueOptions(input_from=...)``.
        observers: Called with each event of the run, in its thread; a run that has some is driven here.
        queue: How it stands in the queue; True for a plain place there, whether a service is up or not, False
            for a thread of this process. None decides as told above.
        options: All other keyword arguments of run_pipeline.

    Raises what run_pipeline raises before anything runs.

    >>> import pandas as pd
    >>> from batchrun import by_rows
    >>> def double(chunk):
    ...     return chunk * 2
    >>> handle = submit_pipeline(double, pd.DataFrame({"x": range(4)}), split=by_rows(2), cluster="inline",
    ...                          progress=False)
    >>> handle.wait().results()["x"].tolist()
    [0, 2, 4, 6]
    """
    cluster = options.get("cluster")
    settings = options["settings"] = options.get("settings") or settings_of(cluster)
    if queue or (queue is None and not observers and _has_service(cluster, settings)):
        place = queue if isinstance(queue, QueueOptions) else QueueOptions(max_slots=options.get("max_slots"))
        names = ("split", "combine", "columns")
        chain = _chain(pipeline)
        run_id = queue_runs(
            chain or _as_pipeline(pipeline, **{name: options.get(name) for name in names}),
            data,
            settings=settings,
            params=options.get("params"),
            max_quarantined=options.get("max_quarantined"),
            options=place,
        )
        return RunHandle(run_id, settings.store_url)
    drive = BackgroundDrive(
        lambda watch: run_pipeline(pipeline, data, observers=[watch, *observers], **options)
    )
    return RunHandle(drive.begin(), settings.store_url, drive)


def _chain(pipeline: Runnable) -> Chain | None:
    """The chain that is to be run; None if it is a pipeline."""
    named = load_runnable(pipeline) if isinstance(pipeline, str) else pipeline
    return named if isinstance(named, Chain) else None


def _run_chain(
    chain: Chain, data: Any, shares: Sequence[Mapping[str, Any]], run: Callable[..., RunReport]
) -> RunReport:
    """Run pipelines one after the other, as long as there are results to go on with."""
    for pipeline, params in zip(chain.pipelines, shares, strict=True):
        data = run(pipeline, data, params=params)
        if data.state not in (RunState.SUCCEEDED, RunState.PARTIAL):
            break
    report: RunReport = data
    return report


def _has_service(cluster: Any, settings: Settings) -> bool:
    """Whether a service is up that may run in place of this process."""
    if cluster == "inline" or not (cluster is None or isinstance(cluster, (str, os.PathLike, Settings))):
        return False
    with RunStore(settings.store_url) as store:
        return bool(live_services(store))


def _as_pipeline(pipeline: Runnable, **given: Any) -> Pipeline:
    named = load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    if isinstance(named, Chain):
        raise PipelineError(f"{named} is more than one pipeline; run it as it is")
    return as_pipeline(named, **given)


def resume_run(
    run_id: str = "last",
    *,
    pipeline: Pipeline | None = None,
    cluster: Any = None,
    progress: bool = True,
    observers: Sequence[Observer] = (),
    settings: Settings | None = None,
    only: Selection = EVERYTHING,
) -> RunReport:
    """Go on with a run that was stopped, killed, or ended with rows that are not solved.

    Chunks that are solved are not computed again; all others are tried, those that failed included.

    Args:
        run_id: The run, or the beginning of its id, or ``last``.
        pipeline: The pipeline, if it was defined in a notebook or script and cannot be imported.
        only: Which chunks without a result are tried; see requeue_run.
        cluster, progress, observers, settings: As in run_pipeline.

    Raises UsageError if the run does not exist, is driven by another process at this moment, or cannot go on
    because its pipeline or input is not what it was.
    """
    settings = settings or settings_of(cluster)
    with RunStore(settings.store_url) as store, contextlib.ExitStack() as stack:
        record = store.find(run_id)
        check_abandoned(store, record)
        if record.state is RunState.SUCCEEDED and only.everything:
            return RunReport(settings.store_url, record.run_id)
        pipe = _pipeline_of(record, pipeline)
        folder = record.files
        _check_reachable(folder.path)
        source = Source.read(folder.source)
        writer = store.take_over(record.run_id)
        settled, planned = store.settled(record.run_id), read_plan(folder)
        again = rerun(record.run_id, only, planned, settled)
        to_do = rows_to_do(source, planned, settled)
        needed = (
            to_do if again.chunks is None else (planned.starts[again.chunks], planned.stops[again.chunks])
        )
        source.check_unchanged(needed)
        supply = Supply(source, needed=to_do)
        stack.callback(supply.close)
        pipe.bind(record.params)
        executor = Opener(cluster, settings, pipe, stack).executor()
        check_demands(pipe.demands, executor.workers())
        watching = [*observers, *_shown(progress, executor, settings, stack)]
        session = make_session(
            record.run_id,
            pipe,
            record.params,
            source,
            folder,
            store,
            writer,
            executor,
            settings,
            watching,
            supply=supply,
            again=again,
        )
        with end_told(store, settings.hooks, session.run_id), driving(session.run_id):
            session.drive()
    return RunReport(settings.store_url, record.run_id)


def open_report(run_id: str = "last", *, cluster: Any = None) -> RunReport:
    """The report of a run that is in the store, running or ended.

    Raises RunNotFoundError if there is no such run.
    """
    return RunReport(settings_of(cluster).store_url, run_id)


def _prepare(
    run_id: str, pipeline: Pipeline, data: Any, folder: RunFolder, opener: Opener
) -> tuple[Source, Supply, Executor]:
    """Plan the input and open the executor, the one that is more likely to fail first."""
    if opener.remote:
        opener.executor()
    data, results_of = as_input(data, folder)
    in_memory = not isinstance(data, (str, os.PathLike))
    source, supply = open_input(
        data,
        columns=pipeline.input_columns(),
        split=pipeline.split,
        where=pipeline.where,
        spool=folder.spool,
        memory=opener.shared_memory(run_id) if in_memory else None,
        regroup=lambda *arguments: opener.executor().regroup(*arguments),
    )
    source = named_source(source, results_of)
    try:
        executor = opener.executor()
        check_demands(pipeline.demands, executor.workers())
        source.save(folder.source)
    except BaseException:
        supply.discard()
        raise
    return source, supply, executor


def _check_reachable(folder: str) -> None:
    """Raise StoreError if nothing can be written below a URL, which is known before a cluster is up."""
    if not files.is_local(folder):
        files.check_writable(folder)


def _pipeline_of(record: RunRecord, given: Pipeline | None) -> Pipeline:
    """The pipeline of a recorded run."""
    if given is None:
        if record.target is None:
            raise PipelineError(
                f"pipeline `{record.pipeline}` was defined in a notebook or script, from where it cannot be "
                f"loaded; resume it there: resume_run({record.run_id!r}, pipeline={record.pipeline})"
            )
        given = load_pipeline(record.target)
    names = [stage.name for stage in given.stages]
    if given.name != record.pipeline or names != [stage["name"] for stage in record.stages]:
        raise PipelineError(
            f"run {record.run_id} is one of pipeline `{record.pipeline}` with the stages "
            f"{', '.join(stage['name'] for stage in record.stages)}; `{given.name}` has {', '.join(names)}. "
            "Start a new run instead"
        )
    if str(given.split) != record.split:
        raise PipelineError(
            f"run {record.run_id} was split by {record.split}, but pipeline `{given.name}` now splits by "
            f"{given.split}; start a new run, or put the split back"
        )
    return given


def _shown(
    progress: bool, executor: Executor, settings: Settings, stack: contextlib.ExitStack
) -> Sequence[Observer]:
    """What shows the run; a page of this process may ask the store too."""
    if executor.dashboard:
        from batchrun.archive import offer_store

        offer_store(settings.store_url, acts=settings.dashboard_buttons)
    in_front = threading.current_thread() is threading.main_thread()
    shown = displays(
        progress,
        executor,
        stop=lambda run_id: RunHandle(run_id, settings.store_url).cancel(keep_best=True),
        interrupt=INTERRUPT if in_front else "",
    )
    return stack.enter_context(shown)


def _discard_unless_recorded(store: RunStore, run_id: str, folder: RunFolder) -> None:
    """Leave nothing behind of a run that was refused before it was recorded."""
    try:
        store.find(run_id)
    except RunNotFoundError:
        files.remove_folder(folder.path)
        MemoryFolder(folder_of(run_id)).remove()
