"""The services of a store: processes that drive queued runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.store import schema
from batchrun.store.event_record import EventKind
from batchrun.store.eventlog import tell

if TYPE_CHECKING:
    from batchrun.store.database import Database

__all__ = ["ServiceRecord", "Services"]

_ALL = sa.select(schema.services).order_by(schema.services.c.started)


@dataclass(frozen=True)
class ServiceRecord:
    """What the store knows of a service."""

    service: str
    """Its id."""
    process: str
    """Its process, as ``driver_name`` gives it: host, process id, start time of the process."""
    started: float
    """When it was started, in seconds since the epoch."""
    heartbeat: float
    """When it was last known to be at work, by the store's clock."""
    lease: float
    """Seconds without a heartbeat after which others take its runs."""
    state: str = "starting"
    """``starting`` until it has its cluster, then ``running``, at the end ``stopping``."""
    asked: str | None = None
    """How it was asked to stop: ``leave``, ``finish`` or ``cancel``."""
    cluster: str = ""
    """What it runs on, in a few words."""
    dashboard: str = ""
    """The address of its live page; empty if there is none."""
    workers: list[Mapping[str, Any]] = field(default_factory=list)
    """Its workers as JSON values: name, threads, memory, tags, host."""
    log: str | None = None
    """The path of its log on its host; None if it writes to its terminal."""


class Services:
    """Services that are up, or were until they were lost."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: ServiceRecord) -> None:
        """A service was started."""
        with self._database.write() as connection:
            row = {name: getattr(record, name) for name in ServiceRecord.__dataclass_fields__}
            connection.execute(
                schema.services.insert().values({**row, "heartbeat": self._database.now(connection)})
            )
            tell(connection, EventKind.SERVICE_STARTED, service=record.service, process=record.process)

    def update(self, service: str, **changes: Any) -> None:
        """Change fields of a service; names are those of ServiceRecord."""
        table = schema.services
        with self._database.write() as connection:
            connection.execute(table.update().where(table.c.service == service).values(**changes))

    def beat(self, service: str) -> str | None:
        """The service is at work; returns how it was asked to stop, if it was."""
        table = schema.services
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(table.update().where(table.c.service == service).values(heartbeat=now))
            return connection.execute(sa.select(table.c.asked).where(table.c.service == service)).scalar()

    def asked(self, service: str) -> str | None:
        """How a service was asked to stop; None if it was not."""
        table = schema.services
        with self._database.begin() as connection:
            return connection.execute(sa.select(table.c.asked).where(table.c.service == service)).scalar()

    def ask(self, service: str, how: str) -> None:
        """Ask a service to stop; see ServiceRecord.asked."""
        table = schema.services
        with self._database.write() as connection:
            connection.execute(table.update().where(table.c.service == service).values(asked=how))
            tell(connection, EventKind.SERVICE_ASKED, service=service, how=how)

    def remove(self, service: str, *, gone: bool = False) -> None:
        """A service has ended, and so has what it held: others need not wait for its leases to pass.

        *gone* says that another found it silent, not that it ended by itself.
        """
        table, queue = schema.services, schema.queue
        with self._database.write() as connection:
            connection.execute(
                queue.update().where(queue.c.owner == service).values(owner=None, lease_until=None)
            )
            removed = connection.execute(table.delete().where(table.c.service == service))
            if removed.rowcount:
                kind = EventKind.SERVICE_GONE if gone else EventKind.SERVICE_STOPPED
                tell(connection, kind, service=service)

    def all(self) -> list[ServiceRecord]:
        """All that were not removed, oldest first."""
        with self._database.begin() as connection:
            found = connection.execute(_ALL).all()
        return [ServiceRecord(**row._mapping) for row in found]

    def now(self) -> float:
        """The time by the clock that heartbeats are told in, in seconds since the epoch."""
        with self._database.begin() as connection:
            return self._database.now(connection)


def is_silent(record: ServiceRecord, now: float) -> bool:
    """Whether a service has not been heard of for longer than its lease."""
    return now - record.heartbeat > record.lease


def seconds_up(record: ServiceRecord) -> float:
    """For how long a service has been there."""
    return max(0.0, time.time() - record.started)
