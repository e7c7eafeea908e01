"""Two runs side by side: what differs between them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from batchrun import Pipeline, RunReport, Stage, by_rows, run_pipeline
from batchrun.cli import app
from batchrun.comparison import ColumnDifference, Comparison, compare
from batchrun.retry import RetryPolicy

ROWS = pd.DataFrame({"value": range(50)})


def solve(chunk: pd.DataFrame, *, add: float = 0.0, bad: int = -1) -> pd.DataFrame:
    if (chunk["value"] == bad).any():
        raise ValueError("a bad row")
    return chunk.assign(more=chunk["value"] + add)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    function: Callable[..., Any] = solve, data: pd.DataFrame = ROWS, rows: int = 5, **params: Any
) -> RunReport:
    stage = Stage(function, name="solve", retry=RetryPolicy(attempts=1))
    pipeline = Pipeline("scores", split=by_rows(rows), stages=[stage])
    return run_pipeline(pipeline, data, cluster="inline", params=params, progress=False)


def differing(comparison: Comparison) -> dict[str, tuple[str, str]]:
    lines = [*comparison.asked, *comparison.outcome]
    return {line.name: (line.first, line.second) for line in lines if line.differs}


def test_runs_of_the_same_differ_in_nothing_but_time():
    found = compare(run(), run())
    assert differing(found) == {}
    assert found.results.alike
    assert found.results.rows == (50, 50)


def test_what_was_asked_for_and_what_came_of_it_is_told():
    found = differing(compare(run(), run(add=0.5, bad=7, rows=10)))
    assert found["parameter add"] == ("0.0", "0.5")
    assert found["split"] == ("by_rows(5)", "by_rows(10)")
    assert found["state"] == ("succeeded", "partial")
    assert found["rows"][1] == "50 rows in = 49 solved + 1 quarantined + 0 cancelled"
    assert found["failures"] == ("-", "ValueError: a bad row (1 chunk)")
    assert found["attempts"] == ("10: 10 succeeded", "11: 7 succeeded, 4 failed")
    assert not {"pipeline", "input fingerprint", "setting store"} & set(found)


def test_limits_of_time_are_asked_for_too():
    def limited(stop_after: str) -> RunReport:
        stage = Stage(solve, name="solve", stop_after=stop_after)
        return run_pipeline(
            Pipeline("scores", split=by_rows(50), stages=[stage]), ROWS, cluster="inline", progress=False
        )

    found = differing(compare(limited("1min"), limited("2min")))
    assert found["solve: limits of time"] == ("stop_after 1 min", "stop_after 2 min")


def test_results_are_compared_row_by_row_however_they_were_cut():
    found = compare(run(rows=7), run(rows=11, add=0.25))
    assert found.results.columns == (ColumnDifference("more", 50, 0.25),)
    assert not found.results.alike


def test_missing_values_are_equal_and_a_value_differs_from_a_missing_one():
    def first(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.assign(number=np.where(chunk["value"] < 2, np.nan, 1.0), text=["a", None] * 25)

    def second(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.assign(
            number=np.where(chunk["value"] < 3, np.nan, 1.0), text=["a", None] * 24 + ["b", None]
        )

    found = compare(run(first, rows=50), run(second, rows=50)).results
    assert found.columns == (ColumnDifference("number", 1, None), ColumnDifference("text", 1, None))


def test_columns_of_different_types_are_compared_by_their_values():
    def whole(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.assign(number=chunk["value"].astype("int64"))

    def floating(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.assign(number=chunk["value"].astype("float64") + (chunk["value"] == 3))

    assert compare(run(whole), run(floating)).results.columns == (ColumnDifference("number", 1, 1.0),)


def test_columns_that_only_one_has_are_named():
    def other(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.assign(less=1)

    found = compare(run(), run(other)).results
    assert (found.only_first, found.only_second, found.columns) == (("more",), ("less",), ())


@pytest.mark.parametrize(
    ("data", "why"),
    [(ROWS.head(20), "they have not equally many rows"), (ROWS.head(0), "one of them has no results")],
)
def test_results_that_cannot_be_laid_side_by_side_are_not_compared(data: pd.DataFrame, why: str):
    found = compare(run(), run(data=data)).results
    assert found.unknown == why
    assert not found.alike


def test_the_command_shows_what_differs_and_all_of_it_if_asked():
    first, second = run(), run(add=0.5)
    said = CliRunner().invoke(app, ["compare", first.run_id, second.run_id], catch_exceptions=False).output
    assert "parameter add" in said
    assert "more differs in 50 rows, by 0.5 at most" in said
    assert "by_rows(5)" not in said
    said = CliRunner().invoke(app, ["compare", first.run_id, second.run_id, "--all"]).output
    assert "by_rows(5)" in said


def test_the_command_gives_json():
    import json

    first, second = run(), run(add=0.5)
    said = json.loads(CliRunner().invoke(app, ["compare", first.run_id, second.run_id, "--json"]).output)
    assert (said["first"], said["second"]) == (first.run_id, second.run_id)
    assert said["results"]["columns"] == [{"name": "more", "rows": 50, "largest": 0.5}]
