"""Removing whole runs from the database, those that nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.outcome import RunState
from batchrun.store import schema
from batchrun.store.event_record import EventKind
from batchrun.store.eventlog import tell
from batchrun.store.records import StoredRun

if TYPE_CHECKING:
    from batchrun.store.database import Database

__all__ = ["RunRemoval"]

_UNDER_WAY = (RunState.QUEUED.value, RunState.RUNNING.value)
_OF_A_RUN = (
    schema.attempts,
    schema.logs,
    schema.chunks,  # they name files
    schema.files,
    schema.requests,
    schema.live,
    schema.queue,
    schema.events,
)
"""The tables with rows of a run, in an order in which those may go."""
AT_A_TIME = 500
"""Runs that a query names one by one."""


class RunRemoval:
    """Finds runs that may go, and removes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self) -> list[StoredRun]:
        """All runs, oldest first, each with whether it may go."""
        runs = schema.runs
        columns = (runs.c.run_id, runs.c.pipeline, runs.c.state, runs.c.created, runs.c.ended, runs.c.folder)
        query = sa.select(*columns, runs.c.number).order_by(sa.func.coalesce(runs.c.ended, runs.c.created))
        with self._database.begin() as connection:
            needed, held = _needed(connection), _held(connection)
            return [
                StoredRun(
                    row.run_id,
                    row.pipeline,
                    RunState(row.state),
                    row.created,
                    row.ended,
                    row.folder,
                    _kept_because(row, needed, held),
                )
                for row in connection.execute(query)
            ]

    def remove(self, run_id: str) -> bool:
        """Remove all that the database has of a run, in one transaction.

        Returns whether it did; not if it is gone, or was put to use since somebody looked.
        """
        runs = schema.runs
        query = sa.select(runs.c.number, runs.c.run_id, runs.c.state).where(runs.c.run_id == run_id)
        with self._database.write() as connection:
            self._database.serialize(connection, "claims")
            row = connection.execute(query.with_for_update()).one_or_none()
            if row is None or _kept_because(row, _needed(connection), _held(connection)):
                return False
            for table in _OF_A_RUN:
                connection.execute(table.delete().where(table.c.run == row.number))
            connection.execute(runs.delete().where(runs.c.number == row.number))
            tell(connection, EventKind.RUN_REMOVED, removed=run_id)
        return True

    def remove_programs(self) -> int:
        """Remove the programs that no run of the queue has; returns how many."""
        used = sa.select(schema.queue.c.program).where(schema.queue.c.program.is_not(None))
        with self._database.write() as connection:
            table = schema.programs
            return connection.execute(table.delete().where(table.c.number.not_in(used))).rowcount

    def unused(self) -> int | None:
        """Bytes that the file of the database keeps for later rows; None where there is no such file."""
        return self._database.unused()

    def vacuum(self) -> int:
        """Give those bytes back to the disk; returns how many. It takes as much space, for a while, as the
        rest of the file."""
        before = self._database.unused() or 0
        self._database.vacuum()
        return before - (self._database.unused() or 0)

    def known(self, run_ids: Iterable[str]) -> set[str]:
        """Those of *run_ids* that the store has a run of."""
        runs, asked, found = schema.runs, list(run_ids), set()
        with self._database.begin() as connection:
            for first in range(0, len(asked), AT_A_TIME):
                some = runs.c.run_id.in_(asked[first : first + AT_A_TIME])
                found |= set(connection.execute(sa.select(runs.c.run_id).where(some)).scalars())
        return found


def _needed(connection: sa.Connection) -> set[str]:
    """The ids of runs that a run of the queue waits for or reads from."""
    queue, runs = schema.queue, schema.runs
    query = (
        sa.select(queue.c.after, queue.c.input_from)
        .join(runs, runs.c.number == queue.c.run)
        .where(runs.c.state.in_(_UNDER_WAY))
    )
    found: set[str] = set()
    for after, input_from in connection.execute(query):
        found |= {*(after or ()), *([input_from] if input_from else ())}
    return found


def _held(connection: sa.Connection) -> set[int]:
    """The numbers of runs that a service has or still has to do something about."""
    queue = schema.queue
    query = sa.select(queue.c.run).where(queue.c.owner.is_not(None))
    return set(connection.execute(query).scalars())


def _kept_because(row: Any, needed: set[str], held: set[int]) -> str:
    """Why a run may not go; empty if it may."""
    if row.state in _UNDER_WAY:
        return f"it is {row.state}"
    if row.number in held:
        return "a service holds it"
    return "a queued run needs it" if row.run_id in needed else ""
