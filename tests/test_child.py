"""Stages in a child process: how they die, what they may take, and what is kept of them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pytest

from batchrun import ChunkContext, Pipeline, Stage, by_rows
from batchrun.data.load import load
from batchrun.outcome import Cause, Outcome
from batchrun.resources import Demand
from batchrun.status import TaskStatus
from batchrun.testing import task_for
from batchrun.worker import memory
from batchrun.worker.children import Pool, close_children
from batchrun.worker.leftovers import MARKER
from batchrun.worker.program import pickle_program
from batchrun.worker.running import stop_tasks
from batchrun.worker.task import Limits, Task, TaskResult, run_task

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's /proc")


@pytest.fixture(scope="module", autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    close_children()
    assert [process for process in psutil.Process().children() if "worker.child" in _command(process)] == []


def programmed(*stages: Callable[..., Any], **params: Any) -> bytes:
    pipeline = Pipeline("tested", split=by_rows(1), stages=[Stage(stage) for stage in stages])
    return pickle_program(pipeline, pipeline.bind(params), "test")


def isolated(
    *stages: str, rows: int = 1, memory: int = 0, grace: float = 5.0, chunks: int = 100, **limits: float
) -> Task:
    """A task of stages that all have the same limits."""
    task = task_for(pd.DataFrame({"value": range(rows)}), demand=Demand(memory))
    limit = tuple(Limits(stage, **limits) for stage in stages)
    return replace(task, limits=limit, grace=grace, chunks_per_child=chunks)


def run(stage: Callable[..., Any], *, params: dict[str, Any] | None = None, **limits: Any) -> TaskResult:
    """One task of one stage."""
    return run_task(programmed(stage, **(params or {})), isolated(stage.__name__, **limits), worker="w")


def values(result: TaskResult) -> list[Any]:
    assert result.output is not None, result
    return load(result.output)["value"].to_pylist()


def stop_when(key: str, began: Callable[[], bool], *, keep_best: bool, grace: float) -> threading.Thread:
    """Ask for a stop as soon as a condition holds."""

    def ask() -> None:
        wait_for(began)
        assert wait_for(lambda: bool(stop_tasks([key], keep_best=keep_best, grace=grace)))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool], timeout: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# The stages.


def same(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk


def tell_pid(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.assign(value=os.getpid())


def sys_exit(chunk: pd.DataFrame) -> pd.DataFrame:
    sys.exit("no more")


def os_exit(chunk: pd.DataFrame) -> pd.DataFrame:
    print("last words")
    os._exit(3)


def abort(chunk: pd.DataFrame) -> pd.DataFrame:
    os.abort()


def segfault(chunk: pd.DataFrame) -> pd.DataFrame:
    ctypes.string_at(0)
    return chunk


def overflow(chunk: pd.DataFrame) -> pd.DataFrame:
    def deeper(depth: int) -> int:
        return eval("deeper(depth + 1)", {"deeper": deeper, "depth": depth})

    sys.setrecursionlimit(10**9)
    deeper(0)
    return chunk


def interrupted(chunk: pd.DataFrame) -> pd.DataFrame:
    raise KeyboardInterrupt


class UnreadableError(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("not even this")


def unreadable(chunk: pd.DataFrame) -> pd.DataFrame:
    raise UnreadableError


def write_garbage(chunk: pd.DataFrame) -> pd.DataFrame:
    for fd in range(3, 1024):
        try:
            os.write(fd, b"garbage" * 1000)
        except OSError:
            continue
    time.sleep(60)
    return chunk


def close_everything(chunk: pd.DataFrame) -> pd.DataFrame:
    os.closerange(3, 1024)
    time.sleep(60)
    return chunk


def hoard(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.incumbent(chunk.assign(value=7), objective=7)
    held = []
    while True:
        held.append(os.urandom(4096) * 4096)
        time.sleep(0.01)


def hoard_only(chunk: pd.DataFrame) -> pd.DataFrame:
    held = []
    while True:
        held.append(os.urandom(4096) * 4096)
        time.sleep(0.01)


def hoard_below(chunk: pd.DataFrame) -> pd.DataFrame:
    line = "import os, time; held = os.urandom(4096) * 100_000; time.sleep(60)"
    subprocess.run([sys.executable, "-c", line], check=True)
    return chunk


def share(chunk: pd.DataFrame) -> pd.DataFrame:
    held = os.urandom(4096) * (180 * MIB // 4096)
    pids = []
    for _ in range(3):
        if (pid := os.fork()) == 0:
            time.sleep(1 + len(held) * 0)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return chunk


def use_pool(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return chunk.assign(value=sum(pool.map(abs, range(-10, 10))))


def memory_error(chunk: pd.DataFrame) -> pd.DataFrame:
    raise MemoryError("no room for a matrix")


def spike(chunk: pd.DataFrame) -> pd.DataFrame:
    if len(chunk) > 1:
        held = bytearray(os.urandom(4096) * (200 * MIB // 4096))
        del held
    return chunk


LEAKED: list[Any] = []


def leak(chunk: pd.DataFrame) -> pd.DataFrame:
    import builtins

    kept = vars(builtins).setdefault("_kept_by_a_test", [])
    kept.append(os.urandom(4096) * (75 * MIB // 4096))
    return chunk


def deaf(chunk: pd.DataFrame) -> pd.DataFrame:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
    return chunk


def hold(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    """Sleeps in C without letting go of the interpreter's lock."""
    ctx.incumbent(chunk.assign(value=5), objective=5, bound=4)
    ctypes.PyDLL(None).sleep(60)
    return chunk


