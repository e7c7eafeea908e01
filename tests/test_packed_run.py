"""Whole runs of many short chunks: they ride together, and each is accounted for by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from batchrun import ChunkContext, Pipeline, RunReport, RunState, Stage, by_group, by_rows, run_pipeline
from batchrun.events import ChunksPlaced
from batchrun.executor import InlineExecutor
from batchrun.store.runs import RunStore
from batchrun.worker.fold import Fold
from batchrun.worker.pack import Pack
from tests.test_run import NO_RETRY, assert_conserved

ROWS = 3_000
NUMBERS = pd.DataFrame({"x": np.arange(ROWS), "group": np.arange(ROWS) // 7 % 400})


class Counting(InlineExecutor):
    """Notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.packs: list[int] = []
        self.folds: list[int] = []

    def submit(self, placements):
        for placement in placements:
            if isinstance(placement.task, Pack):
                self.packs.append(len(placement.task.members))
            elif isinstance(placement.task, Fold):
                self.folds.append(len(placement.task.parts))
        super().submit(placements)


def run(pipeline, data=NUMBERS, executor=None, **options) -> RunReport:
    report = run_pipeline(pipeline, data, cluster=executor or "inline", progress=False, **options)
    assert_conserved(report)
    return report


def double(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.assign(y=chunk["x"] * 2)


def bad_every_97th(chunk: pd.DataFrame) -> pd.DataFrame:
    if (chunk["x"] % 97 == 0).any():
        raise ValueError("a bad row")
    return chunk


def total(chunk: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"total": [chunk["x"].sum()], "rows": [len(chunk)]})


