"""Every store keeps the same promises, SQLite in a file and PostgreSQL on a server."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace

import pandas as pd
import pytest
import sqlalchemy as sa

from batchrun import Outcome, RunState
from batchrun.data.refs import ResultRef
from batchrun.errors import LeaseLostError, RunNotFoundError, StoreError
from batchrun.outcome import Attempt, Cause, ErrorRecord, Incumbent
from batchrun.store import schema
from batchrun.store.live import LiveState, RunningChunk
from batchrun.store.records import ChunkLog, RunCounts, RunFailures, SettledChunks, WorkerTime
from batchrun.store.runs import RunStore, SettledChunk
from batchrun.store.writer import RunWriter
from tests.opened_together import do_together
from tests.services import until
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
        assert store.list(states=[RunState.FAILED]) == []


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
        failed = replace(
            attempt(9, Outcome.FAILED), seconds=4.0, worker="w2", peak_memory=70, cause=Cause.ERROR
        )
        writer(store, "delays-1").commit([failed], NONE, [pack(0, 4, seconds=1.0)])
        [figures] = store.figures("delays-1")

    assert (figures.attempts, figures.failed, figures.seconds) == (5, 1, 8.0)
    assert (figures.median, figures.longest) == (1.0, 4.0)
    assert (figures.rows_in, figures.rows_out) == (12, 8)
    assert (figures.median_peak, figures.peak_memory) == (70, 70)
    assert figures.outcomes == {Outcome.SUCCEEDED: 4, Outcome.FAILED: 1}
    assert figures.causes == {Cause.ERROR: 1}
    # What failed early says nothing of what is needed.
    assert (figures.longest_solved, figures.measured) == (1.0, 0)
    assert figures.by_worker == {"standard-0": WorkerTime(4.0, 5.0, 9.0), "w2": WorkerTime(4.0, 5.0, 9.0)}


def test_chunks_that_have_a_log_and_did_not_end_well_are_found_those_that_failed_first(url):
    log = "reading"
    stopped = replace(attempt(1, Outcome.STOPPED_WITH_SOLUTION), log=log)
    mended = [replace(attempt(2, Outcome.FAILED), log=log), replace(attempt(2), attempt=2, log=log)]
    failed = [replace(attempt(chunk, Outcome.FAILED), log=log) for chunk in (5, 6, 7)]
    cancelled = replace(attempt(8, Outcome.CANCELLED), log=log)
    settled = [
        SettledChunk(1, Outcome.STOPPED_WITH_SOLUTION, 3, 2, 0.1),
        SettledChunk(2, Outcome.SUCCEEDED, 3, 2, 0.1),
        SettledChunk(5, Outcome.FAILED, 3, 0, 0.1),
        SettledChunk(6, Outcome.FAILED, 3, 0, 0.1),
    ]
    tries = [stopped, *mended, *failed, cancelled, attempt(9, Outcome.FAILED)]
    with RunStore(url) as store:
        store.create(record())
        writer(store, "delays-1").commit(tries, SettledChunks.of(settled))
        found = store.logged("delays-1", 10)

        # Chunk 7 was not given up before its run ended, and 9 has no log.
        assert found == [
            (5, Outcome.FAILED),
            (6, Outcome.FAILED),
            (7, Outcome.FAILED),
            (1, Outcome.STOPPED_WITH_SOLUTION),
        ]
        assert store.logged("delays-1", 2) == found[:2]
        assert store.logged("unknown", 10) == []


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

    def test_processes_that_take_a_run_over_at_once_get_different_fences(self, url):
        with RunStore(url) as store:
            store.create(record())
        program = "with RunStore(url) as store: print([store.take_over('delays-1').fence for _ in range(20)])"
        said = do_together(url, program, 2)

        fences = [int(fence) for out in said for fence in out.strip("[]\n").split(", ")]
        assert sorted(fences) == list(range(1, 41))

    def test_a_takeover_waits_for_the_transaction_of_who_drives_the_run_now(self, url):
        order: list[str] = []

        def take_over() -> None:
            with RunStore(url) as other:
                after = other.take_over("delays-1")
                order.append("taken over")
                after.update(rows_solved=2)

        with RunStore(url) as store:
            before = store.create(record())
            with before.transaction() as (connection, _):
                other = threading.Thread(target=take_over)
                other.start()
                other.join(0.2)
                connection.execute(sa.update(schema.runs).values(rows_solved=1))
                order.append("written")
            other.join()

            assert order == ["written", "taken over"]
            assert store.find("delays-1").rows_solved == 2


class TestAtOnce:
    """Transactions are whole, and readers see one moment."""

    def test_nothing_is_recorded_of_a_commit_that_fails_half_way(self, url):
        with RunStore(url) as store:
            mine = store.create(record())
            said = replace(attempt(0), log="said")
            with pytest.raises(StoreError, match=r"split"):
                mine.commit([said], packed(0, 3), [pack(0, 3)], rows_solved=9, split=None)

            assert store.attempts("delays-1").empty
            assert store.logs("delays-1") == []
            assert not len(store.settled("delays-1"))
            assert store.find("delays-1").rows_solved == 0
            mine.commit([said], packed(0, 3))
            assert len(store.settled("delays-1")) == 3

    def test_a_run_that_is_recorded_already_cannot_be_created(self, url):
        with RunStore(url) as store:
            store.create(record(rows_solved=1))
            with pytest.raises(StoreError, match="recorded already"):
                store.create(record())
            assert store.find("delays-1").rows_solved == 1

    def test_what_is_read_together_is_of_one_moment(self, url):
        with RunStore(url) as store, RunStore(url) as other:
            mine = store.create(record())
            mine.commit([], packed(0, 3), [pack(0, 3)])
            count = sa.select(sa.func.count()).select_from(schema.attempts)
            with other._database.begin() as connection:
                before = connection.execute(count).scalar_one()
                mine.commit([], packed(3, 3), [pack(3, 3)])
                after = connection.execute(count).scalar_one()

            assert (before, after) == (3, 3)
            assert other.counts("delays-1").attempts == {Outcome.SUCCEEDED: 6}

    def test_readers_in_other_processes_see_whole_commits_while_one_writes(self, url):
        program = """
