"""Aids for tests: a stage whose failures are scripted by its input, and what every executor must pass.

Nothing here needs pytest; the methods of the contract are collected by it, or called by hand.
"""

# ruff: noqa: S101  these are tests
from __future__ import annotations

import ctypes
import itertools
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.context import ChunkContext
from batchrun.data.table import Inline, Stored, decode, encode, to_table
from batchrun.executor import Executor, Placement, Signal, TaskDone, TaskLost, TaskReported, WorkersChanged
from batchrun.outcome import Outcome
from batchrun.resources import Demand, Worker
from batchrun.worker.task import Limits, Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ExecutorContract", "attempts_in", "collect", "scripted", "task_for"]


def scripted(chunk: pd.DataFrame, ctx: ChunkContext, *, folder: str) -> pd.DataFrame | None:
    """A stage that does what the column ``do`` of its input says, row by row, and counts its tries.

    The column ``id`` names a row. ``do`` is a word, or a word and how many of the first tries it holds for,
    as in ``fail:2``; after those the row is like any other.

    ======================  ==========================================================
    ``ok``                  nothing happens
    ``fail``                raises ValueError
    ``unpicklable``         raises an error that no pickle can carry
    ``exit``                calls ``sys.exit(3)``
    ``kill``                kills its own process
    ``sleep=0.5``           sleeps so many seconds first
    ``large=1000000``       gives a result with so many bytes
    ``hoard=1000000``       fills so many bytes of memory and sleeps
    ``leak=1000000``        keeps so many bytes for the life of its process
    ``crash``               reads an address that is not its own
    ``leave=3``             ends its process by ``os._exit(3)``
    ``hold=60``             sleeps so many seconds in C, holding the interpreter's lock
    ``solve=60``            publishes an answer ten times a second until it should stop
    ``publish=60``          publishes one answer, and sleeps so many seconds
    ``print=1000``          prints so many lines, and logs that it did
    ======================  ==========================================================

    Args:
        chunk: A frame with the columns ``id`` and ``do``.
        ctx: Takes progress, answers and messages.
        folder: A folder that all workers share, where each try of a row leaves a file.

    Returns:
        The chunk, with the column ``tries``; and ``load`` if it was told to be large.
    """
    tries, loads = [], []
    for row, deed in zip(chunk["id"], chunk["do"], strict=True):
        attempt = _count(Path(folder), row)
        word, _, most = str(deed).partition(":")
        load = b""
        if not most or attempt <= int(most):
            load = _do(*word.partition("=")[::2], row=row, frame=chunk.assign(tries=attempt), ctx=ctx)
        tries.append(attempt)
        loads.append(load)
    result = chunk.assign(tries=tries)
    return result.assign(load=loads) if any(loads) else result


def attempts_in(folder: str | Path) -> Counter[str]:
    """How often each row was tried by `scripted`, by its id as text."""
    return Counter(path.name.rpartition("@")[0] for path in Path(folder).glob("*@*"))


def task_for(
    rows: Any,
    *,
    demand: Demand | None = None,
    store_to: str | None = None,
    inline_limit: int = 2**20,
    chunk: int = 0,
    isolated: bool = False,
) -> Task:
    """A task of the first leg of a program over the rows of a frame, which travel with it.

    An *isolated* one runs `scripted` in a child process.
    """
    table = to_table(rows, owner="the test")
    return Task(
        key=f"batchrun-test-{uuid.uuid4().hex}",
        run_id="test",
        chunk=chunk,
        leg=0,
        attempt=1,
        rows=table.num_rows,
        input=Inline(encode(table)),
        demand=demand or Demand(),
        store_to=store_to,
        inline_limit=inline_limit,
        limits=(Limits("scripted"),) if isolated else (),
    )


def collect(
    executor: Executor, keys: Iterable[str], *, timeout: float = 60.0
) -> dict[str, TaskDone | TaskLost]:
    """Wait until each of *keys* has its signal.

    Raises AssertionError if one has two, TimeoutError if some have none within *timeout* seconds.
    """
    wanted, found = set(keys), dict[str, TaskDone | TaskLost]()
    deadline = time.monotonic() + timeout
    while wanted - set(found):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing was heard of {sorted(wanted - set(found))}")
        for signal_ in executor.wait(0.2):
            if isinstance(signal_, (TaskReported, WorkersChanged)):
                continue
            assert signal_.key not in found, f"{signal_.key} was signalled twice"
            found[signal_.key] = signal_
    return found


