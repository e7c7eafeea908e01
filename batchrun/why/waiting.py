"""Why a chunk waits: for a worker that is busy, for one that is not there, for its next try, for a driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchrun.resources import Demand, Worker, describe_workers, format_seconds
from batchrun.why.facts import ChunkFacts, RunFacts, Try
from batchrun.why.history import ending, failed_tries
from batchrun.why.queued import queued
from batchrun.why.running import seen
from batchrun.why.wording import clip, count, percent

if TYPE_CHECKING:
    from batchrun.store.live import LiveState, RunningChunk, WaitingChunks

__all__ = ["busy_workers", "undriven", "waiting"]


def waiting(facts: RunFacts, chunk: ChunkFacts) -> str:
    """Why a chunk that is not settled does not run."""
    name = f"chunk {chunk.chunk}"
    if not facts.driven:
        return f"{name} waits, because {undriven(facts)}"
    live = facts.live
    if live is None:
        return (
            f"{name} is not settled; the run has not told yet what runs where, so ask again in a few seconds"
        )
    if live.stopping:
        ends = f" and only lets {count(live.chunks, 'running chunk')} end" if live.running else ""
        return f"{name} will not be started, because the run is stopping{ends}"
    tries = facts.this_session(facts.tries(chunk.chunk))
    delayed = facts.delayed(chunk.chunk)
    if delayed is not None:
        failed = [one for one in tries if one.stage == delayed.stage]
        why = f"try {failed[-1].number} {ending(failed[-1])}" if failed else clip(delayed.reason)
        which = f"try {failed[-1].number + 1}" if failed else "its next try"
        return f"{name} waits {format_seconds(delayed.until - facts.now)} before {which}, because {why}"
    return f"{name} {_for_slot(facts, live, tries)}"


def undriven(facts: RunFacts) -> str:
    """That nothing drives the run, and how it goes on."""
    record = facts.record
    if facts.queue is not None:
        return f"the run {queued(record, facts.queue)}"
    since = record.heartbeat or record.started or record.created
    return (
        f"nothing drives the run: its driver was last at work {format_seconds(max(0.0, facts.now - since))} "
        f"ago; `batchrun resume {record.run_id}` goes on"
    )


def busy_workers(facts: RunFacts, able: Sequence[Worker], *, has: str) -> str:
    """What keeps the workers that could run something busy; *has* says what makes them able."""
    if len(able) == 1:
        worker = able[0]
        busy = facts.busy(worker)
        first = f"one worker {has}, {worker.name}"
        if not busy:
            return first
        if len(busy) == 1:
            return f"{first}, busy with chunk {_since(facts, busy[0])}"
        return f"{first}, busy with {len(busy)} chunks, the longest chunk {_since(facts, busy[0])}"
    longest = sorted((c for worker in able for c in facts.busy(worker)), key=lambda c: c.started)
    every = f"{len(able)} workers {has.replace('has', 'have')}, all busy"
    if not longest:
        return every
    first_busy = longest[0]
    return f"{every}, {first_busy.worker} the longest: with chunk {_since(facts, first_busy)}"


def _for_slot(facts: RunFacts, live: LiveState, tries: Sequence[Try]) -> str:
    """What a chunk that may start now waits for."""
    stage = facts.next_stage(list(tries))
    group = _group_of(live, stage, tries)
    demand = Demand(group.memory, group.tags) if group else facts.demand_of(stage)
    plain = not demand.memory and not demand.tags
    wanted = "a free thread" if plain else str(demand)
    at = f" to run `{stage}`" if facts.legs > 1 else ""
    again = failed_tries([one for one in tries if one.stage == stage])
    after = f" for try {again[-1].number + 1}, as try {again[-1].number} {ending(again[-1])}" if again else ""
    others = group.chunks - 1 if group else 0
    peers = f", as {'does' if others == 1 else 'do'} {count(others, 'other chunk')}" if others > 0 else ""
    holders = _holders(facts, demand, plain, group.kept_for if group else ())
    return f"waits for {wanted}{at}{after}{peers}; {holders}"


def _holders(facts: RunFacts, demand: Demand, plain: bool, kept_for: Sequence[str]) -> str:
    able = [worker for worker in facts.workers if worker.can_ever_run(demand)]
    kept = {
        worker.name: stage
        for stage in kept_for
        for worker in able
        if worker.can_ever_run(facts.demand_of(stage))
    }
    if not facts.workers:
        return "no worker is there; start one"
    if not able:
        return (
            f"no worker has it: there is {describe_workers(facts.workers)}; start one that has it, or stop "
            "the run"
        )
    free = [worker for worker in able if facts.has_room(worker, demand)]
    open_to_it = [worker for worker in able if worker.name not in kept]
    if free and open_to_it and all(worker.name in kept for worker in free):
        name = free[0].name
        return (
            f"{name} has room, but is kept for `{kept[name]}`, which has more work for it than others have; "
            f"{busy_workers(facts, open_to_it, has='can run it' if plain else 'has it')}"
        )
    if free:
        return f"{free[0].name} has room for it, so it starts when its turn comes"
    return busy_workers(facts, able, has="can run it" if plain else "has it")


def _group_of(live: LiveState, stage: str, tries: Sequence[Try]) -> WaitingChunks | None:
    """The slots that the chunk waits for: the largest of its stage's if it ran out of memory before."""
    groups = sorted((group for group in live.waiting if group.stage == stage), key=lambda group: group.memory)
    if not groups:
        return None
    enlarged = bool(tries) and tries[-1].outcome.value == "out_of_memory"
    return groups[-1] if enlarged else groups[0]


def _since(facts: RunFacts, chunk: RunningChunk) -> str:
    """A running chunk, since when, and how far that is."""
    so_far = f", {percent(chunk.share)} done" if chunk.share is not None else ""
    usual = seen(facts, chunk.stage)
    known = f" (longest seen for `{chunk.stage}`: {format_seconds(usual[2])})" if usual else ""
    return f"{chunk.chunk} for {format_seconds(max(0.0, facts.now - chunk.started))}{so_far}{known}"
