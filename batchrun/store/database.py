"""A database that is opened, brought up to date, and whose errors say what to do."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from batchrun.errors import StoreError
from batchrun.store import eventlog, schema
from batchrun.store.advice import advice_for, install_advice
from batchrun.store.backup import back_up
from batchrun.store.event_record import News

__all__ = ["Database"]

_CLOCK = sa.text("SELECT extract(epoch FROM clock_timestamp())")
_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
_VERSION = sa.text("SELECT version_num FROM alembic_version")
_AS_MANY_AS_ASKED = -1
"""Connections beyond those that are kept: no thread, the heart of a service least of all, may have to wait
until others, who wait for the database, have let go of one."""
_LINGER = 1.0
"""Seconds for which connections that nobody uses stay open."""
_CONNECT_SECONDS = 10
"""How long a server may take to answer, unless the address says otherwise with ``connect_timeout``."""


class Database:
    """The tables of ``schema`` in a database.

    Args:
        url: A SQLAlchemy URL; ``sqlite:///path`` makes the file and its folder when needed, and
            ``postgresql://user@host/name`` is spoken to with psycopg.

    A database of an older batchrun is brought up to date. One of SQLite is copied first, to a file beside it.

    Raises StoreError if the database cannot be opened, or is of a newer batchrun.
    """

    def __init__(self, url: str) -> None:
        with _translated("the store's address"):
            given = sa.make_url(url)
        self._place = f"the store at {_shown(given)}"
        plain = given.drivername in ("postgres", "postgresql")
        self.url = given.set(drivername="postgresql+psycopg") if plain else given
        with _translated(self._place):
            self.engine = _engine_of(self._absolute())
            self._open = False
            self._looking: sa.PoolProxiedConnection | None = None
            self._count(1)
            try:
                self._migrate()
            except BaseException:
                self.close()
                _close_unused(self.engine)
                raise

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
        """A connection whose changes are committed together at the end, or not at all.

        All that it reads is of one moment, whatever others commit meanwhile.
        """
        with _translated(self._place), self.engine.connect() as connection:
            if not self._is_sqlite:  # which does so anyway
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def version(self) -> int | None:
        """A number that is another one as soon as somebody else has committed something, and costs next to
        nothing to ask for; None where there is no such thing. Only one thread may ask."""
        if not self._is_sqlite:
            return None
        with _translated(self._place):
            if self._looking is None:
                self._looking = self.engine.raw_connection()  # it sees the commits of all other connections
            cursor = self._looking.cursor()
            try:
                return int(cursor.execute("PRAGMA data_version").fetchone()[0])
            finally:
                cursor.close()

    def unused(self) -> int | None:
        """Bytes within the file of the database that hold nothing; None if it is no file of ours."""
        if not self._is_sqlite:
            return None
        with self.begin() as connection:
            pages, size = (
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("freelist_count", "page_size")
            )
        return int(pages) * int(size)

    def vacuum(self) -> None:
        """Write a SQLite file anew without what holds nothing; others wait meanwhile."""
        if not self._is_sqlite:
            return
        with _translated(self._place), contextlib.closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.close()

    def close(self) -> None:
        """Close the connections in a second, unless this process uses the same database again by then."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.close()
        if self._open:
            self._count(-1)

    def _count(self, change: int) -> None:
        """Count those that use the engine; a connection that one of them has in use must find its pool."""
        with _counting:
            self._open = change > 0
            if self._open:
                _forget_another_file(self.engine)
            _users[self.engine] += change
            if not _users[self.engine]:
                _close_later(self.engine)

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
        if self._looks_current():
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
            self.serialize(connection, "migration")
            if self._is_current(connection):
                return
            self._back_up(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _back_up(self, connection: sa.Connection) -> None:
        """Copy an SQLite file that has tables of an older version; nobody else writes it meanwhile."""
        if not self._is_sqlite or not sa.inspect(connection).has_table("alembic_version"):
            return
        path = connection.exec_driver_sql("PRAGMA database_list").all()[0].file
        if path:  # it is empty for one in memory
            try:
                back_up(Path(path), schema.REVISION)
            except sqlite3.Error as error:
                raise OSError(
                    f"no copy of it could be made before its tables are changed: {error}"
                ) from error

    def _looks_current(self) -> bool:
        """Whether there is a version, and it is that of this one; asked of the driver itself, as each opening
        of a store begins with it. Raises StoreError if it is newer."""
        error = getattr(self.engine.dialect.dbapi, "Error", Exception)
        with contextlib.suppress(error), contextlib.closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            try:
                cursor.execute(_VERSION.text)
                found = cursor.fetchone()
            finally:
                cursor.close()
            return self._fits(found[0] if found else None)
        return False

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


def _shown(url: sa.URL) -> str:
    """The address without its password."""
    hidden = {name: "***" for name in url.query if "pass" in name}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


_users: Counter[sa.Engine] = Counter()
_unused: dict[sa.Engine, object] = {}
"""Engines that nobody uses and whose connections are still open, each with the file that it has open."""
_counting = threading.RLock()


def _close_later(engine: sa.Engine) -> None:
    """Close the connections of an engine if nobody uses it for a while: to open them costs more than most of
    what they are opened for."""
    if engine not in _unused:
        timer = threading.Timer(_LINGER, _close_unused, [engine])
        timer.daemon = True
        timer.start()
    _unused[engine] = _file_of(engine)


def _close_unused(engine: sa.Engine) -> None:
    with _counting:
        _unused.pop(engine, None)
        if not _users[engine]:
            del _users[engine]  # an engine that is forgotten elsewhere is kept by nothing here
            engine.dispose()


def _forget_another_file(engine: sa.Engine) -> None:
    """Close the connections to a file that is not the one at its path any more."""
    if not _users[engine] and engine in _unused and _unused[engine] != _file_of(engine):
        engine.dispose()


def _file_of(engine: sa.Engine) -> object:
    """Tells the file of a database from others that were or will be at its path; None if there is none."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    with contextlib.suppress(OSError):
        found = os.stat(engine.url.database)
        return found.st_dev, found.st_ino
    return None


@atexit.register
def _close_all() -> None:
    for engine in list(_unused):
        _close_unused(engine)


@functools.lru_cache(maxsize=16)
def _engine_of(url: sa.URL) -> sa.Engine:
    """The engine of a database, the same one each time, because it remembers the statements it compiled."""
    if url.get_backend_name() == "sqlite":
        pool = {"max_overflow": _AS_MANY_AS_ASKED} if url.database else {}  # in memory there is no pool
        engine = sa.create_engine(url, **pool)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    patient = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_SECONDS}
    try:
        return sa.create_engine(url, pool_pre_ping=True, max_overflow=_AS_MANY_AS_ASKED, connect_args=patient)
    except ImportError as error:
        raise StoreError(
            f"the store is a {url.get_backend_name()} database, and {url.get_driver_name()} cannot be "
            f"imported ({error}); {install_advice(url)}"
        ) from error


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
        reason = str(error.orig).strip().split("\n")[0].rstrip("?")
        advice = advice_for(error, sqlite="sqlite" in type(error.orig).__module__)
        raise StoreError(f"{place} failed: {reason}; {advice}") from error
