"""A local cluster is what was asked for, is reachable from here only, and never outlives its driver."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from distributed import Client

from batchrun.cluster import local
from batchrun.cluster.connect import Connection, active_client, open_cluster, start_local, wrap
from batchrun.cluster.executor import DaskExecutor
from batchrun.cluster.local import close_local_clusters, local_cluster
from batchrun.config import Settings, load_settings
from batchrun.errors import ClusterError, UsageError
from batchrun.resources import Worker

pytestmark = pytest.mark.cluster

SMALL = "workers: {one: {count: 1, memory: 300MiB}}\ndashboard: off\n"


def settings_of(folder: Path, text: str = SMALL) -> Settings:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return load_settings(path)


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    text = """
    workers:
      standard: {count: 2, threads: 1, memory: 300MiB}
      highmem: {count: 1, threads: 2, memory: 500MiB, resources: {HIGHMEM: 1, GPU: 2}}
    dashboard: 127.0.0.1:0
    """
    with start_local(settings_of(tmp_path_factory.mktemp("groups"), textwrap.dedent(text))) as connection:
        yield connection


def until(promise: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not promise():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_workers_have_the_names_threads_memory_and_tags_of_their_groups(groups: Connection) -> None:
    found = {worker.name: worker for worker in groups.workers()}
    assert set(found) == {"standard-0", "standard-1", "highmem-0"}
    highmem = found["highmem-0"]
    assert (highmem.threads, highmem.memory, highmem.tags) == (2, 500 * 2**20, {"HIGHMEM": 1, "GPU": 2})
    assert found["standard-0"].tags == {}
    assert groups.description == "local cluster: 2 standard, 1 highmem"


def test_every_worker_advertises_its_memory_to_dask(groups: Connection) -> None:
    facts = groups.client.scheduler_info(n_workers=-1)["workers"].values()
    assert all(known["resources"]["MEMORY"] == known["memory_limit"] for known in facts)


def test_nothing_listens_where_other_machines_could_reach_it(groups: Connection) -> None:
    me = psutil.Process()
    hosts = {
        connection.laddr.ip
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert hosts == {"127.0.0.1"}


def test_the_dashboard_answers_at_its_address(groups: Connection) -> None:
    import urllib.request

    assert groups.dashboard.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{groups.dashboard}/status", timeout=30) as answer:
        assert answer.status == 200


def test_the_default_client_of_the_process_is_left_alone(groups: Connection) -> None:
    assert active_client() is None


def test_a_killed_worker_comes_back_under_its_name(groups: Connection) -> None:
    before = next(worker for worker in groups.workers() if worker.name == "standard-1")
    process = groups.client.run(os.getpid, workers=[before.address])[before.address]
    os.kill(process, signal.SIGKILL)

    def is_back() -> bool:
        now = [worker for worker in groups.workers() if worker.name == "standard-1"]
        return bool(now) and now[0].address != before.address

    until(is_back)
    assert len(groups.workers()) == 3


def test_a_worker_whose_nanny_gave_up_is_started_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    with start_local(settings) as connection:
        cluster = connection.client.cluster
        (nanny,) = cluster.workers.values()
        address = connection.workers()[0].address
        cluster.sync(nanny.close)
        until(lambda: bool(connection.workers()) and connection.workers()[0].address != address)
        assert connection.workers()[0].name == "one-0"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_workers_that_died_since_the_last_call_are_waited_for(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    try:
        first = local_cluster(settings)
        for pid in first.client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not first.workers())
        first.close()
        second = local_cluster(settings)
        assert [worker.name for worker in second.workers()] == ["one-0"]
        second.close()
    finally:
        close_local_clusters()


def test_workers_that_die_while_a_run_is_prepared_are_waited_for_before_it_is_refused(tmp_path: Path) -> None:
    try:
        connection = local_cluster(settings_of(tmp_path))
        executor = DaskExecutor(connection)
        for pid in connection.client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not connection.workers())
        assert [worker.name for worker in executor.workers()] == ["one-0"]
        executor.close()
        connection.close()
    finally:
        close_local_clusters()


def test_a_worker_that_never_comes_back_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(tmp_path)
    try:
        first = local_cluster(settings)
        cluster = first.client.cluster
        first.client.sync(lambda: stopped(cluster))
        until(lambda: not first.workers())
        first.close()
        waits: list[float] = []
        monkeypatch.setattr(local, "_START_TIMEOUT", 0.5)
        wait = Client.wait_for_workers

        def counted(client: Client, number: int, timeout: float) -> None:
            waits.append(timeout)
            wait(client, number, timeout=timeout)

        monkeypatch.setattr(Client, "wait_for_workers", counted)
        for _ in range(3):
            local_cluster(settings).close()
        assert waits == [0.5]
        assert "1 of 1 workers did not come back" in caplog.text
    finally:
        close_local_clusters()


async def stopped(cluster: Any) -> None:
    """End the only worker of a cluster that no longer puts it back."""
    cluster._guard.stop()
    await next(iter(cluster.workers.values())).close()


def test_equal_settings_share_one_warm_cluster_and_others_do_not(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    first, second = open_cluster(settings), local_cluster(settings)
    try:
        assert first.workers() == second.workers()
        first.close()
        assert second.client.submit(sum, [1, 2]).result(timeout=60) == 3
        assert second.alive
    finally:
        second.close()
        close_local_clusters()


def test_a_warm_cluster_that_died_is_replaced(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    first = local_cluster(settings)
    try:
        first.client.cluster.close()
        with local_cluster(settings) as second:
            assert len(second.workers()) == 1
    finally:
        first.close()
        close_local_clusters()


def test_a_dashboard_port_in_use_gives_way_without_a_word(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = settings_of(tmp_path, SMALL.replace("off", f"127.0.0.1:{port}"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with start_local(settings) as connection:
                assert connection.dashboard.startswith("http://127.0.0.1:")
                assert not connection.dashboard.endswith(f":{port}")


def test_connecting_settings_start_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kind: local"):
        start_local(settings_of(tmp_path, "kind: connect\naddress: tcp://127.0.0.1:1\n"))


def test_a_clients_cluster_is_used_through_another_client(groups: Connection) -> None:
    with wrap(groups.client) as connection:
        assert connection.client is not groups.client
        assert connection.workers() == groups.workers()
    assert groups.alive


def test_without_a_dashboard_there_is_no_address_and_a_closed_client_is_refused(tmp_path: Path) -> None:
    with start_local(settings_of(tmp_path)) as connection:
        assert connection.dashboard == ""
        client = connection.client
    with pytest.raises(ClusterError, match="is closed; make a new one"):
        wrap(client)


# What is left of a driver that ends

DRIVER = """
import os, sys, time
from batchrun.config import load_settings
from batchrun.cluster.local import local_cluster

