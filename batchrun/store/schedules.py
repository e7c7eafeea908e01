"""The schedules of a store. Each firing time leads to one run, however many services look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.errors import UsageError, near_miss
from batchrun.schedule import Decision, Missed, Overlap, Schedule, next_after
from batchrun.store import schema
from batchrun.store.event_record import EventKind
from batchrun.store.eventlog import tell
from batchrun.store.queue import QueueEntry, insert_queued
from batchrun.store.records import RunRecord
from batchrun.submission import Submission

if TYPE_CHECKING:
    from batchrun.store.database import Database

__all__ = ["Schedules"]

_FIELDS = tuple(Schedule.__dataclass_fields__)


class Schedules:
    """Runs that are made again and again.

    Methods that take a name raise UsageError if there is no schedule of that name.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, schedule: Schedule, *, replace: bool = False) -> None:
        """Record a schedule.

        With *replace* it takes the place of one of the same name, and the last run of that counts as its own.
        Otherwise UsageError is raised if there is one.
        """
        table = schema.schedules
        with self._database.write() as connection:
            self._database.serialize(connection, f"schedule {schedule.name}")
            row = _row(schedule)
            there = _read(connection, schedule.name, hold=True)
            tell(connection, EventKind.SCHEDULE_ADDED, schedule=schedule.name, cron=schedule.cron)
            if there is None:
                connection.execute(table.insert().values(**row))
                return
            if not replace:
                raise UsageError(
                    f"there is a schedule {schedule.name} already, for {there.submission.pipeline} at "
                    f"{there.cron!r}; choose another name, or replace it with --replace"
                )
            row |= {"last_fire": there.last_fire, "last_run": there.last_run}
            connection.execute(table.update().where(table.c.name == schedule.name).values(**row))

    def get(self, name: str) -> Schedule:
        """The schedule of that name."""
        with self._database.begin() as connection:
            return _get(connection, name)

    def list(self) -> Sequence[Schedule]:
        """All schedules, by name."""
        with self._database.begin() as connection:
            found = connection.execute(sa.select(schema.schedules).order_by(schema.schedules.c.name))
            return [_schedule(row) for row in found]

    def due(self, now: float) -> Sequence[Schedule]:
        """Schedules that are due at *now*, in seconds since the epoch; the longest due first."""
        table = schema.schedules
        query = (
            sa.select(table)
            .where(table.c.next_fire <= now, table.c.paused.is_(False))
            .order_by(table.c.next_fire, table.c.name)
        )
        with self._database.begin() as connection:
            return [_schedule(row) for row in connection.execute(query)]

    def next_fire(self) -> float:
        """When the next schedule is due, in seconds since the epoch; infinity if there is none."""
        table = schema.schedules
        query = sa.select(sa.func.min(table.c.next_fire)).where(table.c.paused.is_(False))
        with self._database.begin() as connection:
            found = connection.execute(query).scalar()
        return float("inf") if found is None else float(found)

    def pause(self, name: str) -> Schedule:
        """Keep a schedule from firing; its runs go on. Returns the schedule as it is now."""
        with self._database.write() as connection:
            schedule = _get(connection, name, hold=True)
            if schedule.paused:
                return schedule
            changes: dict[str, Any] = {"paused": True, "next_fire": None}
            _change(connection, schedule, **changes)
            tell(connection, EventKind.SCHEDULE_PAUSED, schedule=name)
        return replace(schedule, **changes)

    def resume(self, name: str, now: float) -> Schedule:
        """Let a schedule that is paused fire again, the first time after *now*, in seconds since the epoch.

        What it would have fired while it was paused is not made up for. Returns the schedule as it is now.
        """
        with self._database.write() as connection:
            schedule = _get(connection, name, hold=True)
            if not schedule.paused:
                return schedule
            changes: dict[str, Any] = {"paused": False, "next_fire": next_after(schedule, now)}
            _change(connection, schedule, **changes)
            tell(connection, EventKind.SCHEDULE_RESUMED, schedule=name)
        return replace(schedule, **changes)

    def remove(self, name: str) -> Schedule:
        """Forget a schedule; its runs stay. Returns the schedule as it was."""
        table = schema.schedules
        with self._database.write() as connection:
            schedule = _get(connection, name, hold=True)
            connection.execute(table.delete().where(table.c.name == name))
            tell(connection, EventKind.SCHEDULE_REMOVED, schedule=name)
        return schedule

    def fire(self, schedule: Schedule, decision: Decision, record: RunRecord, entry: QueueEntry) -> bool:
        """Put the run of a firing into the queue and move the schedule on, both or neither.

        Args:
            schedule: The schedule as it was read.
            decision: What was decided about it.
            record: The run.
            entry: How it stands in the queue.

        Returns whether it was done: not if the schedule has changed since it was read, as when another
        service fired it.
        """
        moved = {"next_fire": decision.next_fire, "last_fire": decision.at, "last_run": record.run_id}
        with self._database.write() as connection:
            if not _change(connection, schedule, **moved):
                return False
            tell(
                connection,
                EventKind.SCHEDULE_FIRED,
                run=record.run_id,
                schedule=schedule.name,
                due=decision.at,
            )
            insert_queued(connection, record, entry)
        return True

    def skip(self, schedule: Schedule, decision: Decision) -> bool:
        """Move a schedule on without a run; says, as ``fire`` does, whether it was done."""
        with self._database.write() as connection:
            done = _change(connection, schedule, next_fire=decision.next_fire)
            if done:
                tell(connection, EventKind.SCHEDULE_SKIPPED, schedule=schedule.name, reason=decision.reason)
            return done

    def start(self, schedule: Schedule, record: RunRecord, entry: QueueEntry) -> bool:
        """Put a run into the queue beside those of the firing times; says, as ``fire`` does, whether it was
        done."""
        with self._database.write() as connection:
            if not _change(connection, schedule, last_run=record.run_id):
                return False
            tell(connection, EventKind.SCHEDULE_FIRED, run=record.run_id, schedule=schedule.name)
            insert_queued(connection, record, entry)
        return True


