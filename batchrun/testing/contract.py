"""What every executor must do. Nothing here needs pytest: it collects the methods, or call them by hand."""

# ruff: noqa: S101  these are tests
from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.data.table import Inline, Stored, decode, encode, to_table
from batchrun.executor import (
    Executor,
    Placement,
    Signal,
    TaskDone,
    TaskLost,
    TaskReported,
    TaskShortened,
    WorkersChanged,
)
from batchrun.outcome import Outcome
from batchrun.resources import Demand, Worker
from batchrun.testing.scripted import attempts_in, scripted
from batchrun.worker.pack import Member, Pack, PackResult
from batchrun.worker.task import Limits, Task, TaskResult

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ExecutorContract", "collect", "pack_for", "task_for"]


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


def pack_for(chunks: Sequence[Any]) -> Pack:
    """A pack of the first leg of a program, of one chunk for each frame; all travel with it."""
    tables = [to_table(rows, owner="the test") for rows in chunks]
    members = tuple(Member(n, 1, table.num_rows, n) for n, table in enumerate(tables))
    inputs = tuple(Inline(encode(table)) for table in tables)
    return Pack(f"batchrun-test-{uuid.uuid4().hex}", "test", 0, members, inputs, Demand())


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
            if not isinstance(signal_, (TaskDone, TaskLost)):
                continue
            assert signal_.key not in found, f"{signal_.key} was signalled twice"
            found[signal_.key] = signal_
    return found