if __name__ == "__main__":
    connection = local_cluster(load_settings({path!r}))
    print(os.getpid(), *connection.client.run(os.getpid).values(), flush=True)
    {then}
"""


@contextlib.contextmanager
def driver(
    folder: Path, then: str, count: int = 1
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A process of its own group that has started a local cluster, and its workers."""
    settings_of(folder, SMALL.replace("count: 1", f"count: {count}"))
    script = folder / "driver.py"
    script.write_text(DRIVER.format(path=str(folder / "cluster.yaml"), then=then))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    family: list[psutil.Process] = []
    try:
        line = process.stdout.readline().split()
        assert line, process.communicate()[1]
        workers = [psutil.Process(int(text)) for text in line[1:]]
        family = psutil.Process(process.pid).children(recursive=True)
        yield process, workers
    finally:
        for left in (process, *family):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                left.kill()
        process.communicate()


def gone(workers: list[psutil.Process]) -> bool:
    return not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("then", "code"),
    [("pass", 0), ("sys.exit(3)", 3), ("raise ValueError('the driver failed')", 1)],
    ids=["at its end", "by exit", "by an error"],
)
def test_no_process_is_left_when_the_driver_ends(tmp_path: Path, then: str, code: int) -> None:
    with driver(tmp_path, f"sys.stdin.readline(); {then}") as (process, _):
        family = family_of(process)
        _, said = process.communicate("\n", timeout=60)
        assert process.returncode == code
        until(lambda: gone(family))
        assert ("ValueError" in said) == (code == 1)
        assert said.count("Traceback") == (code == 1), said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to interrupt")
