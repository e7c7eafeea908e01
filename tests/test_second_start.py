"""Whole runs in which a straggler is started a second time: one of its tries counts, and only one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from batchrun import ChunkContext, Pipeline, RetryPolicy, RunReport, RunState, Stage, by_rows, run_pipeline
from batchrun.config import Settings, load_settings
from batchrun.events import ChunksSettled
from batchrun.executor import InlineExecutor, Placement, Signal, TaskDone, TaskLost
from batchrun.outcome import Attempt, Cause, Outcome
from batchrun.progress import Progress
from batchrun.resources import Worker
from batchrun.store.runs import RunStore
from batchrun.worker.task import Task, TaskResult
from batchrun.worker.work import run_work
from tests.conftest import CLUSTER
from tests.test_run import assert_conserved

ROWS = 15
TABLE = pd.DataFrame({"x": range(ROWS)})
SLOW = 4
"""The chunk that is a straggler."""
FIRST, SECOND = 0, 1


class Directed(InlineExecutor):
    """Three workers, whose tasks run here when the runner waits. The tries of one chunk at its first leg are
    held until there are two of them; then the steps of a script say what becomes of them, several things at
    a time."""

    def __init__(self, *script: list[tuple[str, int]]) -> None:
        super().__init__()
        self._three = tuple(
            replace(self._worker, address=name, name=name) for name in ("one", "two", "three")
        )
        self._script = list(script)
        self.held: list[Task] = []
        self.at: dict[str, str] = {}
        self.stopped: set[str] = set()
        self.released: set[str] = set()

    def workers(self) -> Sequence[Worker]:
        return self._three

    def submit(self, placements: Sequence[Placement]) -> None:
        for placement in placements:
            task = placement.task
            assert isinstance(task, Task)
            self.at[task.key] = placement.worker
            if task.chunk == SLOW and task.leg == 0 and len(self.held) < 2:
                self.held.append(task)
            else:
                self._waiting.append(task)

    def wait(self, timeout: float | None) -> list[Signal]:
        if len(self.held) == 2 and self._script:
            signals = [self._play(*move) for move in self._script[0]]
            if None in signals:
                time.sleep(0.01)
                return []
            del self._script[0]
            return signals
        if self._waiting:
            return [self._run(self._waiting.popleft())]
        time.sleep(0.01)
        return []

    def stop(self, keys: Sequence[str], *, keep_best: bool, grace: float) -> None:
        self.stopped.update(keys)

    def release(self, keys: Sequence[str]) -> None:
        self.released.update(keys)

    def _play(self, what: str, which: int) -> Signal | None:
        """What is heard of one of the two tries; None if it is not heard of yet."""
        task = self.held[which]
        if what == "ends":
            return self._run(task)
        if what == "is lost":
            return TaskLost(task.key, "its worker went away")
        stopped = Attempt(
            SLOW,
            "solve",
            task.attempt,
            self.at[task.key],
            Outcome.CANCELLED,
            time.time(),
            1.0,
            1,
            cause=Cause.CANCEL,
        )
        answer = TaskResult(task.key, self.at[task.key], (stopped,), None)
        return TaskDone(task.key, answer) if task.key in self.stopped else None

    def _run(self, task: Task) -> TaskDone:
        return TaskDone(task.key, run_work(self._program, task, worker=self.at[task.key], in_process=True))


def solve(chunk: pd.DataFrame, ctx: ChunkContext, *, fails: str = "") -> pd.DataFrame:
    if ctx.chunk == SLOW and str(ctx.attempt) in fails:
        raise ValueError("no solution")
    return chunk.assign(tried=ctx.attempt)


def after(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.assign(after=True)


@pytest.fixture
def eager(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Second starts are allowed, and come soon."""
    monkeypatch.setattr("batchrun.speculation.SOONEST", 0.05)
    monkeypatch.setattr("batchrun.runner.speculating.LOOK_EVERY", 0.02)
    (here / "cluster.yaml").write_text("run: {speculate: true, flush_every: 50ms}\n")
    return here


