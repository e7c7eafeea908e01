"""Which queued runs may begin now, in which order, and what the others wait for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from batchrun.outcome import RunState

__all__ = ["AGEING", "Admission", "Candidate", "admit"]

AGEING = 3600.0
"""Seconds of waiting that are worth one step of priority, so that every run has its turn some day."""


@dataclass(frozen=True)
class Candidate:
    """A run of the queue that has not ended."""

    run_id: str
    """The run."""
    queued: float
    """Since when it waits, in seconds since the epoch."""
    priority: int = 0
    """Higher is earlier."""
    not_before: float | None = None
    """When it may begin, in seconds since the epoch."""
    after: Mapping[str, RunState | None] = field(default_factory=dict)
    """The runs that must have ended well before, and where they stand; None for one that is gone."""
    lock: str | None = None
    """Of all runs with the same lock one at a time may go on."""
    held: bool = False
    """Whether a service has it."""
    under_way: bool = False
    """Whether it was driven before, and lost its service."""

    def rank(self, now: float) -> tuple[bool, float, float]:
        """What comes first has the least: what was under way, then by priority and waiting time."""
        return not self.under_way, -(self.priority + (now - self.queued) / AGEING), self.queued


@dataclass(frozen=True)
class Admission:
    """What was found."""

    ready: tuple[str, ...]
    """The runs that may begin, in order."""
    waits: Mapping[str, str]
    """What each of the others waits for, as a clause that follows "it waits"."""
    doomed: Mapping[str, str]
    """Runs that can never begin, and why, as a sentence without a full stop."""


def admit(candidates: Iterable[Candidate], now: float) -> Admission:
    """Order the runs that may begin now, at *now* seconds since the epoch.

    >>> short, long = Candidate("short", queued=5.0, priority=1), Candidate("long", queued=0.0)
    >>> admit([long, short], now=10.0).ready
    ('short', 'long')
    >>> admit([long, Candidate("later", queued=0.0, not_before=100.0)], now=10.0).waits["later"]
    'until its time has come, in 1 min 30 s'
    """
    from batchrun.resources import format_seconds

    listed = list(candidates)
    holders = {one.lock: one.run_id for one in listed if one.lock is not None and one.held}
    ready: list[str] = []
    waits: dict[str, str] = {}
    doomed: dict[str, str] = {}
    for one in sorted((one for one in listed if not one.held), key=lambda one: one.rank(now)):
        gone = [run for run, state in one.after.items() if _never(state)]
        before = [run for run, state in one.after.items() if state is not None and not state.ended]
        if gone:
            doomed[one.run_id] = _why_never(gone[0], one.after[gone[0]])
        elif before:
            waits[one.run_id] = f"for run {before[0]} to end"
        elif one.not_before is not None and one.not_before > now:
            waits[one.run_id] = (
                f"until its time has come, in {format_seconds(max(1.0, round(one.not_before - now)))}"
            )
        elif one.lock is not None and one.lock in holders:
            waits[one.run_id] = f"for the lock {one.lock}, which run {holders[one.lock]} has"
        else:
            ready.append(one.run_id)
            if one.lock is not None:
                holders[one.lock] = one.run_id
    return Admission(tuple(ready), waits, doomed)


def _never(state: RunState | None) -> bool:
    """Whether a run with this state will not end well by itself any more."""
    return state in (None, RunState.FAILED, RunState.CANCELLED)


def _why_never(run: str, state: RunState | None) -> str:
    if state is None:
        return f"run {run}, which it was to follow, is no longer in the store"
    return f"run {run}, which it was to follow, has ended {state}"