def test_ctrl_c_reaches_the_driver_and_not_the_workers(tmp_path: Path) -> None:
    then = """
    try:
        print("asleep", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print(*connection.client.run(os.getpid).values(), flush=True)
        sys.stdin.readline()
    """
    with driver(tmp_path, textwrap.dedent(then).strip().replace("\n", "\n    "), 2) as (process, workers):
        family = family_of(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        os.killpg(process.pid, signal.SIGINT)
        after = {int(text) for text in process.stdout.readline().split()}
        assert after == {worker.pid for worker in workers}
        _, said = process.communicate("\n", timeout=60)
        assert said == ""
        until(lambda: gone(family))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_workers_end_by_themselves_when_the_driver_is_killed(tmp_path: Path) -> None:
    with driver(tmp_path, "time.sleep(60)", 2) as (process, _):
        family = family_of(process)
        assert len(family) >= 2
        process.kill()
        until(lambda: gone(family), seconds=45)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties processes together on Linux only")
def test_a_worker_that_holds_the_interpreters_lock_ends_with_its_driver(tmp_path: Path) -> None:
    then = "connection.client.submit(__import__('re').match, '(a+)+$', 'a' * 40 + 'b'); time.sleep(60)"
    with driver(tmp_path, then) as (process, workers):
        family = family_of(process)
        until(lambda: any(worker.cpu_percent(0.2) > 40 for worker in workers))
        process.kill()
        until(lambda: gone(family), seconds=45)
        assert gone(family)


def test_a_script_needs_no_main_guard_and_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    settings_of(tmp_path)
    script = tmp_path / "bare.py"
    script.write_text(
        "from pathlib import Path\n"
        "from batchrun.config import load_settings\n"
        "from batchrun.cluster.local import local_cluster\n"
        "folder = Path(__file__).parent\n"
        "with (folder / 'times').open('a') as file: file.write('once ')\n"
        "def double(x): return 2 * x\n"
        "connection = local_cluster(load_settings(folder / 'cluster.yaml'))\n"
        "print(connection.client.submit(double, 21).result())\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("42\n", "", 0)
    assert (tmp_path / "times").read_text() == "once "


def test_a_process_that_the_user_starts_is_prepared_as_python_does_it(tmp_path: Path) -> None:
    import multiprocessing.spawn

    before = multiprocessing.spawn.get_preparation_data
    with start_local(settings_of(tmp_path)):
        mine = multiprocessing.spawn.get_preparation_data("mine")
        assert {key for key in mine if key.startswith("init_main")} == {
            key for key in before("mine") if key.startswith("init_main")
        }
    assert multiprocessing.spawn.get_preparation_data is before


def test_workers_are_forked_from_a_process_that_has_loaded_all_and_still_are_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tells() -> tuple[float, float, str | None, bool]:
        import random

        loaded = "pandas" in sys.modules
        return random.random(), np.random.random(), os.environ.get("TOLD_TO_WORKERS"), loaded

    method = dask.config.get("distributed.worker.multiprocessing-method")
    for value in ("one", "two"):
        monkeypatch.setenv("TOLD_TO_WORKERS", value)
        with start_local(settings_of(tmp_path, SMALL.replace("count: 1", "count: 2"))) as connection:
            parents = set(connection.client.run(os.getppid).values())
            first, second = connection.client.run(tells).values()
        assert first[0] != second[0]
        assert first[1] != second[1]
        assert first[2] == second[2] == value
        if sys.platform == "linux":
            assert len(parents - {os.getpid()}) == 1
            assert first[3]
    assert dask.config.get("distributed.worker.multiprocessing-method") == method


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_workers_end_with_the_process_that_forked_them_and_come_back(tmp_path: Path) -> None:
    settings_of(tmp_path, SMALL.replace("count: 1", "count: 2"))
    code = f"""
    import contextlib, os, signal, time
    from batchrun.config import load_settings
    from batchrun.cluster.local import local_cluster

    client = local_cluster(load_settings({str(tmp_path / "cluster.yaml")!r})).client
    before = set(client.run(os.getpid).values())
    [server] = set(client.run(os.getppid).values())
    os.kill(server, signal.SIGKILL)
    until, now = time.monotonic() + 60, before
    while (before & now or len(now) < 2) and time.monotonic() < until:
        with contextlib.suppress(Exception):  # as long as Dask talks to those that are gone
            now = set(client.run(os.getpid, on_error="ignore").values())
        time.sleep(0.05)
    print(client.submit(sum, [1, 2]).result(), len(now), len(before & now))
    """
    script = tmp_path / "kills.py"  # in a process of its own: all clusters of one have one fork server
    script.write_text(textwrap.dedent(code))
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ran.stdout, ran.returncode) == ("3 2 0\n", 0)


@pytest.mark.parametrize("asked", [True, False])
def test_workers_are_spawned_where_that_was_asked_for(tmp_path: Path, *, asked: bool) -> None:
    settings_of(tmp_path)
    script = tmp_path / "asks.py"
    script.write_text(
        "import os\n"
        "from batchrun.config import load_settings\n"
        "from batchrun.cluster.local import local_cluster\n"
        f"connection = local_cluster(load_settings({str(tmp_path / 'cluster.yaml')!r}))\n"
        "print(set(connection.client.run(os.getppid).values()) == {os.getpid()})\n"
    )
    name = "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"
    variables = {key: value for key, value in os.environ.items() if key != name}
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**variables, name: "spawn"} if asked else variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    spawned = asked or sys.platform != "linux"
    assert (ran.stdout, ran.stderr) == (f"{spawned}\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_what_workers_need_is_loaded_while_the_driver_still_reads_its_input(tmp_path: Path) -> None:
    settings_of(tmp_path)
    code = f"""
    import os, sys
    from multiprocessing import forkserver
    from batchrun import by_rows, run_pipeline
    from batchrun.cluster import forking

    def tells(chunk):
        return chunk.assign(parent=os.getppid())

    early = []
    load = forking.load_early

    def noted():
        load()
        early.append((forkserver._forkserver._forkserver_pid, "distributed" in sys.modules))

    forking.load_early = noted
    import pandas as pd
    rows, cluster = pd.DataFrame({{"x": [1, 2]}}), {str(tmp_path / "cluster.yaml")!r}
    report = run_pipeline(tells, rows, split=by_rows(1), cluster=cluster, progress=False)
    parents = set(report.results()["parent"])
    print(early == [(pid, False) for pid in parents])
    """
    script = tmp_path / "loads.py"
    script.write_text(textwrap.dedent(code))
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("True\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_what_is_refused_leaves_nothing_behind_that_still_loads(tmp_path: Path) -> None:
    settings_of(tmp_path)
    (tmp_path / "loads_for_ever.py").write_text("import time\nprint('begun')\ntime.sleep(1000)\n")
    code = f"""
    from batchrun import by_rows, run_pipeline
    from batchrun.cluster import forking

    forking._LOADED = ("loads_for_ever",)
    try:
        run_pipeline(len, "absent.parquet", split=by_rows(1), cluster={str(tmp_path / "cluster.yaml")!r})
    except Exception as error:
        print(error)
    """
    script = tmp_path / "refused.py"
    script.write_text(textwrap.dedent(code))
    # What is started has the same output, which is read to its end only when all who have it are gone.
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "absent.parquet" in ran.stdout, ran.stderr


def test_a_worker_is_described_by_what_it_has() -> None:
    worker = Worker(address="tcp://h:1", name="big-0", threads=2, memory=2**30, tags={"GPU": 1})
    assert str(worker) == "big-0 (2 threads, MEMORY: 1 GiB, GPU: 1)"
