"""How a run stands at this moment, for those who ask from outside."""

from __future__ import annotations

import time
from dataclasses import astuple

from batchrun.events import SlotUse
from batchrun.runner.aftermath import Aftermath
from batchrun.runner.state import RunnerState, RunningTask
from batchrun.store.live import DelayedChunk, LiveState, LiveWorker, RunningChunk, WaitingChunks

__all__ = ["snapshot"]

MOST = 1_000
"""Running chunks, delayed chunks and workers that are written down, of each."""
CURVES = 50
"""Running chunks whose answers are written down: those that run longest."""


def snapshot(state: RunnerState, aftermath: Aftermath) -> LiveState:
    """What runs, what waits for what, and which workers there are."""
    now, clock = time.time(), state.clock()
    chunks = (task for task in state.running if not (task.is_fold or task.superseded))
    running = sorted(chunks, key=lambda task: task.placed)[:MOST]
    telling = {id(task) for task in [task for task in running if task.answers.points][:CURVES]}
    return LiveState(
        at=now,
        running=tuple(_running(state, task, told=id(task) in telling) for task in running),
        delayed=tuple(
            DelayedChunk(
                chunk=delayed.waiting.chunk,
                stage=delayed.stage,
                until=now + delayed.at - clock,
                reason=str(delayed.error),
            )
            for delayed in aftermath.delayed[:MOST]
        ),
        waiting=_waiting(state),
        workers=tuple(
            LiveWorker(worker.name, worker.threads, worker.memory, dict(worker.tags), worker.host)
            for worker in list(state.executor.workers())[:MOST]
        ),
        stopping=state.stopping,
        slots=tuple(SlotUse(*row) for row in state.dispatcher.use_of_slots()),
        chunks_planned=state.plan.standing,
        rows_planned=state.plan.rows,
    )


def _waiting(state: RunnerState) -> tuple[WaitingChunks, ...]:
    dispatcher = state.dispatcher
    queues = [
        (lane.leg, demand, dispatcher.count(lane), dispatcher.head(lane))
        for demand, lane, _ in dispatcher.queues()
    ]
    behind = state.plan.left
    if behind:
        queues.append((0, dispatcher.demand(0), behind, None))
    return tuple(
        WaitingChunks(
            stage=state.waits_for(leg),
            demand=str(demand),
            memory=demand.memory,
            tags=dict(demand.tags),
            chunks=chunks,
            kept_for=tuple(map(state.waits_for, dispatcher.kept_for(head))) if head else (),
        )
        for leg, demand, chunks, head in queues
    )


def _running(state: RunnerState, running: RunningTask, *, told: bool) -> RunningChunk:
    status = running.status
    item = running.items[-1] if running.items else running.first
    return RunningChunk(
        chunk=item.chunk if status is None or status.chunk is None else status.chunk,
        stage=running.stage or state.first_stage(item.leg).name,
        attempt=state.attempt_of(running, item),
        worker=running.choice.worker.name,
        started=running.placed,
        rows=sum(each.rows for each in running.items),
        share=status.share if status else None,
        message=(status.message if status else "") or _company(running),
        memory=status.memory if status else None,
        peak_memory=status.peak_memory if status else None,
        objective=status.objective if status else None,
        bound=status.bound if status else None,
        log=running.log,
        answers=tuple(map(astuple, running.answers.thinned())) if told else (),
    )


def _company(running: RunningTask) -> str:
    """Who else is in the task."""
    return "" if running.is_single else f"one of {len(running.items)} short chunks in one task"