class ExecutorContract:
    """What every executor must do. Subclass it in a test and give it a fixture ``executor``.

    The fixture gives a fresh executor that has `program` prepared, with the folder ``tries`` in the
    ``tmp_path`` of the test, and at least one worker; where `processes` is true, two workers at least, one of
    which has two threads and the tag ``TAG: 1``.
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
        assert [_result(found[task.key]).attempts[0].chunk for task in tasks] == list(range(12))
        assert all(not isinstance(late, (TaskDone, TaskLost)) for late in executor.wait(0.2))

    def test_an_error_of_the_stage_comes_back_as_a_record(self, executor: Executor) -> None:
        """Also one that cannot be pickled, and ``sys.exit``."""
        deeds = {"fail": "ValueError", "unpicklable": "Stubborn", "exit": "SystemExit"}
        tasks = {deed: task_for(_rows(deed, deed)) for deed in deeds}
        run_in_slots(executor, list(tasks.values()))
        found = collect(executor, [task.key for task in tasks.values()])
        for deed, name in deeds.items():
            result = _result(found[tasks[deed].key])
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
        output = _result(found[small.key]).output
        assert isinstance(output, Inline)
        assert decode(output.data).num_rows == 1
        assert isinstance(_result(found[large.key]).output, Stored)
        assert Path(path).exists()

    def test_a_task_runs_on_the_worker_that_was_chosen(self, executor: Executor) -> None:
        """And the result says which one that was."""
        for worker in executor.workers():
            task = task_for(_rows(worker.name, "ok"))
            executor.submit([Placement(task, worker.address)])
            assert _result(collect(executor, [task.key])[task.key]).worker == worker.name

    def test_a_large_input_reaches_its_worker(self, executor: Executor) -> None:
        """Inputs of some megabytes may travel with their task."""
        import pandas as pd

        rows = pd.DataFrame({"id": ["wide"], "do": ["ok"], "wide": ["x" * 4_000_000]})
        task = task_for(rows, inline_limit=2**23)
        run_in_slots(executor, [task])
        output = _result(collect(executor, [task.key])[task.key]).output
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
        attempt = _result(collect(executor, [task.key])[task.key]).attempts[-1]
        assert attempt.outcome is Outcome.CANCELLED
        assert time.monotonic() - asked < 30
        after = task_for(_rows("after a stop", "ok"), isolated=True)
        executor.submit([Placement(after, worker.address)])
        assert _result(collect(executor, [after.key])[after.key]).worker == worker.name

    def test_the_chunks_of_a_pack_are_judged_one_by_one(self, executor: Executor) -> None:
        """Results of those that went well lie one below the other; an error is that of its chunk alone."""
        pack = pack_for([_rows(f"p{n}", "fail" if n == 2 else "ok") for n in range(5)])
        run_in_slots(executor, [pack])
        result = _pack_result(collect(executor, [pack.key])[pack.key])
        assert result.solved[0].chunks.tolist() == [0, 1, 3, 4]
        assert [other.attempts[0].chunk for other in result.others] == [2]
        assert result.others[0].error is not None
        assert result.left == ()
        (piece,) = result.pieces
        assert isinstance(piece.output, Inline)
        assert decode(piece.output.data)["id"].to_pylist() == ["p0", "p1", "p3", "p4"]

    def test_chunks_of_a_pack_that_have_not_begun_can_be_taken_back(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Each is heard of once: as begun, or as free to run elsewhere."""
        if not self.processes:
            return
        worker = _narrowest(executor)
        slow, behind = (pack_for([_rows(f"{name}{n}", "sleep=4") for n in range(4)]) for name in "sb")
        executor.submit([Placement(slow, worker.address)])
        _until_tried(tmp_path, "s0")
        executor.submit([Placement(behind, worker.address)])
        executor.recall([slow.key, behind.key, "never-heard-of"])
        heard: list[Signal] = []
        _wait_until(executor, heard, {slow.key, behind.key})
        begun = {item.key: item.begun for item in heard if isinstance(item, TaskShortened)}
        done = {item.key: item for item in heard if isinstance(item, TaskDone)}
        assert begun == {slow.key: 1, behind.key: 0}
        for key, number in begun.items():
            tried = [attempts.chunks.tolist() for attempts in _pack_result(done[key]).solved]
            assert tried == ([list(range(number))] if number else [])

    def test_a_task_that_waits_behind_another_can_be_taken_back(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """It comes back when its turn comes, and has tried nothing."""
        if not self.processes:
            return
        worker = _narrowest(executor)
        slow, behind = task_for(_rows("slow", "sleep=4")), task_for(_rows("behind", "ok"))
        executor.submit([Placement(slow, worker.address)])
        _until_tried(tmp_path, "slow")
        executor.submit([Placement(behind, worker.address)])
        executor.recall([slow.key, behind.key])
        heard: list[Signal] = []
        _wait_until(executor, heard, {slow.key, behind.key})
        begun = {item.key: item.begun for item in heard if isinstance(item, TaskShortened)}
        done = {item.key: item for item in heard if isinstance(item, TaskDone)}
        assert begun == {slow.key: 1, behind.key: 0}
        assert _result(done[slow.key]).output is not None
        assert _result(done[behind.key]).attempts == ()

    def test_what_is_not_known_is_stopped_without_complaint(self, executor: Executor) -> None:
        """It may have ended a moment ago."""
        executor.stop(["never-heard-of"], keep_best=True, grace=0.0)

    def test_waiting_for_nothing_ends_in_time(self, executor: Executor) -> None:
        """With no signal but of workers."""
        began = time.monotonic()
        assert all(isinstance(signal_, WorkersChanged) for signal_ in executor.wait(0.2))
        assert time.monotonic() - began < 20

    def test_another_thread_ends_the_wait(self, executor: Executor) -> None:
        """At once, whether it comes before or during it; nothing else is lost by it."""
        executor.wait(0.2)
        executor.wake()
        began = time.monotonic()
        executor.wait(30)
        waker = threading.Timer(0.2, executor.wake)
        waker.start()
        executor.wait(30)
        waker.join()
        assert time.monotonic() - began < 10
        task = task_for(_rows("woken", "ok"))
        run_in_slots(executor, [task])
        executor.wake()
        assert isinstance(collect(executor, [task.key])[task.key], TaskDone)

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
        attempts = sorted((_result(item).attempts[0] for item in found.values()), key=lambda a: a.started)
        for earlier, later in itertools.pairwise(attempts):
            assert earlier.started + earlier.seconds <= later.started + 0.05


def run_in_slots(executor: Executor, tasks: Sequence[Task | Pack]) -> None:
    """Submit tasks to all workers in turn."""
    workers = executor.workers()
    executor.submit([Placement(task, workers[n % len(workers)].address) for n, task in enumerate(tasks)])


def _rows(name: str, deed: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"id": [name], "do": [deed]})


def _result(found: Signal) -> TaskResult:
    assert isinstance(found, TaskDone), found
    assert isinstance(found.result, TaskResult)
    return found.result


def _pack_result(found: Signal) -> PackResult:
    assert isinstance(found, TaskDone), found
    assert isinstance(found.result, PackResult)
    return found.result


def _widest(executor: Executor) -> Worker:
    return max(executor.workers(), key=lambda worker: worker.threads)


def _narrowest(executor: Executor) -> Worker:
    return min(executor.workers(), key=lambda worker: worker.threads)


def _until_tried(tmp_path: Path, row: str) -> None:
    """Wait until a worker has begun with a row."""
    deadline = time.monotonic() + 60
    while not attempts_in(tmp_path / "tries")[row]:
        assert time.monotonic() < deadline, f"{row} was never begun"
        time.sleep(0.01)


def _wait_until(executor: Executor, heard: list[Signal], keys: set[str]) -> None:
    deadline = time.monotonic() + 60
    while not keys <= {item.key for item in heard if isinstance(item, (TaskDone, TaskLost))}:
        assert time.monotonic() < deadline, heard
        heard.extend(executor.wait(0.2))
