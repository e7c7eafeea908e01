"""The recorder: what it says is settled is durable, and what it could not write is not forgotten."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batchrun import Outcome, RunState
from batchrun.data.results import ResultSet
from batchrun.data.table import Inline, encode
from batchrun.data.windows import read_result
from batchrun.errors import StoreError
from batchrun.outcome import Attempt
from batchrun.store.artifacts import RunFolder
from batchrun.store.live import LiveState
from batchrun.store.recorder import FlushPolicy, Recorder
from batchrun.store.runs import RunRecord, RunStore, SettledChunk
from batchrun.store.writer import RunWriter


class WriterThatFails(RunWriter):
    """A writer whose next commits fail, as on a full disk."""

    failures = 0

    def commit(self, *arguments, **changes):
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is full")
        super().commit(*arguments, **changes)


@pytest.fixture
def store(tmp_path):
    with RunStore(f"sqlite:///{tmp_path.as_posix()}/store.db") as store:
        store.create(
            RunRecord("r", "p", None, RunState.RUNNING, 0.0, "by_rows(2)", str(tmp_path / "r"), rows_in=8)
        )
        yield store


def recorder(store, tmp_path, **options) -> Recorder:
    failing = WriterThatFails(store._database, "r", 0)
    return Recorder(failing, RunFolder(str(tmp_path / "r")), "session", **options)


def solve(recorder: Recorder, chunk: int) -> None:
    attempt = Attempt(chunk, "s", 1, "w", Outcome.SUCCEEDED, 0.0, 0.1, rows_in=2, rows_out=1)
    recorder.attempt(attempt)
    result = Inline(encode(pa.table({"x": [chunk]})))
    recorder.solved(SettledChunk(chunk, Outcome.SUCCEEDED, 2, 1, 0.1), result, f"key-{chunk}")


def results(store) -> list[int]:
    settled = store.settled("r")
    table = ResultSet(settled.chunks, settled.results).to_table()
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
    writer.writer.failures = 1

    with pytest.raises(StoreError):
        writer.flush(chunks=4)
    assert writer.rows["rows_solved"] == 0
    assert not len(store.settled("r"))

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


def give_up(recorder: Recorder, chunk: int, rows: pa.Table | None) -> None:
    recorder.given_up(SettledChunk(chunk, Outcome.FAILED, 2, 0, 0.1), rows)


def test_rows_that_were_set_apart_lie_together_in_one_file_a_flush(store, tmp_path):
    writer = recorder(store, tmp_path)
    for chunk in (2, 0, 1):
        give_up(writer, chunk, pa.table({"x": [chunk, chunk + 10]}))
    solve(writer, 3)

    settled, keys = writer.flush(chunks=4)

    assert keys == ["key-3"]
    assert len(list((tmp_path / "r" / "quarantine" / "session").iterdir())) == 1
    kept = {chunk.chunk: chunk.result for chunk in store.settled("r")}
    assert kept == {chunk.chunk: chunk.result for chunk in settled}
    assert [read_result(kept[chunk])["x"].to_pylist() for chunk in range(3)] == [[0, 10], [1, 11], [2, 12]]
    assert read_result(kept[3])["x"].to_pylist() == [3]
    assert (store.find("r").rows_solved, store.find("r").rows_quarantined) == (2, 6)


def test_rows_that_were_set_apart_survive_a_flush_that_failed(store, tmp_path):
    writer = recorder(store, tmp_path)
    give_up(writer, 0, pa.table({"x": [0, 1]}))
    writer.writer.failures = 1
    with pytest.raises(StoreError):
        writer.flush(chunks=2)
    assert writer.rows["rows_quarantined"] == 0

    give_up(writer, 1, pa.table({"x": [2, 3]}))
    writer.flush(chunks=2)

    assert [read_result(chunk.result)["x"].to_pylist() for chunk in store.settled("r")] == [[0, 1], [2, 3]]
    assert writer.rows["rows_quarantined"] == 4


def test_many_rows_that_were_set_apart_go_to_a_file_of_their_own_at_once(store, tmp_path):
    writer = recorder(store, tmp_path, policy=FlushPolicy(seconds=60, nbytes=1_000))

    many = pa.table({"x": list(range(1_000))})
    writer.given_up(SettledChunk(0, Outcome.FAILED, 1_000, 0, 0.1), many)

    assert writer.due_in() > 0
    [path] = (tmp_path / "r" / "quarantine" / "session").iterdir()
    writer.flush(chunks=1)
    [chunk] = store.settled("r")
    assert chunk.result.path.endswith(path.name)
    assert read_result(chunk.result).num_rows == 1_000


def test_a_chunk_whose_rows_cannot_be_read_is_given_up_without_them(store, tmp_path):
    writer = recorder(store, tmp_path)
    give_up(writer, 0, None)
    writer.flush(chunks=1)

    assert [chunk.result for chunk in store.settled("r")] == [None]
    assert store.find("r").rows_quarantined == 2


def test_a_chunk_that_was_cancelled_is_recorded_and_counts_for_nothing(store, tmp_path):
    writer = recorder(store, tmp_path)
    writer.cancelled(SettledChunk(0, Outcome.CANCELLED, 2, 0, 0.1))

    settled, _ = writer.flush(chunks=1)

    assert [chunk.outcome for chunk in settled] == [Outcome.CANCELLED]
    assert list(store.settled("r")) == list(settled)
    assert writer.rows == {"rows_solved": 0, "rows_quarantined": 0}


def test_requests_are_looked_for_now_and_then_and_given_once(store, tmp_path):
    now = [100.0]
    writer = recorder(store, tmp_path, clock=lambda: now[0])
    assert writer.requests(every=0.5) == []
    store.request_cancel("r", chunk=7, keep_best=True)
    now[0] += 0.4
    assert writer.requests(every=0.5) == []
    now[0] += 0.1
    assert [(asked.chunk, asked.keep_best) for asked in writer.requests(every=0.5)] == [(7, True)]
    now[0] += 1
    assert writer.requests(every=0.5) == []


def test_how_the_run_is_doing_is_told_now_and_then(store, tmp_path):
    now = [100.0]
    asked: list[float] = []
    writer = recorder(store, tmp_path, clock=lambda: now[0])

    def state() -> LiveState:
        asked.append(now[0])
        return LiveState(at=now[0])

    for step in (0.0, 0.5, 0.5, 0.5):
        now[0] += step
        writer.live(state, every=1.0)

    assert asked == [101.0]
    assert store.live("r") == LiveState(at=101.0)