class Told:
    """What observers were told of a run: its progress, and how often each chunk was settled."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.settled: list[int] = []
        self.twice: set[str] = set()

    def __call__(self, event: object) -> None:
        self.progress.tell(event)
        if isinstance(event, ChunksSettled):
            self.settled += event.chunks.tolist()
        lines = self.progress.running_lines(time.time() + 10.0, 99)
        workers = {line.worker for line in lines if line.chunk == SLOW}
        self.twice |= workers if len(workers) == 2 else set()


class Cancels(Told):
    """Asks for the straggler, or the whole run, to be cancelled when it runs twice."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self._chunk = None if whole else SLOW

    def __call__(self, event: object) -> None:
        asked = bool(self.twice)
        super().__call__(event)
        if self.twice and not asked:
            with RunStore("sqlite:///.batchrun/store.db") as store:
                store.request_cancel(event.run_id, chunk=self._chunk)


def run_directed(executor: Directed, told: Told, *more, fails: str = "") -> RunReport:
    stage = Stage(solve, isolate=True, retry=RetryPolicy(attempts=2, delay=0))
    report = run_pipeline(
        Pipeline("directed", split=by_rows(1), stages=[stage, *more]),
        TABLE,
        params={"fails": fails},
        cluster=executor,
        progress=False,
        observers=[told],
    )
    assert_conserved(report)
    assert not told.progress.running
    return report


def run(executor: Directed, *more, told: Told | None = None, fails: str = "") -> RunReport:
    told = told or Told()
    report = run_directed(executor, told, *more, fails=fails)
    assert sorted(told.settled) == list(range(ROWS))
    twice = {executor.at[task.key] for task in executor.held}
    # The loser may still be there while the chunk is at its next leg, wherever that is.
    assert told.twice >= twice if more else told.twice == twice
    assert told.progress.chunks_settled == ROWS
    tries = report.attempts[["chunk", "stage", "attempt"]]
    assert not tries.duplicated().any()
    return report


def story(report: RunReport) -> list[tuple[int, str, str]]:
    """The tries of the straggler at its first stage, in the order in which they were recorded."""
    tries = report.attempts[(report.attempts["chunk"] == SLOW) & (report.attempts["stage"] == "solve")]
    return list(zip(tries["attempt"], tries["outcome"], tries["decision"], strict=True))


WON_SECOND = [(1, "cancelled", "drop"), (2, "succeeded", "")]
WON_FIRST = [(2, "cancelled", "drop"), (1, "succeeded", "")]


