"""What an error of a database means for the user, and what to do about it."""

from __future__ import annotations

import re

import sqlalchemy as sa

__all__ = ["advice_for", "install_advice"]

_SQLITE = (
    ("full|disk I/O", "free some disk space, then `batchrun resume` goes on where it stopped"),
    ("read-?only", "it can be read only; give `store:` in cluster.yaml a folder that you may write to"),
    (
        "not a database|malformed",
        "the file is not one of batchrun's; name another with `store:` in cluster.yaml",
    ),
    ("locked", "another process holds it for long; if it lies on a network drive, use PostgreSQL instead"),
)
_ADDRESS = "check the user, the password and the name of the database in `store:` of cluster.yaml"
_POSTGRES = (
    ("too many (clients|connections)|connection slots", "raise its `max_connections`, or end some processes"),
    (
        'database "[^"]*" does not exist',
        "make the database first, with `createdb`, or name another in `store:`",
    ),
    ('authentication failed|no password supplied|role "[^"]*" does not exist|pg_hba', _ADDRESS),
    (
        "No space left|could not extend|disk full",
        "free some disk space on its server, then `batchrun resume` goes on where it stopped",
    ),
    ("permission denied", "its user must be allowed to make and write tables there"),
    ("read-only transaction", "it can be read only; is it a standby? Name the primary server in `store:`"),
    (
        "connect|could not translate|resolve|timeout|timed out|terminat|closed|starting up|shutting down|SSL",
        "is PostgreSQL running and reachable? `batchrun resume` goes on where a run stopped",
    ),
)


def advice_for(error: sa.exc.DBAPIError, *, sqlite: bool) -> str:
    """What to do about *error*, as a sentence without a full stop."""
    if isinstance(error, sa.exc.IntegrityError):
        return "it is recorded already, or what it refers to is not"
    reason = str(error.orig)
    for pattern, advice in _SQLITE if sqlite else _POSTGRES:
        if re.search(pattern, reason):
            return advice
    if sqlite:
        return "is the folder there, and may you write to it?"
    if isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)):
        return "is PostgreSQL running and reachable?"
    return "the log of its server may say more"


def install_advice(url: sa.URL) -> str:
    """What to install for the database of that address, as a sentence without a full stop."""
    if url.get_driver_name() == "psycopg":
        return "install its driver with `pip install 'batchrun[postgres]'`"
    return "install its driver"
