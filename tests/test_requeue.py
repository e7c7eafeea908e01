"""Chunks that failed, and again: what was asked for runs, and the rest stays as it is recorded."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrun import (
    Pipeline,
    RetryPolicy,
    RunReport,
    RunState,
    Stage,
    by_file,
    by_group,
    by_rows,
    open_report,
    requeue_run,
    run_pipeline,
)
from batchrun.config import Settings, load_settings
from batchrun.errors import InputError, UsageError
from batchrun.events import AttemptEnded, AttemptsSolved, ChunksPlaced, ChunksSettled, RunStarted
from batchrun.plan import PlannedChunks
from batchrun.selection import Selection, rerun
from batchrun.store.records import SettledChunks
from tests.test_run import assert_conserved

ONCE = RetryPolicy(attempts=1)
ROWS = 24
TABLE = pd.DataFrame({"x": range(ROWS), "group": np.arange(ROWS) // 4})


class Deed:
    """What becomes of rows, by a file that a test changes between two sessions."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bad"
        self.seconds = 0.0
        self.set()

    def set(self, *bad: int) -> None:
        """From now on these values of x are bad."""
        self.path.write_text(" ".join(map(str, bad)))

    def __call__(self, chunk: pd.DataFrame) -> pd.DataFrame:
        time.sleep(self.seconds)
        bad = {int(x) for x in self.path.read_text().split()}
        if found := sorted(bad & set(chunk["x"])):
            raise ValueError(f"{found[0]} is bad")
        return chunk.assign(y=chunk["x"] * 2)


@pytest.fixture
def deed(here: Path) -> Deed:
    return Deed(here)


def pipeline_of(deed: Deed, split=None, **more) -> Pipeline:
    def work(chunk: pd.DataFrame) -> pd.DataFrame:
        return deed(chunk)

    return Pipeline("work", split=split or by_rows(1), stages=[Stage(work, retry=ONCE)], **more)


def first_run(pipeline: Pipeline, data=TABLE, **options) -> RunReport:
    report = run_pipeline(pipeline, data, cluster="inline", progress=False, **options)
    assert_conserved(report)
    return report


def again(pipeline: Pipeline, run_id: str = "last", **options) -> RunReport:
    report = requeue_run(run_id, pipeline=pipeline, cluster="inline", progress=False, **options)
    assert_conserved(report)
    assert_recounted(report)
    return report


def assert_recounted(report: RunReport) -> None:
    """What is solved has its result, what is set apart stands in the quarantine, and no row is in both."""
    results, apart = report.results(), report.quarantined
    assert results.duplicated("x").sum() == 0
    assert (results["y"] == results["x"] * 2).all()
    assert len(results) == report.rows_solved
    assert len(apart) == report.rows_quarantined
    assert apart.empty or apart["x"].is_unique
    assert apart.empty or not set(apart["x"]) & set(results["x"])
    assert report.scan().count_rows() == len(results)


def interrupt_after(attempts: int):
    """An observer that presses Ctrl-C after so many attempts."""
    heard = []

    def observe(event):
        if isinstance(event, AttemptEnded | AttemptsSolved):
            heard.append(event)
            if len(heard) == attempts:
                signal.raise_signal(signal.SIGINT)

    return observe


