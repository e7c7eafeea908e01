"""Pipelines that follow each other: the results of one are the input of the next, split anew."""

from __future__ import annotations

import pandas as pd
import pytest

from batchrun import Pipeline, RunState, by_group, by_rows, run_pipeline
from batchrun.chain import Chain
from batchrun.errors import ParameterError
from batchrun.launch import submit_pipeline

NUMBERS = pd.DataFrame({"x": range(10)})


def label(chunk: pd.DataFrame, *, colours: int = 3) -> pd.DataFrame:
    return chunk.assign(colour=chunk["x"] % colours)


def total(group: pd.DataFrame, *, factor: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"colour": [group["colour"].iloc[0]], "total": [group["x"].sum() * factor]})


def refuse(chunk: pd.DataFrame) -> pd.DataFrame:
    raise ValueError("no")


labelled = Pipeline("labelled", split=by_rows(4), stages=[label])
totals = Pipeline("totals", split=by_group("colour"), stages=[total])
broken = Pipeline("broken", split=by_rows(5), stages=[refuse])

INLINE = {"cluster": "inline", "progress": False}


def test_the_second_takes_the_results_of_the_first_split_anew(here):
    report = run_pipeline(labelled | totals, NUMBERS, params={"colours": 2, "factor": 10}, **INLINE)

    assert report.results().to_dict("list") == {"colour": [0, 1], "total": [200, 250]}
    assert (report.pipeline, report.rows_in, report.rows_solved) == ("totals", 10, 10)
    assert report.params == {"factor": 10}
    assert report.before is not None
    assert (report.before.pipeline, report.before.params) == ("labelled", {"colours": 2})
    assert report.input["description"] == f"results of run {report.before.run_id}"
    assert report.before.before is None


def test_a_chain_goes_on_with_more_pipelines(here):
    chain = labelled | totals | Pipeline("same", split=by_rows(1), stages=[lambda chunk: chunk])
    assert isinstance(chain, Chain)
    assert chain.name == "labelled | totals | same"
    report = run_pipeline(chain, NUMBERS, **INLINE)
    assert report.results()["total"].tolist() == [18, 12, 15]


def test_nothing_follows_a_run_without_results(here):
    report = run_pipeline(broken | totals, NUMBERS, **INLINE)
    assert (report.pipeline, report.state) == ("broken", RunState.FAILED)


def test_a_parameter_that_no_pipeline_knows_is_refused_before_anything_runs(here):
    with pytest.raises(ParameterError, match="has a parameter `color`; they take `colours`, `factor`"):
        run_pipeline(labelled | totals, NUMBERS, params={"color": 2}, **INLINE)
    with pytest.raises(ParameterError, match="cannot be 'many'"):
        run_pipeline(labelled | totals, NUMBERS, params={"factor": "many"}, **INLINE)
    assert not (here / ".batchrun" / "store.db").exists()


def test_a_report_can_be_the_input(here):
    first = run_pipeline(labelled, NUMBERS, **INLINE)
    report = run_pipeline(totals, first, **INLINE)
    assert report.results()["total"].tolist() == [18, 12, 15]


def test_a_chain_runs_in_the_background(here):
    report = submit_pipeline(labelled | totals, NUMBERS, **INLINE).wait(60)
    assert report.state is RunState.SUCCEEDED


def test_where_is_kept_when_a_pipeline_is_given_another_split():
    some = Pipeline("some", split=by_rows(4), stages=[label], where=[("x", ">", 3)])
    assert some.with_split(by_rows(2)).where == some.where
    assert some.with_stages(some.stages).where == some.where
