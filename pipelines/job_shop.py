"""Schedules for twenty classic job shops, solved with OR-tools CP-SAT.

The table has a row an operation. The operations of a job are done in the order of ``step``, each on one
``machine`` for ``duration`` units of time; a machine does one operation at a time. Wanted is the schedule
that ends first. The instances are those of Fisher and Thompson (ft), Lawrence (la) and Adams, Balas and
Zawack (abz); ``data/job_shop_instances.csv`` has their proven optima and where they were published.

The result has a row an operation with its ``start`` and ``end``, and repeats what is true of the whole
instance in each of its rows; ``by_instance`` makes the table with a row an instance out of it.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from batchrun import Pipeline, RetryPolicy, Stage, by_group

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OPERATIONS", "OPTIMA", "NoScheduleError", "by_instance", "schedules", "verify"]

_DATA = Path(__file__).with_name("data")

OPERATIONS = _DATA / "job_shop_operations.parquet"
"""The operations of the twenty instances: instance, job, step, machine, duration."""


def _read_optima() -> dict[str, int]:
    with (_DATA / "job_shop_instances.csv").open(encoding="utf-8", newline="") as file:
        return {row["instance"]: int(row["optimum"]) for row in csv.DictReader(file)}


OPTIMA = _read_optima()
"""The shortest possible makespan of each instance; a plain dict, so that it travels with the stages."""

_COLUMNS = ["instance", "job", "step", "machine", "duration"]
_OF_INSTANCE = ["makespan", "bound", "status", "solve_seconds", "optimum", "gap"]


class NoScheduleError(RuntimeError):
    """The time limit passed before the solver had found a schedule."""


def check(operations: pd.DataFrame) -> pd.DataFrame:
    """Sort the operations by instance, job and step, drop repeated rows, and refuse what is no job shop.

    Raises ValueError, with the place, for a missing or broken number, a duration that is not above zero,
    steps that do not count up from 0, or a step that is given two machines or durations.
    """
    table = operations[_COLUMNS].drop_duplicates()
    if table["instance"].isna().any():
        raise ValueError(f"{int(table['instance'].isna().sum())} operations belong to no instance; name it")
    for column in _COLUMNS[1:]:
        table[column] = _integers(table, column)
    table = table.sort_values(["instance", "job", "step"], ignore_index=True)
    _refuse(table, table["duration"] <= 0, "has a duration that is not above zero")
    _refuse(table, table["machine"] < 0, "has a machine below zero")
    jobs = ["instance", "job"]
    _refuse(table, table.duplicated([*jobs, "step"]), "is given twice, with another machine or duration")
    _refuse(table, table.groupby(jobs).cumcount() != table["step"], "breaks the count of steps 0, 1, 2, …")
    return table


def solve(
    operations: pd.DataFrame, *, time_limit: float = 30.0, threads: int = 1, seed: int = 0
) -> pd.DataFrame:
    """Find the schedule of each instance that ends first, or the best one within `time_limit` seconds.

    Adds ``start`` and ``end`` of each operation, and for the instance its ``makespan``, the proven lower
    ``bound`` on it, the ``status`` (optimal, or feasible when time ran out) and ``solve_seconds``.

    Raises NoScheduleError if the time was too short for any schedule, ModuleNotFoundError without OR-tools.
    """
    if not time_limit > 0 or threads < 1:
        raise ValueError(f"time_limit={time_limit} and threads={threads} must be above zero")
    solved = [
        _solve_instance(str(instance), rows.reset_index(drop=True), time_limit, threads, seed)
        for instance, rows in operations.groupby("instance", sort=False)
    ]
    return pd.concat(solved, ignore_index=True)


def score(schedule: pd.DataFrame) -> pd.DataFrame:
    """Add the proven ``optimum`` and the ``gap``, the share by which the makespan is longer than it.

    Both are missing for an instance whose optimum is not known.
    """
    optimum = schedule["instance"].map(OPTIMA).astype("Int64")
    gap = (schedule["makespan"] - optimum) / optimum
    return schedule.assign(optimum=optimum, gap=gap.astype("Float64"))


schedules = Pipeline(
    "schedules",
    split=by_group("instance"),
    stages=[
        Stage(check, retry=RetryPolicy(attempts=1)),
        Stage(solve, memory="1GiB", resources={"HIGHMEM": 1}, retry=RetryPolicy(attempts=1)),
        score,
    ],
    columns=_COLUMNS,
)


def by_instance(results: pd.DataFrame) -> pd.DataFrame:
    """The table with a row an instance out of the results of ``schedules``."""
    groups = results.groupby("instance", sort=False)
    size = groups.agg(jobs=("job", "nunique"), machines=("machine", "nunique"), operations=("job", "size"))
    return size.join(groups[_OF_INSTANCE].first()).reset_index()


def verify(schedule: pd.DataFrame, operations: pd.DataFrame) -> list[str]:
    """What is wrong with *schedule* as a schedule of *operations*, a sentence each; nothing if it is sound.

    Checks that each operation is there once, starts at zero or later and runs for its duration, that no
    operation starts before the one before it in its job has ended, that no machine does two at a time, and
    that the makespan is when the last one ends.
    """
    keys = _COLUMNS
    found = []
    both = operations[keys].merge(schedule, on=keys, how="outer", indicator="where")
    for row in _rows(both, both["where"] != "both"):
        found.append(f"{_name(row)} {'is missing' if row.where == 'left_only' else 'was not asked for'}")
    found += [f"{_name(row)} is there twice" for row in _rows(schedule, schedule.duplicated(keys))]
    found += [f"{_name(row)} starts before zero" for row in _rows(schedule, schedule["start"] < 0)]
    wrong = schedule["end"] - schedule["start"] != schedule["duration"]
    found += [f"{_name(row)} does not run for its duration" for row in _rows(schedule, wrong)]
    found += _clashes(schedule, "job", order=["step"])
    found += _clashes(schedule, "machine", order=["start", "end"])
    last = schedule.groupby("instance")["end"].transform("max")
    broken = schedule[schedule["makespan"] != last]["instance"].unique()
    return found + [f"the makespan of {instance} is not when its last operation ends" for instance in broken]


def _clashes(schedule: pd.DataFrame, column: str, order: list[str]) -> Iterator[str]:
    """Operations of one job or machine that start before the one ahead of them in *order* has ended."""
    for _, rows in schedule.sort_values(order).groupby(["instance", column], sort=False):
        for before, after in itertools.pairwise(_rows(rows)):
            if after.start < before.end:
                yield f"{_name(after)} starts before {_name(before)} on its {column} has ended"


def _solve_instance(
    instance: str, rows: pd.DataFrame, time_limit: float, threads: int, seed: int
) -> pd.DataFrame:
    """The disjunctive model: an interval an operation, no overlap on a machine, order within a job."""
    try:
        from ortools.sat.python import cp_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "job shops are solved with OR-tools, which is not installed here: "
            "pip install 'batchrun[examples]'"
        ) from error
    horizon = int(rows["duration"].sum())
    model = cp_model.CpModel()
    starts, ends, intervals = [], [], []
    for number, duration in enumerate(rows["duration"].tolist()):
        start = model.new_int_var(0, horizon - duration, f"start_{number}")
        starts.append(start)
        ends.append(start + duration)
        intervals.append(model.new_fixed_size_interval_var(start, duration, f"operation_{number}"))
    for numbers in rows.groupby("machine").indices.values():
        model.add_no_overlap([intervals[number] for number in numbers])
    makespan = model.new_int_var(0, horizon, "makespan")
    for numbers in rows.groupby("job").indices.values():
        for before, after in itertools.pairwise(numbers):
            model.add(starts[after] >= ends[before])
        model.add(makespan >= ends[numbers[-1]])
    model.minimize(makespan)

    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit
    solver.parameters.num_workers = threads
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise NoScheduleError(
            f"no schedule for {instance} within {time_limit:g} s (the solver says "
            f"{solver.status_name(status)}); give a longer time_limit"
        )
    begun = pd.Series([solver.value(start) for start in starts], dtype="int64")
    ended = begun + rows["duration"]
    return rows.assign(
        start=begun,
        end=ended,
        makespan=int(ended.max()),
        bound=int(solver.best_objective_bound),
        status=solver.status_name(status).lower(),
        solve_seconds=float(solver.wall_time),
    )


def _integers(table: pd.DataFrame, column: str) -> pd.Series[int]:
    """The column as integers; refuses what is missing or has a fraction."""
    values = pd.to_numeric(table[column], errors="coerce")
    _refuse(table, values.isna() | (values % 1 != 0), f"has a {column} that is not a whole number")
    return values.astype("int64")


def _refuse(table: pd.DataFrame, bad: pd.Series[bool], what: str) -> None:
    """Raise ValueError for the first row of *table* that is *bad*."""
    for row in _rows(table, bad):
        raise ValueError(f"{_name(row)} {what}: machine {row.machine}, duration {row.duration}")


def _rows(table: pd.DataFrame, which: pd.Series[bool] | None = None) -> Iterator[Any]:
    return iter((table if which is None else table[which]).itertuples(index=False))


def _name(row: Any) -> str:
    return f"{row.instance} job {row.job} step {row.step}"
