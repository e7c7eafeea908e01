"""Makes the runs of schedules when their time has come."""

from __future__ import annotations

from collections.abc import Callable

from batchrun.errors import UsageError
from batchrun.schedule import Action, Decision, Overlap, Schedule, decide
from batchrun.store.queue import QueueEntry
from batchrun.store.records import RunRecord
from batchrun.store.runs import RunStore
from batchrun.submission import Submission

__all__ = ["MakeRecord", "fire_due", "run_now"]

MakeRecord = Callable[[Submission], RunRecord]
"""Makes the record of a run that is not planned yet."""


def fire_due(store: RunStore, now: float, make_record: MakeRecord) -> list[str]:
    """Fire each schedule of a store that is due at *now*, in seconds since the epoch.

    However many services do this at once, each firing time leads to one run. The runs are only recorded and
    queued: what their input holds is found out when they are prepared.

    Returns what happened, a sentence for each schedule that was fired, skipped or cannot be fired.
    """
    told = []
    for schedule in store.schedules.due(now):
        try:
            decision = decide(schedule, now, running=_is_running(store, schedule))
        except UsageError as error:  # as a time zone that only this machine does not know
            told.append(f"schedule {schedule.name} cannot be fired: {error}")
            continue
        told += _carry_out(store, schedule, decision, now, make_record)
    return told


def run_now(store: RunStore, name: str, now: float, make_record: MakeRecord) -> str:
    """Queue a run of a schedule at once, whether it is due or paused or neither; returns the run's id.

    Raises UsageError if its last run has not ended and the schedule is to make none then.
    """
    schedule = store.schedules.get(name)
    if schedule.overlap is Overlap.SKIP and _is_running(store, schedule):
        raise UsageError(
            f"run {schedule.last_run} of schedule {name} has not ended, and the schedule has --overlap skip; "
            f"wait for it, or stop it with: batchrun cancel {schedule.last_run}"
        )
    record = make_record(schedule.submission)
    if not store.schedules.start(schedule, record, _entry(schedule, now)):
        raise UsageError(
            f"schedule {name} fired or was changed at this moment; "
            "look at `batchrun schedule list`, then try again"
        )
    return record.run_id


def _carry_out(
    store: RunStore, schedule: Schedule, decision: Decision, now: float, make_record: MakeRecord
) -> list[str]:
    if decision.action is Action.FIRE:
        record = make_record(schedule.submission)
        if store.schedules.fire(schedule, decision, record, _entry(schedule, now)):
            reason = decision.reason and f"; {decision.reason}"
            return [f"schedule {schedule.name} fired: run {record.run_id}{reason}"]
    elif decision.action is Action.SKIP and store.schedules.skip(schedule, decision):
        return [f"schedule {schedule.name} was skipped: {decision.reason}"]
    return []


def _is_running(store: RunStore, schedule: Schedule) -> bool:
    """Whether the newest run of a schedule is there and has not ended."""
    last = schedule.last_run
    return last is not None and any(not state.ended for state in store.queue.states([last]).values())


def _entry(schedule: Schedule, now: float) -> QueueEntry:
    """How a run of the schedule stands in the queue.

    Those that are to wait for each other share a lock, so that one goes on once the one before has ended,
    however it did.
    """
    asked = schedule.submission
    in_turn = f"schedule {schedule.name}" if schedule.overlap is Overlap.QUEUE else None
    return QueueEntry(
        queued=now,
        prepared=False,
        priority=asked.priority,
        not_before=asked.not_before,
        after=asked.after,
        input_from=asked.input_from,
        lock=asked.lock or in_turn,
        max_slots=asked.max_slots,
        max_quarantined=asked.max_quarantined,
        schedule=schedule.name,
        submission=asked,
    )
