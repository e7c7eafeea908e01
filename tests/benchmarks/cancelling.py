"""How long a solve goes on after somebody has cancelled its run."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import psutil

from batchrun import Pipeline, Stage, by_rows, submit_pipeline
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Record

SOON = 2.0
"""Seconds within which a cancel has stopped the work, as the README says."""
PATIENCE = 60.0
"""Seconds after which something is wrong."""


def cancelled_solves(arena: Arena, size: int, rounds: int) -> Record:
    """From ``handle.cancel()`` on a run whose solves compute without end and never look whether they should
    stop, in processes of their own on two workers, to when these processes are gone, and to when the run is
    recorded as cancelled."""
    record = Record("cancelled_solves", {"solves": size, "workers": 2, "rounds": rounds})
    work, ends = [], []
    for number in range(-1, rounds):
        folder = arena.folder / f"pids-{number}"
        folder.mkdir()
        pipeline = Pipeline("endless", split=by_rows(1), stages=[Stage(endless, isolate=True)])
        numbers = pd.DataFrame({"x": range(size)})
        handle = submit_pipeline(
            pipeline, numbers, params={"folder": str(folder)}, cluster=arena.settings, progress=False
        )
        _until(partial(_all_run, folder))
        began = time.perf_counter()
        handle.cancel()
        _until(partial(_none_runs, folder))
        gone = time.perf_counter() - began
        handle.wait(PATIENCE)
        if number >= 0:
            work.append(gone)
            ends.append(time.perf_counter() - began)
    record.want_at_most("until no solve runs", statistics.median(work), "s", SOON)
    record.measure("until no solve runs, at worst", max(work), "s")
    record.want_at_most("until the run has ended", statistics.median(ends), "s", SOON)
    return record


def endless(chunk: pd.DataFrame, *, folder: str) -> pd.DataFrame:
    """Compute for ever, and say in which process."""
    Path(folder, str(os.getpid())).touch()
    total = 0
    while total >= 0:
        total += 1
    return chunk


def _all_run(folder: Path) -> bool:
    return len(list(folder.iterdir())) == 2


def _none_runs(folder: Path) -> bool:
    return not any(psutil.pid_exists(int(file.name)) for file in folder.iterdir())


def _until(true: Callable[[], bool]) -> None:
    last = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > last:
            raise TimeoutError(f"nothing after {PATIENCE:g} s")
        time.sleep(0.01)
