"""The plan of a run: written down before it is used, found again by another process."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from batchrun import by_file, by_group, by_rows
from batchrun.data.opening import open_source
from batchrun.plan import Plan, read_plan
from batchrun.store.artifacts import RunFolder


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(str(tmp_path / "run"))


def make(folder: RunFolder, split, rows: int = 100, **options) -> Plan:
    source = open_source(
        pd.DataFrame({"x": range(rows)}), columns=None, split=split, spool=folder.spool, regroup=None
    )
    return Plan(source, split, folder, slots=2, memory=2**30, **options)


def test_a_wave_is_on_disk_before_its_chunks_are_handed_out(folder):
    plan = make(folder, by_rows(30))
    assert plan.take(10) == []

    plan.extend()

    found = read_plan(folder)
    assert found.waves == 1
    assert found.starts.tolist() == [0, 30, 60, 90]
    assert plan.take(10) == [0, 1, 2, 3]
    assert plan.complete


def test_another_session_finds_the_plan_and_hands_out_what_is_not_settled(folder):
    make(folder, by_rows(30)).extend()

    again = make(folder, by_rows(30), settled=np.array([1, 3]))

    assert again.complete
    assert again.take(10) == [0, 2]
    assert (again.settled_chunks, again.settled_rows) == (2, 40)


def test_chunks_sized_by_time_go_on_where_the_last_session_stopped(folder):
    first = make(folder, by_rows("auto"), rows=10_000)
    first.extend()
    cut = first.rows
    assert 0 < cut < 10_000

    again = make(folder, by_rows("auto"), rows=10_000)
    assert again.rows == cut
    while not again.complete:
        again.measured(100, 0.01)
        again.extend()

    found = read_plan(folder)
    assert found.waves > 1
    assert found.starts[0] == 0
    assert (found.starts[1:] == found.stops[:-1]).all()
    assert found.stops[-1] == 10_000


def test_the_chunk_with_most_left_at_all_legs_is_handed_out_first_and_scarce_work_counts_for_more(folder):
    def forecast(keys, rows):
        return [np.array([4.0, 1.0, 1.0, 9.0]), np.array([1.0, 3.0, 0.5, 0.5])]

    plan = make(folder, by_rows(25), forecast=forecast, scarcity=[1.0, 4.0])
    plan.extend()

    assert plan.work == [15.0, 5.0]
    assert [plan.work_left(0, chunk) for chunk in range(4)] == [8.0, 13.0, 3.0, 11.0]
    assert plan.work_left(1, 1) == 12.0
    assert plan.seconds(0, 1) == 1.0
    assert plan.take(10) == [1, 3, 0, 2]
    assert plan.work == [0.0, 0.0]


def test_chunks_whose_rows_are_not_there_yet_are_passed_over_and_keep_their_turn(folder):
    plan = make(folder, by_rows(25), forecast=lambda keys, rows: [np.arange(4.0)], scarcity=[1.0])
    plan.extend()

    assert plan.take(1, ready=60) == [1]
    assert plan.take(10, ready=60) == [0]
    assert plan.take(10, ready=60) == []
    assert plan.not_handed_out == {2, 3}
    assert plan.take(10) == [3, 2]


def test_what_is_not_known_of_one_leg_is_not_known_of_all(folder):
    plan = make(folder, by_rows(25), forecast=lambda keys, rows: [np.arange(4.0), None], scarcity=[1.0, 2.0])
    plan.extend()

    assert plan.work == []
    assert plan.work_left(0, 3) is None
    assert plan.take(10) == [3, 2, 1, 0]


def test_a_table_without_rows_needs_no_plan(folder):
    plan = make(folder, by_rows(3), rows=0)

    assert plan.complete
    plan.extend()
    assert len(plan) == 0


def test_a_chunk_that_is_cut_has_its_parts_in_its_place_after_a_restart_too(folder):
    plan = make(folder, by_rows(30))
    plan.extend()
    assert plan.take(10) == [0, 1, 2, 3]

    assert plan.cut([1, 3]) == {1: (4, 5), 3: (6, 7)}
    assert plan.cut([4]) == {4: (8, 9)}

    assert [plan.bounds(part) for part in (4, 5, 6, 7, 8, 9)] == [
        (30, 45), (45, 60), (90, 95), (95, 100), (30, 37), (37, 45),
    ]  # fmt: skip
    assert plan.parts_of(1) == {4, 5, 8, 9}
    assert plan.parts_of(0) == set()
    assert (len(plan), plan.standing, plan.rows, plan.left) == (10, 7, 100, 0)
    assert plan.is_part(9)
    again = make(folder, by_rows(30), settled=np.array([0, 8]))
    assert again.complete
    assert sorted(again.take(10)) == [2, 5, 6, 7, 9]
    assert again.cuts() == {1: (4, 5), 3: (6, 7), 4: (8, 9)}
    assert read_plan(folder).is_cut.tolist() == [False, True, False, True, True] + [False] * 5


def test_only_independent_rows_and_whole_groups_are_cut(folder, tmp_path):
    table = pd.DataFrame({"x": range(9), "g": list("aaaabbccc")})
    split = by_group("g", max_rows=6)
    source = open_source(table, columns=None, split=split, spool=folder.spool, regroup=None)
    plan = Plan(source, split, folder, slots=2, memory=2**30)
    plan.extend()
    assert [plan.bounds(chunk) for chunk in range(2)] == [(0, 6), (6, 9)]

    assert plan.can_cut(0)
    assert not plan.can_cut(1)
    assert plan.cut([0]) == {0: (2, 3)}
    assert [plan.bounds(part) for part in (2, 3)] == [(0, 4), (4, 6)]
    assert not plan.can_cut(2)
    with pytest.raises(ValueError, match="cannot be cut"):
        plan.cut([2])

    table.to_parquet(tmp_path / "whole.parquet")
    files = open_source(
        str(tmp_path / "whole.parquet"), columns=None, split=by_file(), spool=folder.spool, regroup=None
    )
    whole = Plan(files, by_file(), RunFolder(str(tmp_path / "other")), slots=1, memory=2**30)
    whole.extend()
    assert not whole.can_cut(0)


def test_one_row_is_never_cut(folder):
    plan = make(folder, by_rows(1), rows=2)
    plan.extend()

    assert not plan.can_cut(0)


def test_waves_that_an_earlier_driver_still_writes_do_not_count(folder):
    silent = make(folder, by_rows(50), fence=1)
    silent.extend()

    later = make(folder, by_rows(50), fence=2)
    silent.cut([0])
    silent.cut([1])
    assert len(read_plan(folder)) == len(later) == 2

    later.cut([1])
    silent.cut([2])
    assert read_plan(folder).parents.tolist() == [-1, -1, 1, 1]


def test_of_two_first_waves_that_of_the_later_driver_counts(folder):
    silent = make(folder, by_rows(50), fence=1)
    later = make(folder, by_rows(25), fence=2)
    later.extend()
    silent.extend()

    assert read_plan(folder).stops.tolist() == [25, 50, 75, 100]
    assert make(folder, by_rows(25), fence=3).left == 4
