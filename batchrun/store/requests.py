"""What others ask of the process that drives a run, by way of the store."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from batchrun.store import schema

__all__ = ["CancelRequest"]

_UNTAKEN = (
    sa.select(schema.requests.c.id)
    .where(schema.of_run(schema.requests, sa.bindparam("run_id")), schema.requests.c.taken.is_(None))
    .limit(1)
)
"""Built once, as drivers ask for it all the time."""
_DISCARD = schema.requests.delete().where(
    schema.of_run(schema.requests, sa.bindparam("run_id")), schema.requests.c.taken.is_(None)
)


@dataclass(frozen=True)
class CancelRequest:
    """Somebody wants a run, or one chunk of it, to stop."""

    chunk: int | None
    """The chunk's number; None for the whole run."""
    keep_best: bool
    """Whether the best answer so far counts as the result of a solve that is stopped."""
    created: float
    """When it was asked, in seconds since the epoch."""


def ask(connection: sa.Connection, run_id: str, *, chunk: int | None, keep_best: bool) -> None:
    """Write a request down."""
    connection.execute(
        schema.requests.insert().values(
            run=schema.number_of(run_id), chunk=chunk, keep_best=keep_best, created=time.time()
        )
    )


def are_there(connection: sa.Connection, run_id: str) -> bool:
    """Whether there are requests that nobody took yet."""
    return connection.execute(_UNTAKEN, {"run_id": run_id}).first() is not None


def take(connection: sa.Connection, run_id: str) -> list[CancelRequest]:
    """The requests that nobody took yet, oldest first; each is given once."""
    table = schema.requests
    query = sa.select(table).where(schema.of_run(table, run_id), table.c.taken.is_(None)).order_by(table.c.id)
    rows = connection.execute(query).all()
    if rows:
        taken = table.c.id.in_([row.id for row in rows])
        connection.execute(table.update().where(taken).values(taken=time.time()))
    return [CancelRequest(row.chunk, row.keep_best, row.created) for row in rows]


def discard(connection: sa.Connection, run_id: str) -> None:
    """Forget requests that nobody took."""
    connection.execute(_DISCARD, {"run_id": run_id})
