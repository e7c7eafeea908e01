"""The store on SQLite: its file, its size, how it is searched. What every store promises is in contract/."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from batchrun import Outcome
from batchrun.errors import StoreError
from batchrun.store.runs import RunStore
from tests.writing import attempt, pack, packed, record, writer


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path.as_posix()}/deep/store.db"


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


def plan_of(store: RunStore, statement: str, parameters: tuple[object, ...]) -> str:
    """How SQLite would go about a statement."""
    with store._database.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return "\n".join(row[3] for row in rows)


ONE_CHUNK = {
    "settled": lambda store: store.settled("delays-1", chunks=[7]),
    "attempts": lambda store: store.attempts("delays-1", chunks=[7]),
    "logs": lambda store: store.logs("delays-1", 7),
    "incumbents": lambda store: store.incumbents("delays-1", 7),
    "failed attempts": lambda store: store.attempts("delays-1", unsolved=True),
}


@pytest.mark.parametrize("look", ONE_CHUNK.values(), ids=ONE_CHUNK)
def test_a_look_at_one_chunk_reads_no_others(url, look):
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit([attempt(7)], packed(0, 50), [pack(0, 50)])
        sent: list[tuple[str, tuple[object, ...]]] = []
        engine = store._database.engine
        sa.event.listen(engine, "before_cursor_execute", lambda *seen: sent.append((seen[2], seen[3])))
        look(store)
        queries = [query for query in sent if re.search("FROM (attempts|chunks|logs)", query[0])]
        plans = [plan_of(store, *query) for query in queries]

    assert plans
    for plan in plans:
        assert "SCAN" not in plan
        assert "chunk=?" in plan or "attempts_other" in plan


def test_two_hundred_thousand_chunks_are_few_bytes_and_read_as_columns(url, tmp_path):
    total, group = 200_000, 20_000
    with RunStore(url) as store:
        store.create(record(chunks=total))
        for first in range(0, total, group):
            path = f"/home/somebody/project/runs/delays-1/segments/segment-{first:06d}.arrow"
            writer(store, "delays-1").commit([], packed(first, group, path), [pack(first, group)])
        settled = store.settled("delays-1")

        assert settled.chunks.tolist() == list(range(total))
        assert len(settled.results.paths) == total // group
        assert settled.results[-1] == packed(total - group, group, path).results[-1]
        assert store.tries("delays-1") == {}
        assert store.counts("delays-1").attempts == {Outcome.SUCCEEDED: total}
        with store._database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert (tmp_path / "deep" / "store.db").stat().st_size < 160 * total
