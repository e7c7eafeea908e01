"""Whose frames a traceback shows."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pandas as pd
import pytest

from batchrun import RetryPolicy, Stage, by_rows, run_pipeline
from batchrun.errors import RunFailedError
from batchrun.tracebacks import StageError, users_frames

FOUR = pd.DataFrame({"x": range(4)})


def broken(chunk: pd.DataFrame) -> pd.DataFrame:
    if chunk["x"].iloc[0] > 1:
        raise KeyError("rare")
    raise ValueError("no scale holds it")


def test_the_users_frames_are_kept_and_those_of_batchrun_and_of_python_left_out():
    def observe(event: object) -> None:
        json.loads("{")

    with pytest.raises(json.JSONDecodeError) as raised:
        run_pipeline(broken, FOUR, split=by_rows(2), cluster="inline", observers=[observe], progress=False)
    kept, left_out = users_frames(raised.value.__traceback__)
    frames = traceback.extract_tb(kept)

    assert {Path(frame.filename).name for frame in frames} == {"test_tracebacks.py"}
    assert frames[-1].name == "observe"
    assert left_out >= 4


def test_what_most_rows_failed_by_is_the_cause_of_a_run_that_did_not_succeed(here: Path):
    stage = Stage(broken, retry=RetryPolicy(attempts=1))
    report = run_pipeline(stage, FOUR, split=by_rows(4), cluster="inline", progress=False)
    with pytest.raises(RunFailedError) as raised:
        report.raise_for_state()

    assert isinstance(raised.value.__cause__, StageError)
    shown = "".join(traceback.format_exception(raised.value))
    assert "in broken" in shown[: shown.index("RunFailedError")]
    assert "loop.py" not in shown
