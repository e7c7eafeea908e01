"""What the store tells of each change of state, as plain values."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EventKind", "EventRecord", "News"]


class EventKind(enum.StrEnum):
    """Which change of state an event tells of."""

    RUN_QUEUED = "run_queued"
    RUN_TAKEN = "run_taken"
    RUN_PREPARED = "run_prepared"
    RUN_STARTED = "run_started"
    RUN_STOPPING = "run_stopping"
    RUN_ENDED = "run_ended"
    RUN_RELEASED = "run_released"
    RUN_REQUEUED = "run_requeued"
    RUN_REMOVED = "run_removed"
    CHUNKS_PLANNED = "chunks_planned"
    CHUNKS_SETTLED = "chunks_settled"
    CHUNK_FAILED = "chunk_failed"
    CHUNK_CUT = "chunk_cut"
    CANCEL_ASKED = "cancel_asked"
    CANCEL_TAKEN = "cancel_taken"
    SERVICE_STARTED = "service_started"
    SERVICE_STOPPED = "service_stopped"
    SERVICE_ASKED = "service_asked"
    SERVICE_GONE = "service_gone"
    SCHEDULE_ADDED = "schedule_added"
    SCHEDULE_REMOVED = "schedule_removed"
    SCHEDULE_PAUSED = "schedule_paused"
    SCHEDULE_RESUMED = "schedule_resumed"
    SCHEDULE_FIRED = "schedule_fired"
    SCHEDULE_SKIPPED = "schedule_skipped"
    HOOK_DELIVERED = "hook_delivered"
    HOOK_FAILED = "hook_failed"

    @property
    def description(self) -> str:
        """What happened, as a sentence without a full stop."""
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    EventKind.RUN_QUEUED: "a run was recorded and waits to be driven",
    EventKind.RUN_TAKEN: "a process began to drive the run",
    EventKind.RUN_PREPARED: "the input of a queued run was planned",
    EventKind.RUN_STARTED: "a session of the run began",
    EventKind.RUN_STOPPING: "the run starts nothing new and comes to its end",
    EventKind.RUN_ENDED: "the run ended",
    EventKind.RUN_RELEASED: "a process gave the run back before it ended",
    EventKind.RUN_REQUEUED: "chunks of the run wait to be run again",
    EventKind.RUN_REMOVED: "the run was removed from the store",
    EventKind.CHUNKS_PLANNED: "more of the input was cut into chunks",
    EventKind.CHUNKS_SETTLED: "chunks have their outcomes",
    EventKind.CHUNK_FAILED: "an attempt of a chunk failed",
    EventKind.CHUNK_CUT: "a chunk that failed was cut into parts",
    EventKind.CANCEL_ASKED: "somebody asked for a run or a chunk to stop",
    EventKind.CANCEL_TAKEN: "the process that drives the run was told to stop it or a chunk of it",
    EventKind.SERVICE_STARTED: "a service began to take queued runs",
    EventKind.SERVICE_STOPPED: "a service ended",
    EventKind.SERVICE_ASKED: "a service was asked to stop",
    EventKind.SERVICE_GONE: "a service was silent for too long and counts as gone",
    EventKind.SCHEDULE_ADDED: "a schedule was added",
    EventKind.SCHEDULE_REMOVED: "a schedule was removed",
    EventKind.SCHEDULE_PAUSED: "a schedule was paused",
    EventKind.SCHEDULE_RESUMED: "a schedule goes on",
    EventKind.SCHEDULE_FIRED: "a schedule queued a run",
    EventKind.SCHEDULE_SKIPPED: "a schedule left a firing out",
    EventKind.HOOK_DELIVERED: "the end of the run was told by a hook",
    EventKind.HOOK_FAILED: "a hook did not get through",
}


@dataclass(frozen=True)
class News:
    """A change of state that is told once it is committed."""

    kind: EventKind
    """Which change it is."""
    data: dict[str, Any] = field(default_factory=dict)
    """What there is to say of it, as JSON values."""
    run: int | str | None = None
    """The run, by its number or its id; None if it is of none."""
    chunk: int | None = None
    """The number of the chunk; None if it is of none, or of many."""


@dataclass(frozen=True)
class EventRecord:
    """A change of state that was committed."""

    id: int
    """Its number; events have them in the order in which they were committed."""
    at: float
    """When it was committed, in seconds since the epoch by the clock of the store."""
    kind: str
    """Which change it is, by the name of an EventKind; one of a newer batchrun may be unknown."""
    run_id: str | None
    """The run; None if it is of none."""
    chunk: int | None
    """The number of the chunk; None if it is of none, or of many."""
    data: dict[str, Any]
    """What there is to say of it, as JSON values."""
