"""How fast the store takes records, in the groups in which a run hands them over."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from batchrun.data.refs import ResultRefs
from batchrun.outcome import RunState, SolvedAttempts
from batchrun.store.records import RunRecord, SettledChunks
from batchrun.store.runs import RunStore
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Figure, Record, Target, compete
from tests.postgres import PostgresServer, find_postgres
from tests.writing import writer

GROUP = 10_000
PACK = 500
SQLITE = "sqlite3, executemany"
POSTGRES = "batchrun, PostgreSQL"
TABLES = """
    CREATE TABLE attempts (id INTEGER PRIMARY KEY, run INTEGER, chunk INTEGER, stage TEXT, attempt INTEGER,
        worker TEXT, outcome TEXT, started REAL, seconds REAL, rows_in INTEGER, rows_out INTEGER);
    CREATE TABLE chunks (run INTEGER, chunk INTEGER, outcome TEXT, rows INTEGER, rows_out INTEGER,
        seconds REAL, file INTEGER, first_batch INTEGER, batches INTEGER, first_row INTEGER, nbytes INTEGER,
        PRIMARY KEY (run, chunk)) WITHOUT ROWID;
"""


def group_commits(arena: Arena, size: int, rounds: int) -> Record:
    """Attempts and settled chunks, ten thousand a transaction with full synchronisation, against Python's
    sqlite3 writing rows of the same values into two tables without any index but their keys. PostgreSQL takes
    part where it is installed, on this machine."""
    record = Record(
        "group_commits",
        {"attempts": size, "a transaction": GROUP, "rounds": rounds},
        work=Figure(size, "attempts"),
    )
    groups = [range(start, min(start + GROUP, size)) for start in range(0, size, GROUP)]
    columns = [(_attempts(group), _chunks(group)) for group in groups]
    rows = [(_attempt_rows(group), _chunk_rows(group)) for group in groups]
    serial = itertools.count()

    def place(name: str) -> Path:
        return arena.folder / f"{name}-{next(serial)}.db"

    contestants: dict[str, Callable[[], object]] = {
        "batchrun": lambda: _by_store(f"sqlite:///{place('store')}", columns),
        SQLITE: lambda: _by_sqlite(place("raw"), rows),
    }
    with _postgres() as server:
        if server is not None:
            contestants[POSTGRES] = lambda: _by_store(server.url(empty=True), columns)
        compete(record, contestants, rounds)
    record.judge([Target("batchrun", (SQLITE,), 2.0)])
    record.want_at_least(
        "attempts recorded by batchrun", size / record.medians["batchrun"], "attempts a second", 20_000
    )
    return record


@contextlib.contextmanager
def _postgres() -> Iterator[PostgresServer | None]:
    """A server that writes to the disk as SQLite does here; None if there is none."""
    programs = find_postgres()
    if programs is None:
        yield None
        return
    server = PostgresServer(programs, durable=True)
    try:
        yield server
    finally:
        server.close()


def _by_store(url: str, groups: list[tuple[list[SolvedAttempts], SettledChunks]]) -> None:
    with RunStore(url) as store:
        run = RunRecord("run", "p", None, RunState.RUNNING, time.time(), "by_rows(1)", "/runs", 0)
        store.create(run)
        for attempts, settled in groups:
            writer(store, "run").commit([], settled, attempts, heartbeat=time.time())
        counts = store.counts("run")
    total = sum(len(settled) for _, settled in groups)
    assert sum(counts.attempts.values()) == sum(counts.chunks.values()) == total


def _by_sqlite(path: Path, groups: list[tuple[list[tuple[object, ...]], list[tuple[object, ...]]]]) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(TABLES)
    for attempts, chunks in groups:
        with connection:
            marks = ", ".join("?" * len(attempts[0]))
            connection.executemany(f"INSERT INTO attempts VALUES (NULL, {marks})", attempts)
            connection.executemany(f"INSERT INTO chunks VALUES ({', '.join('?' * len(chunks[0]))})", chunks)
    found = connection.execute("SELECT count(*) FROM attempts").fetchone()[0]
    connection.close()
    assert found == sum(len(attempts) for attempts, _ in groups)


def _attempts(group: range) -> list[SolvedAttempts]:
    """The attempts of a group, in packs."""
    packs = [group[start : start + PACK] for start in range(0, len(group), PACK)]
    return [
        SolvedAttempts(
            stage="double",
            worker=f"worker-{pack.start % 2}",
            chunks=np.array(pack, np.int64),
            attempts=np.ones(len(pack), np.int64),
            started=np.array(pack, np.float64) * 1e-4 + 1.7e9,
            seconds=np.full(len(pack), 1.5e-4),
            rows_in=np.ones(len(pack), np.int64),
            rows_out=np.ones(len(pack), np.int64),
        )
        for pack in packs
    ]


def _chunks(group: range) -> SettledChunks:
    ones = np.ones(len(group), np.int64)
    settled = SettledChunks.succeeded(np.array(group, np.int64), ones, ones, np.full(len(group), 1.5e-4))
    places = ResultRefs.of_pack(
        f"segments/{group.start:06d}.arrow", ones, 8 * len(group), first_batch=0, batches=1
    )
    return settled.placed(settled.chunks, places)


def _attempt_rows(group: range) -> list[tuple[object, ...]]:
    return [
        (1, chunk, "double", 1, f"worker-{chunk % 2}", "succeeded", chunk * 1e-4 + 1.7e9, 1.5e-4, 1, 1)
        for chunk in group
    ]


def _chunk_rows(group: range) -> list[tuple[object, ...]]:
    return [
        (1, chunk, "succeeded", 1, 1, 1.5e-4, group.start, 0, 1, chunk - group.start, 8) for chunk in group
    ]
