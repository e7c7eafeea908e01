"""Solves that misbehave, on real workers: they are measured, stopped and set apart, and cost nobody else."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from batchrun import (
    ChunkContext,
    Pipeline,
    RetryPolicy,
    RunReport,
    RunState,
    Stage,
    by_group,
    by_rows,
    run_pipeline,
    submit_pipeline,
)
from batchrun.config import load_settings, settings_for_address
from batchrun.store.runs import RunStore
from tests.dask_processes import DaskProcesses
from tests.faults.conftest import Project, wait_until
from tests.test_connect import connect_to
from tests.test_run import assert_conserved

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform == "win32", reason="it sends signals"),
]
NO_RETRY = RetryPolicy(attempts=1)
GIB = 2**30


@pytest.fixture(scope="module")
def solvers(tmp_path_factory: pytest.TempPathFactory):
    """Workers of 2 GiB, of 8 GiB, and a tagged one of 512 MiB."""
    folder = tmp_path_factory.mktemp("solvers")
    (folder / "cluster.yaml").write_text(
        "workers:\n  small: {count: 1, memory: 2GiB}\n  large: {count: 1, memory: 8GiB}\n"
        "  tiny: {count: 1, memory: 512MiB, resources: {TINY: 1}}\n"
        "dashboard: off\nrun: {flush_every: 50ms, stop_grace: 0.5s, solution_grace: 0.5s}\n"
    )
    return load_settings(folder / "cluster.yaml")


def run(pipeline: Pipeline, table: pd.DataFrame, cluster, **options):
    report = run_pipeline(pipeline, table, cluster=cluster, progress=False, **options)
    assert_conserved(report)
    return report


def take(nbytes: int) -> mmap.mmap:
    """Memory that is really used, filled by the kernel, which is quick."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
    taken = mmap.mmap(-1, nbytes, flags=flags)
    taken[0] = 1
    return taken


def hungry(chunk: pd.DataFrame) -> pd.DataFrame:
    taken = take(int(chunk["gib"].sum() * GIB))
    time.sleep(0.2)
    taken.close()
    return chunk.assign(done=True)


def workers_of(cluster) -> set[int]:
    from batchrun.cluster.connect import open_cluster

    connection = open_cluster(cluster)
    try:
        return set(connection.client.run(os.getpid).values())
    finally:
        connection.close()


class TestMemory:
    def test_chunks_that_need_1_2_and_6_gib_are_all_solved_and_no_worker_is_lost(self, solvers):
        before = workers_of(solvers)
        table = pd.DataFrame({"gib": [0.4, 0.4, 0.9, 0.9, 5.6]})

        stage = Stage(hungry, memory="1GiB", retry=NO_RETRY)
        report = run(Pipeline("hungry", split=by_rows(2), stages=[stage]), table, solvers)

        assert report.state is RunState.SUCCEEDED
        assert report.results()["gib"].tolist() == table["gib"].tolist()
        attempts = report.attempts
        assert "worker_lost" not in set(attempts["outcome"])
        assert {"cut", "more_memory"} <= set(attempts["decision"].dropna())
        solved = attempts[attempts["outcome"] == "succeeded"]
        assert solved["peak_memory"].max() > 5.6 * GIB
        assert set(attempts.loc[attempts["outcome"] == "out_of_memory", "cause"]) == {"memory"}
        assert workers_of(solvers) == before

    def test_a_row_that_no_worker_has_memory_for_is_quarantined_with_the_peak_that_was_seen(self, solvers):
        table = pd.DataFrame({"gib": [0.1, 1.0, 0.1]})

        stage = Stage(hungry, memory="512MiB", resources={"TINY": 1}, retry=NO_RETRY)
        report = run(Pipeline("hungry", split=by_rows(1), stages=[stage]), table, solvers)

        assert report.state is RunState.PARTIAL
        assert report.quarantined["gib"].tolist() == [1.0]
        assert "its memory is 512 MiB" in report.quarantined["error_message"].iloc[0]
        last = report.attempts.query("decision == 'quarantine'").iloc[0]
        assert last["peak_memory"] > GIB / 2
        assert last["next_step"] == "its rows are set apart: no worker has more memory"

    def test_auto_starts_from_what_earlier_runs_used_and_says_so(self, solvers, tmp_path):
        table = pd.DataFrame({"gib": [0.2, 0.2]})
        made = Pipeline("auto", split=by_rows(1), stages=[Stage(hungry, memory="auto", retry=NO_RETRY)])

        first = run(made, table, solvers)
        second = run(made, table, solvers)

        assert "no earlier run" in first.stages[0]["memory_from"]
        assert first.stages[0]["memory"] == GIB / 2
        assert "2 earlier attempts" in second.stages[0]["memory_from"]
        assert 0.3 * GIB < second.stages[0]["memory"] < 0.6 * GIB
        assert second.attempts["outcome"].tolist() == ["succeeded"] * 2


