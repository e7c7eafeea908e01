"""A store of an older version is brought up to date and keeps what it had, whichever database it is in."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

import batchrun.store
from batchrun import Outcome, RunState
from batchrun.data.refs import ResultRef
from batchrun.errors import StoreError
from batchrun.store import schema
from batchrun.store.database import Database
from batchrun.store.live import LiveState
from batchrun.store.runs import RunStore, SettledChunk
from tests.opened_together import do_together
from tests.postgres import PostgresServer
from tests.writing import NONE, attempt, writer

_RUN = (
    "'delays-1', 'delays', NULL, 'partial', 1, 1, 2, NULL, NULL, '{}', '[]', '{}', 'by_rows(3)', '[]', '', "
    "'{}', '/runs', 6, 3, 3, 0, 2, NULL, NULL"
)
_STOPPED = (
    "4, 's', 1, 'w', 'stopped_with_solution', 5, 1, 3, 2, 'deadline', 80, 60, '[[1.0, 80.0, 60.0]]'",
    "chunk, stage, attempt, worker, outcome, started, seconds, rows_in, rows_out, cause, objective, bound, "
    "incumbents",
)
_LIVE = (
    '{"at": 8.0, "running": [], "delayed": [], "waiting": [], "workers": [], "stopping": true, "later": 1}'
)
HELD = {
    "0001": (
        f"INSERT INTO runs VALUES ({_RUN})",
        "INSERT INTO attempts VALUES (1, 'delays-1', 0, 's', 1, 'w', 'succeeded', 5, 1, 3, 2, 99, NULL, NULL,"
        " NULL, NULL)",
        "INSERT INTO attempts VALUES (2, 'delays-1', 1, 's', 1, 'w', 'failed', 5, 1, 3, 0, NULL, 'OSError', "
        "'busy', 'Traceback', 'OSError at s.py:1')",
        "INSERT INTO chunks VALUES ('delays-1', 0, 'succeeded', 3, 2, 1, '/runs/0.arrow', 0, 1, 64)",
        "INSERT INTO chunks VALUES ('delays-1', 1, 'failed', 3, 0, 1, NULL, NULL, NULL, NULL)",
    ),
    "0002": (
        f"INSERT INTO runs VALUES ({_RUN})",
        f"INSERT INTO attempts (run_id, {_STOPPED[1]}) VALUES ('delays-1', {_STOPPED[0]})",
        "INSERT INTO chunks VALUES ('delays-1', 4, 'stopped_with_solution', 3, 2, 1, '/runs/0.arrow', 1, 1, "
        "64, 80, 60)",
        "INSERT INTO chunks VALUES ('delays-1', 5, 'succeeded', 3, 2, 1, '/runs/0.arrow', 2, 1, 64, NULL, "
        "NULL)",
        "INSERT INTO logs VALUES (7, 'delays-1', 4, 's', 1, 'said')",
        "INSERT INTO requests VALUES (3, 'delays-1', 4, TRUE, 9.0, NULL)",
        f"INSERT INTO live VALUES ('delays-1', 8.0, '{_LIVE}')",
    ),
    "0003": (
        f"INSERT INTO runs VALUES (1, {_RUN})",
        "INSERT INTO files VALUES (1, 1, '/runs/0.arrow')",
        f"INSERT INTO attempts (run, {_STOPPED[1]}) VALUES (1, {_STOPPED[0]})",
        "INSERT INTO chunks VALUES (1, 4, 'stopped_with_solution', 3, 2, 1, 1, 1, 1, 0, 64, 80, 60)",
        "INSERT INTO chunks VALUES (1, 5, 'succeeded', 3, 2, 1, 1, 2, 1, 0, 64, NULL, NULL)",
        "INSERT INTO logs VALUES (7, 1, 4, 's', 1, 'said')",
        "INSERT INTO requests VALUES (3, 1, 4, TRUE, 9.0, NULL)",
        f"INSERT INTO live VALUES (1, 8.0, '{_LIVE}')",
    ),
}
"""What a store of each older version has in it: one run."""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path.as_posix()}/old.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(empty=True)


@pytest.fixture
def old(empty: str) -> Callable[[str], str]:
    """Makes a database as that revision left it, with a run in it."""
    from alembic import command
    from alembic.config import Config

    def make(revision: str) -> str:
        config = Config()
        config.set_main_option("script_location", str(Path(batchrun.store.__file__).parent / "migrations"))
        url = sa.make_url(empty)
        engine = sa.create_engine(
            url.set(drivername=f"{url.drivername}+psycopg") if url.host or url.query else url
        )
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            for statement in HELD[revision]:
                connection.exec_driver_sql(statement)
        engine.dispose()
        return empty

    return make


def version_of(database: Path) -> str:
    connection = sqlite3.connect(database)
    version: str = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    connection.close()
    return version


def test_every_older_version_is_tried_here():
    older = sorted(
        path.name[:4] for path in (Path(batchrun.store.__file__).parent).glob("migrations/versions/0*")
    )
    assert older == [*HELD, schema.REVISION]


def test_the_migrations_make_exactly_the_tables_of_the_schema(empty):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with RunStore(empty) as store, store._database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == schema.REVISION
        assert compare_metadata(context, schema.metadata) == []


def test_a_store_of_the_first_version_keeps_what_it_had(old):
    with RunStore(old("0001")) as store:
        assert store.find("last").state is RunState.PARTIAL
        assert list(store.settled("delays-1")) == [
            SettledChunk(0, Outcome.SUCCEEDED, 3, 2, 1.0, ResultRef("/runs/0.arrow", 0, 1, 2, 64)),
            SettledChunk(1, Outcome.FAILED, 3, 0, 1.0),
        ]
        attempts = store.attempts("delays-1")
        assert attempts["outcome"].tolist() == ["succeeded", "failed"]
        assert attempts["error"].fillna("").tolist() == ["", "busy"]
        assert attempts["cause"].isna().all()
        assert attempts["decision"].tolist() == ["", ""]
        assert store.incumbents("delays-1").empty
        assert store.logs("delays-1") == []
        assert store.peaks("delays", "s") == [(3, 99)]


@pytest.mark.parametrize("revision", ["0002", "0003"])
def test_a_store_of_a_later_version_keeps_what_it_had(old, revision):
    with RunStore(old(revision)) as store:
        settled = store.settled("delays-1")
        assert settled[0].result == ResultRef("/runs/0.arrow", 1, 1, 2, 64)
        assert (settled[0].gap, settled.results.paths) == (0.25, ("/runs/0.arrow",))
        assert store.attempts("delays-1")["cause"].tolist() == ["deadline"]
        assert store.incumbents("delays-1")["objective"].tolist() == [80.0]
        assert [log.text for log in store.logs("delays-1", 4)] == ["said"]
        assert store.live("delays-1") == LiveState(8.0, stopping=True)
        asked = writer(store, "delays-1").take_requests()
        assert [(request.chunk, request.keep_best) for request in asked] == [(4, True)]


@pytest.mark.parametrize("revision", HELD)
def test_an_older_store_takes_what_this_version_records(old, revision):
    with RunStore(old(revision)) as store:
        before = len(store.attempts("delays-1"))
        mine = store.take_over("delays-1")
        mine.commit([replace(attempt(7), log="more")], NONE)
        store.request_cancel("delays-1", chunk=7)

        assert len(store.attempts("delays-1")) == before + 1
        assert [log.text for log in store.logs("delays-1", 7)] == ["more"]
        assert 7 in [request.chunk for request in mine.take_requests()]


def test_an_older_store_is_brought_up_to_date_once_when_many_processes_open_it(old):
    url = old("0001")
    said = do_together(url, "with RunStore(url) as store: print(len(store.settled('delays-1')))", 3)

    assert said == ["2\n"] * 3


def test_a_new_store_is_made_once_when_many_processes_open_it(empty):
    program = "with RunStore(url) as store: store.create(record(f'delays-{number}'))"
    do_together(empty, program, 3)

    with RunStore(empty) as store:
        assert {found.run_id for found in store.list()} == {f"delays-{number}" for number in range(3)}


@pytest.mark.parametrize("revision", HELD)
def test_a_store_stays_as_it_was_if_the_change_fails_on_the_way(old, revision, monkeypatch):
    from alembic.operations import Operations

    made = Operations.create_table

    def fail(self: Operations, name: str, *columns: object, **options: object) -> object:
        if name == "events":
            raise OSError("no space left")
        return made(self, name, *columns, **options)

    url = old(revision)
    with monkeypatch.context() as broken:
        broken.setattr(Operations, "create_table", fail)
        with pytest.raises(StoreError, match="no space left"):
            RunStore(url)
    with RunStore(url) as store:
        assert len(store.settled("delays-1")) == 2


def test_a_store_of_a_newer_version_is_refused(empty):
    with RunStore(empty) as store, store._database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StoreError, match="newer batchrun"):
        RunStore(empty)


@pytest.mark.parametrize("empty", ["sqlite"], indirect=True)
class TestTheCopyOfAnOlderFile:
    def test_is_made_once_before_its_tables_are_changed(self, old, tmp_path, caplog):
        url = old("0003")
        with caplog.at_level(logging.WARNING, "batchrun"):
            for _ in range(2):
                RunStore(url).close()

        copy = tmp_path / f"old.db.before-{schema.REVISION}"
        assert [record.getMessage() for record in caplog.records] == [
            f"the store is changed for this version of batchrun; {copy} is a copy of it as it was"
        ]
        assert version_of(copy) == "0003"
        assert [path.name for path in tmp_path.glob("*before*")] == [copy.name]

    def test_is_itself_a_store_with_all_that_was_recorded(self, old, tmp_path):
        RunStore(old("0002")).close()
        copy = tmp_path / f"old.db.before-{schema.REVISION}"
        with RunStore(f"sqlite:///{copy.as_posix()}") as store:
            assert store.incumbents("delays-1")["objective"].tolist() == [80.0]

    def test_has_what_is_in_the_log_of_the_database_and_not_yet_in_its_file(self, old, tmp_path):
        url = old("0003")
        held = sqlite3.connect(tmp_path / "old.db")
        held.execute("PRAGMA journal_mode = WAL")
        held.execute("UPDATE runs SET rows_solved = 5")
        held.commit()
        RunStore(url).close()
        held.close()

        copied = sqlite3.connect(tmp_path / f"old.db.before-{schema.REVISION}")
        assert copied.execute("SELECT rows_solved FROM runs").fetchone() == (5,)
        copied.close()

    def test_is_of_the_latest_change_if_an_earlier_one_failed(self, old, tmp_path):
        url = old("0003")
        copy = tmp_path / f"old.db.before-{schema.REVISION}"
        copy.write_bytes(b"an unfinished attempt")
        RunStore(url).close()

        assert version_of(copy) == "0003"

    def test_that_cannot_be_made_leaves_the_store_as_it_was(self, old, tmp_path):
        url = old("0003")
        (tmp_path / f"old.db.before-{schema.REVISION}").mkdir()

        with pytest.raises(StoreError, match="before-"):
            RunStore(url)
        assert version_of(tmp_path / "old.db") == "0003"
        assert not list(tmp_path.glob("*.tmp"))

    def test_is_not_made_of_a_store_that_is_new(self, empty, tmp_path):
        RunStore(empty).close()
        assert not list(tmp_path.glob("*before*"))


def test_a_database_in_memory_needs_no_copy():
    Database("sqlite://").close()
