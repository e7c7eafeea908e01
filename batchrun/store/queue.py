"""The queue: runs that services drive, and who holds them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.outcome import RunState
from batchrun.store import rows, schema
from batchrun.store.event_record import EventKind
from batchrun.store.eventlog import tell
from batchrun.store.records import RunRecord
from batchrun.store.writer import RunWriter, take_over
from batchrun.submission import Submission

if TYPE_CHECKING:
    from batchrun.store.database import Database

__all__ = ["QueueEntry", "QueuedRun", "RunQueue", "insert_queued"]

_UNDER_WAY = (RunState.QUEUED.value, RunState.RUNNING.value)
_STANDS = (*_UNDER_WAY, RunState.SUCCEEDED.value)
"""Where a run stands that need not be made once more."""
_PLACE = sa.select(schema.queue).where(schema.of_run(schema.queue, sa.bindparam("run_id")))
_INSERT_RUN = schema.runs.insert().returning(schema.runs.c.number)
_INSERT_ENTRY = schema.queue.insert()
_PROGRAM = sa.select(schema.programs.c.number).where(schema.programs.c.digest == sa.bindparam("digest"))
_FREE = (
    sa.select(schema.queue.c.run)
    .join(schema.runs, schema.runs.c.number == schema.queue.c.run)
    .where(schema.runs.c.state.in_(_UNDER_WAY), schema.queue.c.owner.is_(None))
    .limit(1)
)
"""A run that has not ended and is held by nobody; built once, as services ask for it all the time."""


@dataclass(frozen=True)
class QueueEntry:
    """What the queue knows of a run beside its record."""

    queued: float
    """Since when it waits for its turn, in seconds since the epoch."""
    prepared: bool
    """Whether its input is planned; if not, the service does that from the submission first."""
    priority: int = 0
    """Runs of higher priority have their turn earlier, and twice as many slots for each step."""
    not_before: float | None = None
    """When it may begin, in seconds since the epoch."""
    after: tuple[str, ...] = ()
    """Ids of runs that must have ended well before."""
    input_from: str | None = None
    """Id of the run whose results are the input."""
    lock: str | None = None
    """Of all runs with the same lock one at a time is driven."""
    unique_key: str | None = None
    """The same for runs that would give the same result."""
    max_slots: int | None = None
    """The most tasks that it may have on the workers at once."""
    max_quarantined: str | None = None
    """Quarantined rows, or the share of them, beyond which it is given up."""
    schedule: str | None = None
    """The schedule that made it."""
    submission: Submission | None = None
    """What was asked for; None if the pipeline was given as an object."""
    only: tuple[int, ...] | None = None
    """The chunks to run again; None for all that have no result."""
    owner: str | None = None
    """The service that holds it."""
    lease_until: float | None = None
    """When another service may take it from its owner, in seconds since the epoch."""
    fruitless: int = 0
    """How many sessions in a row ended without a chunk settled, because their service was lost."""


@dataclass(frozen=True)
class QueuedRun:
    """A run that is queued or under way."""

    run_id: str
    """The run."""
    pipeline: str
    """Its pipeline's name."""
    state: RunState
    """``queued`` or ``running``."""
    entry: QueueEntry
    """How it stands in the queue."""


