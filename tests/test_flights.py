"""The flights pipeline gives, from any cut of the rows, what pandas gives on the whole table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun import run_pipeline
from pipelines.flights import BINS, EDGES, charts, delays, flights_table, main, write_flights


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    return flights_table()


def run_in_pieces(frame: pd.DataFrame, boundaries: Iterable[int], **params: float) -> pd.DataFrame:
    """The pipeline on consecutive pieces of *frame*, in this process."""
    edges = [0, *boundaries, len(frame)]
    parts = (delays(frame.iloc[start:stop], **params) for start, stop in itertools.pairwise(edges))
    assert delays.combine is not None
    result: pd.DataFrame = delays.combine(parts)
    return result


def plain_pandas(frame: pd.DataFrame, late_after: float = 15.0) -> pd.DataFrame:
    """The same statistics, written as one would for a table that fits in memory."""
    groups = frame.groupby(["carrier", "month"])["arr_delay"]
    late = (frame["arr_delay"] > late_after).groupby([frame["carrier"], frame["month"]]).sum()
    table = pd.DataFrame(
        {
            "flights": groups.size(),
            "arrived": groups.count(),
            "mean_delay": groups.mean(),
            "min_delay": groups.min(),
            "max_delay": groups.max(),
            "late": late,
            "late_share": late / groups.count(),
            "p90": groups.quantile(0.9),
        }
    )
    return table.reset_index()


def test_every_flight_of_the_package_is_there(flights: pd.DataFrame) -> None:
    assert flights.shape == (336_776, 19)


@pytest.mark.parametrize("boundaries", [[], [1], range(50_000, 336_776, 50_000), [7, 8, 100_000, 335_000]])
def test_any_cut_of_the_rows_gives_exactly_what_pandas_gives_on_the_whole_table(
    flights: pd.DataFrame, boundaries: Iterable[int]
) -> None:
    ours = run_in_pieces(flights, boundaries)
    theirs = plain_pandas(flights)

    assert ours[["carrier", "month"]].equals(theirs[["carrier", "month"]])
    for column in ("flights", "arrived", "min_delay", "max_delay", "late"):
        assert pd.api.types.is_integer_dtype(ours[column]), column
        assert (ours[column] == theirs[column]).all(), column
    for column in ("mean_delay", "late_share"):
        assert (ours[column] == theirs[column]).all(), column


def test_flights_that_never_arrived_are_counted_and_enter_no_statistic(flights: pd.DataFrame) -> None:
    ours = run_in_pieces(flights, [123_456])

    assert ours["not_arrived"].sum() == flights["arr_delay"].isna().sum() == 9_430
    assert (ours["arrived"] + ours["not_arrived"] == ours["flights"]).all()
    assert ours["flights"].sum() == 336_776


def test_the_90th_percentile_of_every_group_lies_within_its_bounds(flights: pd.DataFrame) -> None:
    ours = run_in_pieces(flights, [200_000])
    true = plain_pandas(flights)["p90"]

    assert (ours["p90_lower"] <= true + 1e-9).all()
    assert (true - 1e-9 <= ours["p90_upper"]).all()
    assert (ours["p90_upper"] - ours["p90_lower"]).median() <= 30


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 12, 50])
def test_the_bounds_hold_for_small_groups_and_for_delays_beyond_every_bin(size: int) -> None:
    draw = np.random.default_rng(size)
    for _ in range(50):
        frame = pd.DataFrame({"carrier": "AA", "month": 1, "arr_delay": draw.integers(-200, 2_000, size)})
        ours = run_in_pieces(frame, []).iloc[0]
        true = frame["arr_delay"].quantile(0.9)
        assert ours["p90_lower"] - 1e-9 <= true <= ours["p90_upper"] + 1e-9


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["AA", "UA", None]),
            st.integers(1, 2),
            st.one_of(st.none(), st.integers(-(10**6), 10**6)),
        ),
        min_size=1,
        max_size=30,
    ),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_where_the_rows_are_cut_never_shows(
    rows: list[tuple[str | None, int, int | None]], cuts: list[int]
) -> None:
    frame = pd.DataFrame(rows, columns=["carrier", "month", "arr_delay"]).astype(
        {"carrier": "str", "arr_delay": "Int64"}
    )
    boundaries = sorted(min(cut, len(frame)) for cut in cuts)

    pd.testing.assert_frame_equal(run_in_pieces(frame, boundaries), run_in_pieces(frame, []))


def test_the_histogram_counts_each_arrival_once_with_upper_bounds_inside() -> None:
    delay = [EDGES[0] - 1, EDGES[0], EDGES[0] + 1, 15, 16, EDGES[-1], EDGES[-1] + 1, None]
    frame = pd.DataFrame({"carrier": "AA", "month": 1, "arr_delay": delay})

    counts = run_in_pieces(frame, [3])[list(BINS)].iloc[0].to_dict()

    assert {name: count for name, count in counts.items() if count} == {
        "upto_-60": 2,
        "upto_-45": 1,
        "upto_15": 1,
        "upto_30": 1,
        "upto_360": 1,
        "over_360": 1,
    }


def test_late_means_later_than_the_parameter(flights: pd.DataFrame) -> None:
    ours = run_in_pieces(flights, [100_000], late_after=60)

    assert ours["late"].sum() == (flights["arr_delay"] > 60).sum()
    assert (ours["late_share"] == plain_pandas(flights, late_after=60)["late_share"]).all()


def test_a_group_that_never_arrived_has_counts_and_no_statistics() -> None:
    frame = pd.DataFrame({"carrier": ["AA", "AA", None], "month": [1, 1, 2], "arr_delay": [None, None, 3.0]})

    ours = run_in_pieces(frame, [1])

    assert ours["flights"].tolist() == [2, 1]
    assert ours["not_arrived"].tolist() == [2, 0]
    assert ours.loc[0, ["mean_delay", "max_delay", "late_share", "p90_lower"]].isna().all()
    assert ours["carrier"].isna().tolist() == [False, True]


def test_integer_nullable_and_categorical_columns_are_as_good_as_floats(flights: pd.DataFrame) -> None:
    few = flights.head(5_000)
    other = few.assign(arr_delay=few["arr_delay"].astype("Int64"), carrier=few["carrier"].astype("category"))

    pd.testing.assert_frame_equal(
        run_in_pieces(other, [700]), run_in_pieces(few, [4_000]), check_dtype=False, check_categorical=False
    )


def test_no_rows_give_a_table_with_all_columns(flights: pd.DataFrame) -> None:
    assert delays.combine is not None

    assert list(delays.combine(iter(()))) == list(run_in_pieces(flights.head(100), []))
    assert len(run_in_pieces(flights.head(0), [])) == 0


def test_a_delay_that_is_no_whole_minute_is_refused_with_its_value() -> None:
    frame = pd.DataFrame({"carrier": "AA", "month": 1, "arr_delay": [1.0, 2.5]})

    with pytest.raises(ValueError, match=r"whole minutes, not 2\.5 as in row 1"):
        delays(frame)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'batchrun\[examples\]'"):
        flights_table()


def test_the_demo_file_is_written_once_in_several_row_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "demo" / "flights.parquet"

    main([str(path)])
    written = path.stat().st_mtime_ns
    assert write_flights(path) == path

    assert capsys.readouterr().out == f"{path}\n"
    assert path.stat().st_mtime_ns == written
    assert pq.ParquetFile(path).metadata.num_rows == 336_776
    assert pq.ParquetFile(path).num_row_groups > 4
    assert [item.name for item in path.parent.iterdir()] == ["flights.parquet"]


@pytest.mark.parametrize("given", ["frame", "file"])
def test_a_run_gives_the_same_as_the_function_and_accounts_for_every_flight(
    flights: pd.DataFrame, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = flights if given == "frame" else write_flights(tmp_path / "flights.parquet")

    report = run_pipeline(delays, data, params={"late_after": 30}, cluster="inline", progress=False)

    assert report.state == "succeeded"
    assert report.rows_in == report.rows_solved == 336_776
    assert len(report.chunks) > 1
    pd.testing.assert_frame_equal(report.results(), run_in_pieces(flights, [], late_after=30))
    by_carrier = report.exhibits["Carriers, the most often late first"].set_index("carrier")
    late = flights["arr_delay"] > 30
    shares = late.groupby(flights["carrier"]).sum() / flights.groupby("carrier")["arr_delay"].count()
    pd.testing.assert_series_equal(
        by_carrier["late_by_30_min"].sort_index(), shares, check_names=False, check_dtype=False
    )
    means = flights.groupby("carrier")["arr_delay"].mean()
    pd.testing.assert_series_equal(by_carrier["mean_delay"].sort_index(), means, check_names=False)
    assert by_carrier["late_by_30_min"].is_monotonic_decreasing
    assert len(report.exhibits) == 3


def test_the_report_draws_the_mean_delay_of_every_carrier_and_month(flights: pd.DataFrame) -> None:
    table = run_in_pieces(flights, [])

    figure = charts(table)["Mean arrival delay by carrier and month"]

    tiles = pd.DataFrame(figure.renderers[0].data_source.data)
    assert len(tiles) == len(table.dropna(subset="mean_delay"))
    assert figure.x_range.factors == [str(month) for month in range(1, 13)]
    shown = tiles.set_index(["carrier", "month"])["mean_delay"]
    assert shown["UA", "7"] == table.set_index(["carrier", "month"])["mean_delay"]["UA", 7]


def test_no_rows_give_a_report_all_the_same() -> None:
    assert len(charts(run_in_pieces(flights_table().head(0), []))) == 3


@pytest.mark.cluster
def test_two_workers_give_exactly_what_pandas_gives(
    flights: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_flights(tmp_path / "flights.parquet")

    report = run_pipeline(delays, str(path), progress=False)

    theirs = plain_pandas(flights)
    ours = report.results()
    assert report.state == "succeeded"
    assert report.rows_in == report.rows_solved == 336_776
    assert report.attempts["worker"].nunique() == 2
    for column in ("carrier", "month", "flights", "arrived", "mean_delay", "max_delay", "late", "late_share"):
        assert (ours[column] == theirs[column]).all(), column
    assert theirs["p90"].between(ours["p90_lower"] - 1e-9, ours["p90_upper"] + 1e-9).all()
