"""Changes of state in the order in which they were committed: told with the change, read by anybody."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.store import schema
from batchrun.store.commit import insert_into
from batchrun.store.event_record import EventKind, EventRecord, News
from batchrun.store.rows import storable

if TYPE_CHECKING:
    from batchrun.store.database import Database

__all__ = ["EventLog", "tell", "write_down"]

PAGE = 1_000
"""Events that are read in one go."""


def tell(
    connection: sa.Connection,
    kind: EventKind,
    *,
    run: int | str | None = None,
    chunk: int | None = None,
    **data: Any,
) -> None:
    """Tell of a change of state, in the transaction that makes it.

    The event is there if and only if the transaction is committed; all those of one transaction are written
    at its end, together.

    Args:
        connection: One of ``Database.write``.
        kind: Which change it is.
        run: The run that it is of, by its number or its id.
        chunk: The chunk that it is of, by its number.
        data: What there is to say of it, as JSON values; what is None is left out.
    """
    data = {name: value for name, value in data.items() if value is not None}
    told: list[News] = connection.get_execution_options()["batchrun_told"]
    told.append(News(kind, data, run, chunk))


def write_down(connection: sa.Connection, told: Sequence[News], at: float) -> None:
    """Write what was told in a transaction, at its end."""
    numbers = {run: _number(connection, run) for run in {news.run for news in told}}
    rows = [
        (
            at,
            news.kind.value,
            numbers[news.run],
            news.chunk,
            json.dumps(_storable(news.data)) if news.data else None,
        )
        for news in told
    ]
    columns = ("at", "kind", "run", "chunk", "data")
    connection.exec_driver_sql(insert_into(connection, schema.events, columns), rows)


class EventLog:
    """The events of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(
        self,
        *,
        run_id: str | None = None,
        after: int = 0,
        since: float | None = None,
        kinds: Collection[str] = (),
    ) -> Iterator[EventRecord]:
        """Events in order, as many as there are by the time that the last one is read.

        One that is committed later has a higher id than all that were read, so a reader that goes on
        *after* the last id it saw misses none.

        Args:
            run_id: Only those of the run with this whole id.
            after: Only those with a higher id.
            since: Only those of this time or later, in seconds since the epoch.
            kinds: Only those of these kinds; all if it is empty.
        """
        events = schema.events
        query = _events().order_by(events.c.id).limit(PAGE)
        if run_id is not None:
            query = query.where(schema.of_run(events, run_id))
        if since is not None:
            query = query.where(events.c.at >= since)
        if kinds:
            query = query.where(events.c.kind.in_(list(kinds)))
        while True:
            with self._database.begin() as connection:
                page = [_record(row) for row in connection.execute(query.where(events.c.id > after))]
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].id

    def last(self, run_id: str, kind: EventKind) -> EventRecord | None:
        """The newest event of a kind of a run; None if there is none."""
        events = schema.events
        query = _events().where(schema.of_run(events, run_id), events.c.kind == kind.value)
        with self._database.begin() as connection:
            row = connection.execute(query.order_by(events.c.id.desc()).limit(1)).one_or_none()
        return None if row is None else _record(row)

    def newest(self) -> int:
        """The id of the newest event; 0 if there is none."""
        with self._database.begin() as connection:
            return connection.execute(sa.select(sa.func.max(schema.events.c.id))).scalar() or 0


def _events() -> sa.Select[Any]:
    events, runs = schema.events, schema.runs
    columns = (events.c.id, events.c.at, events.c.kind, runs.c.run_id, events.c.chunk, events.c.data)
    return sa.select(*columns).select_from(events.outerjoin(runs, events.c.run == runs.c.number))


def _record(row: sa.Row[Any]) -> EventRecord:
    return EventRecord(row.id, row.at, row.kind, row.run_id, row.chunk, row.data or {})


def _number(connection: sa.Connection, run: int | str | None) -> int | None:
    if not isinstance(run, str):
        return run
    number: int = connection.execute(sa.select(schema.number_of(run))).scalar_one()
    return number


def _storable(value: Any) -> Any:
    """A JSON value without text that a database refuses."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(item) for item in value]
    return value