class RunQueue:
    """Puts runs into the queue, and hands them to services, each to one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(self, record: RunRecord, entry: QueueEntry, program: bytes | None = None) -> str:
        """Put a new run into the queue; *program* is its pickled pipeline, if there is one.

        Returns its id; with a ``unique_key`` that of the run that exists already, if one with the same key is
        queued, runs or has succeeded: nothing is recorded then.
        """
        with self._database.write() as connection:
            if entry.unique_key is not None:
                self._database.serialize(connection, f"unique {entry.unique_key}")
                there = _of_unique_key(connection, entry.unique_key)
                if there is not None:
                    return there
            insert_queued(connection, record, entry, program)
        return record.run_id

    def of_unique_key(self, unique_key: str) -> str | None:
        """The run with that key which is queued, runs or has succeeded; None if there is none."""
        with self._database.begin() as connection:
            return _of_unique_key(connection, unique_key)

    def entry(self, run_id: str) -> QueueEntry | None:
        """How a run stands in the queue; None if it was never there."""
        with self._database.begin() as connection:
            row = connection.execute(_PLACE, {"run_id": run_id}).one_or_none()
        return None if row is None else _entry(row)

    def under_way(self) -> list[QueuedRun]:
        """The runs of the queue that have not ended, by the time at which they were queued."""
        table, runs = schema.queue, schema.runs
        query = (
            sa.select(runs.c.run_id, runs.c.pipeline, runs.c.state, table)
            .join(runs, runs.c.number == table.c.run)
            .where(runs.c.state.in_(_UNDER_WAY))
            .order_by(table.c.queued, table.c.run)
        )
        with self._database.begin() as connection:
            found = connection.execute(query).all()
        return [QueuedRun(row.run_id, row.pipeline, RunState(row.state), _entry(row)) for row in found]

    def anything_free(self) -> bool:
        """Whether a run that has not ended is held by nobody; quick."""
        with self._database.begin() as connection:
            return connection.execute(_FREE).first() is not None

    def states(self, run_ids: Collection[str]) -> dict[str, RunState]:
        """Where runs stand; those that are not in the store are left out."""
        runs = schema.runs
        query = sa.select(runs.c.run_id, runs.c.state).where(runs.c.run_id.in_(list(run_ids)))
        with self._database.begin() as connection:
            return {run_id: RunState(state) for run_id, state in connection.execute(query)}

    def claim(
        self, run_id: str, service: str, *, lease: float, driver: str, gone: Collection[str] = ()
    ) -> RunWriter | None:
        """Take a run for a service, if nobody holds it or whoever does was silent for too long.

        Args:
            run_id: The run.
            service: The service's id.
            lease: Seconds for which it is the service's; see ``renew``.
            driver: The service's process, as ``driver_name`` gives it.
            gone: Services that are known to be gone, whatever their leases say.

        Returns what may write the run; None if it has ended, another service was faster, or a run with the
        same lock is under way.
        """
        table, runs = schema.queue, schema.runs
        with self._database.write() as connection:
            self._database.serialize(connection, "claims")
            now = self._database.now(connection)
            query = (
                sa.select(runs.c.number, table.c.lock)
                .join(table, table.c.run == runs.c.number)
                .where(runs.c.run_id == run_id, runs.c.state.in_(_UNDER_WAY), _is_free(now, gone))
            )
            row = connection.execute(query).one_or_none()
            if row is None or (row.lock is not None and _lock_is_held(connection, row.lock, row.number)):
                return None
            fence = take_over(connection, run_id)
            connection.execute(
                table.update().where(table.c.run == row.number).values(owner=service, lease_until=now + lease)
            )
            connection.execute(
                runs.update().where(runs.c.number == row.number).values(driver=driver, heartbeat=time.time())
            )
            tell(connection, EventKind.RUN_TAKEN, run=row.number, process=driver, service=service)
        return RunWriter(self._database, run_id, fence)

    def renew(self, service: str, lease: float, driven: Collection[str]) -> set[str]:
        """Hold the runs of the service that it drives for so many seconds more.

        What it holds and does not drive, because it could not write that it let it go, becomes free when its
        lease has passed. Returns the runs that are still the service's own.
        """
        table, runs = schema.queue, schema.runs
        with self._database.write() as connection:
            now = self._database.now(connection)
            mine = (
                sa.select(runs.c.run_id, runs.c.number)
                .join(table, table.c.run == runs.c.number)
                .where(table.c.owner == service)
            )
            found = {row.run_id: row.number for row in connection.execute(mine)}
            numbers = [number for run_id, number in found.items() if run_id in driven]
            if numbers:
                connection.execute(
                    table.update()
                    .where(table.c.owner == service, table.c.run.in_(numbers))
                    .values(lease_until=now + lease)
                )
        return set(found)

    def release(self, writer: RunWriter, *, fruitless: int = 0) -> None:
        """Let another service, or the same one later, have a run; one that was under way waits again.

        Raises LeaseLostError if another has it already.
        """
        runs, table = schema.runs, schema.queue
        with writer.transaction() as (connection, run):
            connection.execute(
                table.update()
                .where(table.c.run == run)
                .values(owner=None, lease_until=None, fruitless=fruitless)
            )
            connection.execute(
                runs.update()
                .where(runs.c.number == run, runs.c.state == RunState.RUNNING.value)
                .values(state=RunState.QUEUED.value)
            )
            tell(connection, EventKind.RUN_RELEASED, run=run, fruitless=fruitless)

    def ended(self, writer: RunWriter) -> None:
        """Nobody holds the run any more, since it has ended."""
        table = schema.queue
        with writer.transaction() as (connection, run):
            connection.execute(
                table.update()
                .where(table.c.run == run)
                .values(owner=None, lease_until=None, fruitless=0, only=None)
            )

    def prepared(self, writer: RunWriter, program: bytes, **changes: Any) -> None:
        """The input of a run is planned and its pipeline pickled; *changes* are fields of its record."""
        table, runs = schema.queue, schema.runs
        with writer.transaction() as (connection, run):
            connection.execute(
                table.update()
                .where(table.c.run == run)
                .values(prepared=True, program=_keep(connection, program))
            )
            connection.execute(runs.update().where(runs.c.number == run).values(**changes))
            tell(connection, EventKind.RUN_PREPARED, run=run)

    def program(self, run_id: str) -> bytes | None:
        """The pickled pipeline of a run; None if it has none."""
        table, programs = schema.queue, schema.programs
        query = (
            sa.select(programs.c.program)
            .join(table, table.c.program == programs.c.number)
            .where(schema.of_run(table, run_id))
        )
        with self._database.begin() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def requeue(self, run_id: str, *, only: Sequence[int] | None = None) -> bool:
        """Put a run that has ended, or that nothing drives, into the queue once more.

        Args:
            run_id: The run's whole id; it must have been in the queue before.
            only: The chunks to run again; None for all that have no result.

        Returns whether it was; not if a service holds it or it was never in the queue.
        """
        table, runs = schema.queue, schema.runs
        with self._database.write() as connection:
            run = connection.execute(sa.select(schema.number_of(run_id))).scalar_one()
            changed = connection.execute(
                table.update()
                .where(table.c.run == run, _is_free(self._database.now(connection), ()))
                .values(
                    queued=time.time(),
                    owner=None,
                    lease_until=None,
                    fruitless=0,
                    only=None if only is None else list(only),
                    hook="pending",
                )
            )
            if not changed.rowcount:
                return False
            take_over(connection, run_id)
            connection.execute(
                runs.update()
                .where(runs.c.number == run)
                .values(state=RunState.QUEUED.value, ended=None, error=None, rows_cancelled=0)
            )
            chosen = None if only is None else len(only)
            tell(connection, EventKind.RUN_REQUEUED, run=run, chunks=chosen)
        return True


def insert_queued(
    connection: sa.Connection, record: RunRecord, entry: QueueEntry, program: bytes | None = None
) -> None:
    """Record a new run and put it into the queue, in the transaction of *connection*."""
    number = connection.execute(_INSERT_RUN, rows.run_row(record)).scalar_one()
    place = {"run": number, "hook": "pending", "program": program and _keep(connection, program)}
    connection.execute(_INSERT_ENTRY, place | _entry_row(entry))
    tell(connection, EventKind.RUN_QUEUED, run=number, pipeline=record.pipeline, schedule=entry.schedule)


def _keep(connection: sa.Connection, program: bytes) -> int:
    """The number of a program, which is written if it is new."""
    table, known = schema.programs, {"digest": hashlib.sha256(program).hexdigest()}
    number = connection.execute(_PROGRAM, known).scalar()
    if number is None:
        from sqlalchemy.dialects import postgresql, sqlite

        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
        connection.execute(insert.values(**known, program=program).on_conflict_do_nothing())
        number = connection.execute(_PROGRAM, known).scalar_one()
    return int(number)


def _is_free(now: float, gone: Collection[str]) -> sa.ColumnElement[bool]:
    """Whether nobody holds a run of the queue."""
    table = schema.queue
    return sa.or_(table.c.owner.is_(None), table.c.lease_until < now, table.c.owner.in_(list(gone)))


def _lock_is_held(connection: sa.Connection, lock: str, run: int) -> bool:
    table, runs = schema.queue, schema.runs
    query = (
        sa.select(table.c.run)
        .join(runs, runs.c.number == table.c.run)
        .where(table.c.lock == lock, table.c.run != run, runs.c.state.in_(_UNDER_WAY))
        .where(sa.or_(runs.c.state == RunState.RUNNING.value, table.c.owner.is_not(None)))
        .limit(1)
    )
    return connection.execute(query).first() is not None


def _of_unique_key(connection: sa.Connection, unique_key: str) -> str | None:
    table, runs = schema.queue, schema.runs
    query = (
        sa.select(runs.c.run_id)
        .join(table, table.c.run == runs.c.number)
        .where(table.c.unique_key == unique_key, runs.c.state.in_(_STANDS))
        .order_by(runs.c.number)
        .limit(1)
    )
    return connection.execute(query).scalar()


_LISTS = ("after", "only")


def _entry_row(entry: QueueEntry) -> dict[str, Any]:
    row = {name: getattr(entry, name) for name in QueueEntry.__dataclass_fields__}
    row |= {name: None if row[name] is None else list(row[name]) for name in _LISTS}
    row["submission"] = entry.submission.to_json() if entry.submission else None
    return row


def _entry(row: Any) -> QueueEntry:
    known: Mapping[str, Any] = row._mapping
    values = {name: known[name] for name in QueueEntry.__dataclass_fields__}
    values |= {name: _tuple(values[name]) for name in _LISTS}
    if values["submission"] is not None:
        values["submission"] = Submission.from_json(values["submission"])
    return QueueEntry(**values)


def _tuple(values: Iterable[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
