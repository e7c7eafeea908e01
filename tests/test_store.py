"""The store: records that survive, errors that say what to do."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from batchrun import Outcome, RunState
from batchrun.data.results import ResultRef
from batchrun.errors import RunNotFoundError, StoreError
from batchrun.outcome import Attempt, ErrorRecord
from batchrun.store import schema
from batchrun.store.runs import RunRecord, RunStore, SettledChunk


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path.as_posix()}/deep/store.db"


def record(run_id: str = "delays-1", created: float = 1.0, **values) -> RunRecord:
    return RunRecord(run_id, "delays", None, RunState.RUNNING, created, "by_rows(3)", "/runs", 100, **values)


def attempt(chunk: int, outcome: Outcome = Outcome.SUCCEEDED, error: ErrorRecord | None = None) -> Attempt:
    return Attempt(chunk, "stage", 1, "standard-0", outcome, 5.0, 0.25, rows_in=3, rows_out=2, error=error)


def test_a_run_is_read_back_as_it_was_written(url):
    error = ErrorRecord(
        "ValueError", "no", "Traceback …", ("ValueError", "Exception"), "ValueError at s.py:1"
    )
    written = record(params={"late_after": 15.0}, error=error, stages=[{"name": "a", "resources": {}}])

    with RunStore(url) as store:
        store.create(written)
    with RunStore(url) as store:
        assert store.find("delays-1") == written


def test_attempts_and_chunks_are_committed_together_and_read_back(url):
    ref = ResultRef("/runs/segments/0.arrow", 0, 1, 2, 64)
    error = ErrorRecord("OSError", "busy", "Traceback …", ("OSError",), "OSError at s.py:1")
    with RunStore(url) as store:
        store.create(record())
        store.commit(
            "delays-1",
            [attempt(0), attempt(1, Outcome.FAILED, error)],
            [
                SettledChunk(0, Outcome.SUCCEEDED, 3, 2, 0.25, ref),
                SettledChunk(1, Outcome.FAILED, 3, 0, 0.25),
            ],
            rows_solved=3,
        )

        assert [chunk.result for chunk in store.settled("delays-1")] == [ref, None]
        attempts = store.attempts("delays-1")
        assert attempts["error"].fillna("").tolist() == ["", "busy"]
        assert store.find("delays-1").rows_solved == 3
        assert store.last_tries("delays-1") == {(0, "stage"): 1, (1, "stage"): 1}


def test_a_chunk_settled_again_replaces_its_record(url):
    with RunStore(url) as store:
        store.create(record())
        store.commit("delays-1", [], [SettledChunk(0, Outcome.FAILED, 3, 0, 0.1)])
        store.commit("delays-1", [], [SettledChunk(0, Outcome.SUCCEEDED, 3, 3, 0.2)])

        assert [chunk.outcome for chunk in store.settled("delays-1")] == [Outcome.SUCCEEDED]


def test_runs_are_found_by_a_beginning_that_is_theirs_alone(url):
    with RunStore(url) as store:
        with pytest.raises(RunNotFoundError, match="no run yet"):
            store.find("last")
        store.create(record("delays-20260101-aa", created=1))
        store.create(record("delays-20260102-bb", created=2))

        assert store.find("last").run_id == "delays-20260102-bb"
        assert store.find("delays-20260101").run_id == "delays-20260101-aa"
        with pytest.raises(RunNotFoundError, match="more than one"):
            store.find("delays-")
        with pytest.raises(RunNotFoundError, match="Did you mean `delays-20260102-bb`"):
            store.find("delay-20260102-bb")
        with pytest.raises(RunNotFoundError):
            store.find("delays_20260101")
        assert [found.run_id for found in store.list()] == ["delays-20260102-bb", "delays-20260101-aa"]
        assert store.list(state=RunState.FAILED) == []


def test_the_migrations_make_exactly_the_tables_of_the_schema(url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with RunStore(url) as store, store._engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == schema.REVISION
        assert compare_metadata(context, schema.metadata) == []


def test_a_store_of_a_newer_version_is_refused(url, tmp_path):
    RunStore(url).close()
    with sqlite3.connect(tmp_path / "deep" / "store.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    with pytest.raises(StoreError, match="newer batchrun"):
        RunStore(url)


def test_a_file_that_is_no_database_is_an_error_that_says_so(tmp_path):
    (tmp_path / "store.db").write_text("carrier,month\n" * 100)

    with pytest.raises(StoreError, match="not one of batchrun's"):
        RunStore(f"sqlite:///{tmp_path.as_posix()}/store.db")


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="file"):
        RunStore(f"sqlite:///{tmp_path.as_posix()}/file/store.db")


def test_a_password_is_never_shown():
    with pytest.raises(StoreError) as caught:
        RunStore("mysterious://user:s3cret@host/db")
    assert "s3cret" not in str(caught.value)


def test_readers_read_while_the_writer_writes(url):
    problems: list[Exception] = []

    def read() -> None:
        try:
            with RunStore(url) as other:
                for _ in range(50):
                    other.list()
        except StoreError as error:
            problems.append(error)

    with RunStore(url) as store:
        store.create(record())
        reader = threading.Thread(target=read)
        reader.start()
        for number in range(50):
            store.commit("delays-1", [attempt(number)], [])
        reader.join()
        assert problems == []
        assert len(store.attempts("delays-1")) == 50