@pytest.mark.usefixtures("eager")
class TestOfTwoTries:
    @pytest.mark.parametrize("more", [[], [after]], ids=["one leg", "two legs"])
    @pytest.mark.parametrize(
        ("script", "told", "tried"),
        [
            ([[("ends", SECOND)], [("ends", FIRST)]], WON_SECOND, 2),
            ([[("ends", FIRST)], [("ends", SECOND)]], WON_FIRST, 1),
            ([[("ends", SECOND), ("ends", FIRST)]], WON_SECOND, 2),
            ([[("ends", FIRST), ("ends", SECOND)]], WON_FIRST, 1),
            ([[("ends", SECOND)], [("is lost", FIRST)]], WON_SECOND, 2),
            ([[("ends", SECOND)], [("is stopped", FIRST)]], WON_SECOND, 2),
            ([[("ends", SECOND)]], WON_SECOND, 2),
        ],
        ids=[
            "the second ends before the first",
            "the first ends before the second",
            "both end at once, the second first",
            "both end at once",
            "the slower one is lost",
            "the slower one is stopped",
            "the slower one is never heard of again",
        ],
    )
    def test_the_first_to_give_a_result_counts(self, script, told, tried, more):
        executor = Directed(*script)

        report = run(executor, *more)

        assert report.state is RunState.SUCCEEDED
        results = report.results()
        assert results["x"].tolist() == list(range(ROWS))
        assert results.loc[SLOW, "tried"] == tried
        assert story(report) == told
        loser = executor.held[2 - tried]
        assert loser.key in executor.stopped
        assert executor.at[loser.key] != executor.at[executor.held[tried - 1].key]

    @pytest.mark.parametrize(
        ("script", "fails", "told"),
        [
            ([[("ends", FIRST)], [("ends", SECOND)]], "1", [(1, "failed", "wait"), (2, "succeeded", "")]),
            ([[("ends", SECOND)], [("ends", FIRST)]], "2", [(2, "failed", "wait"), (1, "succeeded", "")]),
            (
                [[("is lost", FIRST)], [("ends", SECOND)]],
                "",
                [(1, "worker_lost", "wait"), (2, "succeeded", "")],
            ),
            (
                [[("is lost", SECOND)], [("ends", FIRST)]],
                "",
                [(2, "worker_lost", "wait"), (1, "succeeded", "")],
            ),
            (
                [[("is lost", SECOND), ("is lost", FIRST)]],
                "",
                [(2, "worker_lost", "wait"), (1, "worker_lost", "retry"), (3, "succeeded", "")],
            ),
            (
                [[("is lost", FIRST)], [("ends", SECOND)]],
                "2",
                [(1, "worker_lost", "wait"), (2, "failed", "retry"), (3, "succeeded", "")],
            ),
        ],
        ids=[
            "the first fails",
            "the second fails",
            "the first is lost",
            "the second is lost",
            "both are lost",
            "the first is lost and the second fails",
        ],
    )
    def test_one_that_fails_leaves_the_chunk_to_the_other(self, script, fails, told):
        report = run(Directed(*script), fails=fails)

        assert report.state is RunState.SUCCEEDED
        assert report.results()["x"].tolist() == list(range(ROWS))
        assert story(report) == told

    def test_that_both_fail_each_counts_as_one(self):
        report = run(Directed([("ends", FIRST)], [("ends", SECOND)]), fails="12")

        assert report.state is RunState.PARTIAL
        assert report.quarantined["x"].tolist() == [SLOW]
        assert story(report) == [(1, "failed", "wait"), (2, "failed", "quarantine")]

    @pytest.mark.parametrize("whole", [False, True], ids=["the chunk", "the run"])
    def test_both_are_stopped_when_somebody_cancels(self, whole):
        executor = Directed([("is stopped", FIRST)], [("is stopped", SECOND)])

        report = run_directed(executor, told := Cancels(whole))

        assert report.state is (RunState.CANCELLED if whole else RunState.PARTIAL)
        assert told.settled.count(SLOW) == (0 if whole else 1)
        assert executor.stopped >= {task.key for task in executor.held}
        assert report.rows_cancelled == 1
        assert story(report) == [(1, "cancelled", "cancel"), (2, "cancelled", "cancel")]

    @pytest.mark.parametrize("one", [[], [[("is stopped", SECOND)]]], ids=["neither", "one"])
    def test_both_are_given_up_when_they_do_not_stop(self, one, monkeypatch):
        monkeypatch.setattr("batchrun.runner.stopping.LINGER_ISOLATED", 0.1)
        executor = Directed(*one)

        report = run_directed(executor, told := Cancels(whole=False))

        assert report.state is RunState.PARTIAL
        assert report.rows_cancelled == 1
        assert told.settled.count(SLOW) == 1
        assert told.progress.outcomes[Outcome.CANCELLED] == 1

    def test_the_result_of_the_slower_one_is_removed(self, eager):
        (eager / "cluster.yaml").write_text("run: {speculate: true, small_result: 1B, flush_every: 50ms}\n")

        report = run(Directed([("ends", SECOND), ("ends", FIRST)]))

        assert len(list(Path(report.folder, "results").iterdir())) == ROWS

    def test_there_is_none_without_the_setting(self, eager):
        (eager / "cluster.yaml").write_text("run: {flush_every: 50ms}\n")

        class Patient(Directed):
            def submit(self, placements):
                self.since = time.monotonic()
                super().submit(placements)

            def wait(self, timeout):
                if not self._waiting and self.held and time.monotonic() - self.since > 0.5:
                    self._waiting.append(self.held[FIRST])
                return super().wait(timeout)

        executor = Patient()
        report = run_directed(executor, Told())

        assert len(executor.held) == 1
        assert story(report) == [(1, "succeeded", "")]


def hangs_at_first(chunk: pd.DataFrame, ctx: ChunkContext, *, marks: str, long: float = 60) -> pd.DataFrame:
    """A third of a second, but the first try of one chunk takes a minute."""
    Path(marks, f"{ctx.chunk}-{ctx.attempt}").write_text(str(os.getpid()))
    time.sleep(long if ctx.chunk == SLOW and ctx.attempt == 1 else 0.3)
    return chunk.assign(worker=ctx.worker)


