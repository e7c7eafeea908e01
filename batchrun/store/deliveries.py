"""What became of the hooks that tell of the ends of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from batchrun.outcome import RunState
from batchrun.store import schema
from batchrun.store.event_record import EventKind
from batchrun.store.eventlog import tell

if TYPE_CHECKING:
    from batchrun.store.database import Database

__all__ = ["Deliveries", "Delivery"]

_ENDED = [state.value for state in RunState if state.ended]


@dataclass(frozen=True)
class Delivery:
    """What became of one hook at the end of one run."""

    hook: str
    """``command`` or ``webhook``."""
    target: str
    """The program, or the host of the webhook."""
    delivered: bool
    """Whether it got through."""
    tries: int
    """How often it was tried."""
    seconds: float
    """How long that took, waits between the tries included."""
    error: str = ""
    """Why it did not get through at last."""


class Deliveries:
    """Which ends of runs are still to be told, and which were."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, seconds: float) -> str | None:
        """A run of the queue that has ended and whose hooks are not done with; None if there is none.

        For so many seconds nobody else is given it; then it is taken to be in the hands of a process that is
        gone.
        """
        queue = schema.queue
        with self._database.begin() as connection:
            if _next(connection, self._database.now(connection)) is None:
                return None
        with self._database.write() as connection:
            self._database.serialize(connection, "deliveries")
            now = self._database.now(connection)
            found = _next(connection, now)
            if found is None:
                return None
            run, run_id = found
            values = {"hook": "telling", "lease_until": now + seconds}
            connection.execute(queue.update().where(queue.c.run == run).values(**values))
        return run_id

    def record(self, run_id: str, event: int, deliveries: Sequence[Delivery]) -> None:
        """Record what became of the hooks of one end of a run.

        Args:
            run_id: The run's whole id.
            event: The id of the event that tells of this end. If the run has begun again since, its next end
                is still to be told.
            deliveries: One for each hook; none if there was nobody to tell.
        """
        events, queue, runs = schema.events, schema.queue, schema.runs
        with self._database.write() as connection:
            run = connection.execute(sa.select(schema.number_of(run_id))).scalar_one()
            last_end = sa.select(sa.func.max(events.c.id)).where(
                events.c.run == run, events.c.kind == EventKind.RUN_ENDED.value
            )
            state = sa.select(runs.c.state).where(runs.c.number == run)
            is_last = connection.execute(last_end).scalar() == event
            if is_last and connection.execute(state.with_for_update()).scalar() in _ENDED:
                hook = "done" if all(delivery.delivered for delivery in deliveries) else "failed"
                values = {"hook": hook, "lease_until": None}
                connection.execute(queue.update().where(queue.c.run == run).values(**values))
            for delivery in deliveries:
                tell(
                    connection,
                    EventKind.HOOK_DELIVERED if delivery.delivered else EventKind.HOOK_FAILED,
                    run=run,
                    event=event,
                    hook=delivery.hook,
                    target=delivery.target,
                    tries=delivery.tries,
                    seconds=round(delivery.seconds, 3),
                    error=delivery.error or None,
                )


def _next(connection: sa.Connection, now: float) -> tuple[int, str] | None:
    """The number and the id of the next run whose end is to be told."""
    queue, runs = schema.queue, schema.runs
    left = sa.and_(queue.c.hook == "telling", queue.c.lease_until < now)
    query = (
        sa.select(runs.c.number, runs.c.run_id)
        .join(queue, queue.c.run == runs.c.number)
        .where(runs.c.state.in_(_ENDED), sa.or_(queue.c.hook == "pending", left))
        .order_by(runs.c.ended, runs.c.number)
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else (row.number, row.run_id)
