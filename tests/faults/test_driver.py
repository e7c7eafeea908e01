"""The driver dies, or is told to stop: nothing that was solved is lost or computed again."""

from __future__ import annotations

import json
import os
import signal
import sys

import pandas as pd
import psutil
import pytest

from batchrun import RunReport
from tests.faults.conftest import ROWS, Project, wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows"),
]
CHUNKS = ROWS // 4


def results_of(project: Project, run_id: str) -> pd.DataFrame:
    return RunReport(f"sqlite:///{project.folder}/.batchrun/store.db", run_id).results()


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def all_end(processes: list[psutil.Process]) -> bool:
    """Whether none of them is left after a while."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not alive


def test_a_killed_driver_is_resumed_without_computing_a_finished_chunk_again(project: Project):
    process = project.submit()
    project.wait_for_calls(CHUNKS // 2)
    workers = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert all_end(workers)
    left = project.answer("runs")["runs"][0]
    assert left["state"] == "running"
    assert 0 < left["rows_solved"] < ROWS
    before = project.started()

    resumed = project.answer("resume", "last")

    assert resumed["state"] == "succeeded"
    counted = [resumed[key] for key in ("rows_in", "rows_solved", "rows_quarantined", "rows_cancelled")]
    assert counted == [ROWS, ROWS, 0, 0]
    again = sum((project.started() - before).values())
    assert again == CHUNKS - left["rows_solved"] // 4
    expected = pd.DataFrame({"x": range(ROWS)}).assign(y=lambda frame: frame["x"] ** 2)
    pd.testing.assert_frame_equal(results_of(project, resumed["run"]), expected)


def test_a_run_that_is_driven_cannot_be_resumed_beside_its_driver(project: Project):
    process = project.submit("-p", "seconds=0.5")
    project.wait_for_calls(3)

    refused = project.answer("resume", "last")
    out, _ = process.communicate(timeout=60)

    assert refused["exit_code"] == 2
    assert "driven by another process" in refused["error"]
    assert json.loads(out)["rows_solved"] == ROWS


def test_ctrl_c_lets_running_chunks_end_and_records_the_rest_as_cancelled(project: Project):
    process = project.submit()
    project.wait_for_calls(4)
    workers = children_of(process.pid)

    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    document = json.loads(out)
    assert document["state"] == "cancelled"
    assert document["rows_solved"] + document["rows_cancelled"] == ROWS
    assert document["rows_solved"] == 4 * len(project.started())
    assert "Traceback" not in err
    assert all_end(workers)
    assert project.answer("resume", "last")["rows_solved"] == ROWS
    assert set(project.started().values()) == {1}


def test_a_second_ctrl_c_does_not_wait(project: Project):
    process = project.submit("-p", "seconds=60")
    wait_until(lambda: bool(project.answer("runs")["runs"]))

    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: process.poll() is None)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=50)

    assert process.returncode == 130
    assert json.loads(out)["rows_cancelled"] == ROWS


def test_a_polite_kill_is_a_ctrl_c(project: Project):
    process = project.submit()
    project.wait_for_calls(2)

    process.terminate()
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert json.loads(out)["state"] == "cancelled"


def test_a_disk_that_takes_no_more_is_one_clear_error_and_loses_nothing(project: Project):
    limit = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); "
        "sys.argv = ['batchrun', 'submit', 'work:slow', '-i', 'in.parquet', '-c', 'inline', '--quiet', "
        "'--set', 'run.store_timeout=1s', "
        f"'-p', 'seconds=0', '-p', 'calls={project.calls}']; from batchrun.cli import main; main()"
    )
    project.answer("runs")  # the store is made while there is room
    pd.DataFrame({"x": range(16_000)}).to_parquet(project.folder / "in.parquet")

    done = psutil.Popen([sys.executable, "-c", limit], cwd=project.folder, stdout=-1, stderr=-1, text=True)
    _, err = done.communicate(timeout=120)

    assert done.returncode == 1
    assert "Traceback" not in err
    assert "batchrun resume" in err
    left, before = project.answer("show", "last"), project.started()
    assert 0 < left["rows_solved"] < 16_000
    resumed = project.answer("resume", "last", "--cluster", "inline")
    assert resumed["rows_solved"] == 16_000
    assert sum((project.started() - before).values()) == 4_000 - left["rows_solved"] // 4
