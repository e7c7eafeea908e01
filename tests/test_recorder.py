"""The recorder: what it says is settled is durable, and what it could not write is not forgotten."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batchrun import Outcome, RunState
from batchrun.data.results import ResultSet
from batchrun.data.table import Inline, encode
from batchrun.errors import StoreError
from batchrun.outcome import Attempt
from batchrun.store.artifacts import RunFolder
from batchrun.store.recorder import FlushPolicy, Recorder
from batchrun.store.runs import RunRecord, RunStore, SettledChunk


class StoreThatFails(RunStore):
    """A store whose next commits fail, as on a full disk."""

    failures = 0

    def commit(self, *arguments, **changes):
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is full")
        super().commit(*arguments, **changes)


@pytest.fixture
def store(tmp_path):
    with StoreThatFails(f"sqlite:///{tmp_path.as_posix()}/store.db") as store:
        store.create(
            RunRecord("r", "p", None, RunState.RUNNING, 0.0, "by_rows(2)", str(tmp_path / "r"), rows_in=8)
        )
        yield store


def recorder(store, tmp_path, **options) -> Recorder:
    return Recorder(store, "r", RunFolder(str(tmp_path / "r")), "session", **options)


def solve(recorder: Recorder, chunk: int) -> None:
    attempt = Attempt(chunk, "s", 1, "w", Outcome.SUCCEEDED, 0.0, 0.1, rows_in=2, rows_out=1)
    recorder.attempt(attempt)
    result = Inline(encode(pa.table({"x": [chunk]})))
    recorder.solved(SettledChunk(chunk, Outcome.SUCCEEDED, 2, 1, 0.1), result, f"key-{chunk}")


def results(store) -> list[int]:
    settled = store.settled("r")
    table = ResultSet([c.chunk for c in settled], [c.result for c in settled]).to_table()
    return table["x"].to_pylist()


def test_what_is_settled_can_be_read_back(store, tmp_path):
    writer = recorder(store, tmp_path)
    solve(writer, 1)
    solve(writer, 0)

    settled, keys = writer.flush(chunks=4)

    assert sorted(chunk.chunk for chunk in settled) == [0, 1]
    assert sorted(keys) == ["key-0", "key-1"]
    assert results(store) == [0, 1]
    assert store.find("r").rows_solved == 4


def test_a_flush_that_failed_settles_nothing_and_the_next_one_settles_all(store, tmp_path):
    writer = recorder(store, tmp_path)
    solve(writer, 0)
    store.failures = 1

    with pytest.raises(StoreError):
        writer.flush(chunks=4)
    assert writer.rows["rows_solved"] == 0
    assert store.settled("r") == []

    solve(writer, 1)
    writer.flush(chunks=4)

    assert results(store) == [0, 1]
    assert writer.rows["rows_solved"] == 4
    assert len(store.attempts("r")) == 2


def test_a_flush_is_due_after_a_while_or_enough_bytes(store, tmp_path):
    now = [0.0]
    writer = recorder(store, tmp_path, policy=FlushPolicy(seconds=1, nbytes=10_000), clock=lambda: now[0])

    assert writer.due_in() is None
    solve(writer, 0)
    assert writer.due_in() == 1.0
    now[0] = 5.0
    assert writer.due_in() == 0.0
    writer.flush(chunks=1)
    assert writer.due_in() is None

    big = Inline(encode(pa.table({"x": list(range(5_000))})))
    writer.solved(SettledChunk(1, Outcome.SUCCEEDED, 2, 5_000, 0.1), big, "key")
    assert writer.due_in() == 0.0
