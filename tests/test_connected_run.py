"""Whole runs on a cluster that was started by hand, whose workers know nothing of the user's files."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from batchrun import Pipeline, RunState, Stage, by_group, by_rows, run_pipeline
from batchrun.config import settings_for_address
from tests.dask_processes import DaskProcesses
from tests.test_connect import connect_to

pytestmark = pytest.mark.cluster
HELPERS = "RATE = 3\ndef triple(values):\n    return values * RATE\n"
MODULE = """\
import pandas as pd
from batchrun import Pipeline, Stage, by_rows
from ore import helpers

def clean(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.dropna()

def solve(chunk: pd.DataFrame, *, bonus: int = 0) -> pd.DataFrame:
    return chunk.assign(y=helpers.triple(chunk["x"]) + bonus)

mine = Pipeline("mine", split=by_rows(5), stages=[clean, Stage(solve, resources={"HIGHMEM": 1})])
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    processes = DaskProcesses(tmp_path_factory.mktemp("dask"))
    processes.scheduler()
    processes.worker("--name", "plain", "--nthreads", "1", "--resources", "MEMORY=500e6")
    processes.worker("--name", "tagged", "--nthreads", "1", "--resources", "HIGHMEM=1 MEMORY=500e6")
    try:
        with connect_to(processes.address) as connection:
            connection.client.wait_for_workers(2, timeout=60)
        yield processes.address
    finally:
        processes.stop()


@pytest.fixture
def package(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the user's in the current folder, with a module that another one uses."""
    (here / "ore").mkdir()
    (here / "ore" / "__init__.py").touch()
    (here / "ore" / "helpers.py").write_text(HELPERS)
    (here / "ore" / "pits.py").write_text(MODULE)
    pd.DataFrame({"x": range(20)}).to_parquet(here / "in.parquet")
    monkeypatch.syspath_prepend(here)
    yield here
    for name in [name for name in sys.modules if name.partition(".")[0] == "ore"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_a_package_that_workers_do_not_have_travels_with_the_run(address, package):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "batchrun",
            "submit",
            "ore.pits:mine",
            "-i",
            "in.parquet",
            "-c",
            address,
            "-p",
            "bonus=1",
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [document[key] for key in ("rows_in", "rows_solved", "state")] == [20, 20, "succeeded"]
    mine = importlib.import_module("ore.pits").mine
    report = run_pipeline(mine, "in.parquet", params={"bonus": 1}, cluster=address, progress=False)
    assert report.results()["y"].tolist() == [3 * x + 1 for x in range(20)]
    solved = report.attempts[report.attempts["stage"] == "solve"]
    assert set(solved["worker"]) == {"tagged"}


def test_workers_that_share_no_files_are_sent_their_rows_and_send_back_their_results(
    address, here, monkeypatch
):
    monkeypatch.setattr("batchrun.cluster.executor.DaskExecutor.shares", lambda *_: False)
    table = pd.DataFrame({"x": range(30), "pit": list("cab") * 10})

    def size(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.groupby("pit", as_index=False)["x"].sum()

    def widen(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.loc[chunk.index.repeat(100_000)]

    pipeline = Pipeline("far", split=by_group("pit"), stages=[size, Stage(widen, resources={"HIGHMEM": 1})])
    settings = settings_for_address(address, overrides={"run.small_result": "1KiB"})
    report = run_pipeline(pipeline, table, cluster=settings, progress=False)

    assert report.state is RunState.SUCCEEDED
    counted = report.results().drop_duplicates().set_index("pit")["x"].to_dict()
    assert counted == table.groupby("pit")["x"].sum().to_dict()
    assert len(report.results()) == 300_000
    assert not list(Path(report.folder).glob("results/*"))


def test_a_plain_function_runs_on_a_cluster_by_its_address(address, here):
    def double(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk * 2

    report = run_pipeline(
        double, pd.DataFrame({"x": range(9)}), split=by_rows(2), cluster=address, progress=False
    )

    assert report.results()["x"].tolist() == list(range(0, 18, 2))
