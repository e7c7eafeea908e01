"""Schedules for twenty classic job shops, solved with OR-tools CP-SAT.

The table has a row an operation. The operations of a job are done in the order of ``step``, each on one
``machine`` for ``duration`` units of time; a machine does one operation at a time. Wanted is the schedule
that ends first. The instances are those of Fisher and Thompson (ft), Lawrence (la) and Adams, Balas and
Zawack (abz); ``data/job_shop_instances.csv`` has their proven optima and where they were published.

The result has a row an operation with its ``start`` and ``end``, and repeats what is true of the whole
instance in each of its rows; ``by_instance`` makes the table with a row an instance out of it.

A search can be stopped at any time. ``schedules`` stops each after five minutes, ``quick_schedules`` after
five seconds, ``schedules_within`` after what you like; the best schedule so far is the result then.
"""

from __future__ import annotations

import csv
import itertools
import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from batchrun import ChunkContext, Pipeline, RetryPolicy, Stage, by_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "OPERATIONS",
    "OPTIMA",
    "NoScheduleError",
    "by_instance",
    "charts",
    "quick_schedules",
    "schedules",
    "schedules_within",
    "verify",
]

_DATA = Path(__file__).with_name("data")

OPERATIONS = _DATA / "job_shop_operations.parquet"
"""The operations of the twenty instances: instance, job, step, machine, duration."""


def _read_optima() -> dict[str, int]:
    with (_DATA / "job_shop_instances.csv").open(encoding="utf-8", newline="") as file:
        return {row["instance"]: int(row["optimum"]) for row in csv.DictReader(file)}


OPTIMA = _read_optima()
"""The shortest possible makespan of each instance; a plain dict, so that it travels with the stages."""

_COLUMNS = ["instance", "job", "step", "machine", "duration"]
_OF_INSTANCE = ["makespan", "bound", "gap", "status", "solve_seconds", "optimum", "above_optimum"]
_GANTT_CHARTS = 3
"""Schedules that the report draws."""
_LOOK_EVERY = 0.1
"""Seconds between two looks whether a search should stop."""