class ExecutorContract:
    """What every executor must do. Subclass it in a test and give it a fixture ``executor``.

    The fixture gives a fresh executor that has `PROGRAM` prepared, with at least one worker; where
    `processes` is true, with two workers at least, one of which has two threads and the tag ``TAG: 1``.
    """

    processes = True
    """Whether its workers are processes, which can be chosen, run side by side and die."""

    @staticmethod
    def program(folder: str) -> bytes:
        """The pickled program that the executor must be prepared with: `scripted`, with its folder."""
        from batchrun.definition import as_pipeline
        from batchrun.split import by_rows
        from batchrun.worker.program import pickle_program

        pipeline = as_pipeline(scripted, split=by_rows(1))
        return pickle_program(pipeline, pipeline.bind({"folder": folder}), "test")

    def test_every_task_gives_exactly_one_result(self, executor: Executor) -> None:
        """The contract's heart."""
        tasks = [task_for(_rows(f"r{number}", "ok"), chunk=number) for number in range(12)]
        run_in_slots(executor, tasks)
        found = collect(executor, [task.key for task in tasks])
        assert all(isinstance(signal_, TaskDone) for signal_ in found.values())
        assert [_done(found[task.key]).result.attempts[0].chunk for task in tasks] == list(range(12))
        assert all(not isinstance(late, (TaskDone, TaskLost)) for late in executor.wait(0.2))

    def test_an_error_of_the_stage_comes_back_as_a_record(self, executor: Executor) -> None:
        """Also one that cannot be pickled, and ``sys.exit``."""
        deeds = {"fail": "ValueError", "unpicklable": "Stubborn", "exit": "SystemExit"}
        tasks = {deed: task_for(_rows(deed, deed)) for deed in deeds}
        run_in_slots(executor, list(tasks.values()))
        found = collect(executor, [task.key for task in tasks.values()])
        for deed, name in deeds.items():
            result = _done(found[tasks[deed].key]).result
            assert result.output is None
            assert result.attempts[-1].outcome is Outcome.FAILED
            assert result.error is not None
            assert name in result.error.type

    def test_an_error_leaves_the_worker_as_it_was(self, executor: Executor) -> None:
        """The next task runs in the same process."""
        before = {worker.address for worker in executor.workers()}
        for deed in ("exit", "unpicklable", "ok"):
            task = task_for(_rows(f"{deed}-again", deed))
            run_in_slots(executor, [task])
            collect(executor, [task.key])
        assert {worker.address for worker in executor.workers()} == before

    def test_small_results_travel_and_large_ones_are_written(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """By the limit of each task."""
        path = str(tmp_path / "large.arrow")
        small = task_for(_rows("small", "ok"), store_to=path, inline_limit=10_000)
        large = task_for(_rows("large", "large=100000"), store_to=path, inline_limit=10_000)
        run_in_slots(executor, [small, large])
        found = collect(executor, [small.key, large.key])
        output = _done(found[small.key]).result.output
        assert isinstance(output, Inline)
        assert decode(output.data).num_rows == 1
        assert isinstance(_done(found[large.key]).result.output, Stored)
        assert Path(path).exists()

    def test_a_task_runs_on_the_worker_that_was_chosen(self, executor: Executor) -> None:
        """And the result says which one that was."""
        for worker in executor.workers():
            task = task_for(_rows(worker.name, "ok"))
            executor.submit([Placement(task, worker.address)])
            assert _done(collect(executor, [task.key])[task.key]).result.worker == worker.name

    def test_a_large_input_reaches_its_worker(self, executor: Executor) -> None:
        """Inputs of some megabytes may travel with their task."""
        import pandas as pd

        rows = pd.DataFrame({"id": ["wide"], "do": ["ok"], "wide": ["x" * 4_000_000]})
        task = task_for(rows, inline_limit=2**23)
        run_in_slots(executor, [task])
        output = _done(collect(executor, [task.key])[task.key]).result.output
        assert isinstance(output, Inline)
        assert len(decode(output.data)["wide"][0].as_py()) == 4_000_000

    def test_nothing_is_heard_of_a_cancelled_task(self, executor: Executor) -> None:
        """Whether it has begun or not."""
        tasks = [task_for(_rows(f"c{number}", "sleep=0.3")) for number in range(3)]
        executor.submit([Placement(task, executor.workers()[0].address) for task in tasks])
        executor.cancel([task.key for task in tasks])
        after = task_for(_rows("after", "ok"))
        run_in_slots(executor, [after])
        assert set(collect(executor, [after.key])) == {after.key}

    def test_a_task_that_runs_tells_how_it_is_doing(self, executor: Executor) -> None:
        """Where it runs in a process of its own, its memory is part of it."""
        if not self.processes:
            return
        task = task_for(_rows("told", "sleep=3"), isolated=True)
        run_in_slots(executor, [task])
        heard: list[Signal] = []
        _wait_until(executor, heard, {task.key})
        told = [item.status for item in heard if isinstance(item, TaskReported)]
        assert {status.key for status in told} == {task.key}
        assert {status.stage for status in told} == {"scripted"}
        assert any(status.memory for status in told)

    def test_a_task_in_a_process_of_its_own_is_ended_when_it_is_stopped(self, executor: Executor) -> None:
        """It comes back as cancelled, and its worker goes on."""
        if not self.processes:
            return
        worker = executor.workers()[0]
        task = task_for(_rows("stopped", "sleep=60"), isolated=True)
        executor.submit([Placement(task, worker.address)])
        deadline = time.monotonic() + 30
        while not any(isinstance(item, TaskReported) for item in executor.wait(0.2)):
            assert time.monotonic() < deadline, "it told nothing"
        executor.stop([task.key], keep_best=False, grace=0.1)
        asked = time.monotonic()
        attempt = _done(collect(executor, [task.key])[task.key]).result.attempts[-1]
        assert attempt.outcome is Outcome.CANCELLED
        assert time.monotonic() - asked < 5
        after = task_for(_rows("after a stop", "ok"), isolated=True)
        executor.submit([Placement(after, worker.address)])
        assert _done(collect(executor, [after.key])[after.key]).result.worker == worker.name

    def test_what_is_not_known_is_stopped_without_complaint(self, executor: Executor) -> None:
        """It may have ended a moment ago."""
        executor.stop(["never-heard-of"], keep_best=True, grace=0.0)

    def test_waiting_for_nothing_ends_in_time(self, executor: Executor) -> None:
        """With no signal but of workers."""
        began = time.monotonic()
        assert all(isinstance(signal_, WorkersChanged) for signal_ in executor.wait(0.2))
        assert time.monotonic() - began < 5

    def test_released_keys_may_be_released_again(self, executor: Executor) -> None:
        """And unknown ones too."""
        task = task_for(_rows("released", "ok"))
        run_in_slots(executor, [task])
        collect(executor, [task.key])
        executor.release([task.key])
        executor.release([task.key, "never-heard-of"])
        executor.cancel([task.key])

    def test_tasks_that_need_most_of_the_memory_never_overlap(self, executor: Executor) -> None:
        """Also on a worker that has a thread for each."""
        worker = _widest(executor)
        self._assert_one_at_a_time(executor, worker, Demand(memory=int(worker.memory * 0.6)))

    def test_tasks_that_need_the_same_tag_never_overlap(self, executor: Executor) -> None:
        """Also on a worker that has a thread for each."""
        worker = _widest(executor)
        if self.processes:
            self._assert_one_at_a_time(executor, worker, Demand(tags={"TAG": 1}))

    def test_a_killed_worker_costs_its_own_task_and_no_other(self, executor: Executor) -> None:
        """The task is lost, the change of workers is told, and a worker comes back or another is left."""
        if not self.processes:
            return
        first, second = executor.workers()[:2]
        doomed, safe = task_for(_rows("doomed", "kill:1")), task_for(_rows("safe", "sleep=1"))
        executor.submit([Placement(doomed, first.address), Placement(safe, second.address)])
        heard: list[Signal] = []
        _wait_until(executor, heard, {doomed.key, safe.key})
        lost = next(item for item in heard if isinstance(item, TaskLost))
        assert lost.key == doomed.key
        assert lost.worker_died
        assert first.name in lost.reason
        assert any(isinstance(item, TaskDone) and item.key == safe.key for item in heard)
        assert any(isinstance(item, WorkersChanged) for item in heard)
        again = task_for(_rows("doomed", "kill:1"))
        run_in_slots(executor, [again])
        assert isinstance(collect(executor, [again.key])[again.key], TaskDone)

    @staticmethod
    def _assert_one_at_a_time(executor: Executor, worker: Worker, demand: Demand) -> None:
        tasks = [task_for(_rows(f"{demand}-{n}", "sleep=0.3"), demand=demand) for n in range(3)]
        executor.submit([Placement(task, worker.address) for task in tasks])
        found = collect(executor, [task.key for task in tasks])
        attempts = sorted(
            (_done(item).result.attempts[0] for item in found.values()), key=lambda a: a.started
        )
        for earlier, later in itertools.pairwise(attempts):
            assert earlier.started + earlier.seconds <= later.started + 0.05


def run_in_slots(executor: Executor, tasks: Sequence[Task]) -> None:
    """Submit tasks to all workers in turn."""
    workers = executor.workers()
    executor.submit([Placement(task, workers[n % len(workers)].address) for n, task in enumerate(tasks)])


def _rows(name: str, deed: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"id": [name], "do": [deed]})


