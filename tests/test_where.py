"""Row conditions: what they may say, and which rows come through, whatever the input is."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun import by_group, by_rows
from batchrun.data import opened
from batchrun.data.load import load
from batchrun.data.opening import open_source
from batchrun.data.source import Source
from batchrun.data.table import to_frame
from batchrun.errors import InputError, PipelineError
from batchrun.where import read_where, where_columns


def plan(data: Any, folder: Path, where: Any, **options: Any) -> Source:
    return open_source(
        data,
        columns=options.pop("columns", None),
        split=options.pop("split", by_rows(10)),
        spool=str(folder / "spool"),
        regroup=lambda *_: pytest.fail("the workers were asked"),
        where=read_where(where),
    )


def rows(source: Source, start: int = 0, stop: int = 10**9) -> pd.DataFrame:
    return to_frame(load(source.slice(start, stop)), "pandas")


def test_conditions_are_read_as_pandas_reads_them() -> None:
    assert read_where([("a", "=", 1), ("b", "in", [1, 2])]) == ((("a", "==", 1), ("b", "in", (1, 2))),)
    assert read_where([[("a", "<", 1)], [("b", ">", 2)]]) == ((("a", "<", 1),), (("b", ">", 2),))
    assert read_where(None) is read_where([]) is None
    assert where_columns(read_where([[("a", "<", 1)], [("b", ">", 2), ("a", ">", 3)]])) == ("a", "b")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("a > 1", "give a list of conditions"),
        ([("a", ">")], "is no condition"),
        ([(1, ">", 2)], "is no condition"),
        ([("a", "=>", 2)], r"'=>' in .* is no operator.*Did you mean `>=`\?|'=>' in .* is no operator"),
        ([("a", "in", "xyz")], "needs a list of values"),
        ([("a", "<", None)], "None can only be compared"),
        ([[("a", "<", 1)], []], "an empty list"),
    ],
)
def test_conditions_of_another_form_are_refused(where: Any, words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        read_where(where)


FRAME = pd.DataFrame(
    {
        "n": np.arange(100) % 12,
        "x": np.where(np.arange(100) % 7 == 0, np.nan, np.arange(100) / 4),
        "s": [None if k % 9 == 0 else "abc"[k % 3] for k in range(100)],
        "t": pd.date_range("2024-01-01", periods=100).as_unit("us"),
        "k": pd.Categorical(["u", "v"] * 50),
    }
)


def written(kind: str, folder: Path) -> Any:
    if kind == "frame":
        return FRAME
    if kind == "polars":
        return pl.from_pandas(FRAME)
    path = folder / f"f.{kind}"
    if kind == "parquet":
        FRAME.to_parquet(path, row_group_size=13)
    elif kind == "arrow":
        FRAME.to_feather(path)
    else:
        FRAME.to_csv(path, index=False)
    return path


CONDITIONS: dict[str, tuple[Any, Any]] = {
    "and": ([("n", ">=", 6), ("x", "<", 20)], (FRAME.n >= 6) & (FRAME.x < 20)),
    "or": (
        [[("n", "==", 1)], [("s", "==", "a"), ("n", "!=", 3)]],
        (FRAME.n == 1) | ((FRAME.s == "a") & (FRAME.n != 3)),
    ),
    "in": ([("s", "in", ["a", "z"]), ("k", "==", "u")], FRAME.s.isin(["a"]) & (FRAME.k == "u")),
    "not in": ([("s", "not in", ["a"])], FRAME.s.isin(["b", "c"])),
    "missing": ([[("s", "==", None)], [("x", "==", None)]], FRAME.s.isna() | FRAME.x.isna()),
    "there": ([("s", "!=", None)], FRAME.s.notna()),
    "other": ([("s", "!=", "a")], FRAME.s.isin(["b", "c"])),
    "time": (
        [("t", ">=", "2024-03-01"), ("t", "<", dt.datetime(2024, 3, 9))],
        FRAME.t.between("2024-03-01", "2024-03-08"),
    ),
    "numpy": ([("n", "<", np.int32(4)), ("x", ">", np.float32(3.5))], (FRAME.n < 4) & (FRAME.x > 3.5)),
    "none": ([("n", ">", 1000)], FRAME.n > 1000),
}


@pytest.mark.parametrize("kind", ["frame", "polars", "parquet", "arrow", "csv"])
@pytest.mark.parametrize("name", CONDITIONS)
def test_the_rows_that_come_through_are_those_of_a_mask(name: str, kind: str, tmp_path: Path) -> None:
    where, mask = CONDITIONS[name]

    source = plan(written(kind, tmp_path), tmp_path, where)

    assert source.rows == 100, "rows that are left out are rows of the input"
    for start, stop in [(0, 100), (5, 50), (26, 39), (40, 40)]:
        expected = FRAME[mask].loc[lambda kept: (kept.index >= start) & (kept.index < stop)]  # noqa: B023
        found = rows(source, start, stop)
        assert found.index.tolist() == expected.index.tolist()
        assert found["n"].tolist() == expected["n"].tolist()
        assert found["s"].fillna("-").tolist() == expected["s"].fillna("-").tolist()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.none() | st.integers(-4, 4), min_size=1, max_size=30),
    operator=st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    value=st.sampled_from([-5, -1, 0, 0.5, 3, 5]),
    group=st.integers(1, 7),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_row_groups_are_passed_over_only_where_no_row_of_them_is_wanted(
    values: list[int | None],
    operator: str,
    value: float,
    group: int,
    cut: tuple[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("w")
    table = pa.table({"v": pa.array(values, pa.int64()), "row": list(range(len(values)))})
    pq.write_table(table, folder / "f.parquet", row_group_size=group)
    start, stop = sorted(cut)
    said = {"==": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}

    source = plan(folder / "f.parquet", folder, [("v", operator, value)], columns=("row",))
    found = load(source.slice(start, stop))

    wanted = [
        row
        for row, v in enumerate(values)
        if start <= row < stop and v is not None and getattr(float(v), said[operator])(float(value))
    ]
    assert found["row"].to_pylist() == wanted


def test_row_groups_that_hold_no_wanted_row_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"month": np.repeat(np.arange(1, 13), 10), "x": np.arange(120)})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=10)
    decoded: list[int] = []
    decode = opened.ParquetFile._decode

    def counted(self: Any, first: int, count: int, columns: Any) -> pa.Table:
        decoded.extend(range(first, first + count))
        return decode(self, first, count, columns)

    monkeypatch.setattr(opened.ParquetFile, "_decode", counted)
    source = plan(tmp_path / "f.parquet", tmp_path, [("month", ">=", 6), ("month", "<", 8)], columns=("x",))

    found = load(source.slice(0, 120))

    assert decoded == [5, 6]
    assert found["x"].to_pylist() == list(range(50, 70))
    assert found.column_names[0] == "x"
    assert "month" not in found.column_names


def test_columns_that_only_conditions_name_are_not_passed_on(tmp_path: Path) -> None:
    for kind in ("frame", "polars", "parquet", "arrow", "csv"):
        source = plan(written(kind, tmp_path), tmp_path, [("n", "==", 3)], columns=("x",))
        assert list(rows(source).columns) == ["x"]
        assert to_frame(load(source.slice(0, 100)), "polars").columns == ["x"]


def test_groups_are_whole_before_their_rows_are_chosen(tmp_path: Path) -> None:
    source = plan(FRAME, tmp_path, [("x", "<", 5)], columns=("x", "n"), split=by_group("n"))

    assert source.group_starts is not None
    first = rows(source, int(source.group_starts[1]), int(source.group_starts[2]))
    assert first.index.tolist() == FRAME[(FRAME.n == 1) & (FRAME.x < 5)].index.tolist()


def test_a_plan_that_was_saved_keeps_its_conditions(tmp_path: Path) -> None:
    source = plan(FRAME, tmp_path, [("t", "<", dt.datetime(2024, 1, 9)), ("n", "in", [1, 2])], columns=("s",))
    source.save(str(tmp_path / "plan.arrow"))

    again = Source.read(str(tmp_path / "plan.arrow"))

    assert again.slice(0, 100) == source.slice(0, 100)
    pd.testing.assert_frame_equal(rows(again), rows(source))


@pytest.mark.parametrize("kind", ["frame", "parquet", "csv"])
def test_conditions_that_cannot_be_told_are_refused_before_anything_runs(kind: str, tmp_path: Path) -> None:
    data = written(kind, tmp_path)

    with pytest.raises(InputError, match=r"no column 'month'"):
        plan(data, tmp_path, [("month", "==", 1)])
    with pytest.raises(InputError, match=r"\('n', '<', 'six'\) cannot be told: the column is int64"):
        plan(data, tmp_path, [("n", "<", "six")])
    with pytest.raises(InputError, match="cannot be told"):
        plan(data, tmp_path, [("s", ">", 3)])