class TestQuarantinedChunks:
    def test_alone_run_again_and_the_rest_stays(self, deed):
        pipe = pipeline_of(deed)
        deed.set(3, 5, 9)
        first = first_run(pipe)
        deed.set(5)

        report = again(pipe, quarantined=True)

        assert (report.state, report.rows_solved, report.rows_quarantined) == (RunState.PARTIAL, 23, 1)
        assert report.quarantined["x"].tolist() == [5]
        assert len(report.attempts) == len(first.attempts) + 3
        tries = report.attempts.groupby("chunk")["attempt"].agg(list)
        assert [tries[chunk] for chunk in (3, 5, 9)] == [[1, 2]] * 3

    def test_leave_what_was_never_tried_cancelled(self, deed):
        pipe = pipeline_of(deed)
        deed.seconds = 0.06
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(
                pipe, TABLE, cluster="inline", progress=False, observers=[interrupt_after(6)], split=None
            )
        stopped = open_report("last")
        assert stopped.rows_cancelled == ROWS - stopped.rows_solved > 0
        with pytest.raises(UsageError, match=r"no chunk of run .* is quarantined"):
            again(pipe, quarantined=True)
        unreached = stopped.chunks.query("outcome == 'cancelled'")["chunk"].tolist()

        report = again(pipe, chunks=unreached[:2])

        assert report.state is RunState.PARTIAL
        assert report.rows_solved == stopped.rows_solved + 2
        assert report.rows_cancelled == stopped.rows_cancelled - 2

    def test_that_fail_alike_again_are_no_broken_function(self, deed):
        pipe = pipeline_of(deed)
        deed.set(*range(4, 12))
        first_run(pipe)

        report = again(pipe, quarantined=True)

        assert (report.state, report.rows_quarantined) == (RunState.PARTIAL, 8)

    def test_count_towards_the_most_that_may_be_set_apart(self, deed, here):
        (here / "cluster.yaml").write_text("run: {max_quarantined: 3}\n")
        pipe = pipeline_of(deed)
        deed.set(3, 5, 9)
        first_run(pipe)
        deed.set(3, 5, 9, 5)

        report = again(pipe, chunks=[5])

        assert (report.state, report.rows_quarantined) == (RunState.PARTIAL, 3)

    def test_with_retries_get_all_of_them_again(self, deed):
        def work(chunk: pd.DataFrame) -> pd.DataFrame:
            return deed(chunk)

        policy = RetryPolicy(attempts=3, delay=0.01)
        pipe = Pipeline("work", split=by_rows(1), stages=[Stage(work, retry=policy)])
        deed.set(7)
        first = first_run(pipe)

        report = again(pipe, quarantined=True)

        assert first.attempts.query("chunk == 7")["attempt"].tolist() == [1, 2, 3]
        assert report.attempts.query("chunk == 7")["attempt"].tolist() == [1, 2, 3, 4, 5, 6]


class TestChunksByNumber:
    def test_run_again_and_no_others(self, deed):
        pipe = pipeline_of(deed, by_rows(1))
        deed.set(3, 5, 9)
        first_run(pipe)
        deed.set()
        placed = []

        report = again(pipe, chunks=[9, 3], observers=[placed.append])

        assert {chunk for event in placed if isinstance(event, ChunksPlaced) for chunk in event.chunks} == {
            3,
            9,
        }
        assert report.quarantined["x"].tolist() == [5]

    @pytest.mark.parametrize(
        ("chunk", "said"),
        [(4, "chunk 4 is solved; nothing to do again"), (99, "has no chunk 99; its chunks are 0 to 23")],
    )
    def test_that_have_a_result_or_do_not_exist_are_refused_and_nothing_changes(self, deed, chunk, said):
        pipe = pipeline_of(deed)
        deed.set(3)
        first = first_run(pipe)

        with pytest.raises(UsageError, match=said):
            again(pipe, chunks=[3, chunk])

        assert open_report("last").record.ended == first.record.ended
        assert_conserved(open_report("last"))

    def test_that_were_cut_run_again_in_their_unsolved_parts(self, deed):
        pipe = pipeline_of(deed, by_rows(8))
        deed.set(9)
        first = first_run(pipe)
        [part] = first.chunks.query("outcome == 'failed'")["chunk"]
        solved = first.attempts["chunk"].tolist()
        deed.set()

        report = again(pipe, chunks=[1])

        assert report.state is RunState.SUCCEEDED
        assert report.attempts["chunk"].tolist() == [*solved, part]
        with pytest.raises(UsageError, match="chunk 1 was cut, and all its parts are solved"):
            again(pipe, chunks=[1])

    def test_and_the_quarantined_ones_at_once_are_refused(self, deed):
        with pytest.raises(UsageError, match="not for both"):
            again(pipeline_of(deed), quarantined=True, chunks=[1])