def _done(found: Signal) -> TaskDone:
    assert isinstance(found, TaskDone), found
    return found


def _widest(executor: Executor) -> Worker:
    return max(executor.workers(), key=lambda worker: worker.threads)


def _wait_until(executor: Executor, heard: list[Signal], keys: set[str]) -> None:
    deadline = time.monotonic() + 60
    while not keys <= {item.key for item in heard if isinstance(item, (TaskDone, TaskLost))}:
        assert time.monotonic() < deadline, heard
        heard.extend(executor.wait(0.2))


def _count(folder: Path, row: object) -> int:
    """Leave the file of one more try, whoever else does so too."""
    folder.mkdir(parents=True, exist_ok=True)
    name = str(row).replace("/", "_").replace(" ", "_").replace(":", "_")
    attempt = 1
    while True:
        try:
            (folder / f"{name}@{attempt}").touch(exist_ok=False)
        except FileExistsError:
            attempt += 1
        else:
            return attempt


class _StubbornError(Exception):
    """Cannot be pickled: it holds a lock."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def _do(word: str, amount: str, *, row: object, frame: pd.DataFrame, ctx: ChunkContext) -> bytes:
    """Do one deed; the bytes are a load for the result."""
    if word == "fail":
        raise ValueError(f"row {row} was told to fail")
    if word == "unpicklable":
        raise _StubbornError(f"row {row} was told to be stubborn")
    if word == "exit":
        raise SystemExit(3)
    if word == "large":
        return os.urandom(int(amount))
    if word in _SAYINGS:
        _SAYINGS[word](frame, ctx, float(amount))
    elif word in _DEEDS:
        _DEEDS[word](float(amount or 0))
    elif word != "ok":
        raise ValueError(f"the script says {word!r}, which is no deed")
    return b""


def _kill_this_process(_: float = 0) -> None:
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)


def _hoard(nbytes: float) -> None:
    hoard = bytearray(os.urandom(4096) * int(nbytes // 4096))
    time.sleep(60)
    del hoard


def _hold(seconds: float) -> None:
    library = ctypes.PyDLL("kernel32" if os.name == "nt" else None)
    library.Sleep(int(seconds * 1000)) if os.name == "nt" else library.sleep(int(seconds))


_kept: list[bytes] = []
_DEEDS: dict[str, Callable[[float], object]] = {
    "kill": _kill_this_process,
    "crash": lambda _: ctypes.string_at(0),
    "leave": lambda code: os._exit(int(code)),
    "sleep": time.sleep,
    "hoard": _hoard,
    "leak": lambda nbytes: _kept.append(os.urandom(4096) * int(nbytes // 4096)),
    "hold": _hold,
}
"""What a row may do to its process."""


def _solve(frame: pd.DataFrame, ctx: ChunkContext, seconds: float) -> None:
    began, step = time.monotonic(), 0
    while not ctx.should_stop and time.monotonic() - began < seconds:
        step += 1
        ctx.progress(step, 10 * seconds, message=f"answer {step}")
        ctx.incumbent(frame, objective=100 + 100 / step, bound=100)
        time.sleep(0.1)


def _publish(frame: pd.DataFrame, ctx: ChunkContext, seconds: float) -> None:
    ctx.incumbent(frame, objective=110, bound=100)
    time.sleep(seconds)


def _print(_: pd.DataFrame, ctx: ChunkContext, lines: float) -> None:
    for number in range(int(lines)):
        print(f"line {number}")  # noqa: T201  that is the deed
    ctx.log.info("printed %d lines", int(lines))


_SAYINGS: dict[str, Callable[[pd.DataFrame, ChunkContext, float], None]] = {
    "solve": _solve,
    "publish": _publish,
    "print": _print,
}
"""What a row may say through the context."""
