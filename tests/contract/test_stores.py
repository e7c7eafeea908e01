"""Every store keeps the same promises, SQLite in a file and PostgreSQL on a server."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import sqlalchemy as sa

from batchrun import Outcome, RunState
from batchrun.data.refs import ResultRef
from batchrun.errors import LeaseLostError, RunNotFoundError
from batchrun.outcome import Attempt, Cause, ErrorRecord, Incumbent
from batchrun.store.live import LiveState
from batchrun.store.records import RunCounts, SettledChunks
from batchrun.store.runs import RunStore, SettledChunk
from batchrun.store.writer import RunWriter
from tests.writing import NONE, attempt, pack, packed, record, writer


@pytest.fixture
def url(store_url: str) -> str:
    """A store that nothing was written to yet."""
    return store_url


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
        writer(store, "delays-1").commit(
            [attempt(0), attempt(1, Outcome.FAILED, error)],
            SettledChunks.of(
                [
                    SettledChunk(0, Outcome.SUCCEEDED, 3, 2, 0.25, ref),
                    SettledChunk(1, Outcome.FAILED, 3, 0, 0.25),
                ]
            ),
            rows_solved=3,
        )

        assert [chunk.result for chunk in store.settled("delays-1")] == [ref, None]
        attempts = store.attempts("delays-1")
        assert attempts["error"].fillna("").tolist() == ["", "busy"]
        assert store.find("delays-1").rows_solved == 3
        assert store.tries("delays-1") == {(1, "stage"): 1}


def test_a_chunk_settled_again_replaces_its_record(url):
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit([], SettledChunks.of([SettledChunk(0, Outcome.FAILED, 3, 0, 0.1)]))
        writer(store, "delays-1").commit(
            [], SettledChunks.of([SettledChunk(0, Outcome.SUCCEEDED, 3, 3, 0.2)])
        )

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


POINTS = (Incumbent(1.0, 100.0, float("-inf")), Incumbent(2.5, 80.0, 60.0))


def test_an_attempt_is_read_back_with_its_cause_what_followed_and_its_last_answer(url):
    stopped = replace(
        attempt(0, Outcome.STOPPED_WITH_SOLUTION),
        cause=Cause.DEADLINE,
        decision="keep",
        next_step="its answer is kept",
        incumbents=POINTS,
    )
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit([stopped, attempt(1)], NONE)
        attempts = store.attempts("delays-1")

    told = ["cause", "decision", "next_step", "objective", "bound", "gap"]
    assert attempts.loc[0, told].tolist() == ["deadline", "keep", "its answer is kept", 80.0, 60.0, 0.25]
    assert attempts.loc[1, told].fillna("none").tolist() == ["none", "", "", "none", "none", "none"]
    assert "incumbents" not in attempts.columns


def test_every_answer_that_was_published_is_read_back_by_chunk_and_time(url):
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit([replace(attempt(3), incumbents=POINTS), attempt(1)], NONE)
        writer(store, "delays-1").commit([replace(attempt(2), incumbents=POINTS[:1])], NONE)

        found = store.incumbents("delays-1")
        assert found["chunk"].tolist() == [2, 3, 3]
        assert found["seconds"].tolist() == [1.0, 1.0, 2.5]
        assert found["objective"].tolist() == [100.0, 100.0, 80.0]
        assert found["bound"].fillna(-1).tolist() == [-1, -1, 60.0]
        assert found["gap"].fillna(-1).tolist() == [-1, -1, 0.25]
        assert store.incumbents("delays-1", 2)["chunk"].tolist() == [2]
        assert store.incumbents("delays-1", 1).dtypes.equals(found.dtypes)


def test_a_chunk_is_read_back_with_its_objective_and_bound(url):
    kept = SettledChunk(0, Outcome.STOPPED_WITH_SOLUTION, 3, 1, 2.0, None, 80.0, 60.0)
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit([], SettledChunks.of([kept]))

        [read] = store.settled("delays-1")
        assert read == kept
        assert read.gap == 0.25


def test_where_the_rows_of_a_chunk_lie_that_was_given_up_is_read_back(url):
    rows = ResultRef("/runs/quarantine/s/segment-000000.arrow", 0, 1, 3, 64)
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit(
            [], SettledChunks.of([SettledChunk(0, Outcome.TIMED_OUT, 3, 0, 2.0, rows)])
        )

        [chunk] = store.settled("delays-1")
        assert chunk.result == rows
        assert chunk.given_up


def test_text_that_no_database_takes_is_recorded_all_the_same(url):
    error = ErrorRecord("ValueError", "half \udc80", "zero \0", ("ValueError",), "ValueError at s.py:1")
    odd = replace(attempt(0, Outcome.FAILED, error), log="\udcff\0 €", next_step="\udcff")
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit([odd], NONE)

        assert store.attempts("delays-1")["error"].tolist() == ["half ?"]
        assert [log.text for log in store.logs("delays-1")] == ["?\N{REPLACEMENT CHARACTER} €"]


def test_memory_is_told_by_attempts_that_took_all_they_need_newest_first(url):
    def took(chunk: int, outcome: Outcome, peak: int | None, stage: str = "solve") -> Attempt:
        return replace(attempt(chunk, outcome), stage=stage, rows_in=chunk, peak_memory=peak)

    with RunStore(url) as store:
        store.create(record("delays-1"))
        store.create(record("delays-2"))
        store.create(replace(record("other-1"), pipeline="other"))
        writer(store, "delays-1").commit([took(1, Outcome.SUCCEEDED, 10), took(2, Outcome.FAILED, 20)], NONE)
        writer(store, "other-1").commit([took(3, Outcome.SUCCEEDED, 30)], NONE)
        writer(store, "delays-2").commit(
            [took(4, Outcome.OUT_OF_MEMORY, 40), took(5, Outcome.SUCCEEDED, None)], NONE
        )
        writer(store, "delays-2").commit(
            [took(6, Outcome.STOPPED_WITH_SOLUTION, 60), took(7, Outcome.SUCCEEDED, 70, "load")],
            NONE,
        )

        assert store.peaks("delays", "solve") == [(6, 60), (4, 40), (1, 10)]
        assert store.peaks("delays", "solve", limit=2) == [(6, 60), (4, 40)]
        assert store.peaks("delays", "unknown") == []


@pytest.mark.parametrize(
    ("seconds", "told"),
    [([], None), ([3.0], (1, 3.0, 3.0)), ([4.0, 1.0], (2, 2.5, 4.0)), ([5.0, 1.0, 2.0], (3, 2.0, 5.0))],
)
def test_how_long_a_stage_takes_is_told_by_what_it_solved_in_all_runs(url, seconds, told):
    with RunStore(url) as store:
        for number, taken in enumerate(seconds):
            store.create(record(f"delays-{number}"))
            writer(store, f"delays-{number}").commit([replace(attempt(0), seconds=taken)], NONE)
        store.create(record("delays-failed"))
        writer(store, "delays-failed").commit([replace(attempt(0, Outcome.FAILED), seconds=99.0)], NONE)

        assert store.durations("delays").get("stage") == told


def test_an_attempt_without_log_or_answers_adds_nothing_to_what_is_written(url):
    statements: list[str] = []
    with RunStore(url) as store:
        store.create(record())
        mine = writer(store, "delays-1")
        sa.event.listen(
            store._database.engine, "before_cursor_execute", lambda *seen: statements.append(seen[2])
        )
        mine.commit([attempt(0), attempt(1)], NONE)

    sent = [statement for statement in statements if not statement.startswith("BEGIN")]
    assert [statement.split()[0] for statement in sent] == ["SELECT", "INSERT"]
    assert "traceback" not in sent[1]


def test_a_run_that_somebody_began_to_drive_meanwhile_is_not_ended_as_abandoned(url):
    with RunStore(url) as store:
        store.create(record("delays-1", driver="old/1/1", heartbeat=5.0))
        seen = store.find("delays-1")
        writer(store, "delays-1").update(driver="new/2/2", heartbeat=9.0)

        assert not store.end_abandoned(seen, state=RunState.CANCELLED)
        assert store.find("delays-1").state is seen.state
        assert store.end_abandoned(store.find("delays-1"), state=RunState.CANCELLED)
        assert store.find("delays-1").state is RunState.CANCELLED


def statements_of(store: RunStore) -> list[str]:
    """The statements that the store sends from now on."""
    sent: list[str] = []
    engine = store._database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *seen: sent.append(seen[2]))
    return sent


def test_a_pack_is_recorded_as_its_chunks_and_attempts_one_by_one_would_be(url):
    with RunStore(url) as store:
        store.create(record("one"))
        store.create(record("many"))
        writer(store, "many").commit([], packed(0, 4), [pack(0, 4)])
        attempts = [replace(attempt(chunk), started=5.0 + chunk) for chunk in range(4)]
        writer(store, "one").commit(attempts, SettledChunks.of(packed(0, 4)))

        pd.testing.assert_frame_equal(store.attempts("one"), store.attempts("many"))
        assert list(store.settled("one")) == list(store.settled("many"))
        assert [chunk.result.first_row for chunk in store.settled("many")] == [0, 2, 4, 6]


def test_a_commit_of_many_is_a_few_statements_whatever_their_number(url):
    with RunStore(url) as store:
        store.create(record())
        sent = statements_of(store)
        writer(store, "delays-1").commit([], packed(0, 3), [pack(0, 3)])
        few = len(sent)
        writer(store, "delays-1").commit([], packed(3, 3000), [pack(3, 3000)])

    assert len(sent) == 2 * few
    assert not any(statement.startswith("DELETE") for statement in sent)


def test_settled_chunks_are_read_by_what_is_asked_for(url):
    with RunStore(url) as store:
        store.create(record())
        store.create(record("delays-2"))
        writer(store, "delays-2").commit([], packed(0, 9))
        lost = SettledChunk(5, Outcome.FAILED, 3, 0, 0.1)
        kept = SettledChunk(6, Outcome.STOPPED_WITH_SOLUTION, 3, 0, 0.1)
        writer(store, "delays-1").commit(
            [], SettledChunks.joined([packed(0, 5), SettledChunks.of([lost, kept])])
        )

        assert store.settled("delays-1").chunks.tolist() == [0, 1, 2, 3, 4, 5, 6]
        assert store.settled("delays-1", solved=True).chunks.tolist() == [0, 1, 2, 3, 4, 6]
        assert list(store.settled("delays-1", solved=False)) == [lost]
        assert store.settled("delays-1", chunks=[2, 5, 40]).chunks.tolist() == [2, 5]
        assert store.settled("delays-1", solved=True, chunks=range(2000)).chunks.tolist() == [
            0,
            1,
            2,
            3,
            4,
            6,
        ]
        assert not len(store.settled("delays-1", chunks=[]))
        assert not len(store.settled("unknown"))


def test_only_chunks_without_a_result_tell_how_often_they_were_tried(url):
    with RunStore(url) as store:
        store.create(record())
        tries = [attempt(7, Outcome.FAILED), replace(attempt(7, Outcome.FAILED), attempt=2), attempt(9)]
        writer(store, "delays-1").commit(tries, packed(0, 5), [pack(0, 5)])

        assert store.tries("delays-1") == {(7, "stage"): 2, (9, "stage"): 1}


def test_outcomes_are_counted(url):
    with RunStore(url) as store:
        store.create(record())
        gaps = [SettledChunk(n, Outcome.STOPPED_WITH_SOLUTION, 3, 0, 0.1, None, 10.0, n) for n in (7, 8)]
        failed = [attempt(20, Outcome.FAILED), attempt(20, Outcome.FAILED), attempt(21, Outcome.TIMED_OUT)]
        writer(store, "delays-1").commit(failed, SettledChunks.joined([packed(0, 5), SettledChunks.of(gaps)]))
        writer(store, "delays-1").commit([], NONE, [pack(0, 5)])
        counts = store.counts("delays-1")

        assert counts.chunks == {Outcome.SUCCEEDED: 5, Outcome.STOPPED_WITH_SOLUTION: 2}
        assert counts.attempts == {Outcome.SUCCEEDED: 5, Outcome.FAILED: 2, Outcome.TIMED_OUT: 1}
        assert counts.worst_gap == pytest.approx(0.3)
        assert store.counts("unknown") == RunCounts({}, {}, None)


def test_figures_of_a_stage_are_over_all_its_attempts(url):
    with RunStore(url) as store:
        store.create(record())
        failed = replace(attempt(9, Outcome.FAILED), seconds=4.0, worker="w2", peak_memory=70)
        writer(store, "delays-1").commit([failed], NONE, [pack(0, 4, seconds=1.0)])
        [figures] = store.figures("delays-1")

    assert (figures.attempts, figures.failed, figures.seconds) == (5, 1, 8.0)
    assert (figures.median, figures.longest) == (1.0, 4.0)
    assert (figures.rows_in, figures.rows_out) == (12, 8)
    assert (figures.median_peak, figures.peak_memory) == (70, 70)
    assert figures.workers == {"standard-0", "w2"}


def test_attempts_of_one_chunk_or_those_that_failed_are_read_alone(url):
    error = ErrorRecord("OSError", "busy", "Traceback …", ("OSError",), "OSError at s.py:1")
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit([attempt(2, Outcome.FAILED, error)], NONE, [pack(0, 4)])

        assert store.attempts("delays-1", chunks=[2])["outcome"].tolist() == ["failed", "succeeded"]
        assert store.attempts("delays-1", unsolved=True)["error"].tolist() == ["busy"]
        assert store.attempts("delays-1")["error_type"].fillna("").tolist() == ["OSError", "", "", "", ""]
        assert store.attempts("delays-1", unsolved=True).dtypes.equals(store.attempts("delays-1").dtypes)


class TestHistory:
    def test_is_of_the_newest_runs_first_with_keys_and_rows(self, url):
        with RunStore(url) as store:
            for number in (1, 2):
                store.create(record(f"delays-{number}", created=number))
                taken = [pack(0, 2, seconds=number, keys=number == 2)]
                writer(store, f"delays-{number}").commit([attempt(9, Outcome.FAILED)], NONE, taken)
            store.create(replace(record("other-1"), pipeline="other"))
            writer(store, "other-1").commit([], NONE, [pack(0, 2)])
            history = store.history("delays")

        assert list(history) == ["stage"]
        assert history["stage"].seconds.tolist() == [2.0, 2.0, 1.0, 1.0]
        assert history["stage"].keys.tolist() == [1001, 1000, 0, 0]
        assert history["stage"].rows.tolist() == [3, 3, 3, 3]

    def test_of_a_large_run_is_an_even_sample_and_older_runs_do_not_count(self, url):
        with RunStore(url) as store:
            store.create(record("delays-1", created=1.0))
            store.create(record("delays-2", created=2.0))
            writer(store, "delays-1").commit([], NONE, [pack(0, 10, seconds=9.0)])
            writer(store, "delays-2").commit([], NONE, [pack(0, 1000, keys=True)])
            history = store.history("delays", limit=100)["stage"]

            assert sorted(history.keys.tolist()) == list(range(1000, 2000, 10))
            assert set(history.seconds) == {0.25}
            assert store.durations("delays", limit=100) == {"stage": (100, 0.25, 0.25)}

    def test_is_found_where_no_chunk_of_a_large_run_is_in_the_sample(self, url):
        with RunStore(url) as store:
            store.create(record())
            odd = pack(0, 400)
            writer(store, "delays-1").commit([], NONE, [replace(odd, chunks=2 * odd.chunks + 1)])

            assert len(store.history("delays", limit=200)["stage"]) == 200

    def test_is_empty_for_a_pipeline_that_never_ran(self, url):
        with RunStore(url) as store:
            assert store.history("delays") == {}
            assert store.durations("delays") == {}


class TestFencing:
    def test_who_drove_a_run_before_can_write_nothing_more_of_it(self, url):
        with RunStore(url) as store:
            before = store.create(record())
            after = store.take_over("delays-1")

            for write in (
                lambda: before.update(rows_solved=1),
                lambda: before.commit([attempt(0)], NONE),
                lambda: before.save_live(LiveState(1.0)),
                lambda: before.reopen(state=RunState.RUNNING),
                lambda: before.end(state=RunState.FAILED),
            ):
                with pytest.raises(LeaseLostError, match="taken over by another process"):
                    write()
            after.commit([attempt(1)], NONE)

            assert store.attempts("delays-1")["chunk"].tolist() == [1]
            assert store.find("delays-1").state is record().state

    def test_each_takeover_has_a_higher_fence(self, url):
        with RunStore(url) as store:
            store.create(record())
            assert [store.take_over("delays-1").fence for _ in range(3)] == [1, 2, 3]

    def test_a_run_that_was_removed_cannot_be_written(self, url):
        with RunStore(url) as store, pytest.raises(RunNotFoundError, match="no longer in the store"):
            RunWriter(store._database, "delays-9", 1).update(rows_solved=1)
