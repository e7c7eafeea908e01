"""The job-shop pipeline finds schedules that are sound, and optimal where time allows."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from batchrun import ChunkContext, Pipeline, RunHandle, run_pipeline, submit_pipeline
from batchrun.config import Settings
from batchrun.outcome import relative_gap
from batchrun.store.live import RunningChunk
from pipelines import job_shop
from pipelines.job_shop import (
    OPERATIONS,
    OPTIMA,
    NoScheduleError,
    by_instance,
    check,
    quick_schedules,
    schedules,
    schedules_within,
    score,
    solve,
    verify,
)
from pipelines.job_shop_charts import gaps

EASY = ["ft06", *(f"la{number:02}" for number in range(1, 16))]
HARD = ["ft10", "ft20", "abz5", "abz6"]


@pytest.fixture(scope="module")
def operations() -> pd.DataFrame:
    return pd.read_parquet(OPERATIONS)


@pytest.fixture(scope="module")
def ft06(operations: pd.DataFrame) -> pd.DataFrame:
    return operations[operations["instance"] == "ft06"]


@pytest.fixture(scope="module")
def schedule(ft06: pd.DataFrame) -> pd.DataFrame:
    result: pd.DataFrame = schedules(ft06)
    return result


class Heard:
    """Hears what a search says, and asks it to stop when it has told of so many answers."""

    def __init__(self, stop_after_answers: float = float("inf")) -> None:
        self.log = logging.getLogger("tests.job_shop")
        self.answers: list[tuple[pd.DataFrame, float | None, float | None]] = []
        self.said: list[tuple[float, float | None, str]] = []
        self._stop_after_answers = stop_after_answers
        self.early = False

    @property
    def ctx(self) -> ChunkContext:
        """A context that leads here."""
        return ChunkContext("run", 0, "solve", 1, 36, "here", 2**30, self)

    def progress(self, done: float, total: float | None, message: str) -> None:
        self.said.append((done, total, message))

    def incumbent(self, frame: Any, objective: float | None, bound: float | None) -> None:
        self.answers.append((frame, objective, bound))

    def should_stop(self) -> bool:
        return len(self.answers) >= self._stop_after_answers

    def stopped_early(self) -> None:
        self.early = True


class Deaf:
    """Takes what a solver finds for nothing."""

    def bounded(self, bound: float) -> None:
        pass

    def better(self, starts: list[int]) -> None:
        pass


def changed(frame: pd.DataFrame, row: int, **values: Any) -> pd.DataFrame:
    """A copy of *frame* with other values in one row."""
    frame = frame.reset_index(drop=True)
    for column, value in values.items():
        frame[column] = frame[column].where(frame.index != row, value)
    return frame


def test_every_instance_has_a_proven_optimum(operations: pd.DataFrame) -> None:
    assert set(operations["instance"]) == set(OPTIMA)
    assert len(OPTIMA) == 20


@pytest.mark.parametrize("instance", ["ft06", "la01", "la06", "la11"])
def test_an_easy_instance_reaches_its_optimum_with_a_sound_schedule(
    operations: pd.DataFrame, instance: str
) -> None:
    rows = operations[operations["instance"] == instance]

    result = schedules(rows)

    assert verify(result, rows) == []
    assert result["makespan"].unique().tolist() == [OPTIMA[instance]]
    assert result["bound"].unique().tolist() == [OPTIMA[instance]]
    assert result["status"].unique().tolist() == ["optimal"]
    assert result[["gap", "above_optimum"]].drop_duplicates().to_numpy().tolist() == [[0.0, 0.0]]


def test_several_instances_in_one_chunk_are_solved_one_by_one(operations: pd.DataFrame) -> None:
    rows = operations[operations["instance"].isin(["la01", "la05"])]

    table = by_instance(schedules(rows))

    assert table["instance"].tolist() == ["la01", "la05"]
    assert table["makespan"].tolist() == [666, 593]
    assert table[["jobs", "machines", "operations"]].drop_duplicates().to_numpy().tolist() == [[10, 5, 50]]


def test_when_its_own_time_runs_out_the_best_schedule_so_far_and_its_bound_are_kept(
    operations: pd.DataFrame,
) -> None:
    rows = operations[operations["instance"] == "ft10"]

    result = schedules(rows, time_limit=2)

    assert verify(result, rows) == []
    assert result["status"].unique().tolist() == ["feasible"]
    makespan, bound = result["makespan"].iloc[0], result["bound"].iloc[0]
    assert bound <= OPTIMA["ft10"] <= makespan
    assert result["gap"].iloc[0] == pytest.approx((makespan - bound) / makespan)
    assert result["above_optimum"].iloc[0] == pytest.approx(makespan / OPTIMA["ft10"] - 1)


def test_no_schedule_in_time_is_an_error_that_says_so(ft06: pd.DataFrame) -> None:
    with pytest.raises(NoScheduleError, match=r"no schedule for ft06 within 1e-06 s .* more time"):
        schedules(ft06, time_limit=1e-6)


def test_each_answer_on_the_way_is_what_the_stage_would_return(operations: pd.DataFrame) -> None:
    rows, heard = check(operations[operations["instance"] == "la01"]), Heard()

    result = solve(rows, heard.ctx)

    assert len(heard.answers) > 1
    makespans = [objective for _, objective, _ in heard.answers]
    bounds = [bound for _, _, bound in heard.answers]
    assert makespans == sorted(makespans, reverse=True)
    assert bounds == sorted(bounds)
    assert (makespans[-1], bounds[-1]) == (OPTIMA["la01"], OPTIMA["la01"])
    for frame, objective, bound in heard.answers:
        assert frame.dtypes.equals(result.dtypes)
        assert verify(frame, rows) == []
        assert frame["makespan"].unique().tolist() == [objective]
        assert score(frame)["gap"].unique().tolist() == [relative_gap(objective, bound)]


def test_a_bound_that_is_proved_after_the_last_schedule_was_found_is_told_too(
    operations: pd.DataFrame,
) -> None:
    rows, heard = check(operations[operations["instance"] == "la05"]), Heard()

    solve(rows, heard.ctx)

    assert heard.answers[0][1] == OPTIMA["la05"], "the first schedule is the best one already"
    assert heard.answers[-1][1:] == (OPTIMA["la05"], OPTIMA["la05"])


def test_a_search_says_how_far_its_bound_is_from_its_schedule(
    operations: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    rows, heard = check(operations[operations["instance"] == "la01"]), Heard()

    with caplog.at_level(logging.INFO):
        solve(rows, heard.ctx)

    assert heard.said[-1] == (666, 666, "la01: gap 0.0 %")
    assert all(done <= total for done, total, _ in heard.said if total is not None)
    lines = [record.getMessage() for record in caplog.records if record.name == heard.log.name]
    assert lines
    assert lines[-1].startswith("la01: makespan 666, bound ")


def test_a_search_that_is_asked_to_stop_returns_the_best_it_has(operations: pd.DataFrame) -> None:
    rows, heard = check(operations[operations["instance"] == "ft10"]), Heard(stop_after_answers=1)

    result = solve(rows, heard.ctx)

    assert result["status"].unique().tolist() == ["feasible"]
    assert verify(result, rows) == []
    assert result["bound"].iloc[0] <= OPTIMA["ft10"] <= result["makespan"].iloc[0]
    assert result["makespan"].iloc[0] == heard.answers[-1][1]


def test_a_search_that_finds_nothing_new_stops_too(
    operations: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, heard = check(operations[operations["instance"] == "ft10"]), Heard(stop_after_answers=0)
    found = job_shop._on_solution
    monkeypatch.setattr(job_shop, "_on_solution", lambda starts, answer: found(starts, Deaf()))

    with pytest.raises(NoScheduleError, match=r"ft10 before it was stopped .*says (FEASIBLE|UNKNOWN)"):
        solve(rows, heard.ctx)


def test_an_answer_for_several_instances_has_a_schedule_for_each(operations: pd.DataFrame) -> None:
    rows, heard = check(operations[operations["instance"].isin(["la01", "la05"])]), Heard()

    result = solve(rows, heard.ctx)

    assert all(verify(frame, rows) == [] for frame, _, _ in heard.answers)
    assert heard.answers[-1][1:] == (666 + 593, 666 + 593)
    assert heard.answers[-1][0].shape == result.shape


def test_the_quick_pipeline_stops_each_search_after_five_seconds() -> None:
    assert [stage.stop_after for stage in quick_schedules.stages] == [None, 5.0, None]
    assert [stage.stop_after for stage in schedules.stages] == [None, 300.0, None]
    assert quick_schedules.target == "pipelines.job_shop:quick_schedules"
    assert schedules.target == "pipelines.job_shop:schedules"


def test_a_time_limit_of_zero_is_refused(ft06: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="time_limit=0"):
        schedules(ft06, time_limit=0)


def test_an_instance_without_a_known_optimum_is_compared_with_none(ft06: pd.DataFrame) -> None:
    result = schedules(ft06.assign(instance="mine"))

    assert result["makespan"].iloc[0] == 55
    assert result[["optimum", "above_optimum"]].isna().all(axis=None)


def test_unsorted_and_repeated_rows_are_cleaned(ft06: pd.DataFrame) -> None:
    muddled = pd.concat([ft06.sample(frac=1, random_state=1), ft06.head(3)])

    assert check(muddled).equals(check(ft06))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"duration": 0}, "ft06 job 0 step 3 has a duration that is not above zero"),
        ({"duration": 2.5}, "job 0 step 3 has a duration that is not a whole number"),
        ({"machine": None}, "job 0 step 3 has a machine that is not a whole number"),
        ({"machine": -1}, "job 0 step 3 has a machine below zero"),
        ({"step": 9}, "job 0 step 4 breaks the count of steps"),
        ({"step": 2}, "job 0 step 2 is given twice, with another machine or duration"),
        ({"instance": None}, "1 operations belong to no instance"),
    ],
)
def test_what_is_no_job_shop_is_refused_with_its_place(
    ft06: pd.DataFrame, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(changed(ft06, 3, **values))


def test_a_missing_solver_is_named_with_what_to_install(
    ft06: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ortools.sat.python", None)

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'batchrun\[examples\]'"):
        schedules(ft06)


def test_verify_finds_an_operation_that_is_missing(schedule: pd.DataFrame, ft06: pd.DataFrame) -> None:
    assert verify(schedule.drop(index=4), ft06) == ["ft06 job 0 step 4 is missing"]


def test_verify_finds_an_operation_that_is_there_twice(schedule: pd.DataFrame, ft06: pd.DataFrame) -> None:
    assert "ft06 job 0 step 4 is there twice" in verify(pd.concat([schedule, schedule.loc[[4]]]), ft06)


def test_verify_finds_an_operation_before_the_one_that_it_follows(
    schedule: pd.DataFrame, ft06: pd.DataFrame
) -> None:
    early = changed(schedule, 1, start=0, end=schedule["duration"][1])

    assert "ft06 job 0 step 1 starts before ft06 job 0 step 0 on its job has ended" in verify(early, ft06)


def test_verify_finds_a_machine_that_does_two_at_a_time(schedule: pd.DataFrame, ft06: pd.DataFrame) -> None:
    first, second = schedule[schedule["machine"] == 0].sort_values("start").index[:2]
    late = schedule["end"][second] - schedule["duration"][first]
    broken = changed(schedule, first, start=late, end=schedule["end"][second])

    assert any("on its machine has ended" in sentence for sentence in verify(broken, ft06))


def test_verify_finds_wrong_durations_makespans_and_starts(
    schedule: pd.DataFrame, ft06: pd.DataFrame
) -> None:
    assert "ft06 job 0 step 0 does not run for its duration" in verify(
        changed(schedule, 0, end=schedule["start"][0]), ft06
    )
    assert "ft06 job 0 step 0 starts before zero" in verify(changed(schedule, 0, start=-1, end=0), ft06)
    assert verify(schedule.assign(makespan=54), ft06) == [
        "the makespan of ft06 is not when its last operation ends"
    ]


def test_of_many_instances_the_chart_shows_those_with_the_largest_gaps() -> None:
    many = pd.DataFrame({"instance": [f"i{n}" for n in range(50)], "gap": [n / 100 for n in range(50)]})
    figure = gaps(many.assign(above_optimum=float("nan"), makespan=10, bound=5))
    assert figure.x_range.factors == [f"i{n}" for n in range(49, 9, -1)]
    assert figure.xaxis[0].axis_label == "the 40 instances with the largest gaps; 10 have smaller ones"


@pytest.mark.cluster
def test_every_easy_instance_reaches_its_optimum_on_the_worker_with_the_tag(
    operations: pd.DataFrame, cluster: Settings
) -> None:
    easy = operations[operations["instance"].isin(EASY)]

    report = run_pipeline(schedules, easy, cluster=cluster, progress=False)

    results = report.results()
    table = by_instance(results)
    assert report.state == "succeeded"
    assert report.rows_in == report.rows_solved == len(easy) == len(results)
    assert verify(results, easy) == []
    assert dict(zip(table["instance"], table["makespan"], strict=True)) == {
        name: OPTIMA[name] for name in EASY
    }
    assert (table["gap"] == 0).all()
    workers = report.attempts.groupby("stage")["worker"].unique()
    assert workers["solve"].tolist() == ["highmem-0"]
    assert set(report.chunks["outcome"]) == {"succeeded"}
    pd.testing.assert_frame_equal(report.exhibits["Instances"], table, check_dtype=False)
    hardest = next(title.removeprefix("Schedule of ") for title in report.exhibits if "Schedule" in title)
    [bars] = report.exhibits[f"Schedule of {hardest}"].renderers
    drawn = pd.DataFrame(bars.data_source.data)[["machine", "job", "step", "start", "end"]]
    rows = results[results["instance"] == hardest]
    assert drawn["start"].tolist() == rows["start"].tolist()
    assert drawn["end"].max() == OPTIMA[hardest] == table["makespan"].max()
    assert drawn["machine"].tolist() == [f"machine {number}" for number in rows["machine"]]


@pytest.mark.cluster
def test_a_broken_instance_is_set_apart_and_the_others_are_solved(
    operations: pd.DataFrame, cluster: Settings
) -> None:
    rows = operations[operations["instance"].isin(["ft06", "la01", "la02"])]
    rows = changed(rows, int((rows["instance"] == "ft06").sum()), duration=-5)

    report = run_pipeline(schedules, rows, cluster=cluster, progress=False)

    assert report.state == "partial"
    assert by_instance(report.results())["instance"].tolist() == ["ft06", "la02"]
    assert (report.rows_solved, report.rows_quarantined, report.rows_cancelled) == (36 + 50, 50, 0)
    assert report.quarantined["instance"].unique().tolist() == ["la01"]
    assert report.failures["error"].tolist() == [
        "la01 job 0 step 0 has a duration that is not above zero: machine 1, duration -5"
    ]
    assert len(report.attempts[report.attempts["stage"] == "check"]) == 3


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("pipeline", "params"),
    [(schedules_within("3s"), {}), (schedules, {"time_limit": 1.5})],
    ids=["stop_after", "time_limit"],
)
def test_a_hard_instance_that_is_stopped_reports_schedule_bound_and_gap(
    operations: pd.DataFrame, cluster: Settings, pipeline: Pipeline, params: dict[str, float]
) -> None:
    hard = operations[operations["instance"].isin(HARD)]

    report = run_pipeline(pipeline, hard, params=params, cluster=cluster, progress=False)

    results = report.results()
    table = by_instance(results).set_index("instance")
    assert report.state == "succeeded"
    assert report.rows_in == report.rows_solved == len(hard) == len(results)
    assert verify(results, hard) == []
    assert (table["bound"] <= table["optimum"]).all()
    assert (table["optimum"] <= table["makespan"]).all()
    is_proven = (table["status"] == "optimal").tolist()
    chunks = report.chunks
    assert (chunks["outcome"] == "succeeded").tolist() == is_proven
    assert not all(is_proven)
    for chunk, row in zip(chunks.itertuples(), table.itertuples(), strict=True):
        if chunk.outcome == "stopped_with_solution":
            assert (chunk.objective, chunk.bound) == (row.makespan, row.bound)
            assert chunk.gap == pytest.approx((row.makespan - row.bound) / row.makespan)
    stopped = report.attempts[report.attempts["outcome"] == "stopped_with_solution"]
    assert set(stopped["cause"]) == {"deadline"}
    assert set(report.incumbents["chunk"]) == {0, 1, 2, 3}


@pytest.mark.cluster
def test_a_search_that_is_cancelled_keeps_its_best_schedule(
    operations: pd.DataFrame, cluster: Settings
) -> None:
    ft10 = operations[operations["instance"] == "ft10"]
    handle = submit_pipeline(schedules, ft10, cluster=cluster, progress=False)
    while not any(chunk.objective for chunk in running(handle)):
        assert not handle.done
        time.sleep(0.05)

    handle.cancel(keep_best=True)
    report = handle.wait(timeout=60)

    assert report.rows_solved == report.rows_in == len(ft10)
    assert verify(report.results(), ft10) == []
    chunk = report.chunks.iloc[0]
    assert chunk["outcome"] == "stopped_with_solution"
    assert chunk["objective"] == report.results()["makespan"].iloc[0]
    assert "cancel" in report.attempts["cause"].tolist()


def running(handle: RunHandle) -> Sequence[RunningChunk]:
    """The chunks of a run that run at this moment."""
    live = handle.report.live
    return live.running if live is not None else ()
