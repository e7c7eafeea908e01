"""Names that a store knows, read as fast as a shell wants them: without the machinery that all else needs."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Literal

__all__ = ["Kind", "read_names"]

Kind = Literal["run", "schedule", "pipeline"]

MOST = 200
"""Names at once."""
PATIENCE = 2
"""Seconds that a server may take to answer, and a file to be free."""

_QUERIES: dict[Kind, str] = {
    "run": "SELECT run_id FROM runs ORDER BY created DESC LIMIT 2000",
    "schedule": "SELECT name FROM schedules ORDER BY name LIMIT 2000",
    "pipeline": "SELECT target FROM (SELECT target, created FROM runs ORDER BY created DESC LIMIT 2000) "
    "AS newest WHERE target IS NOT NULL GROUP BY target ORDER BY max(created) DESC",
}


def read_names(url: str, kind: Kind, begins: str = "") -> list[str]:
    """Names that begin so: ids of runs, the newest first; names of schedules; targets of pipelines, those
    that were run last first. A store that is not there is not made.

    Args:
        url: The store's address, as SQLAlchemy has it.
        kind: What to name.
        begins: How the names begin.

    Raises whatever the database does.
    """
    query = _QUERIES[kind]
    names = _of_file(url, query) if url.startswith("sqlite:///") else _of_server(url, query)
    return [name for name in names if name.startswith(begins)][:MOST]


def _of_file(url: str, query: str) -> list[str]:
    path = Path(url.removeprefix("sqlite:///").partition("?")[0]).absolute()
    with contextlib.closing(
        sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=PATIENCE)
    ) as opened:
        return [name for (name,) in opened.execute(query)]


def _of_server(url: str, query: str) -> list[str]:
    import sqlalchemy as sa

    given = sa.make_url(url)
    if given.drivername in ("postgres", "postgresql"):
        given = given.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(given, connect_args={"connect_timeout": PATIENCE})
    try:
        with engine.connect() as connection:
            return [str(name) for name in connection.execute(sa.text(query)).scalars()]
    finally:
        engine.dispose()