def _change(connection: sa.Connection, schedule: Schedule, **changes: Any) -> bool:
    """Change a schedule, if it is still as it was read; says whether it was."""
    table = schema.schedules
    unchanged = sa.and_(
        table.c.name == schedule.name,
        table.c.created == schedule.created,
        table.c.paused == schedule.paused,
        table.c.next_fire.is_not_distinct_from(schedule.next_fire),
        table.c.last_run.is_not_distinct_from(schedule.last_run),
    )
    return bool(connection.execute(table.update().where(unchanged).values(**changes)).rowcount)


def _get(connection: sa.Connection, name: str, *, hold: bool = False) -> Schedule:
    found = _read(connection, name, hold=hold)
    if found is None:
        known = connection.execute(sa.select(schema.schedules.c.name)).scalars()
        raise UsageError(
            f"the store has no schedule {name!r}.{near_miss(name, known)} `batchrun schedule list` lists them"
        )
    return found


def _read(connection: sa.Connection, name: str, *, hold: bool) -> Schedule | None:
    """The schedule; to *hold* it lets nobody else change it until the transaction ends."""
    table = schema.schedules
    query = sa.select(table).where(table.c.name == name)
    row = connection.execute(query.with_for_update() if hold else query).one_or_none()
    return None if row is None else _schedule(row)


def _row(schedule: Schedule) -> dict[str, Any]:
    row = {name: getattr(schedule, name) for name in _FIELDS}
    return row | {
        "missed": schedule.missed.value,
        "overlap": schedule.overlap.value,
        "submission": schedule.submission.to_json(),
    }


def _schedule(row: Any) -> Schedule:
    values = {name: row._mapping[name] for name in _FIELDS}
    values["missed"] = Missed(row.missed)
    values["overlap"] = Overlap(row.overlap)
    values["submission"] = Submission.from_json(row.submission)
    return Schedule(**values)