class TestARunThatIsRequeued:
    def test_combines_again_over_all_that_is_solved(self, deed):
        def total(parts):
            return pd.DataFrame({"sum": [sum(part["y"].sum() for part in parts)]})

        pipe = pipeline_of(deed, combine=total)
        deed.set(3, 5)
        before = first_run(pipe).results()
        deed.set(5)

        report = requeue_run("last", pipeline=pipe, cluster="inline", progress=False, chunks=[3])

        values = 2 * TABLE["x"].sum()
        assert before["sum"].tolist() == [values - 16]
        assert report.results()["sum"].tolist() == [values - 10]

    @pytest.mark.parametrize("chosen", [[], [3], [3, 70]])
    def test_combines_on_workers_with_what_was_combined_before(self, here, chosen):
        deed = Deed(here)

        def join(parts):
            return pd.concat(list(parts))

        table = pd.DataFrame({"x": range(150)})
        pipe = pipeline_of(deed, combine=join, associative=True)
        deed.set(3, 70, 149)
        first_run(pipe, table)
        deed.set()

        report = requeue_run("last", pipeline=pipe, cluster="inline", progress=False, chunks=chosen)

        left = {3, 70, 149} - set(chosen or [3, 70, 149])
        assert report.results()["x"].tolist() == [x for x in range(150) if x not in left]
        assert_conserved(report)

    def test_that_is_interrupted_keeps_what_it_did_not_reach_for_a_resume(self, deed):
        pipe = pipeline_of(deed)
        deed.set(3, 5, 9, 11)
        first_run(pipe)
        deed.set(11)
        deed.seconds = 0.06
        with pytest.raises(KeyboardInterrupt):
            again(pipe, chunks=[3, 5, 9], observers=[interrupt_after(1)])
        stopped = open_report("last")
        assert_conserved(stopped)
        assert stopped.rows_quarantined == 1
        assert stopped.rows_solved + stopped.rows_cancelled == 23
        assert stopped.rows_cancelled > 0

        report = again(pipe)

        assert (report.state, report.rows_solved, report.rows_quarantined) == (RunState.PARTIAL, 23, 1)

    def test_accounts_for_its_rows_from_the_moment_it_begins(self, deed):
        pipe = pipeline_of(deed)
        deed.set(3, 5, 9)
        first_run(pipe)
        deed.set(9)
        seen = []

        def look(event):
            if isinstance(event, (RunStarted, ChunksSettled)):
                record = open_report("last").record
                seen.append((record.rows_solved, record.rows_quarantined, record.rows_cancelled))

        again(pipe, chunks=[3, 9], observers=[look])

        assert seen[0] == (21, 1, 0)
        assert seen[-1] == (22, 2, 0)
        assert all(21 <= solved <= 22 and 1 <= apart <= 2 for solved, apart, _ in seen)

    def test_of_sized_chunks_cuts_no_more_of_its_input(self, deed):
        table = pd.DataFrame({"x": range(5_000)})
        pipe = pipeline_of(deed, by_rows("auto"))
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(pipe, table, cluster="inline", progress=False, observers=[interrupt_after(1)])
        stopped = open_report("last")
        planned = stopped.chunks
        assert planned["rows"].sum() < len(table)
        chunk = int(planned.query("outcome == 'cancelled'")["chunk"].iloc[0])

        report = again(pipe, chunks=[chunk])

        assert len(report.chunks) == len(planned)
        assert report.rows_solved == stopped.rows_solved + planned["rows"][chunk]
        assert again(pipe).state is RunState.SUCCEEDED

    def test_of_a_file_does_not_miss_a_file_that_it_need_not_read(self, deed, here):
        for number in range(3):
            TABLE[number * 8 : number * 8 + 8].to_parquet(here / f"part-{number}.parquet")
        pipe = pipeline_of(deed, by_file())
        deed.set(1, 9)
        report = first_run(pipe, str(here / "part-*.parquet"))
        assert report.rows_quarantined == 16
        deed.set()

        report = again(pipe, chunks=[1])

        assert (report.rows_solved, report.rows_quarantined) == (16, 8)
        (here / "part-0.parquet").unlink()
        with pytest.raises(InputError, match="part-0"):
            again(pipe, chunks=[0])

    def test_that_succeeded_has_nothing_to_do(self, deed):
        pipe = pipeline_of(deed)
        first = first_run(pipe)

        assert again(pipe).record == first.record
        with pytest.raises(UsageError, match="chunk 2 is solved"):
            again(pipe, chunks=[2])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deed, Settings]:
    folder = tmp_path_factory.mktemp("requeue")
    (folder / "cluster.yaml").write_text(f"store: {(folder / 'store').as_posix()}\n")
    return Deed(folder), load_settings(folder / "cluster.yaml")


BAD = st.sets(st.integers(0, ROWS - 1), max_size=8)
SPLITS = st.sampled_from([by_rows(1), by_rows(5), by_group("group")])