with RunStore(url) as store:
    if number == 0:
        mine = store.take_over("delays-1")
        for first in range(0, 150, 3):
            mine.commit([attempt(first), attempt(first), attempt(first)], packed(first, 3))
    else:
        for _ in range(100):
            counts = store.counts("delays-1")
            print(sum(counts.chunks.values()), sum(counts.attempts.values()))
"""
        with RunStore(url) as store:
            store.create(record())
            _, *seen = do_together(url, program, 3)
            assert len(store.settled("delays-1")) == len(store.attempts("delays-1")) == 150

        for out in seen:
            counts = [line.split() for line in out.splitlines()]
            assert len(counts) == 100
            assert all(chunks == attempts for chunks, attempts in counts)


class TestValues:
    """What a store holds comes back as it was, or as the nearest thing that every store can hold."""

    def test_texts_of_every_alphabet(self, url):
        odd = "naïve Größe \N{SNOWMAN} \N{GRINNING FACE} 東京 \u200f' \" % %s ? :x \\ {}"
        written = record(params={odd: odd}, cluster=odd, input={"description": odd}, settings=[{"key": odd}])
        error = ErrorRecord("Fehler", odd, odd, ("Fehler",), odd)
        tried = replace(attempt(0, Outcome.FAILED, error), stage=odd, worker=odd, log=odd, next_step=odd)
        places = packed(1, 2, f"/runs/{odd}.arrow")
        with RunStore(url) as store:
            store.create(written).commit([tried], places, [replace(pack(1, 2), stage=odd, worker=odd)])

            assert store.find("delays-1") == written
            attempts = store.attempts("delays-1")
            assert set(attempts["stage"]) == set(attempts["worker"]) == {odd}
            assert attempts.loc[0, ["error", "traceback", "signature", "next_step"]].tolist() == [odd] * 4
            assert store.logs("delays-1") == [ChunkLog(0, odd, 1, odd)]
            assert store.settled("delays-1").results.paths == (f"/runs/{odd}.arrow",)

    def test_zero_bytes_and_halves_of_characters_in_parameters(self, url):
        with RunStore(url) as store:
            store.create(record(params={"text": "a\0b", "half": "\udc80"}))
            assert store.find("delays-1").params == {"text": "a\0b", "half": "\udc80"}

    def test_numbers_that_take_all_their_bits(self, url):
        many, most = 2**40, 2**63 - 1
        ref = ResultRef("/runs/0.arrow", 2**31 - 1, -1, 5, most, 7)
        tried = replace(attempt(many), rows_in=many, rows_out=most, peak_memory=most, key=-most)
        chunk = SettledChunk(many, Outcome.SUCCEEDED, many, 5, 1e-300, ref, -1.7e308, 5e-324)
        with RunStore(url) as store:
            store.create(record()).commit([tried], SettledChunks.of([chunk]), rows_in=most, chunks=most)

            [read] = store.settled("delays-1")
            assert read == chunk
            attempts = store.attempts("delays-1")
            assert attempts.loc[0, ["chunk", "rows_in", "rows_out", "peak_memory"]].tolist() == [
                many,
                many,
                most,
                most,
            ]
            assert store.history("delays")["stage"].keys.tolist() == [-most]
            assert (store.find("delays-1").rows_in, store.find("delays-1").chunks) == (most, most)

    def test_numbers_that_are_none_are_not_known(self, url):
        points = (Incumbent(1.0, float("inf"), float("nan")), Incumbent(2.0, 5.0, float("-inf")))
        kept = SettledChunk(0, Outcome.STOPPED_WITH_SOLUTION, 3, 1, 2.0, None, 5.0, float("-inf"))
        with RunStore(url) as store:
            mine = store.create(record())
            mine.commit([replace(attempt(0), incumbents=points)], SettledChunks.of([kept]))

            assert store.settled("delays-1")[0] == replace(kept, bound=None)
            assert store.incumbents("delays-1")["objective"].fillna(-1).tolist() == [-1, 5.0]
            assert store.attempts("delays-1")["bound"].isna().all()

    def test_texts_of_any_length(self, url):
        long = "x" * 3_000_000
        error = ErrorRecord("E" * 5000, long, long, ("E",), "at " * 5000)
        tried = replace(attempt(0, Outcome.FAILED, error), log=long)
        with RunStore(url) as store:
            store.create(record(params={"text": long})).commit([tried], NONE)

            assert store.find("delays-1").params == {"text": long}
            assert store.logs("delays-1")[0].text == long
            attempts = store.attempts("delays-1")
            assert attempts["error"].tolist() == attempts["traceback"].tolist() == [long]
            assert attempts["error_type"].tolist() == ["E" * 399 + "…"]
            assert attempts["signature"].tolist() == [("at " * 200)[:599] + "…"]


class TestLive:
    def test_the_latest_state_takes_the_place_of_the_one_before_and_goes_with_the_run(self, url):
        running = RunningChunk(
            3, "stage", 1, "w", 5.0, 3, share=float("nan"), message="half \udc80", log="so far"
        )
        with RunStore(url) as store:
            mine = store.create(record())
            assert store.live("delays-1") is None
            mine.save_live(LiveState(1.0))
            mine.save_live(LiveState(2.0, running=(running,), stopping=True))

            read = store.live("delays-1")
            assert read == LiveState(
                2.0, running=(replace(running, share=None, message="half ?"),), stopping=True
            )
            mine.end(state=RunState.SUCCEEDED, ended=3.0)
            assert store.live("delays-1") is None
            assert store.find("delays-1").state is RunState.SUCCEEDED

    def test_logs_of_chunks_that_run_stand_beside_those_that_ended(self, url):
        running = RunningChunk(0, "stage", 2, "w", 5.0, 3, log="so far")
        again = RunningChunk(1, "stage", 1, "w", 5.0, 3, log="told already")
        with RunStore(url) as store:
            mine = store.create(record())
            mine.commit([replace(attempt(1), log="whole"), replace(attempt(0), log="first")], NONE)
            mine.save_live(LiveState(2.0, running=(running, again)))

            assert store.logs("delays-1") == [
                ChunkLog(0, "stage", 1, "first"),
                ChunkLog(0, "stage", 2, "so far", live=True),
                ChunkLog(1, "stage", 1, "whole"),
            ]
            assert store.logs("delays-1", 1) == [ChunkLog(1, "stage", 1, "whole")]
            assert store.logs("delays-1", 5) == []


class TestRequests:
    def test_are_given_once_in_the_order_in_which_they_were_asked(self, url):
        with RunStore(url) as store:
            mine, other = store.create(record()), store.create(record("delays-2"))
            store.request_cancel("delays-1", chunk=7, keep_best=True)
            store.request_cancel("delays-1")

            asked = mine.take_requests()
            assert [(request.chunk, request.keep_best) for request in asked] == [(7, True), (None, False)]
            assert mine.take_requests() == []
            assert other.take_requests() == []

    def test_of_a_run_that_is_not_there_are_an_error(self, url):
        with RunStore(url) as store, pytest.raises(StoreError):
            store.request_cancel("delays-9")


class TestReopening:
    @pytest.fixture
    def store(self, url):
        with RunStore(url) as store:
            failed = SettledChunk(5, Outcome.FAILED, 3, 0, 0.1)
            mine = store.create(record())
            mine.commit([replace(attempt(5, Outcome.FAILED), log="said")], packed(0, 3))
            mine.commit([], SettledChunks.of([failed]), rows_solved=9)
            mine.save_live(LiveState(1.0))
            store.request_cancel("delays-1")
            yield store

    def test_forgets_what_has_no_result_and_keeps_what_was_tried(self, store):
        store.take_over("delays-1").reopen(state=RunState.RUNNING, started=7.0, error=None)

        assert store.settled("delays-1").chunks.tolist() == [0, 1, 2]
        assert store.tries("delays-1") == {(5, "stage"): 1}
        assert [log.text for log in store.logs("delays-1")] == ["said"]
        assert (store.find("delays-1").started, store.find("delays-1").rows_solved) == (7.0, 9)

    def test_forgets_what_an_earlier_session_left_behind(self, store):
        mine = store.take_over("delays-1")
        mine.reopen(state=RunState.RUNNING)

        assert store.live("delays-1") is None
        assert mine.take_requests() == []

    def test_of_a_run_that_only_waited_keeps_what_was_asked_of_it(self, store):
        mine = store.take_over("delays-1")
        mine.update(state=RunState.QUEUED)
        mine.reopen(state=RunState.RUNNING)

        assert [request.chunk for request in mine.take_requests()] == [None]


def test_fields_of_a_run_change_one_by_one(url):
    error = ErrorRecord("OSError", "busy", "Traceback …", ("OSError", "Exception"), "OSError at s.py:1")
    with RunStore(url) as store:
        mine = store.create(record())
        mine.update(state=RunState.FAILED, error=error, ended=9.5, combined="/runs/combined.arrow")
        assert store.find("delays-1") == replace(
            record(), state=RunState.FAILED, error=error, ended=9.5, combined="/runs/combined.arrow"
        )
        mine.update(state=RunState.RUNNING, error=None, ended=None, combined=None)
        assert store.find("delays-1") == record()


def test_runs_are_listed_newest_first_by_state_and_no_more_than_asked(url):
    with RunStore(url) as store:
        for number in range(4):
            state = RunState.FAILED if number % 2 else RunState.RUNNING
            store.create(replace(record(f"delays-{number}", created=number), state=state))

        assert [found.run_id for found in store.list(limit=2)] == ["delays-3", "delays-2"]
        assert [found.run_id for found in store.list(states=[RunState.RUNNING])] == ["delays-2", "delays-0"]


def given_up(url: str, run_id: str, created: float, messages: dict[int, str]) -> None:
    """A partial run with a solved chunk 0, and these chunks given up for these errors."""
    with RunStore(url) as store:
        store.create(record(run_id, created))
        writes = writer(store, run_id)
        failed = [
            attempt(chunk, Outcome.FAILED, ErrorRecord("ValueError", said, signature=said))
            for chunk, said in messages.items()
        ]
        chunks = [SettledChunk(chunk, Outcome.FAILED, 3, 0, 0.1) for chunk in messages]
        solved = SettledChunk(0, Outcome.SUCCEEDED, 3, 2, 0.1, ResultRef("/runs/0.arrow", 0, 1, 2, 64))
        writes.commit([attempt(0), *failed], SettledChunks.of([solved, *chunks]))
        writes.end(state=RunState.PARTIAL, ended=created + 1)


def test_runs_that_failed_are_listed_with_the_error_of_most_of_their_chunks(url):
    given_up(url, "delays-1", 1.0, {1: "no date", 2: "no carrier", 3: "no date"})
    given_up(url, "delays-2", 2.0, {})

    with RunStore(url) as store:
        found = store.list(limit=1, states=[RunState.PARTIAL, RunState.FAILED])
        failures = store.failures(["delays-1", "delays-2"])

    assert [run.run_id for run in found] == ["delays-2"]
    assert failures == {"delays-1": RunFailures(3, "ValueError: no date", 2)}


def test_a_chunk_that_was_solved_in_the_end_did_not_fail(url):
    given_up(url, "delays-1", 1.0, {1: "no date"})
    with RunStore(url) as store:
        again = SettledChunk(1, Outcome.SUCCEEDED, 3, 2, 0.1)
        writer(store, "delays-1").reopen([1], state=RunState.RUNNING)
        assert store.settled("delays-1").chunks.tolist() == [0]
        writer(store, "delays-1").commit([attempt(1)], SettledChunks.of([again]))

        assert store.failures(["delays-1"]) == {}


def test_a_run_is_removed_with_all_that_is_recorded_of_it(url):
    given_up(url, "delays-1", 1.0, {1: "no date"})
    given_up(url, "delays-2", 2.0, {1: "no date"})
    with RunStore(url) as store:
        assert store.removal.remove("delays-1")
        assert not store.removal.remove("delays-1")

        assert [run.run_id for run in store.removal.runs()] == ["delays-2"]
        assert store.removal.known(["delays-1", "delays-2"]) == {"delays-2"}
        assert store.counts("delays-2").chunks == {Outcome.SUCCEEDED: 1, Outcome.FAILED: 1}
        assert store.removal.remove_programs() == 0


def test_a_run_that_goes_on_is_not_removed(url):
    with RunStore(url) as store:
        store.create(record("delays-1"))

        assert not store.removal.remove("delays-1")
        assert [run.kept_because for run in store.removal.runs()] == ["it is running"]


def test_a_store_that_is_closed_leaves_the_connections_of_others_and_the_last_leaves_none_for_long(url):
    first, second = RunStore(url), RunStore(url)
    pool = first._database.engine.pool
    with first._database.begin() as connection:
        second.close()
        second.close()
        assert connection.execute(sa.select(1)).scalar_one() == 1
    assert first._database.engine.pool is pool
    first.close()

    assert pool.checkedin() > pool.checkedout() == 0
    until(lambda: first._database.engine.pool is not pool)
    assert pool.checkedin() == 0


def test_a_store_whose_folder_was_removed_a_moment_ago_is_a_new_one(tmp_path):
    url = f"sqlite:///{tmp_path.as_posix()}/folder/store.db"
    with RunStore(url) as store:
        store.create(record("old"))
    shutil.rmtree(tmp_path / "folder")

    with RunStore(url) as store:
        assert store.list() == []
        store.create(record("new"))
    with RunStore(url) as store:
        assert [run.run_id for run in store.list()] == ["new"]
