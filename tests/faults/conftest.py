"""A project in a folder of its own, driven as a user drives it: by the command line, in processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.services import until

ROWS = 120
POINTS = int(os.environ.get("CRASH_POINTS", "2"))
"""How many moments are tried in each case of what is killed."""
MODULE = """\
import os, signal, time
from pathlib import Path
import pandas as pd
from batchrun import RetryPolicy, by_rows, pipeline

@pipeline(split=by_rows(4), retry=RetryPolicy(attempts=1))
def slow(chunk: pd.DataFrame, *, seconds: float = 0.15, calls: str = "") -> pd.DataFrame:
    time.sleep(seconds)
    Path(calls, f"{chunk.index[0]}-{time.time_ns()}-{os.getpid()}").touch()
    return chunk.assign(y=chunk["x"] ** 2)
"""
CLUSTER = """\
workers: {standard: {count: 2, threads: 1, memory: 1GiB}}
dashboard: off
run: {flush_every: 100ms}
"""


@dataclass
class Project:
    """A folder with a pipeline, an input and a cluster.yaml."""

    folder: Path
    started_processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def calls(self) -> Path:
        """Where the stage leaves a file for each call."""
        return self.folder / "calls"

    def started(self) -> Counter[int]:
        """How often each chunk was computed, by its first row."""
        return Counter(int(path.name.split("-")[0]) for path in self.calls.iterdir())

    def submit(self, *more: str) -> subprocess.Popen[str]:
        """Start a run in the background."""
        return self.start(
            "submit", "work:slow", "--input", "in.parquet", "--json", "-p", f"calls={self.calls}", *more
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in the background, in a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "batchrun", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started_processes.append(process)
        return process

    def end(self) -> None:
        """Leave nothing running behind a test that failed."""
        for process in self.started_processes:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def answer(self, *arguments: str) -> dict[str, Any]:
        """Run a command to its end and read its JSON."""
        process = self.start(*arguments, "--json")
        out, err = process.communicate(timeout=120)
        assert out, err
        document: dict[str, Any] = json.loads(out)
        return document

    def wait_for_calls(self, count: int) -> None:
        """Wait until that many chunks were computed."""
        wait_until(lambda: len(list(self.calls.iterdir())) >= count)


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Look until something is so."""
    until(condition, timeout)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project in an empty folder."""
    (tmp_path / "work.py").write_text(MODULE)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "calls").mkdir()
    pd.DataFrame({"x": range(ROWS)}).to_parquet(tmp_path / "in.parquet")
    made = Project(tmp_path)
    yield made
    made.end()


@dataclass(frozen=True)
class Point:
    """One of the moments that a case tries."""

    rng: random.Random
    """Draws the moment, the same one each time that the test runs."""
    odd: bool
    """Whether it tries the other variant of its case."""


@pytest.fixture
def points(request: pytest.FixtureRequest) -> Iterator[Point]:
    """The moments of a test; the output of one that fails ends with the moment at which it did."""

    def tell() -> Iterator[Point]:
        for number in range(POINTS):
            print(f"moment {number}")
            yield Point(random.Random(f"{request.node.name} {number}"), bool(number % 2))

    return tell()
