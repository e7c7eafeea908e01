"""Workers die: the chunk is tried elsewhere, and not for ever; the others go on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest

from batchrun import Pipeline, RetryPolicy, RunState, Stage, by_rows, run_pipeline
from batchrun.config import load_settings

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows"),
]
TABLE = pd.DataFrame({"x": range(40)})


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two workers that may be killed."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "cluster.yaml").write_text(
        "workers: {standard: {count: 2, memory: 1GiB}}\ndashboard: off\nrun: {flush_every: 50ms}\n"
    )
    return load_settings(folder / "cluster.yaml")


def kills_its_worker(chunk: pd.DataFrame, *, times: int, folder: str) -> pd.DataFrame:
    if 21 in set(chunk["x"]):
        deaths = len(list(Path(folder).iterdir()))
        if deaths < times:
            Path(folder, str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return chunk


def run(small, folder: Path, times: int):
    stage = Stage(kills_its_worker, retry=RetryPolicy(attempts=1, worker_lost=2))
    made = Pipeline("killer", split=by_rows(2), stages=[stage])
    return run_pipeline(
        made, TABLE, params={"times": times, "folder": str(folder)}, cluster=small, progress=False
    )


def test_a_chunk_whose_worker_died_is_solved_by_another(small, tmp_path):
    report = run(small, tmp_path, times=1)

    assert report.state is RunState.SUCCEEDED
    pd.testing.assert_frame_equal(report.results(), TABLE)
    tries = report.attempts[report.attempts["chunk"] == 10]
    assert tries["outcome"].tolist() == ["worker_lost", "succeeded"]
    assert tries["attempt"].tolist() == [1, 2]


def test_a_chunk_that_kills_every_worker_is_given_up_and_blames_nobody_else(small, tmp_path):
    report = run(small, tmp_path, times=99)

    assert report.state is RunState.PARTIAL
    assert (report.rows_solved, report.rows_quarantined, report.rows_cancelled) == (38, 2, 0)
    assert report.quarantined["x"].tolist() == [20, 21]
    assert report.chunks.loc[10, "outcome"] == "worker_lost"
    assert (report.chunks["outcome"] == "succeeded").sum() == 19
    assert len(list(tmp_path.iterdir())) == 2