def add_up(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(list(parts))[["total", "rows"]].sum().to_frame().T


@pytest.mark.usefixtures("here")
class TestManyShortChunks:
    def test_ride_together_and_are_recorded_one_by_one(self):
        executor = Counting()

        report = run(double, split=by_rows(1), executor=executor)

        assert report.state is RunState.SUCCEEDED
        assert max(executor.packs) > 10
        pd.testing.assert_frame_equal(report.results(), NUMBERS.assign(y=NUMBERS["x"] * 2))
        attempts = report.attempts
        assert sorted(attempts["chunk"]) == list(range(ROWS))
        assert (attempts["outcome"] == "succeeded").all()
        assert attempts["rows_in"].eq(1).all()
        assert attempts["seconds"].gt(0).all()

    def test_are_judged_by_themselves(self):
        report = run(Pipeline("picky", split=by_rows(1), stages=[Stage(bad_every_97th, retry=NO_RETRY)]))

        bad = [x for x in range(ROWS) if x % 97 == 0]
        assert report.quarantined["x"].tolist() == bad
        assert report.results()["x"].tolist() == [x for x in range(ROWS) if x % 97]

    def test_are_known_again_in_the_next_run(self):
        report = run(double, split=by_rows(1), executor=(executor := Counting()))
        assert executor.packs

        with RunStore("sqlite:///.batchrun/store.db") as store:
            keys = store.history("double")["double"].keys

        assert report.state is RunState.SUCCEEDED
        assert len(keys) == ROWS
        assert len(set(keys.tolist()) - {0}) == ROWS

    def test_of_groups_that_are_not_neighbours_keep_input_order(self):
        report = run(double, split=by_group("group"))

        again = report.results().sort_index()
        assert len(again) == ROWS
        assert (again["y"] == again["x"] * 2).all()

    def test_pass_from_leg_to_leg(self):
        def tagged(chunk: pa.Table) -> pa.Table:
            return chunk.append_column("z", pa.array([1] * chunk.num_rows))

        chain = Pipeline(
            "chain", split=by_rows(5), stages=[double, Stage(tagged, resources={"TAG": 1}), double]
        )

        results = run(chain, executor=InlineExecutor(stage.demand for stage in chain.stages)).results()

        assert len(results) == ROWS
        assert results["z"].eq(1).all()

    def test_are_told_to_observers_in_packs(self):
        heard: list[ChunksPlaced] = []

        run(
            double,
            split=by_rows(1),
            observers=[lambda event: heard.append(event) if isinstance(event, ChunksPlaced) else None],
        )

        assert {chunk for event in heard for chunk in event.chunks} == set(range(ROWS))
        assert any(len(event.chunks) > 20 for event in heard)


@pytest.mark.usefixtures("here")
class TestAnAssociativeCombine:
    def test_is_applied_in_a_tree_as_chunks_end(self):
        executor = Counting()
        sums = Pipeline("sums", split=by_rows(1), stages=[total], combine=add_up, associative=True)

        report = run(sums, executor=executor)

        assert report.results().to_dict("list") == {"total": [NUMBERS["x"].sum()], "rows": [ROWS]}
        assert len(executor.folds) == -(-ROWS // 64) + 1
        assert executor.folds[-1] == -(-ROWS // 64)

    def test_keeps_the_order_of_the_input(self):
        def joined(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
            return pd.concat(list(parts), ignore_index=True)

        together = Pipeline("together", split=by_rows(2), stages=[double], combine=joined, associative=True)

        assert run(together).results()["x"].tolist() == list(range(ROWS))

    def test_leaves_out_what_is_quarantined(self):
        stages = [Stage(bad_every_97th, retry=NO_RETRY), total]
        sums = Pipeline("sums", split=by_rows(10), stages=stages, combine=add_up, associative=True)

        report = run(sums)

        good = [x for x in range(ROWS) if x % 97]
        assert report.state is RunState.PARTIAL
        assert report.results()["total"].tolist() == [sum(good)]

    def test_that_fails_fails_the_run_and_loses_no_result(self):
        def broken(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
            raise RuntimeError("cannot add up")

        sums = Pipeline("sums", split=by_rows(10), stages=[total], combine=broken, associative=True)

        report = run(sums)

        assert report.state is RunState.FAILED
        assert "cannot add up" in str(report.error)
        assert report.rows_solved == ROWS


def slow_at_ten(chunk: pd.DataFrame, ctx: ChunkContext, *, usual: float = 0.002) -> pd.DataFrame:
    time.sleep(5.0 if ctx.chunk == 10 else usual)
    return chunk.assign(pid=os.getpid(), ended=time.time())


def kills_once(chunk: pd.DataFrame, *, marks: str) -> pd.DataFrame:
    mark = Path(marks) / "killed"
    if (chunk["x"] == 700).any() and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return chunk


@pytest.mark.cluster
class TestOnWorkers:
    def test_a_long_chunk_holds_up_none_of_those_that_were_to_ride_with_it(self, cluster):
        few = NUMBERS.head(300)
        report = run_pipeline(slow_at_ten, few, split=by_rows(1), cluster=cluster, progress=False)

        assert_conserved(report)
        results = report.results()
        slow = results.loc[results["x"] == 10, "ended"].item()
        assert (results.loc[results["x"] != 10, "ended"] < slow).all()
        assert sorted(report.attempts["chunk"]) == list(range(300))

    def test_a_chunk_that_takes_long_unforeseen_holds_up_none_of_those_behind_it(self, cluster):
        """They take too long to ride together and are short enough to wait behind one another."""
        report = run_pipeline(
            slow_at_ten,
            NUMBERS.head(40),
            split=by_rows(1),
            params={"usual": 0.11},
            cluster=cluster,
            progress=False,
        )

        assert_conserved(report)
        results = report.results()
        slow = results.loc[results["x"] == 10, "ended"].item()
        assert (results.loc[results["x"] != 10, "ended"] < slow).all()
        assert report.attempts["attempt"].eq(1).all()

    def test_a_worker_that_dies_with_a_pack_loses_nothing(self, cluster, tmp_path):
        report = run_pipeline(
            kills_once,
            NUMBERS,
            split=by_rows(1),
            params={"marks": str(tmp_path)},
            cluster=cluster,
            progress=False,
        )

        assert_conserved(report)
        assert report.state is RunState.SUCCEEDED
        assert report.results()["x"].tolist() == list(range(ROWS))
        lost = report.attempts[report.attempts["outcome"] == "worker_lost"]
        assert 700 in set(lost["chunk"])

    def test_results_are_combined_on_workers(self, cluster):
        sums = Pipeline("sums", split=by_rows(1), stages=[total], combine=add_up, associative=True)

        report = run_pipeline(sums, NUMBERS, cluster=cluster, progress=False)

        assert_conserved(report)
        assert report.results().to_dict("list") == {"total": [NUMBERS["x"].sum()], "rows": [ROWS]}