def listens(chunk: pd.DataFrame, ctx: ChunkContext, *, marks: str) -> pd.DataFrame:
    """The same, but it looks whether it should stop."""
    if ctx.chunk == SLOW and ctx.attempt == 1:
        until = time.monotonic() + 60.0
        while not ctx.should_stop and time.monotonic() < until:
            time.sleep(0.01)
        Path(marks, "stopped").touch()
        return chunk
    return hangs_at_first(chunk, ctx, marks=marks)


def loses_its_worker(chunk: pd.DataFrame, ctx: ChunkContext, *, marks: str) -> pd.DataFrame:
    """The same, but the first try ends with its worker once the second has begun."""
    if ctx.chunk == SLOW and ctx.attempt <= 2:
        Path(marks, f"{ctx.chunk}-{ctx.attempt}").touch()
        while not Path(marks, f"{SLOW}-2").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        if ctx.attempt == 1:
            os.kill(os.getpid(), 9)
        time.sleep(1.0)
        return chunk.assign(worker=ctx.worker)
    return hangs_at_first(chunk, ctx, marks=marks)


@pytest.fixture(scope="module")
def eager_cluster(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A cluster of its own, since workers that hang are restarted."""
    folder = tmp_path_factory.mktemp("eager")
    settings = CLUSTER % (folder / "store").as_posix()
    (folder / "cluster.yaml").write_text(settings.replace("run: {", "run: {speculate: true, "))
    return load_settings(folder / "cluster.yaml")


@pytest.mark.cluster
class TestOnWorkers:
    def run(self, stage: Stage, cluster: Settings, marks: Path, **params) -> tuple[RunReport, float]:
        begun = time.monotonic()
        report = run_pipeline(
            Pipeline("eager", split=by_rows(1), stages=[stage]),
            TABLE,
            params={"marks": str(marks), **params},
            cluster=cluster,
            progress=False,
        )
        assert_conserved(report)
        assert report.state is RunState.SUCCEEDED
        assert report.results()["x"].tolist() == list(range(ROWS))
        others = report.attempts[report.attempts["chunk"] != SLOW]
        assert sorted(others["chunk"]) == [chunk for chunk in range(ROWS) if chunk != SLOW]
        return report, time.monotonic() - begun

    def test_a_chunk_that_hangs_does_not_hold_up_the_run(self, eager_cluster, tmp_path):
        report, seconds = self.run(Stage(hangs_at_first), eager_cluster, tmp_path)

        assert seconds < 45
        tries = report.attempts[report.attempts["chunk"] == SLOW]
        assert tries["outcome"].tolist() == ["cancelled", "succeeded"]
        assert tries["attempt"].tolist() == [1, 2]
        assert tries["worker"].nunique() == 2
        assert report.results().loc[SLOW, "worker"] == tries["worker"].iloc[1]
        assert "another try of it was faster" in report.why(SLOW)

    def test_without_the_setting_it_does(self, cluster, tmp_path):
        report, seconds = self.run(Stage(hangs_at_first), cluster, tmp_path, long=6.0)

        assert seconds > 6.0
        assert len(report.attempts) == ROWS

    def test_the_process_of_the_slower_try_is_ended(self, eager_cluster, tmp_path):
        report, seconds = self.run(Stage(hangs_at_first, memory="100MiB"), eager_cluster, tmp_path)

        assert seconds < 45
        assert report.attempts.query(f"chunk == {SLOW}")["outcome"].tolist() == ["cancelled", "succeeded"]
        assert not psutil.pid_exists(int(Path(tmp_path, f"{SLOW}-1").read_text()))

    def test_a_stage_that_listens_is_asked_to_stop_and_its_answer_is_dropped(self, eager_cluster, tmp_path):
        report, _ = self.run(Stage(listens), eager_cluster, tmp_path)

        assert report.attempts.query(f"chunk == {SLOW}")["outcome"].tolist() == ["cancelled", "succeeded"]
        assert Path(tmp_path, "stopped").exists()

    def test_a_worker_that_dies_with_one_try_costs_only_that(self, eager_cluster, tmp_path):
        report, _ = self.run(Stage(loses_its_worker), eager_cluster, tmp_path)

        tries = report.attempts.query(f"chunk == {SLOW}")
        assert tries["outcome"].tolist() == ["worker_lost", "succeeded"]
        assert tries["next_step"].iloc[0] == "another try of it goes on"