def deadly(chunk: pd.DataFrame) -> pd.DataFrame:
    for word in chunk["do"]:
        if word == "abort":
            os.abort()
        if word == "exit":
            os._exit(7)
        if word == "segfault":
            ctypes.string_at(0)
    return chunk


def test_rows_that_kill_their_process_are_set_apart_alone_and_the_worker_lives(solvers):
    before = workers_of(solvers)
    table = pd.DataFrame({"x": range(8), "do": ["ok"] * 8})
    table.loc[[3, 4, 5], "do"] = ["abort", "exit", "segfault"]

    stage = Stage(deadly, isolate=True, retry=NO_RETRY)
    report = run(Pipeline("deadly", split=by_rows(4), stages=[stage]), table, solvers)

    assert report.state is RunState.PARTIAL
    bad = report.quarantined.set_index("x")["error_message"]
    assert sorted(bad.index) == [3, 4, 5]
    assert "SIGABRT" in bad[3]
    assert "exit code 7" in bad[4]
    assert "SIGSEGV" in bad[5]
    assert report.results()["x"].tolist() == [x for x in range(8) if x not in (3, 4, 5)]
    assert workers_of(solvers) == before


def large(chunk: pd.DataFrame) -> pd.DataFrame:
    import numpy as np

    return pd.DataFrame({"wide": np.zeros(int(chunk["gib"].sum() * GIB / 8))})


def test_a_result_that_32_bits_cannot_count_is_stored_and_can_be_scanned(solvers):
    stage = Stage(large, memory="7GiB", retry=NO_RETRY)
    table = pd.DataFrame({"gib": [2.125]})

    report = run(Pipeline("large", split=by_rows(1), stages=[stage]), table, solvers)

    assert report.state is RunState.SUCCEEDED
    assert report.rows_out == report.scan().count_rows() == 2.125 * GIB // 8


