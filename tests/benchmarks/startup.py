"""How long it takes until something happens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from batchrun import Pipeline, by_rows, run_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Record, Target, compete

ROOT = Path(__file__).resolve().parents[2]
NOTE = "BENCHMARK_NOTE"
"""Names the file into which the first task writes when it began."""
BARE = """
from distributed import Client, LocalCluster
from tests.benchmarks.startup import note_the_time
if __name__ == "__main__":
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster) as client:
        client.submit(note_the_time).result()
"""


def imports(arena: Arena, size: int, rounds: int) -> Record:
    """``import batchrun`` and ``batchrun --help``, against a Python that imports argparse."""
    lines = {
        "import argparse": [sys.executable, "-c", "import argparse"],
        "import batchrun": [sys.executable, "-c", "import batchrun"],
        "batchrun --help": [*_program(), "--help"],
    }
    runs: dict[str, Callable[[], object]] = {
        name: partial(subprocess.run, line, check=True, stdout=subprocess.DEVNULL)
        for name, line in lines.items()
    }
    record = Record("imports", {"rounds": rounds})
    compete(record, runs, rounds)
    record.judge(
        [
            Target("import batchrun", ("import argparse",), 0.060, extra=True),
            Target("batchrun --help", ("import argparse",), 0.200, extra=True),
        ]
    )
    return record


def cold_start(arena: Arena, size: int, rounds: int) -> Record:
    """From the start of ``batchrun submit`` to the first chunk on a cluster that it has to start, against a
    script that starts a bare LocalCluster of as many workers, to its first task. Both begin with a new
    Python."""
    pd.DataFrame({"x": range(10)}).to_parquet(arena.folder / "numbers.parquet")
    script = arena.folder / "bare.py"
    script.write_text(BARE)
    submit = ["submit", "tests.benchmarks.startup:noting", "--input", "numbers.parquet"]
    lines = {
        "batchrun submit": [*_program(), *submit, "--cluster", "cluster.yaml", "--json"],
        "bare LocalCluster": [sys.executable, str(script)],
    }
    record = Record("cold_start", {"workers": 2, "rounds": rounds})
    record.seconds = {name: [] for name in lines}
    for turn in range(-1, rounds):
        for name in sorted(lines, reverse=bool(turn % 2)):
            seconds = _until_noted(lines[name], arena.folder / "note")
            if turn >= 0:
                record.seconds[name].append(seconds)
    record.judge([Target("batchrun submit", ("bare LocalCluster",), 0.5, extra=True)])
    return record


def warm_call(arena: Arena, size: int, rounds: int) -> Record:
    """``run_pipeline`` on a frame of a thousand rows in four chunks, on a cluster that is warm, with the
    result read; against the function called in this process, and against raw Dask on the same chunks."""
    frame, settings, client = pd.DataFrame({"x": range(size)}), arena.settings, arena.client
    pipeline = Pipeline("warm", split=by_rows(-(-size // 4)), stages=[plus_one])
    pieces = [frame.iloc[start : start + -(-size // 4)] for start in range(0, size, -(-size // 4))]
    runs: dict[str, Callable[[], object]] = {
        "batchrun": lambda: run_pipeline(pipeline, frame, cluster=settings, progress=False).results(),
        "dask, map and gather": lambda: client.gather(client.map(plus_one, pieces, pure=False)),
        "the function itself": lambda: [plus_one(piece) for piece in pieces],
    }
    record = Record("warm_call", {"rows": size, "chunks": len(pieces), "workers": 2, "rounds": rounds})
    compete(record, runs, rounds, warm_up=2)
    record.want_at_most("a warm call", record.medians["batchrun"] * 1e3, "ms", 50)
    return record


def plus_one(chunk: pd.DataFrame) -> pd.DataFrame:
    """One more of each."""
    return chunk + 1


def note_the_time() -> None:
    """Write down when the first task began, for whoever started the program."""
    note = Path(os.environ[NOTE])
    if not note.exists():
        note.write_text(str(time.time()))


def noted(chunk: pd.DataFrame) -> pd.DataFrame:
    """The chunk as it came; says when it did."""
    note_the_time()
    return chunk


noting = Pipeline("noting", split=by_rows(10), stages=[noted])


def _program() -> list[str]:
    command = Path(sys.executable).with_name("batchrun")
    return [str(command)] if command.exists() else [sys.executable, "-m", "batchrun"]


def _until_noted(line: list[str], note: Path) -> float:
    """Seconds from the start of a program to its first task."""
    note.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began = time.time()
    subprocess.run(
        line,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, NOTE: str(note), "PYTHONPATH": path},
    )
    return float(note.read_text()) - began
