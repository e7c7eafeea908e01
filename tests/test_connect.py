"""A scheduler that runs elsewhere is used as it is, checked first, and left alone afterwards."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from batchrun.cluster.connect import Connection, active_client, connect, version_differences, wrap
from batchrun.cluster.executor import DaskExecutor
from batchrun.cluster.versions import compare_versions, require_fit
from batchrun.config import load_settings, settings_for_address
from batchrun.errors import ClusterError, ClusterUnreachableError, VersionMismatchError
from batchrun.executor import Placement, Signal, TaskDone, TaskLost
from batchrun.resources import Demand
from batchrun.testing import ExecutorContract, collect, task_for
from tests.dask_processes import DaskProcesses, free_port

pytestmark = pytest.mark.cluster

HIGHMEM = (
    "--memory-limit",
    "500MiB",
    "--nthreads",
    "2",
    "--resources",
    "TAG=1,MEMORY=524288000",
    "--name",
    "big",
)
PLAIN = ("--memory-limit", "300MiB", "--nthreads", "1", "--name", "plain")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    processes = DaskProcesses(tmp_path_factory.mktemp("dask"))
    processes.scheduler()
    processes.worker(*HIGHMEM)
    processes.worker(*PLAIN)
    try:
        with connected(processes):
            yield processes
    finally:
        processes.stop()


def connect_to(address: str, timeout: str = "60s") -> Connection:
    return connect(settings_for_address(address, overrides={"timeout": timeout}))


@contextlib.contextmanager
def connected(cluster: DaskProcesses) -> Iterator[Connection]:
    """A connection to a cluster with both workers there; a test before may have killed one."""
    with connect_to(cluster.address) as connection:
        connection.client.wait_for_workers(2, timeout=60)
        yield connection


def until(promise: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not promise():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class TestExecutorOverAConnection(ExecutorContract):
    @pytest.fixture
    def executor(self, cluster: DaskProcesses, tmp_path: Path) -> Iterator[DaskExecutor]:
        with connected(cluster) as connection:
            executor = DaskExecutor(connection, shared_folder=str(tmp_path))
            executor.prepare(self.program(str(tmp_path / "tries")))
            yield executor
            executor.close()


def test_workers_are_known_by_their_tags_and_memory_or_else_by_their_limit(cluster: DaskProcesses) -> None:
    with connected(cluster) as connection:
        found = {worker.name: worker for worker in connection.workers()}
    assert (found["big"].threads, found["big"].memory, found["big"].tags) == (2, 500 * 2**20, {"TAG": 1})
    assert (found["plain"].threads, found["plain"].memory, found["plain"].tags) == (1, 300 * 2**20, {})


def test_a_memory_need_runs_on_a_worker_that_advertises_none(cluster: DaskProcesses, tmp_path: Path) -> None:
    with connected(cluster) as connection:
        plain = next(worker for worker in connection.workers() if worker.name == "plain")
        executor = DaskExecutor(connection)
        executor.prepare(ExecutorContract.program(str(tmp_path / "tries")))
        import pandas as pd

        task = task_for(pd.DataFrame({"id": ["a"], "do": ["ok"]}), demand=Demand(memory=2**28))
        executor.workers()
        executor.submit([Placement(task, plain.address)])
        assert isinstance(collect(executor, [task.key])[task.key], TaskDone)
        executor.close()


def test_the_cluster_lives_on_and_keeps_nothing(cluster: DaskProcesses, tmp_path: Path) -> None:
    import pandas as pd

    with connected(cluster) as connection:
        executor = DaskExecutor(connection)
        executor.prepare(ExecutorContract.program(str(tmp_path / "tries")))
        task = task_for(pd.DataFrame({"id": ["a"], "do": ["ok"]}))
        executor.submit([Placement(task, executor.workers()[0].address)])
        collect(executor, [task.key])
        executor.close()
    with Client(cluster.address, set_as_default=False) as client:
        until(lambda: not client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)))
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3


def test_shared_folders_are_proven_and_the_proof_is_removed(cluster: DaskProcesses, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with connected(cluster) as connection:
        assert DaskExecutor(connection, shared_folder=str(root)).shares_files
        assert not root.exists()
        assert not DaskExecutor(connection).shares_files
        assert not DaskExecutor(connection, shared_folder="memory://runs").shares_files


def test_regrouping_without_shared_files_is_refused_with_the_way_out(cluster: DaskProcesses) -> None:
    with connected(cluster) as connection, pytest.raises(ClusterError, match="set `artifacts`"):
        DaskExecutor(connection).regroup(None, ("pit",), "/nowhere")  # type: ignore[arg-type]


def test_the_active_client_can_be_used_and_stays_open(cluster: DaskProcesses) -> None:
    assert active_client() is None
    with Client(cluster.address) as client:
        assert active_client() is client
        with wrap(client) as connection:
            assert len(connection.workers()) == 2
        assert client.status == "running"


def test_a_cluster_in_threads_can_be_used_too() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as local,
        wrap(local) as connection,
    ):
        (worker,) = connection.workers()
        assert worker.threads == 2
        assert worker.memory > 0


def test_nothing_at_the_address_is_said_in_time_with_what_to_check() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(
        ClusterUnreachableError, match=f"no Dask scheduler answers at {address} within 1 s"
    ) as caught:
        connect_to(address, "1s")
    assert time.monotonic() - began < 20
    assert "8786" in str(caught.value)


def test_a_host_that_does_not_exist_is_unreachable() -> None:
    with pytest.raises(ClusterUnreachableError, match=r"answers at tcp://no-such-host\.invalid"):
        connect_to("tcp://no-such-host.invalid:8786", "2s")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silence", "a web server"]
)
def test_something_else_at_the_address_is_unreachable(answer: bytes) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        peers = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peers.append(listener.accept()[0])
                    peers[-1].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ClusterUnreachableError):
            connect_to(f"tcp://127.0.0.1:{listener.getsockname()[1]}", "1s")
        listener.shutdown(socket.SHUT_RDWR)
        for peer in peers:
            peer.close()


def test_a_scheduler_without_workers_is_said_and_one_that_dies_is_told_and_nothing_waits_for_it(
    tmp_path: Path,
) -> None:
    import pandas as pd

    processes = DaskProcesses(tmp_path)
    scheduler = processes.scheduler()
    try:
        Client(processes.address, timeout=60, set_as_default=False).close()
        with pytest.raises(ClusterError, match=r"has no worker\. Start one beside it: `dask worker tcp://"):
            connect_to(processes.address, "1s")
        processes.worker(*PLAIN, "--death-timeout", "5")
        with connect_to(processes.address) as connection:
            connection.client._timeout = 1
            executor = DaskExecutor(connection)
            executor.prepare(ExecutorContract.program(str(tmp_path / "tries")))
            task = task_for(pd.DataFrame({"id": ["a"], "do": ["sleep=30"]}))
            executor.submit([Placement(task, executor.workers()[0].address)])
            until(lambda: any((tmp_path / "tries").glob("a@*")))
            scheduler.kill()
            heard, error = listen_until_error(executor)
            assert "resume the run" in str(error)
            lost = [signal_ for signal_ in heard if isinstance(signal_, TaskLost)]
            assert [(item.key, item.worker_died) for item in lost] == [(task.key, False)]
            executor.close()
    finally:
        processes.stop()


def test_a_scheduler_that_cannot_import_batchrun_will_do(tmp_path: Path) -> None:
    import pandas as pd

    blind = (
        "import sys; sys.modules['batchrun'] = None; from distributed.cli.dask_scheduler import main; main()"
    )
    processes = DaskProcesses(tmp_path)
    processes.scheduler(("-c", blind))
    processes.worker(*PLAIN)
    try:
        with connect_to(processes.address) as connection:
            executor = DaskExecutor(connection, shared_folder=str(tmp_path / "runs"))
            executor.prepare(ExecutorContract.program(str(tmp_path / "tries")))
            rows = pd.DataFrame({"id": ["a"], "do": ["ok"], "wide": ["x" * 1_000_000]})
            task = task_for(rows, demand=Demand(memory=2**20))
            executor.submit([Placement(task, executor.workers()[0].address)])
            assert isinstance(collect(executor, [task.key])[task.key], TaskDone)
            assert executor.shares_files
            assert executor.dashboard == ""
            executor.close()
    finally:
        processes.stop()


def listen_until_error(executor: DaskExecutor) -> tuple[list[Signal], ClusterError]:
    heard: list[Signal] = []
    for _ in range(300):
        try:
            heard.extend(executor.wait(0.2))
        except ClusterError as error:
            return heard, error
    raise AssertionError(f"the loss was not noticed; heard {heard}")


# Versions

HERE = {
    "python": "3.11.7",
    "batchrun": "0.1.0",
    "dask": "2026.8.0",
    "distributed": "2026.8.0",
    "pandas": "3.1.0",
}


def test_this_cluster_runs_the_versions_of_this_process(cluster: DaskProcesses) -> None:
    with connected(cluster) as connection:
        assert version_differences(connection.client) == []
        assert connection.warnings == ()


def test_all_versions_that_do_not_fit_are_listed_in_one_message() -> None:
    there = {"w-0": HERE | {"python": "3.12.1", "batchrun": None}, "w-1": HERE | {"dask": "2025.1.0"}}
    with pytest.raises(VersionMismatchError) as caught:
        require_fit(compare_versions(HERE, there), "tcp://h:1")
    message = str(caught.value)
    assert "python: 3.11.7 here, 3.12.1 on w-0" in message
    assert "batchrun: 0.1.0 here, missing on w-0" in message
    assert "dask: 2026.8.0 here, 2025.1.0 on w-1" in message


def test_versions_that_may_differ_are_warnings() -> None:
    there = {"w-0": HERE | {"pandas": "3.0.9", "python": "3.11.2"}}
    assert require_fit(compare_versions(HERE, there), "a") == (
        "versions differ: pandas: 3.1.0 here, 3.0.9 on w-0",
    )


def test_the_scheduler_needs_no_batchrun() -> None:
    assert compare_versions(HERE, {"scheduler": HERE | {"batchrun": None, "pandas": None}}) == []


def test_settings_of_a_file_can_connect(cluster: DaskProcesses, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"kind: connect\naddress: {cluster.address}\n")
    with connect(load_settings(path)) as connection:
        assert cluster.address in connection.description