def solve(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.incumbent(chunk.assign(value=1), objective=1)
    while not ctx.should_stop:
        time.sleep(0.005)
    return chunk.assign(value=2)


def stubborn(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.incumbent(chunk.assign(value=1), objective=10, bound=9)
    time.sleep(60)
    return chunk


def silent(chunk: pd.DataFrame) -> pd.DataFrame:
    time.sleep(60)
    return chunk


def late_error(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    while not ctx.should_stop:
        time.sleep(0.005)
    raise ValueError("the solver was interrupted")


def add_ten(chunk: pd.DataFrame) -> pd.DataFrame:
    print("ten")
    return chunk.assign(value=chunk.value + 10)


def many(chunk: pd.DataFrame, ctx: ChunkContext, *, seconds: float = 1.0) -> pd.DataFrame:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        count += 1
        ctx.incumbent(chunk, objective=count)
        while time.perf_counter() - began < count / 10_000:
            pass
    return chunk.assign(value=count)


def publish_then_die(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    for number in range(20):
        ctx.incumbent(chunk.assign(value=number), objective=number)
    while True:
        time.sleep(1)


def publish_changing(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.incumbent(chunk, objective=0)
    chunk["value"] = 1
    ctx.incumbent(chunk, objective=1)
    chunk["value"] = 2
    while True:
        time.sleep(1)


def publish_nonsense(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    for _ in range(3):
        ctx.incumbent(chunk, objective=1)
    ctx.incumbent(chunk.value, objective=1)
    return chunk


def print_much(chunk: pd.DataFrame) -> pd.DataFrame:
    os.write(1, b"the beginning\n")
    block = b"x" * (MIB - 1) + b"\n"
    for _ in range(1024):
        os.write(1, block)
    os.write(2, b"the end\n")
    return chunk


def talk(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    print("from Python")
    libc = ctypes.CDLL(None)
    libc.printf(b"from C\n")
    ctx.log.info("from the %s", "logger")
    os.write(2, b"bad bytes \xff\xfe\n")
    print("no line end", end="")
    return chunk


def talk_too(chunk: pd.DataFrame) -> pd.DataFrame:
    print("the second stage")
    return chunk


def progress_often(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    began = time.perf_counter()
    while time.perf_counter() - began < 1.4:
        share = (time.perf_counter() - began) / 1.4
        ctx.progress(share * 10, 10, message=f"at {share:.2f}")
    return chunk


def progress_until(chunk: pd.DataFrame, ctx: ChunkContext, *, heard: str) -> pd.DataFrame:
    """Tell of progress without a pause until a file is there, a minute at most."""
    began = time.perf_counter()
    while not os.path.exists(heard) and (passed := time.perf_counter() - began) < 60:
        ctx.progress(passed / 6, 10, message=f"at {passed / 60:.6f}")
    return chunk


def leave_processes(chunk: pd.DataFrame, *, folder: str) -> pd.DataFrame:
    """A child of its own session, one that was forked twice, and a forked copy that returns."""
    line = "import os, sys, time; open(sys.argv[1] + '/' + str(os.getpid()), 'w').close(); time.sleep(60)"
    environment = {key: value for key, value in os.environ.items() if key != MARKER}
    for marked in (None, environment):
        subprocess.Popen([sys.executable, "-c", line, folder], start_new_session=True, env=marked)
    if (pid := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            Path(folder, str(os.getpid())).touch()
            time.sleep(60)
        os._exit(0)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 20
    while len(os.listdir(folder)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    return chunk


def leave_and_hang(chunk: pd.DataFrame, *, folder: str) -> pd.DataFrame:
    leave_processes(chunk, folder=folder)
    time.sleep(60)
    return chunk


def leave_and_die(chunk: pd.DataFrame, *, folder: str) -> pd.DataFrame:
    leave_processes(chunk, folder=folder)
    time.sleep(0.5)
    os._exit(1)


def fork_and_return(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    """Both copies return."""
    forked = os.fork() == 0
    ctx.incumbent(chunk.assign(value=-1), objective=1)
    return chunk.assign(value=-1 if forked else 1)


def arrow_same(table: pa.Table) -> pa.Table:
    return table


def slow_to_load() -> None:
    time.sleep(60)


class SlowToLoad:
    """Unpickles for a minute."""

    def __reduce__(self) -> tuple[Any, ...]:
        return slow_to_load, ()


def holding(thing: Any) -> Callable[..., Any]:
    """A stage that has *thing* in its closure."""

    def holds(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.assign(value=repr(thing))

    return holds


class CannotLoad:
    """Fails when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


@pytest.fixture(scope="module")
def plain() -> bytes:
    return programmed(same)


class TestADeath:
    @pytest.mark.parametrize(
        ("stage", "words"),
        [
            (os_exit, "left with exit code 3"),
            (abort, "SIGABRT"),
            (segfault, "SIGSEGV (segmentation fault)"),
            (overflow, "SIGSEGV"),
        ],
    )
    @linux
    def test_is_a_failed_attempt_that_names_it(self, stage: Callable[..., Any], words: str) -> None:
        result = run(stage)
        attempt = result.attempts[-1]
        assert result.output is None
        assert (attempt.outcome, attempt.cause) == (Outcome.FAILED, Cause.ERROR)
        assert attempt.error is not None
        assert attempt.error.type == "ProcessDied"
        assert attempt.error.classes == ("ProcessDied", "Exception")
        assert words in attempt.error.message
        assert attempt.stage == stage.__name__

    def test_leaves_the_last_words_and_the_stack_in_the_log(self) -> None:
        assert run(os_exit).attempts[-1].log == "last words\n"
        assert "in segfault" in run(segfault).attempts[-1].log

    def test_does_not_disturb_the_next_task(self) -> None:
        program = programmed(os_exit)
        run_task(program, isolated("os_exit"), worker="w")
        assert run(same).attempts[-1].outcome is Outcome.SUCCEEDED

    @pytest.mark.parametrize(
        ("stage", "kind"),
        [(sys_exit, "SystemExit"), (interrupted, "KeyboardInterrupt"), (unreadable, "UnreadableError")],
    )
    def test_is_not_what_an_error_is(self, stage: Callable[..., Any], kind: str) -> None:
        program = programmed(tell_pid, stage)
        results = [run_task(program, isolated("tell_pid", stage.__name__), worker="w") for _ in range(2)]
        for result in results:
            assert result.error is not None
            assert result.error.type.endswith(kind)
            assert result.attempts[-1].cause is Cause.ERROR
        assert [result.fresh for result in results][1] is False

    @pytest.mark.parametrize("stage", [write_garbage, close_everything])
    def test_of_the_pipe_alone_is_nobodys_error(self, stage: Callable[..., Any]) -> None:
        result = run(stage)
        assert result.attempts[-1].outcome is Outcome.FAILED
        assert result.attempts[-1].cause is Cause.INFRASTRUCTURE
        assert result.error is not None
        assert result.error.type == "ProtocolError"

    def test_by_the_kernel_for_want_of_memory_is_told_as_such(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kills = iter([0, 1, 1, 1])
        monkeypatch.setattr(memory, "machine_kills", lambda: next(kills))

        result = run(kill_self)
        assert result.attempts[-1].outcome is Outcome.OUT_OF_MEMORY
        assert result.error is not None
        assert "the machine ran out of memory" in result.error.message

    def test_before_any_stage_is_tried_once_more_and_then_recorded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        close_children()
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        result = run(same)
        assert (result.attempts[-1].outcome, result.attempts[-1].cause) == (
            Outcome.FAILED,
            Cause.INFRASTRUCTURE,
        )
        monkeypatch.undo()
        assert run(same).attempts[-1].outcome is Outcome.SUCCEEDED


def kill_self(chunk: pd.DataFrame) -> pd.DataFrame:
    os.kill(os.getpid(), signal.SIGKILL)
    return chunk


class TestAChild:
    def test_stays_warm_for_the_next_task_of_its_program(self) -> None:
        close_children()
        program = programmed(tell_pid)
        first, second = (run_task(program, isolated("tell_pid"), worker="w") for _ in range(2))
        assert values(first) == values(second) != [os.getpid()]
        assert (first.fresh, second.fresh) == (True, False)

    def test_serves_one_program(self) -> None:
        first = values(run_task(programmed(tell_pid), isolated("tell_pid"), worker="w"))[0]
        other = values(run_task(programmed(tell_pid, same), isolated("tell_pid", "same"), worker="w"))[0]
        assert other != first
        assert wait_for(lambda: gone(first))

    def test_is_replaced_after_so_many_tasks(self) -> None:
        program = programmed(tell_pid)
        pids = [values(run_task(program, isolated("tell_pid", chunks=2), worker="w"))[0] for _ in range(5)]
        assert len(set(pids)) in (3, 4)
        assert max(pids.count(pid) for pid in pids) <= 2

    def test_whose_program_cannot_be_loaded_fails_its_task_and_lives(self) -> None:
        program = programmed(holding(CannotLoad()))
        for _ in range(2):
            result = run_task(program, isolated("holds"), worker="w")
            assert result.attempts[-1].stage == "(load)"
            assert result.error is not None
            assert result.error.type == "ValueError"

    def test_that_nobody_wants_for_long_is_ended(self) -> None:
        pool = Pool(idle_seconds=0.3)
        child = pool.take(b"")
        pool.give_back(child)
        assert pool.take(b"") is child
        pool.give_back(child)
        assert wait_for(lambda: gone(child.pid))
        other = pool.take(b"")
        assert other is not child
        pool.give_back(other)
        pool.close()
        assert gone(other.pid)

    @linux
    def test_is_what_the_kernel_ends_first(self) -> None:
        result = run(tell_score)
        assert values(result) == [500]

    def test_takes_and_gives_large_tables(self) -> None:
        table = pa.table({"value": pa.array(range(1_000_000))})
        task = replace(task_for(table), limits=(Limits("arrow_same"),), inline_limit=2**30)
        result = run_task(programmed(arrow_same), task, worker="w")
        assert load(result.output).equals(table)

    def test_writes_large_results_itself(self, tmp_path: Path) -> None:
        task = replace(isolated("same", rows=10_000), store_to=str(tmp_path / "r.arrow"), inline_limit=1000)
        result = run_task(programmed(same), task, worker="w")
        assert result.output == replace(result.output, path=str(tmp_path / "r.arrow"))
        assert values(result) == list(range(10_000))

    def test_that_is_killed_while_it_writes_leaves_no_half_result(self, tmp_path: Path) -> None:
        task = replace(
            isolated("write_half", timeout=0.5), store_to=str(tmp_path / "r.arrow"), inline_limit=1000
        )
        result = run_task(programmed(write_half, folder=str(tmp_path)), task, worker="w")
        assert result.attempts[-1].outcome is Outcome.TIMED_OUT
        assert sorted(path.name for path in tmp_path.iterdir()) == ["another.arrow"]

    def test_that_gives_none_has_no_rows_left(self) -> None:
        result = run_task(programmed(give_none, same), isolated("give_none", "same"), worker="w")
        assert result.ended
        assert result.rows_out == 0
        assert len(result.attempts) == 1


def tell_score(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.assign(value=int(Path("/proc/self/oom_score_adj").read_text()))


def write_half(chunk: pd.DataFrame, *, folder: str) -> pd.DataFrame:
    """What a child leaves that is killed in the middle of writing its result, and just after it."""
    for name in (".r.arrow.0123.tmp", "r.arrow", "another.arrow"):
        Path(folder, name).write_bytes(b"half")
    time.sleep(60)
    return chunk


def give_none(chunk: pd.DataFrame) -> None:
    return None


class TestMemory:
    def test_past_the_limit_ends_the_stage_with_figures(self) -> None:
        began = time.monotonic()
        result = run(hoard_only, memory=300 * MIB)
        assert time.monotonic() - began < 20
        attempt = result.attempts[-1]
        assert (attempt.outcome, attempt.cause) == (Outcome.OUT_OF_MEMORY, Cause.MEMORY)
        assert attempt.error is not None
        assert attempt.error.classes == ("OutOfMemory",)
        assert "its memory is 300 MiB" in attempt.error.message
        assert attempt.peak_memory is not None
        assert 300 * MIB < attempt.peak_memory < 600 * MIB

    def test_past_the_limit_keeps_the_best_answer(self) -> None:
        result = run(hoard, memory=300 * MIB)
        assert result.attempts[-1].outcome is Outcome.STOPPED_WITH_SOLUTION
        assert result.attempts[-1].cause is Cause.MEMORY
        assert values(result) == [7]

    def test_of_processes_below_counts_too(self) -> None:
        result = run(hoard_below, memory=300 * MIB)
        assert result.attempts[-1].outcome is Outcome.OUT_OF_MEMORY

    @linux
    def test_that_forked_processes_share_counts_once(self) -> None:
        attempt = run(share, memory=450 * MIB).attempts[-1]
        assert attempt.outcome is Outcome.SUCCEEDED, attempt.error

    def test_limits_are_never_less_than_python_itself_needs(self) -> None:
        assert run(same, memory=1 * MIB).attempts[-1].outcome is Outcome.SUCCEEDED

    @linux
    def test_peaks_that_no_sample_saw_are_recorded(self) -> None:
        program = programmed(spike)
        high, low = (run_task(program, isolated("spike", rows=rows), worker="w") for rows in (2, 1))
        assert (high.attempts[-1].peak_memory or 0) > 250 * MIB
        assert not low.fresh
        assert 50 * MIB < (low.attempts[-1].peak_memory or 0) < 250 * MIB

    @pytest.mark.parametrize("in_process", [False, True])
    def test_error_is_out_of_memory(self, in_process: bool) -> None:
        task = isolated("memory_error")
        result = run_task(programmed(memory_error), task, worker="w", in_process=in_process)
        assert result.attempts[-1].outcome is Outcome.OUT_OF_MEMORY
        assert result.attempts[-1].cause is Cause.MEMORY

    def test_that_leaks_from_task_to_task_is_never_out_of_memory(self) -> None:
        program = programmed(leak)
        outcomes = [
            run_task(program, isolated("leak", memory=400 * MIB), worker="w").attempts[-1].outcome
            for _ in range(8)
        ]
        assert set(outcomes) == {Outcome.SUCCEEDED}


class TestATimeout:
    @pytest.mark.parametrize("stage", [silent, deaf])
    def test_kills_whatever_the_stage_does_about_signals(self, stage: Callable[..., Any]) -> None:
        run(same)
        result = run(stage, timeout=0.3)
        attempt = result.attempts[-1]
        assert (attempt.outcome, attempt.cause) == (Outcome.TIMED_OUT, Cause.TIMEOUT)
        assert attempt.error is not None
        assert attempt.error.message == "the stage passed its timeout of 300 ms"
        assert 0.3 <= attempt.seconds < 20
        assert attempt.rows_in == 1

    def test_kills_a_stage_that_holds_the_interpreter_and_keeps_its_best_answer(self) -> None:
        result = run(hold, timeout=0.5)
        attempt = result.attempts[-1]
        assert (attempt.outcome, attempt.cause) == (Outcome.STOPPED_WITH_SOLUTION, Cause.TIMEOUT)
        assert attempt.seconds < 20
        assert attempt.error is None
        assert values(result) == [5]
        assert [(point.objective, point.bound) for point in attempt.incumbents] == [(5, 4)]

    def test_lets_the_rest_of_the_leg_go_on_with_the_best_answer(self) -> None:
        program = programmed(stubborn, add_ten, same)
        task = replace(
            isolated("stubborn", "add_ten", "same"),
            limits=(Limits("stubborn", timeout=0.3), Limits("add_ten"), Limits("same")),
        )
        result = run_task(program, task, worker="w")
        assert [attempt.outcome for attempt in result.attempts] == [
            Outcome.STOPPED_WITH_SOLUTION,
            Outcome.SUCCEEDED,
            Outcome.SUCCEEDED,
        ]
        assert [attempt.rows_out for attempt in result.attempts] == [1, 1, 1]
        assert result.attempts[1].log == "ten\n"
        assert values(result) == [11]


class TestStopAfter:
    def test_lets_a_stage_that_looks_return_its_answer(self) -> None:
        result = run(solve, stop_after=0.2)
        attempt = result.attempts[-1]
        assert (attempt.outcome, attempt.cause) == (Outcome.STOPPED_WITH_SOLUTION, Cause.DEADLINE)
        assert values(result) == [2]
        assert len(attempt.incumbents) == 1

    def test_takes_the_best_answer_of_a_stage_that_goes_on(self) -> None:
        result = run(stubborn, stop_after=0.1, grace=0.2)
        attempt = result.attempts[-1]
        assert (attempt.outcome, attempt.cause) == (Outcome.STOPPED_WITH_SOLUTION, Cause.DEADLINE)
        assert 0.3 <= attempt.seconds < 20
        assert attempt.best is not None
        assert attempt.best.gap == pytest.approx(0.1)

    def test_without_an_answer_is_passed_time(self) -> None:
        attempt = run(silent, stop_after=0.1, grace=0.1).attempts[-1]
        assert (attempt.outcome, attempt.cause) == (Outcome.TIMED_OUT, Cause.DEADLINE)
        assert attempt.error is not None
        assert "did not return within 100 ms after its stop_after" in attempt.error.message

    def test_of_one_stage_is_not_that_of_the_next(self) -> None:
        task = replace(
            isolated("solve", "tell_stop"), limits=(Limits("solve", stop_after=0.1), Limits("tell_stop"))
        )
        result = run_task(programmed(solve, tell_stop), task, worker="w")
        assert [attempt.outcome for attempt in result.attempts] == [
            Outcome.STOPPED_WITH_SOLUTION,
            Outcome.SUCCEEDED,
        ]
        assert values(result) == [0]

    @pytest.mark.parametrize(("limit", "cause"), [("stop_after", Cause.DEADLINE), ("timeout", Cause.TIMEOUT)])
    def test_in_this_process_is_told_by_the_clock(self, limit: str, cause: Cause) -> None:
        task = isolated("solve", **{limit: 0.1})
        result = run_task(programmed(solve), task, worker="w", in_process=True)
        assert result.attempts[-1].outcome is Outcome.STOPPED_WITH_SOLUTION
        assert result.attempts[-1].cause is cause


def tell_stop(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    return chunk.assign(value=int(ctx.should_stop))


class TestACancel:
    @pytest.mark.parametrize("keep_best", [False, True])
    def test_of_a_stage_that_looks_is_over_at_once(self, keep_best: bool) -> None:
        result = self._cancelled(solve, keep_best=keep_best, grace=10)
        attempt = result.attempts[-1]
        assert attempt.cause is Cause.CANCEL
        assert attempt.seconds < 9  # and not the grace
        if keep_best:
            assert attempt.outcome is Outcome.STOPPED_WITH_SOLUTION
            assert values(result) == [2]
        else:
            assert attempt.outcome is Outcome.CANCELLED
            assert result.output is None
            assert attempt.error is not None

    @pytest.mark.parametrize("keep_best", [False, True])
    def test_of_a_stage_that_goes_on_kills_it_after_the_grace(self, keep_best: bool) -> None:
        result = self._cancelled(stubborn, keep_best=keep_best, grace=0.2)
        assert result.attempts[-1].cause is Cause.CANCEL
        wanted = Outcome.STOPPED_WITH_SOLUTION if keep_best else Outcome.CANCELLED
        assert result.attempts[-1].outcome is wanted
        assert (result.output is not None) is keep_best

    def test_with_an_error_in_its_wake_is_a_cancel(self) -> None:
        attempt = self._cancelled(late_error, keep_best=True, grace=5).attempts[-1]
        assert (attempt.outcome, attempt.cause) == (Outcome.CANCELLED, Cause.CANCEL)
        assert attempt.error is not None
        assert "interrupted" in attempt.error.message

    def test_while_the_child_starts_begins_nothing(self) -> None:
        close_children()
        task = isolated("same")
        asker = stop_when(task.key, lambda: True, keep_best=True, grace=0)
        attempt = run_task(programmed(same), task, worker="w").attempts[-1]
        asker.join()
        assert (attempt.outcome, attempt.stage) == (Outcome.CANCELLED, "same")

    def test_while_the_program_loads_ends_it(self) -> None:
        run(same)
        task = isolated("holds")
        began = time.monotonic()
        asker = stop_when(task.key, lambda: time.monotonic() > began + 1, keep_best=True, grace=0)
        attempt = run_task(programmed(holding(SlowToLoad())), task, worker="w").attempts[-1]
        asker.join()
        assert attempt.outcome is Outcome.CANCELLED
        assert time.monotonic() - began < 40

    def test_between_two_stages_does_not_begin_the_second(self) -> None:
        task = isolated("slow_same", "silent")
        asker = stop_when(task.key, lambda: True, keep_best=True, grace=10)
        run(same)
        result = run_task(programmed(slow_same, silent), task, worker="w")
        asker.join()
        assert result.attempts[-1].outcome is Outcome.CANCELLED

    def test_twice_is_as_strict_as_the_stricter(self) -> None:
        task = isolated("stubborn")
        statuses: list[TaskStatus] = []

        def ask() -> None:
            wait_for(lambda: bool(statuses))
            stop_tasks([task.key], keep_best=True, grace=60)
            stop_tasks([task.key], keep_best=False, grace=0.1)
            stop_tasks([task.key], keep_best=True, grace=60)

        asker = threading.Thread(target=ask)
        asker.start()
        result = run_task(programmed(stubborn), task, worker="w", report=statuses.append)
        asker.join()
        assert result.attempts[-1].outcome is Outcome.CANCELLED

    def test_of_what_does_not_run_here_finds_nothing(self) -> None:
        assert stop_tasks(["never-heard-of"], keep_best=True, grace=0) == []

    @pytest.mark.parametrize("keep_best", [False, True])
    def test_of_a_stage_in_a_thread_can_only_ask(self, keep_best: bool) -> None:
        task = replace(isolated("solve"), limits=())
        asker = stop_when(task.key, lambda: True, keep_best=keep_best, grace=0)
        result = run_task(programmed(solve), task, worker="w")
        asker.join()
        wanted = Outcome.STOPPED_WITH_SOLUTION if keep_best else Outcome.CANCELLED
        assert result.attempts[-1].outcome is wanted
        assert (result.output is not None) is keep_best

    @staticmethod
    def _cancelled(stage: Callable[..., Any], *, keep_best: bool, grace: float) -> TaskResult:
        """Cancel a stage that has surely begun."""
        task = isolated(stage.__name__)
        statuses: list[TaskStatus] = []
        asker = stop_when(task.key, lambda: bool(statuses), keep_best=keep_best, grace=grace)
        result = run_task(programmed(stage), task, worker="w", report=statuses.append)
        asker.join()
        return result


def slow_same(chunk: pd.DataFrame) -> pd.DataFrame:
    time.sleep(0.5)
    return chunk


class TestIncumbents:
    def test_ten_thousand_a_second_cost_little(self) -> None:
        result = run(many)
        attempt = result.attempts[-1]
        assert values(result)[0] > 7_000
        assert attempt.incumbents[0].objective == 1
        assert attempt.incumbents[-1].objective == values(result)[0]
        assert 400 <= len(attempt.incumbents) <= 500
        seconds = [point.seconds for point in attempt.incumbents]
        assert seconds == sorted(seconds)

    def test_of_a_quick_row_the_last_one_is_kept(self) -> None:
        result = run(publish_then_die, timeout=0.6)
        assert values(result) == [19]
        assert [point.objective for point in result.attempts[-1].incumbents] == list(range(20))

    def test_are_kept_as_they_were_when_published(self) -> None:
        assert values(run(publish_changing, timeout=0.6)) == [1]

    def test_that_are_no_frames_are_refused_at_once(self) -> None:
        result = run(publish_nonsense)
        assert result.error is not None
        assert result.error.type.endswith("ResultError")
        assert "an incumbent of stage `publish_nonsense`" in result.error.message
        assert "to_frame" in result.error.message

    def test_that_are_large_are_written_like_results(self, tmp_path: Path) -> None:
        task = replace(
            isolated("stubborn", rows=10_000, timeout=0.5),
            store_to=str(tmp_path / "result.arrow"),
            inline_limit=1_000,
        )
        result = run_task(programmed(stubborn), task, worker="w")
        assert Path(result.output.path).parent == tmp_path
        assert result.rows_out == len(values(result)) == 10_000
        assert result.attempts[-1].rows_out == 10_000

    def test_stand_in_for_a_stage_that_ran_out_of_memory_by_itself(self) -> None:
        program = programmed(publish_then_run_out, add_ten)
        result = run_task(program, isolated("publish_then_run_out", "add_ten"), worker="w")
        assert [attempt.outcome for attempt in result.attempts] == [
            Outcome.STOPPED_WITH_SOLUTION,
            Outcome.SUCCEEDED,
        ]
        assert result.attempts[0].cause is Cause.MEMORY
        assert values(result) == [13]

    def test_leave_an_error_an_error(self) -> None:
        result = run(publish_then_fail)
        assert result.attempts[-1].outcome is Outcome.FAILED
        assert [point.objective for point in result.attempts[-1].incumbents] == [1]


def publish_then_run_out(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.incumbent(chunk.assign(value=3), objective=3)
    raise MemoryError


def publish_then_fail(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.incumbent(chunk, objective=1)
    raise ValueError("no")


class TestTheLog:
    def test_has_what_python_and_c_and_the_logger_said_in_order(self) -> None:
        log = run(talk).attempts[-1].log
        lines = log.splitlines()
        assert lines[:2] == ["from Python", "from C"]
        assert lines[2].endswith("INFO from the logger")
        assert lines[3] == "bad bytes \ufffd\ufffd"
        assert lines[4] == "no line end"

    def test_belongs_to_the_attempt_that_wrote_it(self) -> None:
        program = programmed(talk, talk_too)
        for _ in range(3):
            result = run_task(program, isolated("talk", "talk_too"), worker="w")
            assert "second" not in result.attempts[0].log
            assert result.attempts[1].log == "the second stage\n"

    def test_of_a_gigabyte_is_its_head_and_its_tail(self) -> None:
        run(same)
        before = psutil.Process().memory_info().rss
        attempt = run(print_much).attempts[-1]
        assert attempt.seconds < 60
        assert psutil.Process().memory_info().rss - before < 50 * MIB
        assert attempt.log.startswith("the beginning\n")
        assert attempt.log.endswith("the end\n")
        assert "bytes left out" in attempt.log
        assert len(attempt.log) < 70_000

    def test_of_a_stage_in_a_thread_has_what_it_logged(self) -> None:
        task = replace(isolated("log_only"), limits=())
        result = run_task(programmed(log_only), task, worker="w")
        assert result.attempts[-1].log.endswith("WARNING <b>careful</b>\n")

    def test_of_one_task_is_no_news_of_the_next(self, tmp_path: Path) -> None:
        heard = tmp_path / "heard"
        program = programmed(talk_and_wait, heard=str(heard))
        for _ in range(2):
            heard.unlink(missing_ok=True)
            news = self._news(program, "talk_and_wait", heard, "first")
            assert news.startswith("first\n")
            assert "last" not in news[: news.index("first")]

    def test_reaches_who_watches_as_it_grows(self, tmp_path: Path) -> None:
        heard = tmp_path / "heard"
        statuses: list[TaskStatus] = []
        program = programmed(talk_and_wait, heard=str(heard), first="x" * 10_000)
        self._news(program, "talk_and_wait", heard, "xxx", statuses)
        assert heard.exists()
        assert max(len(status.log) for status in statuses) <= 4200

    @staticmethod
    def _news(
        program: bytes, stage: str, heard: Path, word: str, statuses: list[TaskStatus] | None = None
    ) -> str:
        """All that a task's statuses say of its log; its stage goes on when a status had the word."""
        told = statuses if statuses is not None else []

        def report(status: TaskStatus) -> None:
            told.append(status)
            if word in status.log:
                heard.touch()

        run_task(program, isolated(stage), worker="w", report=report)
        return "".join(status.log for status in told)


def log_only(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.log.warning("<b>%s</b>", "careful")
    return chunk


def talk_and_wait(chunk: pd.DataFrame, *, heard: str, first: str = "first") -> pd.DataFrame:
    print(first)
    assert wait_for(Path(heard).exists), "nobody heard"
    print("last")
    return chunk


class TestStatuses:
    def test_tell_progress_twice_a_second_at_most(self, tmp_path: Path) -> None:
        statuses: list[TaskStatus] = []
        heard = tmp_path / "heard"

        def report(status: TaskStatus) -> None:
            statuses.append(status)
            if len(statuses) == 3:
                heard.touch()

        began = time.monotonic()
        program = programmed(progress_until, heard=str(heard))
        run_task(program, isolated("progress_until"), worker="w", report=report)
        assert 3 <= len(statuses) <= 1 + (time.monotonic() - began) / 0.5
        assert 0 < (statuses[-1].share or 0) <= 1
        assert statuses[-1].message.startswith("at 0.")
        assert {status.stage for status in statuses} == {"progress_until"}
        assert (statuses[-1].memory or 0) > 50 * MIB

    def test_of_a_stage_that_says_nothing_tell_its_memory(self) -> None:
        statuses: list[TaskStatus] = []
        task = isolated("silent")
        asker = stop_when(task.key, lambda: bool(statuses), keep_best=False, grace=0)
        run_task(programmed(silent), task, worker="w", report=statuses.append)
        asker.join()
        assert len(statuses) >= 1
        assert all((status.memory or 0) > 50 * MIB for status in statuses)

    def test_that_cannot_be_told_harm_nobody(self) -> None:
        def broken(status: TaskStatus) -> None:
            raise OSError("nobody there")

        task = isolated("progress_often")
        result = run_task(programmed(progress_often), task, worker="w", report=broken)
        assert result.attempts[-1].outcome is Outcome.SUCCEEDED


@linux
class TestWhatAStageStarts:
    def test_does_not_outlive_its_task(self, tmp_path: Path) -> None:
        result = run(leave_processes, params={"folder": str(tmp_path)})
        assert result.attempts[-1].outcome is Outcome.SUCCEEDED
        self._assert_gone(tmp_path)

    def test_does_not_outlive_a_kill(self, tmp_path: Path) -> None:
        result = run(leave_and_hang, params={"folder": str(tmp_path)}, timeout=3)
        assert result.attempts[-1].outcome is Outcome.TIMED_OUT
        self._assert_gone(tmp_path)

    def test_does_not_outlive_a_child_that_died(self, tmp_path: Path) -> None:
        result = run(leave_and_die, params={"folder": str(tmp_path)})
        assert "exit code 1" in str(result.error)
        self._assert_gone(tmp_path)

    def test_leaves_the_child_to_the_next_task(self, tmp_path: Path) -> None:
        program = programmed(leave_processes, folder=str(tmp_path))
        run_task(program, isolated("leave_processes"), worker="w")
        again = run_task(program, isolated("leave_processes"), worker="w")
        assert again.attempts[-1].outcome is Outcome.SUCCEEDED
        assert not again.fresh

    def test_may_be_a_pool_of_processes(self) -> None:
        assert values(run(use_pool)) == [100]

    def test_says_nothing_in_the_name_of_the_child(self) -> None:
        program = programmed(fork_and_return)
        for _ in range(3):
            result = run_task(program, isolated("fork_and_return"), worker="w")
            assert values(result) == [1]
            assert len(result.attempts[-1].incumbents) == 1

    @staticmethod
    def _assert_gone(folder: Path) -> None:
        pids = [int(path.name) for path in folder.iterdir()]
        assert len(pids) == 3
        assert wait_for(lambda: all(gone(pid) for pid in pids)), [p for p in pids if not gone(p)]


def test_tasks_run_side_by_side_in_children_of_their_own() -> None:
    program = programmed(tell_pid_slowly)
    found: Sequence[list[Any]] = [[], []]

    def one(place: list[Any]) -> None:
        place.extend(values(run_task(program, isolated("tell_pid_slowly"), worker="w")))

    threads = [threading.Thread(target=one, args=(place,)) for place in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] != found[1]


def tell_pid_slowly(chunk: pd.DataFrame) -> pd.DataFrame:
    time.sleep(0.5)
    return chunk.assign(value=os.getpid())
