"""Why a run of the queue has not begun, or does not go on."""

from __future__ import annotations

from dataclasses import dataclass

from batchrun.admission import Candidate
from batchrun.outcome import RunState
from batchrun.resources import format_seconds
from batchrun.store.queue import QueueEntry
from batchrun.store.records import RunRecord
from batchrun.store.turns import Turns, is_held
from batchrun.why.wording import count

__all__ = ["QueueFacts", "queued"]

NO_SERVICE = "no service is up; start one with `batchrun up`"


@dataclass(frozen=True)
class QueueFacts:
    """How a run stands in the queue at one moment."""

    entry: QueueEntry
    """What the queue knows of it."""
    turns: Turns
    """The queue, and the services that are up."""


def queued(record: RunRecord, queue: QueueFacts) -> str:
    """What a run of the queue that no process drives waits for, as a clause that follows its name."""
    turns = queue.turns
    nobody = "" if turns.services else f"; {NO_SERVICE}"
    if record.state is RunState.RUNNING:
        return f"lost its service, and {_turn(record.run_id, turns)}{nobody}"
    since = format_seconds(max(0.0, turns.now - queue.entry.queued))
    if is_held(queue.entry, turns.now):
        host = turns.services.get(queue.entry.owner or "")
        by = f"a service on {host}" if host else "a service that is no longer at work"
        return f"is queued for {since}: {by} has it, and has not begun{nobody}"
    return f"is queued for {since} and {_turn(record.run_id, turns)}{nobody}"


def _turn(run_id: str, turns: Turns) -> str:
    """What it waits for, as what the run does."""
    admission = turns.admission
    if run_id in admission.doomed:
        return f"will never begin, because {admission.doomed[run_id]}"
    if run_id in admission.waits:
        return f"waits {admission.waits[run_id]}"
    before = admission.ready.index(run_id) if run_id in admission.ready else 0
    if before:
        return f"waits for its turn: {count(before, 'run')} {'is' if before == 1 else 'are'} before it"
    held = _held(turns.candidates)
    others = f", which has {count(held, 'run')} now" if held else ""
    return f"is the next that a service takes{others}" if turns.services else "waits for a service"


def _held(candidates: tuple[Candidate, ...]) -> int:
    return sum(candidate.held for candidate in candidates)
