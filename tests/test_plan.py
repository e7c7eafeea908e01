"""The plan of a run: written down before it is used, found again by another process."""

from __future__ import annotations

import pandas as pd
import pytest

from batchrun import by_rows
from batchrun.data.source import open_source
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

    found, waves = read_plan(folder)
    assert waves == 1
    assert found.starts.tolist() == [0, 30, 60, 90]
    assert plan.take(10) == [0, 1, 2, 3]
    assert plan.complete


def test_another_session_finds_the_plan_and_hands_out_what_is_not_settled(folder):
    make(folder, by_rows(30)).extend()

    again = make(folder, by_rows(30), settled={1: 30, 3: 10})

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

    found, waves = read_plan(folder)
    assert waves > 1
    assert found.starts[0] == 0
    assert (found.starts[1:] == found.stops[:-1]).all()
    assert found.stops[-1] == 10_000


def test_a_table_without_rows_needs_no_plan(folder):
    plan = make(folder, by_rows(3), rows=0)

    assert plan.complete
    plan.extend()
    assert len(plan) == 0
