"""A database that is opened, brought up to date, and whose errors say what to do."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from batchrun.errors import StoreError
from batchrun.store import eventlog, schema
from batchrun.store.event_record import News

__all__ = ["Database"]

_CLOCK = sa.text("SELECT extract(epoch FROM clock_timestamp())")
_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
_VERSION = sa.text("SELECT version_num FROM alembic_version")


class Database:
    """The tables of ``schema`` in a database.

    Args:
        url: A SQLAlchemy URL; ``sqlite:///path`` makes the file and its folder when needed.

    Raises StoreError if the database cannot be opened, or is of a newer batchrun.
    """

    def __init__(self, url: str) -> None:
        with _translated("the store's address"):
            self.url = sa.make_url(url)
        self._place = f"the store at {self.url.render_as_string(hide_password=True)}"
        with _translated(self._place):
            self.engine = _engine_of(self._absolute())
            self._migrate()

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """The same for one that will write: it waits for its turn at once, so what it reads first is still
        true when it writes. What it tells by ``eventlog.tell`` is committed with it."""
        told: list[News] = []
        with _translated(self._place), self.engine.connect() as connection:
            connection.execution_options(batchrun_writes=True, batchrun_told=told)
            with connection.begin():
                yield connection
                if told:
                    self.serialize(connection, "events")  # until the commit, so that it follows their order
                    eventlog.write_down(connection, told, self.now(connection))

    def now(self, connection: sa.Connection) -> float:
        """Seconds since the epoch on a clock that all who use the store share."""
        if self._is_sqlite:
            return time.time()
        return float(connection.execute(_CLOCK).scalar_one())

    def serialize(self, connection: sa.Connection, what: str) -> None:
        """Wait until no other transaction that asked for *what* goes on; until this one ends, none begins."""
        if not self._is_sqlite:  # there is one writer at a time anyway
            key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
            connection.execute(_LOCK, {"key": key})

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A connection whose changes are committed together at the end, or not at all."""
        with _translated(self._place), self.engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.engine.dispose()

    def _absolute(self) -> sa.URL:
        """The address, the same whatever the current folder is; makes the folder of a file."""
        name = self.url.database
        if not self._is_sqlite or name in (None, "", ":memory:") or str(name).startswith("file:"):
            return self.url
        path = Path(str(name)).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        return self.url.set(database=str(path))

    @property
    def _is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def _migrate(self) -> None:
        """Bring the tables up to date; quick, and without Alembic, where they already are."""
        with self.engine.connect() as connection, contextlib.suppress(sa.exc.DBAPIError):
            if self._fits(connection.execute(_VERSION).scalar()):
                return
        with self.engine.connect() as connection:
            if self._is_current(connection):
                return
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option(
            "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
        )
        with self.write() as connection:  # one at a time, so that two processes do not do the same work
            if self._is_current(connection):
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _is_current(self, connection: sa.Connection) -> bool:
        """Whether the tables are those of this version. Raises StoreError if they are of a newer one."""
        if not sa.inspect(connection).has_table("alembic_version"):
            return False
        return self._fits(connection.execute(_VERSION).scalar())

    def _fits(self, found: str | None) -> bool:
        """Whether that is the version of this one. Raises StoreError if it is newer."""
        if found is not None and found > schema.REVISION:
            raise StoreError(
                f"{self._place} was written by a newer batchrun (its schema is {found}, this one knows "
                f"{schema.REVISION}); upgrade batchrun"
            )
        return bool(found == schema.REVISION)


@functools.lru_cache(maxsize=16)
def _engine_of(url: sa.URL) -> sa.Engine:
    """The engine of a database, the same one each time, because it remembers the statements it compiled."""
    engine = sa.create_engine(url)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Let readers and the writer work side by side, and wait for each other instead of failing."""
    connection.isolation_level = None  # transactions begin where we say, and hold reads too
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 30000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("batchrun_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def _translated(place: str) -> Iterator[None]:
    """Say what a database error means for the user."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{place} cannot be opened: {error}") from error
    except sa.exc.NoSuchModuleError as error:
        raise StoreError(f"{place} is not of a database that SQLAlchemy knows: {error}") from error
    except sa.exc.ArgumentError as error:
        raise StoreError(f"{place} cannot be read: {error}") from error
    except sa.exc.DBAPIError as error:
        reason = str(error.orig)
        advice = "is the folder there, and may you write to it?"
        if re.search("full|disk I/O", reason):
            advice = "free some disk space, then `batchrun resume` goes on where it stopped"
        elif re.search("read-?only", reason):
            advice = "it can be read only; give `store:` in cluster.yaml a folder that you may write to"
        elif re.search("not a database|malformed", reason):
            advice = "the file is not one of batchrun's; name another with `store:` in cluster.yaml"
        raise StoreError(f"{place} failed: {reason}; {advice}") from error
