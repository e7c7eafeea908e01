"""Where benchmarks run: two workers of one thread each, a folder, and files that are kept between runs."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from batchrun.config import Settings, load_settings

CLUSTER = """\
kind: local
workers:
  standard: {count: 2, threads: 1, memory: 4GiB}
dashboard: 127.0.0.1:0
store: .batchrun
"""


class Arena:
    """A folder that is the current one meanwhile, with a ``cluster.yaml`` and a store of its own.

    Args:
        base: Where the folder is made, and where *inputs* are kept.
        warm: A local cluster that stands in for all others, in tests; it must have a worker with HIGHMEM.
    """

    def __init__(self, base: Path, warm: Settings | None = None) -> None:
        self.base = base.resolve()
        self._warm = warm
        self._stack = ExitStack()

    def __enter__(self) -> Arena:
        self.base.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix="arena-", dir=self.base)
        self.folder = Path(self._stack.enter_context(place))
        self._stack.callback(os.chdir, Path.cwd())
        os.chdir(self.folder)
        (self.folder / "cluster.yaml").write_text(CLUSTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @cached_property
    def client(self) -> Any:
        """A client of a plain Dask cluster of two workers, started when it is first asked for."""
        from distributed import Client, LocalCluster

        if self._warm is not None:
            return self._warm_client(self._warm)
        cluster = self._stack.enter_context(
            LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            )
        )
        return self._stack.enter_context(Client(cluster, set_as_default=False))

    @cached_property
    def tagged_client(self) -> Any:
        """A client of a plain Dask cluster of four workers of one thread, of which one has HIGHMEM."""
        from distributed import Client, Nanny, Scheduler, SpecCluster

        if self._warm is not None:
            return self._warm_client(self._warm)
        place = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        options = {**place, "nthreads": 1, "memory_limit": 2**30}
        workers = {
            name: {"cls": Nanny, "options": {**options, "resources": resources}}
            for name, resources in {0: {}, 1: {}, 2: {}, "highmem": {"HIGHMEM": 1}}.items()
        }
        scheduler = {"cls": Scheduler, "options": {**place, "port": 0}}
        cluster = self._stack.enter_context(
            SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50)
        )
        client = self._stack.enter_context(Client(cluster, set_as_default=False))
        client.wait_for_workers(len(workers))
        return client

    @cached_property
    def settings(self) -> Settings:
        """Settings of a cluster of two workers, as batchrun starts and keeps it."""
        from batchrun.cluster.connect import close_local_clusters

        if self._warm is not None:
            return self._warm
        self._stack.callback(close_local_clusters)
        return load_settings(self.folder / "cluster.yaml")

    @cached_property
    def workers(self) -> Any:
        """A client of that cluster, for all who take part: what a cluster is like is not what is compared."""
        return self._warm_client(self.settings)

    @property
    def inputs(self) -> Path:
        """A folder for inputs that take long to make, and are kept for the next time."""
        folder = self.base / "inputs"
        folder.mkdir(exist_ok=True)
        return folder

    def _warm_client(self, settings: Settings) -> Any:
        from batchrun.cluster.connect import local_cluster

        connection = local_cluster(settings)
        self._stack.callback(connection.close)
        return connection.client
