"""Whole runs in this process: every row is accounted for, whatever stages do."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrun import (
    ChunkContext,
    Pipeline,
    RetryPolicy,
    RunReport,
    RunState,
    Stage,
    by_file,
    by_group,
    by_rows,
    open_report,
    resume_run,
    run_pipeline,
)
from batchrun.config import load_settings
from batchrun.data import load as loading
from batchrun.errors import InputError, ParameterError, PipelineError, RunFailedError
from batchrun.events import AttemptEnded, ChunksSettled, RunEnded, RunStarted
from batchrun.executor import InlineExecutor, WorkersChanged
from batchrun.resources import Demand
from batchrun.store.runs import RunStore

TABLE = pd.DataFrame({"x": range(20), "group": list("aabbbcccccddeeeeffff")})
NO_RETRY = RetryPolicy(attempts=1)


def double(chunk: pd.DataFrame, *, factor: int = 2) -> pd.DataFrame:
    return chunk.assign(y=chunk["x"] * factor)


def run(pipeline, data=TABLE, **options) -> RunReport:
    report = run_pipeline(pipeline, data, cluster="inline", progress=False, **options)
    assert_conserved(report)
    return report


def assert_conserved(report: RunReport) -> None:
    """Rows in = solved + quarantined + cancelled, by the record and by a recount from the chunks."""
    assert report.state.ended
    assert report.rows_in == report.rows_solved + report.rows_quarantined + report.rows_cancelled
    chunks = report.chunks
    solved = chunks["outcome"].isin(["succeeded", "stopped_with_solution"])
    assert chunks.loc[solved, "rows"].sum() == report.rows_solved
    failed = ~solved & ~chunks["outcome"].isin(["pending", "cancelled", "cut"])
    assert chunks.loc[failed, "rows"].sum() == report.rows_quarantined == len(report.quarantined)


@pytest.mark.usefixtures("here")
class TestAFunction:
    def test_sees_each_row_once_and_its_results_come_back_in_input_order(self):
        report = run(double, split=by_rows(3), params={"factor": 3})

        assert report.state is RunState.SUCCEEDED
        pd.testing.assert_frame_equal(report.results(), TABLE.assign(y=TABLE["x"] * 3))
        assert report.scan().count_rows() == 20
        assert len(report.attempts) == len(report.chunks) == 7

    @pytest.mark.parametrize("make", [pl.from_pandas, pa.Table.from_pandas], ids=["polars", "arrow"])
    def test_takes_any_frame(self, make):
        report = run(double, make(TABLE), split=by_rows(8))

        assert report.results()["y"].tolist() == (TABLE["x"] * 2).tolist()

    def test_gets_the_frame_that_it_is_annotated_with(self):
        def of_polars(chunk: pl.DataFrame) -> pl.DataFrame:
            return chunk.with_columns(y=pl.col("x") + 1)

        def of_arrow(chunk: pa.Table) -> pa.Table:
            return chunk.append_column("z", pa.array([1] * len(chunk)))

        report = run(Pipeline("mixed", split=by_rows(6), stages=[of_polars, of_arrow, double]))

        assert report.results().columns.tolist() == ["x", "group", "y", "z"]

    def test_may_change_its_frame_in_place(self):
        def in_place(chunk: pd.DataFrame) -> pd.DataFrame:
            chunk.loc[chunk.index[0], "x"] = -1
            chunk["x"] += 1
            return chunk

        report = run(in_place, split=by_rows(10))

        assert report.results()["x"].tolist() == [0, *range(2, 11), 0, *range(12, 21)]
        assert TABLE["x"].tolist() == list(range(20))

    def test_is_told_about_its_chunk_if_it_asks(self):
        def ask(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
            return pd.DataFrame({"chunk": [ctx.chunk], "rows": [ctx.rows], "try": [ctx.attempt]})

        report = run(ask, split=by_rows(8))

        assert report.results().to_dict("list") == {"chunk": [0, 1, 2], "rows": [8, 8, 4], "try": [1, 1, 1]}

    def test_may_give_other_rows_other_columns_or_nothing(self):
        def choosy(chunk: pd.DataFrame) -> pd.DataFrame | None:
            first = int(chunk["x"].iloc[0])
            if first == 0:
                return None
            return pd.DataFrame({"x": [first] * 3}) if first < 10 else pd.DataFrame({"x": [0.5], "z": ["a"]})

        results = run(choosy, split=by_rows(5)).results()

        assert results["x"].tolist() == [5, 5, 5, 0.5, 0.5]
        assert results["z"].isna().tolist() == [True] * 3 + [False] * 2

    def test_keeps_a_named_index_with_duplicates(self):
        table = TABLE.set_index("group")

        results = run(double, table, split=by_rows(7)).results()

        pd.testing.assert_frame_equal(results, table.assign(y=table["x"] * 2))

    @pytest.mark.parametrize("rows", [0, 1])
    def test_works_on_next_to_nothing(self, rows):
        report = run(double, TABLE.head(rows), split=by_rows(3))

        assert report.state is RunState.SUCCEEDED
        assert report.rows_in == len(report.results()) == rows

    def test_reads_only_the_columns_that_are_declared(self):
        def names(chunk: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"columns": [",".join(chunk.columns)]})

        assert set(run(names, split=by_rows(9), columns=["x"]).results()["columns"]) == {"x"}

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rows=st.integers(0, 60), size=st.integers(1, 70))
    def test_sees_each_row_once_whatever_the_split(self, rows, size):
        table = pd.DataFrame({"x": np.arange(rows)})

        report = run(double, table, split=by_rows(size))

        assert report.results()["x"].tolist() == list(range(rows)) if rows else report.results().empty

    def test_is_split_by_size_and_time_if_asked(self):
        table = pd.DataFrame({"x": range(50_000)})

        report = run(double, table, split=by_rows("auto"))

        assert report.results()["x"].tolist() == list(range(50_000))
        assert 2 <= len(report.chunks) <= 60


@pytest.mark.usefixtures("here")
class TestGroups:
    def test_stay_whole_wherever_their_rows_lie(self):
        def size(chunk: pd.DataFrame) -> pd.DataFrame:
            return chunk.groupby("group", as_index=False).size()

        shuffled = TABLE.sample(frac=1, random_state=5)
        results = run(size, shuffled, split=by_group("group")).results()

        assert sorted(results.itertuples(index=False, name=None)) == sorted(
            TABLE.groupby("group").size().items()
        )
        assert len(results) == TABLE["group"].nunique()

    def test_share_a_chunk_when_they_are_small(self):
        def one(chunk: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"rows": [len(chunk)]})

        assert run(one, split=by_group("group", max_rows=6)).results()["rows"].tolist() == [5, 5, 6, 4]


@pytest.mark.usefixtures("here")
class TestFailure:
    def test_of_one_row_leaves_all_others_solved_and_sets_it_apart_with_its_error(self):
        def picky(chunk: pd.DataFrame) -> pd.DataFrame:
            if 7 in set(chunk["x"]):
                raise ValueError("seven is bad")
            return chunk

        report = run(Pipeline("picky", split=by_rows(4), stages=[Stage(picky, retry=NO_RETRY)]))

        assert report.state is RunState.PARTIAL
        assert (report.rows_solved, report.rows_quarantined) == (19, 1)
        assert report.results()["x"].tolist() == [x for x in range(20) if x != 7]
        bad = report.quarantined
        assert bad["x"].tolist() == [7]
        assert set(bad["error_type"]) == {"ValueError"}
        assert "in picky" in bad["traceback"].iloc[0]
        assert set(bad["error_message"]) == {"seven is bad"}
        failure = report.failures.iloc[0]
        assert (failure["chunks"], failure["rows"]) == (1, 1)
        assert "seven is bad" in failure["traceback"]
        assert "batchrun/" not in failure["traceback"]
        with pytest.raises(RunFailedError, match="partial"):
            report.raise_for_state()

    def test_is_tried_again_as_the_policy_says_and_every_try_is_recorded(self):
        def second_time(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
            if ctx.attempt < 3:
                raise ConnectionError("licence server is busy")
            return chunk

        stage = Stage(second_time, retry=RetryPolicy(attempts=3, delay="1ms", on=OSError))
        report = run(Pipeline("patient", split=by_rows(10), stages=[stage]))

        assert report.state is RunState.SUCCEEDED
        tries = report.attempts.groupby("chunk")["outcome"].agg(list)
        assert tries.tolist() == [["failed", "failed", "succeeded"]] * 2

    def test_of_the_first_chunks_alike_ends_the_run_and_shows_that_error(self):
        def broken(chunk: pd.DataFrame) -> pd.DataFrame:
            return chunk["missing"]

        report = run(Pipeline("broken", split=by_rows(1), stages=[Stage(broken, retry=NO_RETRY)]))

        assert report.state is RunState.FAILED
        assert len(report.attempts) == 3
        assert (report.rows_quarantined, report.rows_cancelled) == (3, 17)
        assert report.error is not None
        assert report.error.type == "KeyError"

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (3.5, "float"),
            ([1, 2], "list"),
            (pd.Series([1], name="x"), r"to_frame"),
            (pd.DataFrame({"m": [1, "a"]}), "`?'?m'?`?"),
            (pd.DataFrame([[1, 2]], columns=["a", "a"]), "a"),
        ],
        ids=["float", "list", "series", "mixed column", "duplicate columns"],
    )
    def test_of_a_stage_to_give_a_storable_frame_says_what_to_give(self, given, said):
        def stage(chunk: pd.DataFrame):
            return given

        report = run(Pipeline("odd", split=by_rows(20), stages=[Stage(stage, retry=NO_RETRY)]))

        assert report.state is RunState.FAILED
        error = report.failures.iloc[0]
        assert error["error_type"] == "batchrun.errors.ResultError"
        assert "stage `stage`" in error["error"]
        assert pd.Series([error["error"]]).str.contains(said).all()

    def test_by_leaving_the_interpreter_is_a_failed_attempt(self):
        def leave(chunk: pd.DataFrame) -> pd.DataFrame:
            raise SystemExit(3)

        report = run(Pipeline("leaver", split=by_rows(20), stages=[Stage(leave, retry=NO_RETRY)]))

        assert report.failures.iloc[0]["error_type"] == "SystemExit"

    def test_with_an_error_that_cannot_be_read_or_pickled_is_recorded_all_the_same(self):
        class NastyError(Exception):
            def __init__(self):
                self.held = lambda: None

            def __str__(self):
                raise RuntimeError("no text")

        def nasty(chunk: pd.DataFrame) -> pd.DataFrame:
            raise NastyError

        report = run(Pipeline("nasty", split=by_rows(20), stages=[Stage(nasty, retry=NO_RETRY)]))

        assert report.failures.iloc[0]["error_type"].endswith("NastyError")

    def test_of_combine_keeps_the_parts_and_fails_the_run(self):
        def combine(parts):
            raise ZeroDivisionError("no parts add up")

        report = run(double, split=by_rows(10), combine=combine)

        assert report.state is RunState.FAILED
        assert report.error is not None
        assert report.error.type == "ZeroDivisionError"
        assert len(report.results()) == 20


@pytest.mark.usefixtures("here")
class TestCombine:
    def test_makes_one_frame_of_the_parts_in_input_order(self):
        def combine(parts, *, scale: int = 1) -> pd.DataFrame:
            return pd.DataFrame({"first": [part["x"].iloc[0] * scale for part in parts]})

        report = run(double, split=by_rows(6), combine=combine, params={"scale": 10})

        assert report.results()["first"].tolist() == [0, 60, 120, 180]
        assert report.scan().count_rows() == 4
        assert report.params == {"factor": 2, "scale": 10}


@pytest.mark.usefixtures("here")
class TestBadInput:
    @pytest.mark.parametrize(
        ("pipeline", "options", "error", "said"),
        [
            (double, {}, PipelineError, "split=by_rows"),
            (double, {"split": by_rows(3), "params": {"facto": 3}}, ParameterError, "did you mean `factor`"),
            (double, {"split": by_rows(3), "params": {"factor": "x"}}, ParameterError, "factor"),
            (double, {"split": by_group("grp")}, InputError, "did you mean `group`"),
            (double, {"split": by_rows(3), "columns": ["y"]}, InputError, "`?'?y"),
            (double, {"split": by_file()}, Exception, "by_file"),
            ("nowhere:thing", {}, PipelineError, "nowhere"),
        ],
    )
    def test_is_refused_before_anything_runs_and_leaves_nothing_behind(
        self, here, pipeline, options, error, said
    ):
        with pytest.raises(error, match=f"(?i){said}"):
            run_pipeline(pipeline, TABLE, cluster="inline", progress=False, **options)

        assert not list((here / ".batchrun" / "runs").glob("*"))

    def test_of_a_missing_file_names_it(self):
        with pytest.raises(InputError, match=r"flihgts\.parquet"):
            run(double, "flihgts.parquet", split=by_rows(3))


@pytest.mark.usefixtures("here")
def test_observers_hear_of_every_chunk_after_it_is_durable():
    heard = []

    report = run(double, split=by_rows(5), observers=[heard.append])

    assert isinstance(heard[0], RunStarted)
    assert isinstance(heard[-1], RunEnded)
    assert sum(event.rows.sum() for event in heard if isinstance(event, ChunksSettled)) == report.rows_in


@pytest.mark.usefixtures("here")
def test_a_resumed_run_tries_what_failed_and_nothing_else(here):
    def picky(chunk: pd.DataFrame) -> pd.DataFrame:
        if 7 in set(chunk["x"]) and not (here / "mended").exists():
            raise ValueError("seven is bad")
        return chunk

    picky_pipeline = Pipeline("picky", split=by_rows(4), stages=[Stage(picky, retry=NO_RETRY)])
    first = run(picky_pipeline)
    [failed] = first.failures["first_chunk"]
    (here / "mended").touch()

    resumed = resume_run(first.run_id, pipeline=picky_pipeline, cluster="inline", progress=False)

    assert_conserved(resumed)
    assert resumed.state is RunState.SUCCEEDED
    assert resumed.quarantined.empty
    pd.testing.assert_frame_equal(resumed.results(), TABLE)
    tries = resumed.attempts.groupby("chunk")["attempt"].agg(list)
    assert sorted(tries.tolist()) == [[1]] * 8 + [[1, 2]]
    assert tries[failed] == [1, 2]


@pytest.mark.usefixtures("here")
def test_a_pipeline_of_a_notebook_is_resumed_with_itself_only():
    def broken(chunk: pd.DataFrame) -> pd.DataFrame:
        raise ValueError("no")

    broken.__module__ = "__main__"
    run(Pipeline("broken", split=by_rows(20), stages=[Stage(broken, retry=NO_RETRY)]))

    with pytest.raises(PipelineError, match="resume_run"):
        resume_run("last", cluster="inline", progress=False)


def bad_rows(chunk: pd.DataFrame) -> pd.DataFrame:
    if chunk["x"].iloc[0] >= 4:
        raise ValueError("from four on all is bad")
    return chunk


BAD_ROWS = Pipeline("bad-rows", split=by_rows(2), stages=[Stage(bad_rows, retry=NO_RETRY)], combine=pd.concat)


@pytest.mark.usefixtures("here")
def test_a_resumed_run_in_which_only_bad_chunks_are_left_is_not_taken_for_a_broken_one():
    first = run(BAD_ROWS)
    assert (first.state, first.rows_solved, first.rows_quarantined) == (RunState.PARTIAL, 4, 16)

    again = resume_run("last", pipeline=BAD_ROWS, cluster="inline", progress=False)

    assert_conserved(again)
    assert (again.state, again.rows_solved, again.rows_quarantined) == (RunState.PARTIAL, 4, 16)
    assert len(again.attempts) == len(first.attempts) + 16
    assert again.results()["x"].tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("here")
def test_a_resumed_run_that_is_stopped_counts_what_it_did_not_reach_as_cancelled_once():
    first = run(BAD_ROWS)

    def interrupt(event):
        if isinstance(event, AttemptEnded):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="resume_run"):
        resume_run("last", pipeline=BAD_ROWS, cluster="inline", progress=False, observers=[interrupt])

    stopped = open_report("last")
    assert_conserved(stopped)
    assert stopped.state is RunState.CANCELLED
    assert stopped.rows_solved == 4
    assert stopped.rows_cancelled == 16
    assert len(stopped.attempts) == len(first.attempts) + 1


@pytest.mark.usefixtures("here")
class TestBadRows:
    @pytest.mark.parametrize("seed", range(10))
    def test_are_found_wherever_they_are_and_nothing_else_is_set_apart(self, seed):
        table = pd.DataFrame({"x": range(1000)})
        bad = {int(x) for x in np.random.default_rng(seed).choice(1000, 7, replace=False)}

        def picky(chunk: pd.DataFrame, *, bad: list[int]) -> pd.DataFrame:
            found = set(bad) & set(chunk["x"])
            if found:
                raise ValueError(f"{min(found)} is bad")
            return chunk

        stage = Stage(picky, retry=RetryPolicy(attempts=2, delay=0))
        report = run(
            Pipeline("picky", split=by_rows([1000, 250, 100][seed % 3]), stages=[stage]),
            table,
            params={"bad": sorted(bad)},
        )

        assert set(report.quarantined["x"]) == bad
        assert report.results()["x"].tolist() == [x for x in range(1000) if x not in bad]
        assert report.rows_solved == 993

    def test_cost_a_number_of_tries_that_grows_with_the_logarithm_of_the_chunk(self):
        def tries(rows: int) -> int:
            def picky(chunk: pd.DataFrame) -> pd.DataFrame:
                if (chunk["x"] == 5).any():
                    raise ValueError("five")
                return chunk

            stage = Stage(picky, retry=NO_RETRY)
            table = pd.DataFrame({"x": range(rows)})
            report = run(Pipeline("picky", split=by_rows(rows), stages=[stage]), table)
            assert report.quarantined["x"].tolist() == [5]
            return len(report.attempts)

        assert tries(64) == 1 + 2 * 6
        assert tries(4096) == 1 + 2 * 12

    def test_are_not_tried_again_where_the_whole_chunk_was(self):
        def picky(chunk: pd.DataFrame) -> pd.DataFrame:
            if (chunk["x"] == 5).any():
                raise ValueError("five")
            return chunk

        stage = Stage(picky, retry=RetryPolicy(attempts=3, delay=0))
        report = run(Pipeline("picky", split=by_rows(20), stages=[stage]))

        failed = report.attempts[report.attempts["outcome"] == "failed"].groupby("chunk").size()
        assert failed.tolist() == [3] + [1] * (len(failed) - 1)

    def test_of_a_later_stage_are_found_by_input_row_whatever_the_stages_before_did(self):
        def shuffle(chunk: pd.DataFrame) -> pd.DataFrame:
            return pd.concat([chunk, chunk]).sample(frac=1, random_state=1)

        def picky(chunk: pd.DataFrame) -> pd.DataFrame:
            if (chunk["x"] == 11).any():
                raise ValueError("eleven")
            return chunk

        stages = [Stage(shuffle, resources={"A": 1}), Stage(picky, retry=NO_RETRY)]
        report = run(Pipeline("picky", split=by_rows(8), stages=stages))

        assert report.quarantined["x"].tolist() == [11]
        assert sorted(report.results()["x"]) == sorted([x for x in range(20) if x != 11] * 2)

    def test_of_a_group_set_the_whole_group_apart(self):
        def picky(chunk: pd.DataFrame) -> pd.DataFrame:
            if (chunk["x"] == 6).any():
                raise ValueError("six is in group c")
            return chunk

        split = by_group("group", max_rows=12)
        report = run(Pipeline("picky", split=split, stages=[Stage(picky, retry=NO_RETRY)]))

        assert set(report.quarantined["group"]) == {"c"}
        assert report.rows_quarantined == 5
        assert set(report.results()["group"]) == set("abdef")

    @pytest.mark.parametrize("most", [4, "20%"])
    def test_that_are_too_many_end_the_run_early(self, most):
        def odd_is_bad(chunk: pd.DataFrame) -> pd.DataFrame:
            if (chunk["x"] % 2).any():
                raise ValueError("odd")
            return chunk

        stage = Stage(odd_is_bad, retry=NO_RETRY)
        report = run(Pipeline("odd", split=by_rows(2), stages=[stage]), max_quarantined=most)

        assert report.state is RunState.FAILED
        assert report.rows_quarantined == 5
        assert "max_quarantined" in str(report.error)
        assert "odd" in str(report.error)
        assert report.rows_cancelled > 0

    def test_everywhere_are_a_broken_function_which_ends_the_run_soon(self):
        def broken(chunk: pd.DataFrame) -> pd.DataFrame:
            return chunk[["missing"]]

        table = pd.DataFrame({"x": range(10_000)})
        stage = Stage(broken, retry=RetryPolicy(attempts=2, delay=0))
        report = run(Pipeline("broken", split=by_rows(1000), stages=[stage]), table)

        assert report.state is RunState.FAILED
        assert report.error.type == "KeyError"
        assert len(report.attempts) < 20
        assert report.rows_quarantined == 3

    def test_say_what_was_decided_about_every_attempt(self):
        def picky(chunk: pd.DataFrame) -> pd.DataFrame:
            if (chunk["x"] == 1).any():
                raise ValueError("one")
            return chunk

        stage = Stage(picky, retry=RetryPolicy(attempts=2, delay="1ms", jitter=0))
        report = run(Pipeline("picky", split=by_rows(2), stages=[stage]), TABLE.head(4))

        failed = report.attempts[report.attempts["outcome"] == "failed"]
        assert failed["cause"].tolist() == ["error"] * 3
        assert failed["decision"].tolist() == ["retry", "cut", "quarantine"]
        assert failed["next_step"].tolist() == [
            "tried again in 1 ms",
            "cut in two halves, which are tried by themselves",
            "its rows are set apart",
        ]


class WorkersLeave(InlineExecutor):
    """An executor whose worker goes away for good after its first task, as when a machine is switched off."""

    left = False

    def workers(self):
        return () if self.left else super().workers()

    def wait(self, timeout):
        signals = super().wait(timeout)
        if signals:
            self.left = True
            return [*signals, WorkersChanged()]
        return signals


@pytest.mark.usefixtures("here")
def test_a_run_whose_workers_stay_away_is_given_up_and_says_what_is_missing():
    report = run_pipeline(
        Pipeline("lonely", split=by_rows(5), stages=[Stage(double, resources={"HIGHMEM": 1})]),
        TABLE,
        cluster=WorkersLeave([Demand(tags={"HIGHMEM": 1})]),
        settings=load_settings(overrides={"run.workers_timeout": "100ms"}),
        progress=False,
    )

    assert_conserved(report)
    assert report.state is RunState.FAILED
    assert (report.rows_solved, report.rows_cancelled) == (5, 15)
    assert report.error is not None
    assert "no worker with HIGHMEM: 1" in report.error.message


@pytest.mark.usefixtures("here")
class TestAStageThatStops:
    def test_by_a_limit_of_its_own_has_a_solution_and_is_no_plain_success(self):
        def search(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
            ctx.incumbent(chunk, objective=10.0, bound=8.0)
            if chunk["x"].iloc[0] == 0:
                ctx.stopped_early()
            return chunk

        report = run(Pipeline("search", split=by_rows(10), stages=[search]))

        assert report.state is RunState.SUCCEEDED
        assert report.chunks["outcome"].tolist() == ["stopped_with_solution", "succeeded"]
        assert report.chunks["gap"].tolist() == [0.2, 0.2]
        assert report.attempts["cause"].tolist()[0] == "deadline"

    def test_because_it_was_asked_to_has_a_solution_too(self):
        def search(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
            while not ctx.should_stop:
                ctx.progress(0.5, message="looking")
            return chunk

        stages = [Stage(search, stop_after="50ms"), double]
        report = run(Pipeline("search", split=by_rows(20), stages=stages))

        assert report.chunks["outcome"].tolist() == ["stopped_with_solution"]
        assert report.attempts["outcome"].tolist() == ["stopped_with_solution", "succeeded"]
        assert report.results()["y"].tolist() == (TABLE["x"] * 2).tolist()


@pytest.mark.usefixtures("here")
class TestCancelledChunks:
    def cancel(self, *chunks: int):
        def observer(event):
            if isinstance(event, RunStarted):
                with RunStore("sqlite:///.batchrun/store.db") as store:
                    for chunk in chunks:
                        store.request_cancel(event.run_id, chunk=chunk)

        def slow(chunk: pd.DataFrame) -> pd.DataFrame:
            time.sleep(0.3)
            return chunk

        return run(Pipeline("slow", split=by_rows(5), stages=[slow]), observers=[observer])

    def test_leave_the_others_solved(self):
        report = self.cancel(2, 3)

        assert report.state is RunState.PARTIAL
        assert (report.rows_solved, report.rows_cancelled) == (10, 10)
        assert report.chunks["outcome"].tolist() == ["succeeded"] * 2 + ["cancelled"] * 2
        assert report.results()["x"].tolist() == list(range(10))

    def test_are_tried_again_when_the_run_is_resumed(self):
        def same(chunk: pd.DataFrame) -> pd.DataFrame:
            return chunk

        same.__name__ = "slow"
        self.cancel(2, 3)

        again = Pipeline("slow", split=by_rows(5), stages=[same])
        report = resume_run("last", pipeline=again, cluster="inline", progress=False)

        assert_conserved(report)
        assert report.state is RunState.SUCCEEDED
        assert report.results()["x"].tolist() == list(range(20))


class TestReadingAhead:
    @pytest.mark.usefixtures("here")
    def test_the_next_chunk_of_a_file_is_read_while_one_is_computed(self, tmp_path, monkeypatch):
        read: list[tuple[int, str]] = []
        load_slice = loading._load_slice

        def noting(ref):
            read.append((ref.first_row, threading.current_thread().name))
            return load_slice(ref)

        def slowly(chunk: pd.DataFrame) -> pd.DataFrame:
            time.sleep(0.3)
            return chunk

        monkeypatch.setattr(loading, "_load_slice", noting)
        numbers = pd.DataFrame({"x": range(60)})
        numbers.to_parquet(tmp_path / "numbers.parquet", row_group_size=10)
        pipe = Pipeline("slow", split=by_rows(10), stages=[slowly])

        report = run_pipeline(pipe, str(tmp_path / "numbers.parquet"), cluster="inline", progress=False)

        assert_conserved(report)
        pd.testing.assert_frame_equal(report.results(), numbers)
        assert sorted(first for first, _ in read) == [0, 10, 20, 30, 40, 50]
        ahead = [first for first, thread in read if thread == "batchrun-read-ahead"]
        assert len(ahead) == 5