class NoScheduleError(RuntimeError):
    """The search was over before the solver had found a schedule."""


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
    operations: pd.DataFrame,
    ctx: ChunkContext,
    *,
    time_limit: float | None = None,
    threads: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Find the schedule of each instance that ends first, or the best one until it is asked to stop.

    Adds ``start`` and ``end`` of each operation, and for the instance its ``makespan``, the proven lower
    ``bound`` on it, the ``gap`` between the two as a share of the makespan, the ``status`` (optimal, or
    feasible if the search was stopped) and ``solve_seconds``. `time_limit` ends the search of each instance
    after so many seconds too, whatever the stage's own limit.

    Each better schedule is published as the incumbent once all instances of the chunk have one.

    Raises NoScheduleError if the time was too short for any schedule, ModuleNotFoundError without OR-tools.
    """
    if (time_limit is not None and not time_limit > 0) or threads < 1:
        raise ValueError(f"time_limit={time_limit} and threads={threads} must be above zero")
    groups = [rows.reset_index(drop=True) for _, rows in operations.groupby("instance", sort=False)]
    solved: list[pd.DataFrame] = []
    for rows in groups:
        answer = _Answer(rows, ctx, solved, complete=len(solved) == len(groups) - 1)
        solved.append(_search(answer, rows, ctx, time_limit, threads, seed))
    return pd.concat(solved, ignore_index=True)


def score(schedule: pd.DataFrame) -> pd.DataFrame:
    """Add the proven ``optimum`` and ``above_optimum``, the share by which the makespan is longer than it.

    Both are missing for an instance whose optimum is not known.
    """
    optimum = schedule["instance"].map(OPTIMA).astype("Int64")
    above = (schedule["makespan"] - optimum) / optimum
    return schedule.assign(optimum=optimum, above_optimum=above.astype("Float64"))


def charts(results: pd.DataFrame) -> dict[str, Any]:
    """The figures and tables of the report: the gap of each instance, the schedules of the instances with the
    largest gaps, or else the longest makespans, as Gantt charts, and the table with a row an instance."""
    from pipelines.job_shop_charts import gantt, gaps

    instances = by_instance(results)
    hardest = instances.sort_values(["gap", "makespan"], ascending=False)["instance"].head(_GANTT_CHARTS)
    schedules = {
        f"Schedule of {instance}": gantt(results[results["instance"] == instance]) for instance in hardest
    }
    return {"How far from the best": gaps(instances), **schedules, "Instances": instances}


def schedules_within(stop_after: str | float, name: str = "schedules") -> Pipeline:
    """The pipeline that searches for *stop_after* at most, like ``"5s"``, an instance.

    `score` asks for what `solve` asks for, so that both run in one go and no frame is sent in between.
    """
    once = RetryPolicy(attempts=1)
    large: dict[str, Any] = {"memory": "1GiB", "resources": {"HIGHMEM": 1}}
    return Pipeline(
        name,
        split=by_group("instance"),
        stages=[
            Stage(check, retry=once),
            Stage(solve, **large, stop_after=stop_after, retry=once),
            Stage(score, **large),
        ],
        columns=_COLUMNS,
        report=charts,
    )


schedules = schedules_within("5min")
quick_schedules = schedules_within("5s", "quick_schedules")


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


class _Answer:
    """The best schedule of one instance so far; whoever watches hears of each better one, and of its bound.

    The solver and the thread that watches it may call it at the same time.
    """

    def __init__(
        self, rows: pd.DataFrame, ctx: ChunkContext, others: Sequence[pd.DataFrame], *, complete: bool
    ) -> None:
        """*others* are the schedules of other instances of the chunk; *complete* says that these are all."""
        self.instance = rows["instance"].iloc[0]
        self.makespan: int | None = None
        self._rows = rows
        self._ctx = ctx
        self._others = others
        self._complete = complete
        self._starts: Sequence[int] = ()
        self._bound = self._told_bound = 0
        self._clock = time.perf_counter()
        self._lock = threading.Lock()

    def better(self, starts: Sequence[int]) -> None:
        """The solver found a schedule, by the start of each operation."""
        with self._lock:
            self._starts = starts
            self.makespan = int((pd.Series(starts) + self._rows["duration"]).max())
            self._tell()
            said = (self.instance, self.makespan, self._bound, 100 * self._gap)
        self._ctx.log.info("%s: makespan %d, bound %d, gap %.1f %%", *said)

    def bounded(self, bound: float) -> None:
        """The solver proved that no schedule is shorter than *bound*, which it knows as a fraction."""
        if math.isfinite(bound):
            with self._lock:
                self._bound = max(self._bound, math.ceil(bound - 1e-6))

    def tell_bound(self) -> None:
        """Tell of a better bound, if there is one."""
        with self._lock:
            if self._bound > self._told_bound and self.makespan is not None:
                self._tell()

    def frame(self, status: str) -> pd.DataFrame:
        """The schedule as the stage gives it back."""
        starts = pd.Series(self._starts, dtype="int64")
        return self._rows.assign(
            start=starts,
            end=starts + self._rows["duration"],
            makespan=self.makespan,
            bound=self._bound,
            gap=self._gap,
            status=status,
            solve_seconds=time.perf_counter() - self._clock,
        )

    @property
    def _gap(self) -> float:
        return (self.makespan - self._bound) / self.makespan if self.makespan else math.nan

    def _tell(self) -> None:
        """With the lock held."""
        self._told_bound = self._bound
        self._ctx.progress(self._bound, self.makespan, f"{self.instance}: gap {100 * self._gap:.1f} %")
        if self._complete:
            frames = [*self._others, self.frame("feasible")]
            makespan, bound = (sum(frame[name].iloc[0] for frame in frames) for name in ("makespan", "bound"))
            self._ctx.incumbent(pd.concat(frames, ignore_index=True), objective=makespan, bound=bound)


def _search(
    answer: _Answer,
    rows: pd.DataFrame,
    ctx: ChunkContext,
    time_limit: float | None,
    threads: int,
    seed: int,
) -> pd.DataFrame:
    """Let the solver look for better answers until it has proved that there is none, or should stop."""
    cp_model = _solver_module()
    model, starts = _model(rows)
    solver = cp_model.CpSolver()
    if time_limit is not None:
        solver.parameters.max_time_in_seconds = time_limit
    solver.parameters.num_workers = threads
    solver.parameters.random_seed = seed
    solver.best_bound_callback = answer.bounded
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(solver.stop_search, answer, ctx, over), daemon=True)
    watch.start()
    try:
        status = solver.solve(model, _on_solution(starts, answer))
    finally:
        over.set()
        watch.join()
    if answer.makespan is None:
        limit = f"within {time_limit:g} s" if time_limit is not None else "before it was stopped"
        raise NoScheduleError(
            f"no schedule for {answer.instance} {limit} (the solver says {solver.status_name(status)}); give "
            "it more time"
        )
    answer.bounded(solver.best_objective_bound)
    answer.tell_bound()
    if status != cp_model.OPTIMAL:
        ctx.stopped_early()
    return answer.frame(solver.status_name(status).lower())


def _watch(stop: Callable[[], None], answer: _Answer, ctx: ChunkContext, over: threading.Event) -> None:
    """Stop a search that should stop, also while it finds nothing, and tell of better bounds."""
    while not over.wait(_LOOK_EVERY):
        answer.tell_bound()
        if ctx.should_stop:
            stop()


def _model(rows: pd.DataFrame) -> tuple[Any, list[Any]]:
    """The disjunctive model: an interval an operation, no overlap on a machine, order within a job.

    Also gives the variable of each operation's start.
    """
    model = _solver_module().CpModel()
    horizon = int(rows["duration"].sum())
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
    return model, starts


def _on_solution(starts: Sequence[Any], answer: _Answer) -> Any:
    """What the solver calls with each schedule that it finds."""

    class OnSolution(_solver_module().CpSolverSolutionCallback):  # type: ignore[misc]
        def on_solution_callback(self) -> None:
            answer.bounded(self.best_objective_bound)
            answer.better([self.value(start) for start in starts])

    return OnSolution()


def _solver_module() -> Any:
    """CP-SAT, loaded where it is needed."""
    try:
        from ortools.sat.python import cp_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "job shops are solved with OR-tools, which is not installed here: "
            "pip install 'batchrun[examples]'"
        ) from error
    return cp_model


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