class TestConservation:
    @given(split=SPLITS, bad=BAD, stop=st.none() | st.integers(1, 5), seed=st.integers(0, 2**32))
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    def test_holds_whatever_failed_and_whatever_is_chosen(self, place, split, bad, stop, seed):
        deed, where = place
        chance = random.Random(seed)
        pipe = pipeline_of(deed, split)
        deed.set(*bad)
        observers = [interrupt_after(stop)] if stop else []
        options = {"cluster": "inline", "settings": where, "progress": False}
        try:
            report = run_pipeline(pipe, TABLE, observers=observers, **options)
        except KeyboardInterrupt:
            report = RunReport(where.store_url)
        assert_conserved(report)
        for _ in range(2):
            before = report.chunks.set_index("chunk")["outcome"]
            failed = before.index[before == "failed"].tolist()
            open_chunks = failed + before.index[before == "cancelled"].tolist()
            if not open_chunks:
                break
            some = chance.sample(open_chunks, chance.randint(1, len(open_chunks)))
            chosen, asked = chance.choice(
                [
                    (open_chunks, {}),
                    (some, {"chunks": some}),
                    (failed or open_chunks, {"quarantined": bool(failed)}),
                ]
            )
            deed.set(*chance.sample(range(ROWS), chance.randint(0, 8)))

            report = requeue_run(report.run_id, pipeline=pipe, **asked, **options)

            assert_conserved(report)
            assert_recounted(report)
            after = report.chunks.set_index("chunk")["outcome"]
            others = before.index.difference(chosen)
            assert after[others].tolist() == before[others].tolist()
            if report.error is None:
                assert not after[chosen].isin(["cancelled", "pending"]).any()
            tries = report.attempts.groupby(["chunk", "stage"])["attempt"].agg(list)
            assert all(found == list(range(1, len(found) + 1)) for found in tries)


class TestASelection:
    @given(chunks=st.lists(st.integers(0, 3), min_size=1))
    def test_that_goes_on_leaves_out_what_is_solved_meanwhile(self, chunks):
        plan = PlannedChunks(np.arange(4), np.arange(1, 5), np.full(4, -1), 1)
        one = np.ones(2, np.int64)
        settled = SettledChunks.succeeded(np.array([0, 2]), one, one, one.astype(float))

        found = rerun("r1", replace(Selection.of(chunks=chunks), goes_on=True), plan, settled)

        assert found.chunks is not None
        assert found.chunks.tolist() == sorted({1, 3} & set(chunks))
        assert not found.whole
        assert sum(found.rows_kept(plan, 4).values()) == 4 - len(found.chunks)

    def test_of_everything_keeps_what_is_solved_only(self):
        plan = PlannedChunks(np.arange(4), np.arange(1, 5), np.full(4, -1), 1)
        one = np.ones(2, np.int64)
        settled = SettledChunks.succeeded(np.array([0, 2]), one, one, one.astype(float))

        found = rerun("r1", Selection(), plan, settled)

        assert found.whole
        assert found.rows_kept(plan, 4) == {"rows_solved": 2, "rows_quarantined": 0, "rows_cancelled": 0}


@pytest.mark.cluster
def test_on_a_cluster_only_the_chosen_chunks_go_to_workers(cluster, tmp_path):
    deed = Deed(tmp_path)
    path = deed.path

    def work(chunk: pd.DataFrame) -> pd.DataFrame:
        bad = {int(x) for x in path.read_text().split()}
        if found := sorted(bad & set(chunk["x"])):
            raise ValueError(f"{found[0]} is bad")
        return chunk.assign(y=chunk["x"] * 2)

    def join(parts):
        return pd.concat(list(parts))

    pipe = Pipeline(
        "work", split=by_rows(1), stages=[Stage(work, retry=ONCE)], combine=join, associative=True
    )
    deed.set(3, 5, 9)
    first = run_pipeline(pipe, TABLE, cluster=cluster, progress=False)
    assert_conserved(first)
    deed.set(9)
    placed: list[int] = []

    def watch(event):
        if isinstance(event, ChunksPlaced):
            placed.extend(event.chunks)

    report = requeue_run(
        first.run_id, chunks=[3, 9], pipeline=pipe, cluster=cluster, progress=False, observers=[watch]
    )

    assert_conserved(report)
    assert set(placed) == {3, 9}
    assert report.quarantined["x"].tolist() == [5, 9]
    assert report.results()["x"].tolist() == [x for x in range(ROWS) if x not in (5, 9)]
