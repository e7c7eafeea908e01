"""The benchmarks still run, and all contestants of one give the same result. Nothing is timed here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from batchrun.config import Settings
from tests.benchmarks.arena import Arena
from tests.benchmarks.bars import Bar, draw_bars
from tests.benchmarks.cases import CASES
from tests.benchmarks.contest import Record, Target, race
from tests.benchmarks.page import write_page

LONG = {"big_store", "page_load", "queued_tasks", "service", "stored_page", "sums_in_memory"}
"""Half of the time that all of them take; what they measure is tested elsewhere."""
SMOKE = [
    pytest.param(
        case,
        id=case.name,
        marks=pytest.mark.skipif(
            case.name in LONG and os.environ.get("SMOKE") != "all", reason="takes long; SMOKE=all runs it too"
        ),
    )
    for case in CASES.values()
    if case.smoke is not None
]


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory, cluster: Settings) -> Iterator[Arena]:
    with Arena(tmp_path_factory.mktemp("benchmarks"), warm=cluster) as place:
        yield place


@pytest.mark.cluster
@pytest.mark.parametrize("case", SMOKE)
def test_a_benchmark_runs_at_a_tiny_scale_and_its_record_can_be_read_again(
    case, arena: Arena, tmp_path: Path
) -> None:
    record = case.run(arena, case.smoke, 1)

    assert record.name == case.name
    assert record.seconds or record.figures
    path = record.write(tmp_path)
    assert Record.read(path) == record


def test_every_benchmark_says_what_it_measures() -> None:
    assert all(case.about for case in CASES.values())


def test_contestants_with_different_results_are_not_compared() -> None:
    with pytest.raises(AssertionError):
        race(
            Record("unfair", {}),
            {"a": lambda: pd.DataFrame({"x": [1]}), "b": lambda: pd.DataFrame({"x": [2]})},
            rounds=1,
        )


def test_the_fastest_peer_counts_and_one_that_is_missing_does_not() -> None:
    record = Record("case", {}, seconds={"mine": [3.0, 2.0, 4.0], "slow": [9.0], "fast": [2.0]})

    record.judge([Target("mine", ("slow", "fast", "absent"), 1.6), Target("mine", ("absent",), 1.0)])
    record.judge([Target("mine", ("fast",), 0.5, extra=True)])

    assert [(verdict.reached, verdict.met) for verdict in record.verdicts] == [(1.5, True), (1.0, False)]


def test_the_page_tells_targets_that_are_missed_and_where_a_peer_wins(tmp_path: Path) -> None:
    record = Record("from_parquet", {"rows": 10}, seconds={"batchrun": [2.0], "polars": [0.5]})
    record.judge([Target("batchrun", ("polars",), 1.0)])
    record.write(tmp_path / "results")

    (tmp_path / "docs").mkdir()
    text = write_page(tmp_path / "results", tmp_path / "docs" / "page.md").read_text(encoding="utf-8")

    assert "0 of 1 targets are met; 1 are not" in text
    assert "Faster than batchrun here: polars 4 times" in text
    assert "<svg" in (tmp_path / "docs/img/benchmarks/from_parquet.svg").read_text(encoding="utf-8")


def test_the_page_shows_the_table_of_a_record_and_tells_very_short_times(tmp_path: Path) -> None:
    record = Record("simulation", {"chunks": 10}, seconds={"10 workers": [0.000025]})
    record.table = [{"workers": "10", "fairness": "0.98"}, {"workers": "100", "fairness": "1"}]
    record.write(tmp_path / "results")

    (tmp_path / "docs").mkdir()
    text = write_page(tmp_path / "results", tmp_path / "docs" / "page.md").read_text(encoding="utf-8")

    assert "| workers | fairness |\n| --- | --- |\n| 10 | 0.98 |\n| 100 | 1 |" in text
    assert "25 µs" in text


def test_the_page_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    old, new, page = tmp_path / "old", tmp_path / "new", tmp_path / "docs" / "page.md"
    record = Record("imports", {"rounds": 1})
    record.measure("modules", 111, "modules")
    record.write(old)
    write_page(old, page)

    other = Record("waste", {"rounds": 1})
    other.measure("bytes written", 222, "bytes")
    other.write(new)
    text = write_page(new, page).read_text(encoding="utf-8")

    assert "111 modules" in text
    assert "222 bytes" in text
    assert {path.name for path in (page.parent / "benchmarks").iterdir()} == {"imports.json", "waste.json"}


def test_a_page_without_results_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make bench"):
        write_page(tmp_path, tmp_path / "page.md")


def test_the_names_in_a_plot_are_escaped() -> None:
    assert "a &lt; b" in draw_bars("t", [Bar("a < b", 1.0, 1.0, 1.0, "1 s")])