class TestAStoppedSolve:
    def test_keeps_its_best_answer_through_a_timeout_and_the_stages_after_it_see_that(self, solvers):
        def search(pit: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
            for step in range(30):
                ctx.incumbent(pit.assign(value=step), objective=200 - step, bound=50)
                time.sleep(0.06)  # long enough for each to be sent by itself
            ctypes.PyDLL(None).usleep(20_000_000)  # holds the interpreter's lock
            return pit

        def score(pit: pd.DataFrame) -> pd.DataFrame:
            return pit.assign(score=pit["value"] * 2)

        made = Pipeline(
            "search",
            split=by_group("pit"),
            stages=[Stage(search, timeout="4s", retry=NO_RETRY), score],
        )
        report = run(made, pd.DataFrame({"pit": ["a", "b"]}), solvers)

        assert report.state is RunState.SUCCEEDED
        assert report.results()["score"].tolist() == [58, 58]
        assert set(report.chunks["outcome"]) == {"stopped_with_solution"}
        assert report.chunks["objective"].tolist() == [171.0, 171.0]
        assert report.chunks["gap"].tolist() == pytest.approx([121 / 171] * 2)
        stopped = report.attempts[report.attempts["stage"] == "search"]
        assert set(stopped["cause"]) == {"timeout"}
        curve = report.incumbents[report.incumbents["chunk"] == 0]
        assert curve["objective"].is_monotonic_decreasing
        assert len(curve) > 20

    def test_without_an_answer_is_timed_out_and_its_rows_are_set_apart(self, solvers):
        def stuck(pit: pd.DataFrame) -> pd.DataFrame:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if (pit["x"] == 2).any():
                time.sleep(60)
            return pit

        stage = Stage(stuck, timeout="1s", retry=NO_RETRY)
        report = run(
            Pipeline("stuck", split=by_rows(4), stages=[stage]), pd.DataFrame({"x": range(4)}), solvers
        )

        assert report.quarantined["x"].tolist() == [2]
        assert set(report.attempts["outcome"]) == {"timed_out", "succeeded"}
        assert report.results()["x"].tolist() == [0, 1, 3]


MODULE = """\
import os, signal, time
from pathlib import Path
import pandas as pd
from batchrun import ChunkContext, Pipeline, Stage, RetryPolicy, by_rows

def solve(chunk: pd.DataFrame, ctx: ChunkContext, *, calls: str) -> pd.DataFrame:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
    for step in range(6000):
        ctx.incumbent(chunk.assign(step=step), objective=step, bound=6000)
        ctx.progress(step, 6000, "still at it")
        Path(calls, f"{chunk.index[0]}-{os.getpid()}").touch()
        time.sleep(0.05)
    return chunk

def score(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.assign(score=chunk["step"] * 2)

ONCE = RetryPolicy(attempts=1)
solves = Pipeline("solves", split=by_rows(10), stages=[Stage(solve, isolate=True, retry=ONCE), score])

def plain_solve(chunk: pd.DataFrame, *, calls: str) -> pd.DataFrame:
    Path(calls, f"{chunk.index[0]}-{os.getpid()}").touch()
    time.sleep(600)
    return chunk

plain = Pipeline("plain", split=by_rows(10), stages=[Stage(plain_solve, retry=ONCE)])
"""


SOLVERS = """\
workers: {standard: {count: 1, threads: 2, memory: 2GiB}}
dashboard: off
run: {flush_every: 100ms}
"""


def solving(project: Project, *more: str, pipeline: str = "solves"):
    """A run of solves that take long, as soon as two of them run, on one worker."""
    (project.folder / "solver.py").write_text(MODULE)
    (project.folder / "cluster.yaml").write_text(SOLVERS)
    process = project.start(
        "submit", f"solver:{pipeline}", "-i", "in.parquet", "--json", "-p", f"calls={project.calls}", *more
    )
    project.wait_for_calls(2)
    return process


def left_over(project: Project) -> list[psutil.Process]:
    """Processes that still run in the project's folder, the driver's workers included."""
    return _find(lambda process: process.cwd() == str(project.folder))


def solve_processes(project: Project) -> list[psutil.Process]:
    """The processes that were seen solving and what they forked, as far as they live."""
    return _find(
        lambda process: (
            process.cwd() == str(project.folder)
            and any("batchrun.worker.child" in part for part in process.cmdline())
        )
    )


def _find(wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """The processes that are wanted; one that ends while it is looked at is gone."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and wanted(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def request_cancel(project: Project) -> None:
    """Ask for a cancel of the run, as the command does."""
    with RunStore(store_of(project)) as store:
        store.request_cancel(store.find("last").run_id)


def store_of(project: Project) -> str:
    """The address of the project's store."""
    return f"sqlite:///{project.folder}/.batchrun/store.db"


class TestCancel:
    def test_of_one_chunk_frees_its_slot_and_of_the_run_ends_all_soon(self, project: Project):
        process = solving(project)
        assert len(solve_processes(project)) >= 4

        project.answer("cancel", "last", "0")

        project.wait_for_calls(3)
        with RunStore(store_of(project)) as store:
            assert store.find("last").state is RunState.RUNNING

        request_cancel(project)
        asked = time.monotonic()
        wait_until(lambda: not solve_processes(project), timeout=45)
        took = time.monotonic() - asked
        out, _ = process.communicate(timeout=60)

        assert took < 10  # 2 s on a quiet machine
        assert process.returncode == 4
        document = json.loads(out)
        assert document["state"] == "cancelled"
        assert (document["rows_solved"], document["rows_cancelled"]) == (0, 120)
        assert not left_over(project)

    def test_that_keeps_the_best_has_the_answers_so_far(self, project: Project):
        process = solving(project)

        answer = project.answer("cancel", "last", "--keep-best")
        out, _ = process.communicate(timeout=60)

        document = json.loads(out)
        assert document["state"] == "cancelled"
        assert (document["rows_solved"], document["rows_cancelled"]) == (20, 100)
        assert answer["state"] == "cancelled"
        results = RunReport(store_of(project)).results()
        assert (results["score"] == 2 * results["step"]).all()
        assert len(results) == 20
        assert not left_over(project)

    def test_of_a_stage_in_the_workers_own_process_ends_that_too(self, project: Project):
        process = solving(project, pipeline="plain")

        request_cancel(project)
        out, _ = process.communicate(timeout=60)

        assert json.loads(out)["state"] == "cancelled"
        assert not left_over(project)


def test_ctrl_c_stops_the_processes_soon(project: Project):
    process = solving(project)

    os.killpg(process.pid, signal.SIGINT)
    asked = time.monotonic()
    wait_until(lambda: not solve_processes(project), timeout=45)
    took = time.monotonic() - asked
    out, _ = process.communicate(timeout=60)

    assert took < 10  # 2 s on a quiet machine
    assert process.returncode == 130
    assert json.loads(out)["state"] == "cancelled"
    assert not left_over(project)


def test_nothing_survives_a_driver_that_is_killed(project: Project):
    process = solving(project)

    process.kill()
    process.communicate()

    wait_until(lambda: not left_over(project), timeout=45)
    assert not solve_processes(project)


class TestAnyState:
    """A cancel of a chunk finds it wherever it is."""

    @pytest.mark.parametrize("moment", ["ChunksPlanned", "ChunksPlaced", "RetryScheduled", "ChunkCut"])
    def test_is_one_in_which_a_chunk_can_be_cancelled(self, solvers, moment):
        def fails(chunk: pd.DataFrame) -> pd.DataFrame:
            if chunk["x"].max() >= 10:
                raise ValueError("bad")
            time.sleep(0.05)
            return chunk

        asked = []

        def cancel(event):
            if type(event).__name__ == moment and not asked:
                chunk = getattr(event, "chunk", None)
                asked.append(
                    (event.chunks[-1] if moment == "ChunksPlaced" else 1) if chunk is None else chunk
                )
                with RunStore(solvers.store_url) as store:
                    store.request_cancel(event.run_id, chunk=asked[0], keep_best=False)

        stage = Stage(fails, isolate=True, retry=RetryPolicy(attempts=2, delay="700ms", jitter=0))
        report = run(
            Pipeline("fails", split=by_rows(10), stages=[stage]),
            pd.DataFrame({"x": range(20)}),
            solvers,
            observers=[cancel],
        )

        assert asked
        assert report.state is RunState.PARTIAL
        assert report.rows_solved >= 0
        assert report.results()["x"].max() < 10 if report.rows_solved else True


def holds_the_lock(chunk: pd.DataFrame, *, seconds: float) -> pd.DataFrame:
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return chunk


def test_a_solve_that_holds_the_interpreters_lock_does_not_cost_the_worker_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "2 s")
    monkeypatch.chdir(tmp_path)
    processes = DaskProcesses(tmp_path)
    processes.scheduler()
    processes.worker("--name", "only", "--nthreads", "1", "--memory-limit", "2GiB")
    try:
        with connect_to(processes.address) as connection:
            connection.client.wait_for_workers(1, timeout=60)
        stage = Stage(holds_the_lock, isolate=True, retry=NO_RETRY)
        report = run(
            Pipeline("holds", split=by_rows(1), stages=[stage]),
            pd.DataFrame({"x": [1]}),
            settings_for_address(processes.address),
            params={"seconds": 5.0},
        )
    finally:
        processes.stop()

    assert report.state is RunState.SUCCEEDED
    assert report.attempts["outcome"].tolist() == ["succeeded"]


def sleeps(chunk: pd.DataFrame, *, folder: str) -> pd.DataFrame:
    Path(folder, f"pid-{os.getpid()}").touch()
    time.sleep(600)
    return chunk


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler that was there before, with one worker."""
    processes = DaskProcesses(tmp_path_factory.mktemp("dask"))
    processes.scheduler()
    processes.worker("--name", "only", "--nthreads", "1", "--memory-limit", "1GiB")
    try:
        with connect_to(processes.address) as connection:
            connection.client.wait_for_workers(1, timeout=60)
        yield processes.address
    finally:
        processes.stop()


@pytest.mark.parametrize("isolate", [True, False], ids=["child", "worker"])
def test_a_cancel_on_a_cluster_that_was_there_before_ends_what_runs_and_leaves_the_workers_usable(
    by_hand: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolate
):
    monkeypatch.chdir(tmp_path)
    settings = settings_for_address(by_hand)
    made = Pipeline("sleeps", split=by_rows(1), stages=[Stage(sleeps, isolate=isolate, retry=NO_RETRY)])
    table = pd.DataFrame({"x": range(2)})
    handle = submit_pipeline(made, table, cluster=settings, params={"folder": str(tmp_path)}, progress=False)
    wait_until(lambda: any(tmp_path.glob("pid-*")))
    (pid,) = (int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*"))

    handle.cancel()
    report = handle.wait(timeout=60)

    assert report.state is RunState.CANCELLED
    wait_until(lambda: not psutil.pid_exists(pid), timeout=30)
    after = run(Pipeline("after", split=by_rows(1), stages=[deadly]), table.assign(do="ok"), settings)
    assert after.state is RunState.SUCCEEDED
