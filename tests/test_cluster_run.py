"""Whole runs on real workers: needs are met, and never overrun."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from batchrun import ChunkContext, Pipeline, RunState, Stage, by_group, by_rows, run_pipeline
from batchrun.errors import DemandError

pytestmark = pytest.mark.cluster
TABLE = pd.DataFrame({"x": range(24), "pit": list("abcdefgh") * 3})


def clean(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    return chunk.assign(cleaned_by=ctx.worker)


def solve(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    begun = time.time()
    time.sleep(0.05)
    return chunk.assign(solved_by=ctx.worker, begun=begun, ended=time.time())


def score(chunk: pd.DataFrame, *, bonus: int = 0) -> pd.DataFrame:
    return chunk.assign(score=chunk["x"] + bonus)


def test_a_stage_runs_where_its_tags_are_and_the_others_anywhere(cluster):
    mine = Pipeline(
        "mine",
        split=by_group("pit"),
        stages=[clean, Stage(solve, memory="512MiB", resources={"HIGHMEM": 1}), score],
    )

    report = run_pipeline(mine, TABLE, params={"bonus": 5}, cluster=cluster, progress=False)

    assert report.state is RunState.SUCCEEDED
    results = report.results()
    assert len(results) == 24
    assert set(results["solved_by"]) == {"highmem-0"}
    assert (results["score"] == results["x"] + 5).all()
    assert results.groupby("pit").size().eq(3).all()
    assert [stage["leg"] for stage in report.stages] == [0, 1, 2]
    assert report.attempts.groupby("stage").size().to_dict() == {"clean": 8, "score": 8, "solve": 8}


def test_two_stages_that_together_pass_the_memory_of_a_worker_never_overlap(cluster):
    heavy = Pipeline("heavy", split=by_rows(2), stages=[Stage(solve, memory="1200MiB")])

    results = run_pipeline(heavy, TABLE, cluster=cluster, progress=False).results()

    assert set(results["solved_by"]) == {"highmem-0"}
    spans = results.drop_duplicates("begun").sort_values("begun")
    assert (spans["begun"].to_numpy()[1:] >= spans["ended"].to_numpy()[:-1]).all()


def test_all_workers_take_part(cluster):
    report = run_pipeline(
        Pipeline("p", split=by_rows(1), stages=[solve]), TABLE, cluster=cluster, progress=False
    )

    assert set(report.results()["solved_by"]) == {"standard-0", "standard-1", "highmem-0"}


@pytest.mark.parametrize("needs", [{"resources": {"GPU": 1}}, {"memory": "64GiB"}])
def test_a_demand_that_no_worker_can_ever_meet_is_refused_before_anything_runs(cluster, needs):
    greedy = Pipeline("greedy", split=by_rows(2), stages=[clean, Stage(solve, **needs)])

    with pytest.raises(DemandError, match=r"stage `solve` needs (GPU: 1|MEMORY: 64 GiB).*HIGHMEM: 1"):
        run_pipeline(greedy, TABLE, cluster=cluster, progress=False)


def test_large_results_are_written_by_workers_and_read_back_in_order(cluster):
    def widen(chunk: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"x": chunk["x"].repeat(200_000)})

    report = run_pipeline(widen, TABLE, split=by_rows(8), cluster=cluster, progress=False)

    assert report.scan().count_rows() == 24 * 200_000
    assert report.results()["x"].drop_duplicates().tolist() == list(range(24))


def test_a_function_of_the_main_module_and_its_helpers_travel_by_value(cluster):
    offset = 100

    def helper(values):
        return values + offset

    def stage(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.assign(y=helper(chunk["x"]))

    report = run_pipeline(stage, TABLE, split=by_rows(12), cluster=cluster, progress=False)

    assert (report.results()["y"] == TABLE["x"] + 100).all()


def test_an_error_shows_the_users_own_line(cluster):
    def wrong(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk["no such column"]

    report = run_pipeline(
        Pipeline("wrong", split=by_rows(24), stages=[wrong]), TABLE, cluster=cluster, progress=False
    )

    assert report.state is RunState.FAILED
    assert 'return chunk["no such column"]' in report.failures.iloc[0]["traceback"]
