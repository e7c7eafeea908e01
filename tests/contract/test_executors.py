"""Every executor keeps the same promises."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from batchrun.cluster.connect import Connection, start_local
from batchrun.cluster.executor import DaskExecutor
from batchrun.config import load_settings
from batchrun.executor import Executor, InlineExecutor, Placement, TaskDone, TaskLost
from batchrun.testing import ExecutorContract, collect, task_for

CLUSTER = """
workers:
  narrow: {count: 1, threads: 1, memory: 400MiB}
  wide: {count: 1, threads: 2, memory: 400MiB, resources: {TAG: 1}}
dashboard: off
"""


class TestInlineExecutor(ExecutorContract):
    processes = False

    @pytest.fixture
    def executor(self, tmp_path: Path) -> Iterator[Executor]:
        executor = InlineExecutor()
        executor.prepare(self.program(str(tmp_path / "tries")))
        yield executor
        executor.close()


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    path.write_text(CLUSTER)
    with start_local(load_settings(path)) as connection:
        yield connection


@pytest.mark.cluster
class TestDaskExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self, connection: Connection, tmp_path: Path) -> Iterator[Executor]:
        connection.client.wait_for_workers(2, timeout=90)
        executor = DaskExecutor(connection)
        executor.prepare(self.program(str(tmp_path / "tries")))
        yield executor
        executor.close()

    def test_a_worker_that_passes_its_memory_limit_is_named_with_what_it_held(
        self, executor: Executor
    ) -> None:
        worker = executor.workers()[0]
        rows = pd.DataFrame({"id": ["greedy"], "do": ["hoard=600000000:1"]})
        task = task_for(rows)
        executor.submit([Placement(task, worker.address)])
        lost = collect(executor, [task.key])[task.key]
        assert isinstance(lost, TaskLost)
        assert re.fullmatch(
            rf"worker {worker.name} was ended at \d+ MiB because it passed its memory limit", lost.reason
        )

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP on Windows")
    def test_a_task_that_is_self_contained_needs_nothing_from_a_worker_that_hangs(
        self, executor: Executor, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("batchrun.cluster.executor._SMALL_PROGRAM", 0)
        executor.prepare(self.program(str(tmp_path / "tries")))
        rows = pd.DataFrame({"id": ["plain"], "do": ["ok"]})
        before, after = task_for(rows), task_for(rows)
        hangs, works = (worker.address for worker in executor.workers())
        process = connection.client.run(os.getpid, workers=[hangs])[hangs]
        executor.submit([Placement(before, hangs)])  # brings the program there, and nowhere else
        collect(executor, [before.key])
        os.kill(process, signal.SIGSTOP)
        try:
            executor.submit([Placement(after, works, self_contained=True)])
            assert isinstance(collect(executor, [after.key])[after.key], TaskDone)
        finally:
            os.kill(process, signal.SIGCONT)
