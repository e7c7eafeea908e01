"""A session of a run: from settings and what earlier runs tell to what drives the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchrun.allowance import rows_allowed
from batchrun.config import RunSettings, Settings
from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.definition import Pipeline
from batchrun.estimate import fit_memory
from batchrun.events import Observer
from batchrun.executor import Executor
from batchrun.resources import check_demands
from batchrun.runner import RunnerSettings, SharedSlots
from batchrun.selection import Rerun
from batchrun.session import Session
from batchrun.store.artifacts import RunFolder
from batchrun.store.recorder import FlushPolicy
from batchrun.store.runs import RunStore
from batchrun.store.writer import RunWriter

__all__ = ["make_session"]


def make_session(
    run_id: str,
    pipeline: Pipeline,
    params: Mapping[str, Any],
    source: Source,
    folder: RunFolder,
    store: RunStore,
    writer: RunWriter,
    executor: Executor,
    settings: Settings,
    observers: Sequence[Observer],
    max_quarantined: int | float | None = None,
    *,
    supply: Supply,
    again: Rerun | None = None,
    survives: tuple[type[BaseException], ...] = (),
    shared: SharedSlots | None = None,
    priority: int = 0,
    max_slots: int | None = None,
    program: bytes | None = None,
) -> Session:
    """The session of a run that is recorded and whose input is planned; *program* is its code, if it was
    pickled before."""
    run: RunSettings = settings.run
    pipeline, estimates, reasons = fit_memory(
        pipeline, lambda stage: store.peaks(pipeline.name, stage), executor.workers()
    )
    check_demands(pipeline.demands, executor.workers())
    allowance = max_quarantined if max_quarantined is not None else run.max_quarantined
    return Session(
        run_id=run_id,
        pipeline=pipeline,
        bound=pipeline.bind(params),
        source=source,
        folder=folder,
        store=store,
        writer=writer,
        executor=executor,
        flush=FlushPolicy(run.flush_every, run.flush_bytes),
        settings=RunnerSettings(
            small_result=run.small_result,
            stop_after_alike=run.stop_after_alike,
            look_ahead=run.look_ahead,
            store_timeout=run.store_timeout,
            workers_timeout=run.workers_timeout,
            stop_grace=run.stop_grace,
            solution_grace=run.solution_grace,
            chunks_per_child=run.chunks_per_child,
            speculate=run.speculate,
            max_quarantined=rows_allowed(allowance, source.rows),
        ),
        observers=observers,
        supply=supply,
        rerun=again,
        estimates=estimates,
        memory_from=reasons,
        survives=survives,
        shared=shared,
        priority=priority,
        max_slots=max_slots,
        program=None if reasons else program,
    )
