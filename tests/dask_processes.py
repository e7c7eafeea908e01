"""A Dask scheduler and its workers as processes of their own, as a user starts them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class DaskProcesses:
    """A scheduler and workers as a user starts them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.started: list[subprocess.Popen[bytes]] = []

    def scheduler(self, program: tuple[str, ...] = ("-m", "dask", "scheduler")) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        return self._start(
            *program, "--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0"
        )

    def worker(self, *options: str) -> subprocess.Popen[bytes]:
        return self._start(
            "-m",
            "dask",
            "worker",
            self.address,
            "--host",
            "127.0.0.1",
            "--dashboard-address",
            "127.0.0.1:0",
            *options,
        )

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def stop(self) -> None:
        """Kill them; the process under a nanny ends by itself when the nanny is gone."""
        for process in reversed(self.started):
            process.kill()
            process.wait()
