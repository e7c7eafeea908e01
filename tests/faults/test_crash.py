"""Services and clusters are killed at any moment: every row has one outcome, and nothing is done twice.

``CRASH_POINTS`` says how many moments are tried in each case, one after the other: what came after the
killed is killed next. Odd ones try another variant of their case than even ones.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from batchrun.store.services import ServiceRecord
from tests.dask_processes import DaskProcesses
from tests.faults.conftest import POINTS, Point
from tests.faults.site import CONNECT, LOCAL, ROWS, Site, kill, marked, pid_of, site, some_time
from tests.postgres import PostgresServer
from tests.services import until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.crash,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows"),
]
WORKER = ("--no-nanny", "--nthreads", "1", "--memory-limit", "700MiB", "--resources", "MEMORY=734003200")


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """A scheduler with two workers that nothing kills."""
    processes = DaskProcesses(tmp_path_factory.mktemp("dask"))
    start(processes)
    yield processes
    processes.stop()


def start(dask: DaskProcesses) -> list[subprocess.Popen[bytes]]:
    """Start a scheduler and two workers."""
    return [dask.scheduler(), dask.worker(*WORKER), dask.worker(*WORKER)]


@pytest.fixture
def connected(tmp_path, dask: DaskProcesses) -> Iterator[Site]:
    """A site whose services share a cluster that outlives them."""
    with site(tmp_path, CONNECT, address=dask.address) as here:
        yield here


def halfway(here: Site, run: str, rng: random.Random) -> None:
    """Wait for a moment of a run that is drawn by lot."""
    here.wait_for(run, rng.randrange(0, ROWS * 3 // 4))
    some_time(rng)


def test_a_service_that_is_killed_is_followed_by_the_next_one(connected: Site, points: Iterable[Point]):
    service = connected.up()
    for point in points:
        run = connected.queue()
        halfway(connected, run, point.rng)
        kill(pid_of(service))

        left = connected.look(run)
        service = connected.up()

        connected.check(run, left)


def test_a_machine_that_is_switched_off_goes_on_where_it_was(tmp_path, points: Iterable[Point]):
    with site(tmp_path, LOCAL) as here:
        here.up()
        for point in points:
            runs = [here.queue(pipeline=name) for name in ("squares", "apart")]
            halfway(here, point.rng.choice(runs), point.rng)
            kill(*(process.pid for process in marked(here.token)))

            left = [here.look(run) for run in runs]
            here.up()

            for run in runs:
                here.check(run, *left)


def test_a_service_that_slept_longer_than_its_lease_writes_nothing_more_and_goes_on_to_serve(
    connected: Site, points: Iterable[Point]
):
    services: dict[str, int] = {}
    for point in points:
        two_of(connected, services)
        run = connected.queue()
        halfway(connected, run, point.rng)
        sleeper = connected.owner(run)
        if sleeper is None:  # it has ended
            connected.check(run)
            continue
        suspend(connected, services[sleeper])

        left = connected.look(run)
        until(lambda run=run, sleeper=sleeper: connected.owner(run) != sleeper or connected.has_ended(run))
        connected.wait_for(run, point.rng.randrange(len(left.rows), ROWS + 1))
        os.kill(services[sleeper], signal.SIGCONT)

        connected.check(run, left)
        kill(*(services.pop(service) for service in set(services) - {sleeper}))
        connected.check(connected.queue())


def two_of(here: Site, services: dict[str, int]) -> None:
    """Start services, known by their ids and processes, until there are two."""
    while len(services) < 2:
        service = here.up()
        services[service.service] = pid_of(service)


def suspend(here: Site, pid: int) -> None:
    """Stop a process that holds no lock of SQLite, which would stop all others as well."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        until(lambda: stands_still(pid), 10)
        if can_be_written(here):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)


