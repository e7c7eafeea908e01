"""A child that dies at any step of its talk with the worker, and a worker that dies with children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from batchrun import ChunkContext, Pipeline, Stage, by_rows
from batchrun.outcome import Cause, Outcome
from batchrun.testing import task_for
from batchrun.worker.children import close_children
from batchrun.worker.faults import FAULT
from batchrun.worker.program import pickle_program
from batchrun.worker.task import Limits, TaskResult, run_task

BEFORE = ("hello", "task received", "program loaded")
"""Steps before the stage: the task is tried in another child."""
DURING = ("stage began", "incumbent sent", "stage ended", "result half written")
"""Steps within the attempt: it failed."""
AFTER = ("result sent",)
"""Steps after which the result counts."""


@pytest.fixture(autouse=True)
def _fresh_children() -> Iterator[None]:
    close_children()
    yield
    close_children()


def publish(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.incumbent(chunk, objective=1)
    return chunk


def run_once(program: bytes) -> TaskResult:
    task = replace(task_for(pd.DataFrame({"value": [1]})), limits=(Limits("publish"),))
    return run_task(program, task, worker="w")


def publishing() -> bytes:
    pipeline = Pipeline("tested", split=by_rows(1), stages=[Stage(publish)])
    return pickle_program(pipeline, pipeline.bind({}), "test")


@pytest.mark.parametrize("step", [*BEFORE, *DURING, *AFTER])
def test_a_death_at_any_step_gives_one_outcome_and_the_next_task_works(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = tmp_path / "shot"
    shot.touch()
    monkeypatch.setenv(FAULT, f"{step}={shot}")
    program = publishing()
    result = run_once(program)
    assert not shot.exists(), "the child never came to that step"
    assert len(result.attempts) == 1
    attempt = result.attempts[0]
    if step in DURING:
        assert (attempt.outcome, attempt.cause) == (Outcome.FAILED, Cause.ERROR)
        assert "SIGKILL" in str(attempt.error)
        assert result.output is None
    else:
        assert attempt.outcome is Outcome.SUCCEEDED
        assert result.output is not None
    again = run_once(program)
    assert again.attempts[0].outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("step", BEFORE)
def test_two_deaths_before_the_stage_are_a_failed_attempt(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = tmp_path / "shots"
    shots.touch()
    monkeypatch.setenv(FAULT, f"{step}={shots}")
    monkeypatch.setattr("batchrun.worker.supervisor.TRIES", 1)
    result = run_once(publishing())
    assert result.attempts[0].outcome is Outcome.FAILED
    assert result.attempts[0].stage == "publish"
    assert run_once(publishing()).attempts[0].outcome is Outcome.SUCCEEDED


def test_a_death_between_two_stages_is_that_of_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = tmp_path / "shot"
    shot.touch()
    monkeypatch.setenv(FAULT, f"next stage={shot}")
    pipeline = Pipeline("tested", split=by_rows(1), stages=[Stage(publish), Stage(publish, name="again")])
    program = pickle_program(pipeline, pipeline.bind({}), "test")
    task = replace(task_for(pd.DataFrame({"value": [1]})), limits=(Limits("publish"), Limits("again")))
    first, second = (run_task(program, task, worker="w") for _ in range(2))
    assert [(attempt.stage, attempt.outcome) for attempt in first.attempts] == [
        ("publish", Outcome.SUCCEEDED),
        ("again", Outcome.FAILED),
    ]
    assert first.output is None
    assert [attempt.outcome for attempt in second.attempts] == [Outcome.SUCCEEDED] * 2


WORKER = """
import os, subprocess, sys, time
from dataclasses import replace
import pandas as pd
from batchrun import Pipeline, Stage, by_rows
from batchrun.testing import task_for
from batchrun.worker.program import pickle_program
from batchrun.worker.task import Limits, run_task

def hang(chunk):
    import ctypes, os, signal, subprocess, sys
    line = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(120)"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for new_session in (False, True):
        subprocess.Popen(
            [sys.executable, "-c", line], start_new_session=new_session,
            stdout=open(os.path.join(FOLDER, f"grandchild-{new_session}"), "w"),
        )
    with open(os.path.join(FOLDER, "child"), "w") as file:
        file.write(str(os.getpid()))
    ctypes.PyDLL(None).sleep(120)
    return chunk

FOLDER = sys.argv[1]
pipeline = Pipeline("p", split=by_rows(1), stages=[Stage(hang)])
program = pickle_program(pipeline, pipeline.bind({}), "test")
task = replace(task_for(pd.DataFrame({"value": [1]})), limits=(Limits("hang"),))
run_task(program, task, worker="w")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_worker(number: signal.Signals, tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)])
    names = ["child", "grandchild-False", "grandchild-True"]
    try:
        pids = [_pid_in(tmp_path / name) for name in names]
        wardens = [child for child in psutil.Process(worker.pid).children() if "warden" in _command(child)]
        assert len(wardens) == 1
        assert all(psutil.pid_exists(pid) for pid in pids)
        worker.send_signal(number)
        worker.wait(30)
        deadline = time.monotonic() + 2
        everything = [*pids, wardens[0].pid]
        while (left := [pid for pid in everything if _alive(pid)]) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == []
    finally:
        worker.kill()
        worker.wait()


def _pid_in(path: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text().strip()):
            return int(text)
        time.sleep(0.02)
    raise TimeoutError(path)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def test_a_worker_that_ends_by_itself_leaves_no_child(tmp_path: Path) -> None:
    script = WORKER.replace("ctypes.PyDLL(None).sleep(120)", "").replace(
        'worker="w")', 'worker="w"); print(os.getpid())'
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Traceback" not in done.stderr
    assert not _alive(_pid_in(tmp_path / "child"))
    assert os.listdir(tmp_path)
