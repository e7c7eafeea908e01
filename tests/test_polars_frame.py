"""Polars frames read from Parquet files by polars itself: the same as by way of Arrow, or not at all."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from batchrun import Pipeline, by_rows, run_pipeline
from batchrun.data import opened
from batchrun.data.load import load, load_frame
from batchrun.data.opening import open_source
from batchrun.data.polars_frame import read_polars
from batchrun.data.table import to_frame
from batchrun.errors import InputError

NOON = dt.datetime(1921, 5, 1, 12)
PLAIN = {
    **{str(kind): pa.array([1, None, 3], kind) for kind in (pa.int8(), pa.uint16(), pa.uint32(), pa.int64())},
    "whole numbers beyond int64": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "double": pa.array([0.1, None, float("nan")]),
    "float": pa.array([0.1, None, -0.0], pa.float32()),
    "bool": pa.array([True, None, False]),
    "string": pa.array(["a", None, "ä" * 50]),
    "large_string": pa.array(["", None, "b"], pa.large_string()),
    "binary": pa.array([b"\0", None, b"\xff"]),
    "date32": pa.array([dt.date(1900, 1, 1), None, dt.date(2100, 1, 1)]),
    "time64": pa.array([dt.time(1, 2, 3), None, dt.time(0)], pa.time64("us")),
    **{f"timestamp {unit}": pa.array([NOON, None, NOON], pa.timestamp(unit)) for unit in ("ms", "us", "ns")},
    "timestamp with a zone": pa.array([NOON, None, NOON], pa.timestamp("us", "Europe/Rome")),
    "duration": pa.array([dt.timedelta(1), None, dt.timedelta(0)], pa.duration("us")),
}
OTHER = {
    "categories": pa.array(["a", None, "b"]).dictionary_encode(),
    "list": pa.array([[1], None, []]),
    "struct": pa.array([{"x": 1}, None, {"x": 2}]),
    "decimal": pa.array([None, None, 1], pa.decimal128(12, 2)),
    "null": pa.nulls(3),
}


def planned(path: Path, **options: Any) -> Any:
    options = {"columns": None, "split": by_rows(5), "spool": "", "regroup": None} | options
    return open_source(str(path), **options)


def by_way_of_arrow(ref: Any) -> pl.DataFrame:
    frame: pl.DataFrame = to_frame(load(ref), "polars")
    return frame


@pytest.mark.parametrize("kind", [*PLAIN, *OTHER])
def test_every_type_comes_as_it_would_by_way_of_arrow(kind: str, tmp_path: Path) -> None:
    values = {**PLAIN, **OTHER}[kind]
    pq.write_table(pa.table({"x": pa.concat_arrays([values] * 4)}), tmp_path / "f.parquet", row_group_size=5)
    ref = planned(tmp_path / "f.parquet").slice(1, 11)

    frame = load_frame(ref, "polars")

    assert_frame_equal(frame, by_way_of_arrow(ref))
    if kind in OTHER:
        assert read_polars(ref) is None


@pytest.mark.parametrize("kind", ["int64", "double", "bool", "string", "date32", "timestamp ns"])
def test_common_types_are_read_by_polars(kind: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": PLAIN[kind]}), tmp_path / "f.parquet")

    assert read_polars(planned(tmp_path / "f.parquet").slice(0, 3)) is not None


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (0, 7), (12, 13), (19, 41), (55, 55), (93, 100)])
def test_any_rows_of_several_files_are_those_of_arrow(start: int, stop: int, tmp_path: Path) -> None:
    for number in range(4):
        rows = np.arange(25) + 25 * number
        table = pa.table({"x": rows, "text": rows.astype(str), "unread": rows})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=10)
    ref = planned(tmp_path, columns=("text", "x")).slice(start, stop)

    frame = read_polars(ref)

    assert frame is not None
    assert_frame_equal(frame, by_way_of_arrow(ref))
    assert frame["x"].to_list() == list(range(start, stop))


def test_a_pandas_index_is_a_column_only_if_it_has_a_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index([7, 8]))
    frame.to_parquet(tmp_path / "unnamed.parquet")
    frame.rename_axis("id").to_parquet(tmp_path / "named.parquet")

    for name, columns in (("unnamed", ["x"]), ("named", ["x", "id"])):
        for wanted in (None, ("x",)):
            found = read_polars(planned(tmp_path / f"{name}.parquet", columns=wanted).slice(0, 2))
            assert found is not None
            assert found.columns == columns


def test_a_name_that_polars_takes_for_a_pattern_is_read_by_arrow(tmp_path: Path) -> None:
    pq.write_table(pa.table({"^a.*$": [1], "ab": [2]}), tmp_path / "f.parquet")
    ref = planned(tmp_path / "f.parquet", columns=("^a.*$",)).slice(0, 1)

    assert load_frame(ref, "polars").to_dict(as_series=False) == {"^a.*$": [1]}


def test_folders_and_names_with_a_meaning_for_polars_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "year=2013").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "year=2013" / "part-[1].parquet")
    ref = planned(tmp_path / "year=2013").slice(0, 1)

    frame = read_polars(ref)

    assert frame is not None
    assert frame.to_dict(as_series=False) == {"x": [1]}


def test_rows_that_are_filtered_and_types_that_are_cast_are_read_by_arrow(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"x": [0.5]}), tmp_path / "2.parquet")
    cast = planned(tmp_path).slice(0, 3)
    filtered = planned(tmp_path / "1.parquet", where=[[("x", ">", 1)]]).slice(0, 2)

    for ref, values in ((cast, [1.0, 2.0, 0.5]), (filtered, [2])):
        assert read_polars(ref) is None
        assert load_frame(ref, "polars")["x"].to_list() == values


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    for number in range(2):
        pq.write_table(pa.table({"x": [number] * (number + 1)}), path)
        os.utime(path, (number, number))
        frame = read_polars(planned(path).slice(0, number + 1))
        assert frame is not None
        assert frame["x"].to_list() == [number] * (number + 1)


def test_a_damaged_file_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"x": np.arange(10_000)}), path)
    ref = planned(path).slice(0, 10_000)
    whole = path.read_bytes()
    path.write_bytes(b"\xff" * (len(whole) // 2) + whole[len(whole) // 2 :])
    opened.close_files()

    with pytest.raises(InputError, match=r"f\.parquet cannot be read"):
        load_frame(ref, "polars")


def test_without_polars_arrow_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "f.parquet")
    monkeypatch.setitem(sys.modules, "polars", None)

    assert read_polars(planned(tmp_path / "f.parquet").slice(0, 1)) is None


def test_a_run_of_a_polars_stage_decodes_nothing_with_arrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("Arrow decoded a row group")

    def double(chunk: pl.DataFrame) -> pl.DataFrame:
        return chunk.select(pl.col("x") * 2)

    opened.close_files()
    pq.write_table(pa.table({"x": np.arange(100)}), tmp_path / "f.parquet", row_group_size=30)
    monkeypatch.setattr(opened.ParquetFile, "_decode", refused)
    pipeline = Pipeline("double", split=by_rows(7), stages=[double])

    report = run_pipeline(pipeline, str(tmp_path / "f.parquet"), cluster="inline", progress=False)

    assert report.results()["x"].to_list() == [2 * number for number in range(100)]
