"""What it costs to run a stage in a warm child process instead of in the worker's own thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from batchrun import Pipeline, Stage, by_rows
from batchrun.testing import task_for
from batchrun.worker.children import close_children
from batchrun.worker.program import pickle_program
from batchrun.worker.task import Limits, Task, TaskResult, run_task
from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Record, Target, compete

COLUMNS = 10
SLEEP = 5.0
MOST_CPU = 0.01
LEAST_RATE = 1.0


def child(arena: Arena, size: int, rounds: int) -> Record:
    """A trivial stage in a thread and in a warm child process; then how fast *size* values of eight bytes go
    into a child and out of it, and what watching a stage of five seconds costs the worker."""
    record = Record("child", {"values": size, "rounds": rounds})
    try:
        tiny = task_for(pa.table({"value": [1]}))
        runs: dict[str, Callable[[], object]] = {
            "in a thread": partial(run, same, tiny),
            "in a warm child": partial(run, same, isolated(tiny, same)),
        }
        compete(record, runs, rounds)
        record.judge([Target("in a warm child", ("in a thread",), 0.020, extra=True)])
        rate = measure_rate(size, min(rounds, 7))
        record.want_at_least("into a child and out of it", rate, "GB/s", LEAST_RATE)
        if rounds > 1:
            record.want_at_most("watching a stage", measure_watching(tiny), "of a core", MOST_CPU)
    finally:
        close_children()
    return record


def same(table: pa.Table) -> pa.Table:
    """The table as it came."""
    return table


def sleep(table: pa.Table) -> pa.Table:
    """The table, after a while."""
    time.sleep(SLEEP)
    return table


def isolated(task: Task, stage: Callable[..., Any]) -> Task:
    """The task, to be run in a child."""
    return replace(task, key=f"{task.key}-isolated", limits=(Limits(stage.__name__),))


def run(stage: Callable[..., Any], task: Task) -> TaskResult:
    """Run one task, which must go well."""
    result = run_task(program_of(stage), task, worker="benchmark")
    assert result.output is not None, result.error
    return result


def program_of(stage: Callable[..., Any]) -> bytes:
    """The pickled program of one stage, always the same bytes."""
    if stage not in _programs:
        pipeline = Pipeline("benchmark", split=by_rows(1), stages=[Stage(stage)])
        _programs[stage] = pickle_program(pipeline, pipeline.bind({}), "benchmark")
    return _programs[stage]


_programs: dict[Callable[..., Any], bytes] = {}


def measure_rate(rows: int, rounds: int) -> float:
    """Bytes that go in and come back, both counted, by the median time of a whole task, in GB/s."""
    values = np.random.default_rng(0).random((COLUMNS, max(1, rows // COLUMNS)))
    table = pa.table({f"value_{number}": column for number, column in enumerate(values)})
    task = isolated(replace(task_for(table), inline_limit=2**40), same)
    times = []
    for turn in range(-2, rounds):
        began = time.perf_counter()
        result = run(same, task)
        if turn >= 0:
            times.append(time.perf_counter() - began)
        assert result.rows_out == table.num_rows
    return 2 * table.nbytes / statistics.median(times) / 1e9


def measure_watching(tiny: Task) -> float:
    """The processor time of this process while a warm child sleeps, as a share of a core."""
    warm_up = replace(isolated(tiny, sleep), limits=(Limits("sleep", timeout=0.1),))
    run_task(program_of(sleep), warm_up, worker="benchmark")
    time.sleep(2)
    began = time.process_time()
    run(sleep, isolated(tiny, sleep))
    return (time.process_time() - began) / SLEEP