def stands_still(pid: int) -> bool:
    """Whether a process was stopped; one whose threads the system tells of, in all of them."""
    threads = Path(f"/proc/{pid}/task")
    if not threads.is_dir():
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    states = [(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads.iterdir()]
    return all(state in "TX" for state in states)


def can_be_written(here: Site) -> bool:
    """Whether somebody else can write the store."""
    store = here.place.folder / ".batchrun" / "store.db"
    with contextlib.closing(sqlite3.connect(store, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
    return True


def test_of_two_services_one_is_killed_and_the_other_goes_on(connected: Site, points: Iterable[Point]):
    services: dict[str, int] = {}
    for point in points:
        two_of(connected, services)
        runs = [connected.queue() for _ in range(4)]
        halfway(connected, point.rng.choice(runs), point.rng)
        killed = point.rng.choice(sorted(services))
        if point.odd:
            pretend_elsewhere(connected, killed)
        kill(services.pop(killed))

        left = [connected.look(run) for run in runs]

        for run in runs:
            connected.check(run, *left)


def pretend_elsewhere(here: Site, service: str) -> None:
    """Let a service seem to be of another host, so that only its lease tells whether it is there."""
    with here.place.store() as store:
        store.services.update(service, process="another-host/1/0.0")


@pytest.mark.parametrize("service_too", [False, True], ids=["alone", "with the service"])
def test_the_scheduler_is_killed_and_comes_back(tmp_path, points: Iterable[Point], service_too: bool):
    dask = DaskProcesses(tmp_path)
    with site(tmp_path, CONNECT, address=dask.address) as here, contextlib.ExitStack() as stack:
        stack.callback(dask.stop)
        processes = start(dask)
        service = here.up()
        for point in points:
            run = here.queue()
            halfway(here, run, point.rng)
            kill(processes[0].pid, *([pid_of(service)] if service_too else []))
            left = here.look(run)
            for process in processes:  # workers end with their scheduler
                process.wait(60)

            processes = start(dask)
            if service_too:
                service = here.up()

            here.check(run, left)


@pytest.mark.parametrize("patience", ["1min", "1s"])
def test_postgresql_is_killed_and_comes_back(
    tmp_path: Path, dask: DaskProcesses, postgres: PostgresServer, points: Iterable[Point], patience: str
):
    values = {"address": dask.address, "store": postgres.url(), "store_timeout": patience}
    with site(tmp_path, CONNECT, **values) as here:
        here.up()
        for point in points:
            if point.odd == (patience == "1min"):
                continue
            run = here.queue()
            halfway(here, run, point.rng)
            left = here.look(run)
            postgres.stop()
            time.sleep(point.rng.uniform(0.2, 3.0))
            postgres.start()

            here.check(run, left)
        here.check(here.queue())


def test_an_artifact_root_that_is_away_is_waited_for(
    tmp_path: Path, dask: DaskProcesses, points: Iterable[Point]
):
    folder = tmp_path / "disk"
    folder.mkdir()
    (tmp_path / "artifacts").symlink_to(folder)
    with site(tmp_path, CONNECT, address=dask.address) as here:
        pid = pid_of(here.up())
        for point in points:
            if point.odd:  # it is away before the run begins
                suspend(here, pid)
                run = here.queue()
                replace_artifacts(tmp_path, lambda new: new.write_text("in the way"))
                os.kill(pid, signal.SIGCONT)
            else:
                run = here.queue()
                halfway(here, run, point.rng)
                replace_artifacts(tmp_path, lambda new: new.write_text("in the way"))
            time.sleep(0.3)  # what was being committed is committed
            solved = here.report(run).rows_solved
            time.sleep(20.0 if POINTS > 2 else 3.0)
            assert here.report(run).rows_solved == solved
            replace_artifacts(tmp_path, lambda new: new.symlink_to(folder))

            here.check(run)


def replace_artifacts(folder: Path, make: Callable[[Path], object]) -> None:
    """Put something in the place of the link to the artifact root, in one step."""
    make(folder / "new")
    (folder / "new").replace(folder / "artifacts")


@pytest.mark.parametrize("which", ["one", "all"])
def test_workers_are_killed(tmp_path: Path, points: Iterable[Point], which: str):
    with site(tmp_path, LOCAL) as here:
        service = here.up()
        for point in points:
            run = here.queue(pipeline="apart" if point.odd else "squares")
            halfway(here, run, point.rng)
            workers = workers_of(service)
            left = here.look(run)
            kill(*(workers if which == "all" else [point.rng.choice(workers)]))

            here.check(run, left)
        here.check(here.queue())


def workers_of(service: ServiceRecord) -> list[int]:
    """The worker processes of a service with a local cluster."""
    pid = pid_of(service)
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        line = " ".join(child.cmdline())
        if "spawn_main" in line or ("multiprocessing.forkserver" in line and child.ppid() != pid):
            found.append(child.pid)
    assert found
    return found


def test_a_client_that_is_killed_has_queued_its_run_or_has_not(connected: Site, points: Iterable[Point]):
    connected.up()
    began = time.monotonic()
    submit(connected, "--detach").wait(120)
    took = time.monotonic() - began
    for point in points:
        before = known_runs(connected)
        client = submit(connected, *([] if point.odd else ["--detach"]))
        time.sleep(point.rng.uniform(0, 1.3 * took))
        kill(client.pid)
        client.wait()

        assert len(known_runs(connected) - before) <= 1
    for run in known_runs(connected):
        connected.check(run)
    connected.check(connected.queue())


def submit(here: Site, *options: str) -> subprocess.Popen[bytes]:
    """Start a client that submits a run."""
    calls = here.place.folder / "calls" / uuid.uuid4().hex
    calls.mkdir(parents=True)
    asked = ["work:squares", "-i", "in.parquet", "-p", "seconds=0.05", "-p", f"calls={calls}"]
    return subprocess.Popen(
        [sys.executable, "-m", "batchrun", "submit", *asked, *options],
        cwd=here.place.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def known_runs(here: Site) -> set[str]:
    """All runs that the store knows."""
    with here.place.store() as store:
        return {record.run_id for record in store.list(limit=None)}
