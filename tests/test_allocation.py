"""How workers and child processes give memory back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from batchrun.config import Settings
from batchrun.worker import allocation
from batchrun.worker.allocation import Keeper

MIB = 2**20
NAMES = ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")
gnu = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is the GNU C library that is told")


class TestAKeeper:
    def test_gives_back_once_for_each_growth_beyond_half_of_the_limit(self, monkeypatch):
        held = [100 * MIB]
        given: list[int] = []

        def give_back() -> None:
            given.append(held[0])
            held[0] -= 10 * MIB

        monkeypatch.setattr(allocation, "give_back", give_back)
        monkeypatch.setattr("batchrun.worker.memory.resident", lambda pid: held[0])
        keeper = Keeper(1000 * MIB)
        for now in (100, 540, 600, 590, 630, 660, 300, 540, 560):
            held[0] = now * MIB
            keeper.look()

        assert [size // MIB for size in given] == [600, 660, 560]


def faults() -> int:
    """Pages that are fetched while a thread makes and forgets a hundred arrays of 2 MiB."""
    import resource

    import numpy as np

    def make() -> None:
        for _ in range(100):
            np.ones(MIB // 4)

    make()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    make()
    return int(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)


@gnu
@pytest.mark.cluster
def test_a_worker_maps_no_array_anew_each_time(cluster: Settings) -> None:
    from batchrun.cluster.connect import open_cluster

    with open_cluster(cluster) as connection:
        found = [
            connection.client.submit(faults, workers=[address], pure=False).result()
            for address in connection.client.scheduler_info()["workers"]
        ]
    # An array has 512 pages, so it would be 51,200.
    assert max(found) < 5_000


@gnu
@pytest.mark.cluster
def test_nor_does_a_child(cluster: Settings) -> None:
    import pandas as pd

    from batchrun import Stage, by_rows, run_pipeline

    def count(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.assign(faults=faults())

    report = run_pipeline(
        Stage(count, isolate=True),
        pd.DataFrame({"x": [1]}),
        split=by_rows(1),
        cluster=cluster,
        progress=False,
    )
    assert report.results()["faults"].max() < 5_000


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
@pytest.mark.parametrize("asked", [True, False])
def test_what_dask_is_configured_to_tell_workers_is_told_to_the_process_that_forks_them(
    tmp_path: Path, *, asked: bool
) -> None:
    (tmp_path / "cluster.yaml").write_text(
        "workers: {standard: {count: 1, threads: 1, memory: 1GiB}}\ndashboard: null\nstore: store\n"
    )
    code = f"""
    from multiprocessing import forkserver
    from batchrun.cluster.forking import load_early

    load_early()
    early = forkserver._forkserver._forkserver_pid
    import dask
    from pathlib import Path
    from batchrun.cluster.local import local_cluster
    from batchrun.config import load_settings

    def told():
        import os
        told = Path(f"/proc/{{os.getpid()}}/environ").read_text().split("\\0")
        variables = dict(pair.split("=", 1) for pair in told if pair)
        return os.getppid(), *(variables.get(name) for name in {NAMES})

    if {asked}:
        dask.config.set({{"distributed.nanny.pre-spawn-environ": {{"OMP_NUM_THREADS": 2}}}})
    client = local_cluster(load_settings("cluster.yaml")).client
    [(server, *rest)] = client.run(told).values()
    print(server == early, *rest)
    """
    script = tmp_path / "asks.py"
    script.write_text(textwrap.dedent(code))
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in NAMES},  # Dask left some here
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    expected = "False 2 None 6640\n" if asked else f"True 1 {64 * MIB} 6640\n"
    assert (ran.stdout, ran.stderr) == (expected, "")
