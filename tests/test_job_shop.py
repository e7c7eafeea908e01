"""The job-shop pipeline finds schedules that are sound, and optimal where time allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from batchrun import run_pipeline
from pipelines import job_shop
from pipelines.job_shop import OPERATIONS, OPTIMA, NoScheduleError, by_instance, check, schedules, verify

EASY = ["ft06", *(f"la{number:02}" for number in range(1, 16))]


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
    assert result["gap"].unique().tolist() == [0.0]


def test_several_instances_in_one_chunk_are_solved_one_by_one(operations: pd.DataFrame) -> None:
    rows = operations[operations["instance"].isin(["la01", "la05"])]

    table = by_instance(schedules(rows))

    assert table["instance"].tolist() == ["la01", "la05"]
    assert table["makespan"].tolist() == [666, 593]
    assert table[["jobs", "machines", "operations"]].drop_duplicates().to_numpy().tolist() == [[10, 5, 50]]


def test_when_time_runs_out_the_best_schedule_so_far_and_its_bound_are_kept(
    operations: pd.DataFrame,
) -> None:
    rows = operations[operations["instance"] == "ft10"]

    result = schedules(rows, time_limit=2)

    assert verify(result, rows) == []
    assert result["status"].unique().tolist() == ["feasible"]
    assert result["bound"].iloc[0] <= OPTIMA["ft10"] <= result["makespan"].iloc[0]
    assert result["gap"].iloc[0] == pytest.approx(result["makespan"].iloc[0] / OPTIMA["ft10"] - 1)


def test_no_schedule_in_time_is_an_error_that_says_so(ft06: pd.DataFrame) -> None:
    with pytest.raises(NoScheduleError, match=r"no schedule for ft06 within 1e-06 s .* longer time_limit"):
        schedules(ft06, time_limit=1e-6)


def test_a_time_limit_of_zero_is_refused(ft06: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="time_limit=0"):
        schedules(ft06, time_limit=0)


def test_an_instance_without_a_known_optimum_has_no_gap(ft06: pd.DataFrame) -> None:
    result = schedules(ft06.assign(instance="mine"))

    assert result["makespan"].iloc[0] == 55
    assert result[["optimum", "gap"]].isna().all(axis=None)


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
        job_shop.solve(check(ft06))


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


CLUSTER = """
kind: local
workers:
  standard: {count: 1, threads: 1, memory: 1GiB}
  highmem: {count: 1, threads: 1, memory: 2GiB, resources: {HIGHMEM: 1}}
"""


@pytest.mark.cluster
def test_every_easy_instance_reaches_its_optimum_on_the_worker_with_the_tag(
    operations: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    easy = operations[operations["instance"].isin(EASY)]

    report = run_pipeline(schedules, easy, cluster="cluster.yaml", progress=False)

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


@pytest.mark.cluster
def test_a_broken_instance_is_set_apart_and_the_others_are_solved(
    operations: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    rows = operations[operations["instance"].isin(["ft06", "la01", "la02"])]
    rows = changed(rows, int((rows["instance"] == "ft06").sum()), duration=-5)

    report = run_pipeline(schedules, rows, cluster="cluster.yaml", progress=False)

    assert report.state == "partial"
    assert by_instance(report.results())["instance"].tolist() == ["ft06", "la02"]
    assert (report.rows_solved, report.rows_quarantined, report.rows_cancelled) == (36 + 50, 50, 0)
    assert report.quarantined["instance"].unique().tolist() == ["la01"]
    assert report.failures["error"].tolist() == [
        "la01 job 0 step 0 has a duration that is not above zero: machine 1, duration -5"
    ]
    assert len(report.attempts[report.attempts["stage"] == "check"]) == 3
