"""Services as processes of their own, for tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from batchrun.config import Settings, load_settings
from batchrun.queueing import live_services
from batchrun.store.runs import RunStore
from batchrun.store.services import ServiceRecord

Found = TypeVar("Found")

CLUSTER = """\
kind: local
workers:
  standard: {count: 2, threads: 1, memory: 1GiB}
dashboard: 127.0.0.1:0
store: .batchrun
run: {flush_every: 50ms}
service: {lease: 3s}
"""


@dataclass
class Place:
    """A folder with a ``cluster.yaml``, a module of pipelines, and the services that were started there."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """Those of its ``cluster.yaml``."""
        return load_settings(self.folder / "cluster.yaml")

    @contextlib.contextmanager
    def store(self) -> Iterator[RunStore]:
        """Its store."""
        with RunStore(self.settings.store_url) as store:
            yield store

    def up(self, *options: str) -> ServiceRecord:
        """Start a service, and wait until it has its cluster."""
        with self.store() as store, (self.folder / "service.log").open("ab") as log:
            before = {service.service for service in store.services.all()}
            process = subprocess.Popen(
                [sys.executable, "-m", "batchrun", "up", *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            self.processes.append(process)

            def running() -> ServiceRecord | None:
                assert process.poll() is None, self.log
                new = [one for one in live_services(store) if one.service not in before]
                return next((one for one in new if one.state == "running"), None)

            return until(running, timeout=90)

    @property
    def log(self) -> str:
        """What the services said."""
        return (self.folder / "service.log").read_text()

    def end(self) -> None:
        """End what is still there."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(look: Callable[[], Found | None], timeout: float = 60.0) -> Found:
    """What *look* finds, as soon as that is something. To look takes a fifth of the time at most: what is
    waited for needs the rest."""
    last = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if found := look():
            return found
        now = time.monotonic()
        assert now < last, f"nothing after {timeout:g} s"
        time.sleep(max(0.02, 4 * (now - began)))


@contextlib.contextmanager
def place(folder: Path, module: str, cluster: str = CLUSTER) -> Iterator[Place]:
    """A place in *folder*, whose services end with the context."""
    (folder / "cluster.yaml").write_text(cluster)
    (folder / "work.py").write_text(module)
    before = Path.cwd()
    made = Place(folder)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield made
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("work", None)
        os.chdir(before)
        made.end()
