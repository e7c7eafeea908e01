"""Any input, planned: frames and files come out of a source as they are."""

from __future__ import annotations

import datetime as dt
import gzip
import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.data import csv_spool, spool
from batchrun.data.load import load
from batchrun.data.opening import open_source
from batchrun.data.source import Source
from batchrun.data.table import Slice, to_frame
from batchrun.errors import InputError, StoreError
from batchrun.split import Split, by_file, by_group, by_rows


def no_regroup(*arguments: Any) -> Source:
    raise AssertionError("the workers were asked to regroup a small input")


def plan(
    data: Any, folder: Path | str, *, columns: tuple[str, ...] | None = None, split: Split | None = None
) -> Source:
    spool_folder = folder if isinstance(folder, str) else str(folder / f"spool-{uuid.uuid4().hex}")
    return open_source(
        data, columns=columns, split=split or by_rows(10), spool=spool_folder, regroup=no_regroup
    )


def rows(source: Source, start: int = 0, stop: int = 10**9) -> pd.DataFrame:
    return to_frame(load(source.slice(start, stop)), "pandas")


# Frames in memory

FRAME = pd.DataFrame(
    {
        "number": [1.5, None, 3.0, -0.0, 5.0, 6.0],
        "whole": [1, 2, 3, 4, 5, 6],
        "text": ["a", None, "", "ü", "a", "b"],
        "flag": [True, False, True, True, False, False],
        "kind": pd.Categorical(["x", "y", None, "x", "x", "y"], categories=["z", "y", "x"], ordered=True),
        "when": pd.date_range("2024-03-30", periods=6, freq="12h", tz="Europe/Berlin"),
        "naive": pd.date_range("2024-03-30", periods=6).as_unit("ns"),
        "nullable": pd.array([1, None, 3, 4, None, 6], dtype="Int64"),
        "maybe": pd.array([True, None, False, True, None, True], dtype="boolean"),
        "span": pd.to_timedelta([1, 2, None, 4, 5, 6], unit="s"),
        "month": pd.period_range("2024-01", periods=6, freq="M"),
        "day": [dt.date(2024, 1, day) for day in range(1, 7)],
        "object_text": pd.Series(["a", None, "c", "d", "e", "f"], dtype=object),
        "object_number": pd.Series([1, None, 3, 4, 5, 6], dtype=object),
        "pair": [{"a": 1, "b": "x"}, None, {"a": 2, "b": "y"}, {"a": 3, "b": None}, None, {"a": 4, "b": "z"}],
    }
)
INDEXES = {
    "default": None,
    "range": pd.RangeIndex(100, 88, -2, name="row"),
    "named": pd.Index(list("fedcba"), name="key"),
    "duplicate": pd.Index([7, 7, 8, 8, 7, 9]),
    "dates": pd.date_range("2024-01-01", periods=6, tz="UTC", name="day_of"),
    "multi": pd.MultiIndex.from_product([["a", "b"], [1, 2, 3]], names=["letter", None]),
    "categorical": pd.CategoricalIndex(list("abcabc")),
}


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(("start", "stop"), [(0, 6), (2, 5), (3, 3), (5, 6)])
def test_a_slice_of_a_pandas_frame_is_its_iloc(index: str, start: int, stop: int, tmp_path: Path) -> None:
    frame = FRAME if INDEXES[index] is None else FRAME.set_axis(INDEXES[index])

    source = plan(frame, tmp_path)

    pd.testing.assert_frame_equal(rows(source, start, stop), frame.iloc[start:stop], check_freq=False)
    assert source.rows == 6


scalars = {
    "float64": st.floats(allow_nan=True, width=64),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "Int64": st.none() | st.integers(-(2**62), 2**62),
    "bool": st.booleans(),
    "str": st.none() | st.text(max_size=5),
    "category": st.none() | st.sampled_from(["a", "b", "c"]),
    "datetime64[ns]": st.none() | st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2100, 1, 1)),
    "datetime64[us, UTC]": st.none() | st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2100, 1, 1)),
    "string[pyarrow]": st.none() | st.text(max_size=3),
}


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    length = draw(st.integers(0, 12))
    columns = {}
    for number, dtype in enumerate(draw(st.lists(st.sampled_from(sorted(scalars)), max_size=4))):
        values = draw(st.lists(scalars[dtype], min_size=length, max_size=length))
        columns[f"c{number}"] = pd.Series(values, dtype=dtype)
    index = draw(st.sampled_from(["none", "range", "labels"]) if length else st.just("none"))
    frame = pd.DataFrame(columns, index=pd.RangeIndex(length))
    if index == "range":
        frame.index = pd.RangeIndex(5, 5 + 3 * length, 3)
    elif index == "labels":
        frame.index = pd.Index(draw(st.lists(st.integers(0, 3), min_size=length, max_size=length)), name="id")
    return frame


@settings(max_examples=80, deadline=None)
@given(
    frame=frames(),
    cut=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    batch=st.sampled_from([1, 64, 10**6]),
)
def test_any_slice_of_any_frame_is_its_iloc(
    frame: pd.DataFrame, cut: tuple[int, int], batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start, stop = sorted(cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "BLOCK_BYTES", batch)
        patch.setattr(spool, "BATCH_BYTES", batch)
        source = plan(frame, tmp_path_factory.mktemp("any"))

    pd.testing.assert_frame_equal(rows(source, start, stop), frame.iloc[start:stop])


def test_lists_come_back_as_arrays_of_the_same_values(tmp_path: Path) -> None:
    frame = pd.DataFrame({"stops": [[1, 2], [], None, [3]]})

    found = rows(plan(frame, tmp_path), 1, 4)["stops"].tolist()

    assert [None if value is None else list(value) for value in found] == [[], None, [3]]


def test_only_the_wanted_columns_and_the_index_are_spooled(tmp_path: Path) -> None:
    frame = FRAME.set_axis(INDEXES["named"])

    source = plan(frame, tmp_path, columns=("whole", "number"))

    assert source.schema.names == ["whole", "number", "key"]
    pd.testing.assert_frame_equal(rows(source, 1, 4), frame[["whole", "number"]].iloc[1:4])


def test_columns_named_by_numbers_keep_their_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.arange(6.0).reshape(2, 3))

    pd.testing.assert_frame_equal(rows(plan(frame, tmp_path)), frame)
    pd.testing.assert_frame_equal(rows(plan(frame, tmp_path, columns=("2", "0"))), frame[[2, 0]])


def test_a_frame_without_columns_keeps_its_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame(index=pd.RangeIndex(5))

    pd.testing.assert_frame_equal(rows(plan(frame, tmp_path), 1, 4), frame.iloc[1:4])
    assert len(rows(plan(FRAME, tmp_path, columns=()))) == 6


def test_polars_and_arrow_frames_come_back_as_their_kind(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"a": [1, 2, None], "s": ["x", None, "z"], "c": pl.Series(["u", "v", "u"], dtype=pl.Categorical)}
    )

    source = plan(frame, tmp_path, columns=("a", "s", "c"))
    assert to_frame(load(source.slice(1, 3)), "polars").equals(frame.slice(1, 2))

    table = pa.table({"a": [1, 2], "s": ["x", "y"]})
    assert to_frame(load(plan(table, tmp_path).slice(0, 2)), "arrow").equals(table)
    batch = table.to_batches()[0]
    assert to_frame(load(plan(batch, tmp_path, columns=("s",)).slice(1, 2)), "arrow").to_pydict() == {
        "s": ["y"]
    }


def test_the_plan_of_a_frame_knows_its_width_in_bytes(tmp_path: Path) -> None:
    source = plan(pd.DataFrame({"a": np.zeros(1000), "b": np.zeros(1000, np.int32)}), tmp_path)

    assert source.bytes_per_row == pytest.approx(12, rel=0.1)
    assert source.description == "DataFrame"


def test_equal_frames_have_one_fingerprint_and_others_another(tmp_path: Path) -> None:
    changed = FRAME.assign(whole=[1, 2, 3, 4, 5, 7])

    prints = [plan(frame, tmp_path).fingerprint for frame in (FRAME, FRAME.copy(), changed)]

    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns named 'a'"),
        (pd.DataFrame({"a": [1, "x"]}), "column 'a' of mixed types"),
        (pd.DataFrame({"a": [1], 2: [3]}), "column named 2"),
        (pd.DataFrame({"a": [object()]}), "column 'a' of Python objects"),
        ([1, 2], "the input is list"),
        (pd.Series([1]), "the input is Series"),
        (None, "the input is NoneType"),
    ],
)
def test_what_cannot_be_an_input_is_refused_before_anything_is_written(
    frame: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        plan(frame, tmp_path)

    assert not list(tmp_path.rglob("*.*"))


def test_a_missing_column_is_named_with_its_near_miss(tmp_path: Path) -> None:
    for data in (FRAME, pl.DataFrame({"whole": [1]}), pa.table({"whole": [1]})):
        with pytest.raises(InputError, match=r"no column 'whoel'. Did you mean `whole`\?"):
            plan(data, tmp_path, columns=("whoel",))


def test_nothing_is_left_behind_when_the_disk_refuses(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")

    with pytest.raises(StoreError, match="spool"):
        open_source(FRAME, columns=None, split=by_rows(1), spool=str(tmp_path / "spool"), regroup=no_regroup)

    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


# Parquet and Arrow files


@pytest.fixture
def flights() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "carrier": rng.choice(["AA", "UA", "DL"], 1000),
            "month": rng.integers(1, 13, 1000),
            "delay": np.where(rng.random(1000) < 0.1, np.nan, rng.normal(size=1000)),
            "kind": pd.Categorical(rng.choice(["x", "y"], 1000)),
        }
    )


@pytest.mark.parametrize(("start", "stop"), [(0, 1000), (0, 1), (99, 101), (250, 777), (999, 1000)])
def test_a_slice_of_a_parquet_file_is_that_of_pandas(
    flights: pd.DataFrame, start: int, stop: int, tmp_path: Path
) -> None:
    path = tmp_path / "flights.parquet"
    flights.to_parquet(path, row_group_size=100)

    source = plan(path, tmp_path)

    pd.testing.assert_frame_equal(rows(source, start, stop), pd.read_parquet(path).iloc[start:stop])
    assert source.description == "flights.parquet"
    assert not list(tmp_path.glob("spool-*")), "a Parquet file stays where it is"


def test_text_that_an_older_pandas_wrote_is_text(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"s": pd.Series(["a", None, "b"], dtype=object), "n": pd.Series([1, None, 3], dtype=object)}
    )
    frame.to_parquet(tmp_path / "f.parquet")

    pd.testing.assert_frame_equal(
        rows(plan(tmp_path / "f.parquet", tmp_path)), pd.read_parquet(tmp_path / "f.parquet")
    )


def test_a_slice_reads_only_the_row_groups_it_needs(flights: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "flights.parquet"
    flights.to_parquet(path, row_group_size=100)

    (part,) = plan(str(path), tmp_path).slice(250, 420).parts

    assert (part.first_block, part.blocks, part.skip, part.rows) == (2, 3, 50, 170)


@pytest.mark.parametrize("index", ["key", None, "range"])
def test_a_pandas_index_survives_a_parquet_file(
    flights: pd.DataFrame, index: str | None, tmp_path: Path
) -> None:
    frame = flights.set_axis(
        pd.RangeIndex(5, 2005, 2) if index == "range" else pd.Index(np.arange(1000) // 2, name=index)
    )
    frame.to_parquet(tmp_path / "f.parquet", row_group_size=300)

    source = plan(tmp_path / "f.parquet", tmp_path, columns=("delay",))

    pd.testing.assert_frame_equal(rows(source, 200, 900), frame[["delay"]].iloc[200:900])


def test_a_folder_is_one_input_sorted_by_path(flights: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "flights"
    for name, low, high in [("b/2.parquet", 300, 1000), ("a/1.parquet", 0, 300)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        flights.iloc[low:high].to_parquet(folder / name)
    for skipped in ("_SUCCESS", "_metadata", ".a.parquet.crc", "b/.hidden.parquet"):
        (folder / skipped).write_bytes(b"")

    source = plan(folder, tmp_path, split=by_file())

    assert source.file_starts is not None
    assert source.file_starts.tolist() == [0, 300]
    np.testing.assert_array_equal(rows(source)["month"], flights["month"])
    assert plan(str(folder / "*" / "2.parquet"), tmp_path).rows == 700
    assert plan(f"file://{folder}", tmp_path).rows == 1000


def test_row_numbers_go_on_from_file_to_file(tmp_path: Path) -> None:
    for number in range(3):
        pq.write_table(pa.table({"x": [number, number]}), tmp_path / f"{number}.parquet")

    assert rows(plan(tmp_path, tmp_path), 1, 5).index.tolist() == [1, 2, 3, 4]


def test_files_of_different_types_are_cast_to_a_common_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2], "s": ["a", "b"], "extra": [1, 1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"s": pa.array(["c"]).dictionary_encode(), "x": [2.5]}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"s": pa.nulls(1), "x": pa.array([7], pa.int8())}), tmp_path / "3.parquet")

    source = plan(tmp_path, tmp_path, columns=("x", "s"))

    assert load(source.slice(0, 9)).to_pydict() == {"x": [1.0, 2.0, 2.5, 7.0], "s": ["a", "b", "c", None]}
    assert (
        load(source.slice(0, 1)).schema.types == load(source.slice(3, 4)).schema.types == source.schema.types
    )


def test_a_column_that_one_file_lacks_is_refused_naming_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1], "y": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "2.parquet")

    with pytest.raises(InputError, match=r"2\.parquet has no column 'y'"):
        plan(tmp_path, tmp_path)
    assert plan(tmp_path, tmp_path, columns=("x",)).rows == 2

    (tmp_path / "2.parquet").rename(tmp_path / "0.parquet")
    with pytest.raises(InputError, match=r"1\.parquet has a column 'y' that .*0\.parquet does not have"):
        plan(tmp_path, tmp_path)


def test_files_whose_types_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "2.parquet")

    with pytest.raises(InputError, match=r"'x' is string in .*2\.parquet and int64 before"):
        plan(tmp_path, tmp_path)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_arrow_files_are_planned_and_read_where_they_are(
    flights: pd.DataFrame, compression: str | None, tmp_path: Path
) -> None:
    table = pa.Table.from_pandas(flights)
    path = tmp_path / "flights.arrow"
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=128)

    source = plan(path, tmp_path, columns=("delay", "carrier"))

    pd.testing.assert_frame_equal(rows(source, 100, 500), flights[["delay", "carrier"]].iloc[100:500])


def test_feather_files_of_pandas_are_read(flights: pd.DataFrame, tmp_path: Path) -> None:
    flights.to_feather(tmp_path / "flights.feather")

    pd.testing.assert_frame_equal(
        rows(plan(tmp_path / "flights.feather", tmp_path), 5, 50), flights.iloc[5:50]
    )


def test_files_without_rows_are_planned(tmp_path: Path) -> None:
    empty = pd.DataFrame({"x": pd.Series([], dtype="int64")})
    empty.to_parquet(tmp_path / "1.parquet")

    assert plan(tmp_path, tmp_path).rows == 0
    pd.testing.assert_frame_equal(rows(plan(tmp_path, tmp_path)), empty)

    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "2.parquet")
    source = plan(tmp_path, tmp_path, split=by_file())
    assert source.rows == 1
    assert source.file_starts is not None
    assert source.file_starts.tolist() == [0, 0]
    pd.testing.assert_frame_equal(rows(plan(empty, tmp_path)), empty)


def test_an_estimate_of_text_width_comes_from_the_metadata(tmp_path: Path) -> None:
    long = pa.table({"s": ["x" * 500] * 100, "n": list(range(100))})
    pq.write_table(long, tmp_path / "long.parquet")

    source = plan(tmp_path / "long.parquet", tmp_path)

    assert source.bytes_per_row == pytest.approx(long.nbytes / 100, rel=0.1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.parquet", None, "there is no file"),
        ("flight.parquet", None, r"Did you mean `flights\.parquet`\?"),
        ("none/*.parquet", None, "no file matches"),
        ("empty/", None, "holds no data files"),
        ("broken.parquet", b"PAR1 this is not Parquet PAR1", r"broken\.parquet cannot be read"),
        ("short.parquet", b"", r"short\.parquet cannot be read"),
        ("broken.arrow", b"ARROW1 no", r"broken\.arrow cannot be read"),
        ("notes.txt", b"hello", "no known format"),
        ("no_ending", b"", "no known format"),
    ],
)
def test_input_that_cannot_be_read_gets_one_clear_error(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "flights.parquet")
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError, match=words):
        plan(str(tmp_path / name), tmp_path)


def test_a_folder_of_several_formats_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("x\n1\n")

    with pytest.raises(InputError, match=r"several formats.*\*\.parquet"):
        plan(tmp_path, tmp_path)


def test_a_file_without_an_ending_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "part-0")

    assert plan(tmp_path / "part-0", tmp_path).rows == 1


@pytest.fixture
def memory_url() -> Iterator[str]:
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fs = fsspec.filesystem("memory")
    if fs.exists(url):
        fs.rm(url, recursive=True)


def test_files_behind_a_url_are_planned_and_read(
    flights: pd.DataFrame, memory_url: str, tmp_path: Path
) -> None:
    flights.iloc[:600].to_parquet(f"{memory_url}/in/1.parquet", row_group_size=100)
    flights.iloc[600:].to_parquet(f"{memory_url}/in/2.parquet")

    for given_path in (f"{memory_url}/in", f"{memory_url}/in/*.parquet"):
        source = plan(given_path, tmp_path, columns=("month",))
        np.testing.assert_array_equal(rows(source, 550, 700)["month"], flights["month"][550:700])
    assert plan(f"{memory_url}/in/1.parquet", tmp_path).rows == 600
    with pytest.raises(InputError, match="there is no file"):
        plan(f"{memory_url}/in/3.parquet", tmp_path)


def test_a_frame_may_be_spooled_behind_a_url(memory_url: str) -> None:
    pd.testing.assert_frame_equal(rows(plan(FRAME, memory_url), 1, 4), FRAME.iloc[1:4])


# CSV


def test_csv_is_read_as_pandas_reads_it(flights: pd.DataFrame, tmp_path: Path) -> None:
    frame = flights.drop(columns="kind")
    frame.to_csv(tmp_path / "flights.csv", index=False)
    with gzip.open(tmp_path / "flights.csv.gz", "wt") as file:
        frame.to_csv(file, index=False)

    for name in ("flights.csv", "flights.csv.gz"):
        source = plan(tmp_path / name, tmp_path, columns=("delay", "carrier"))
        expected = pd.read_csv(tmp_path / name)[["delay", "carrier"]].iloc[100:300]
        pd.testing.assert_frame_equal(rows(source, 100, 300), expected)
        assert source.description == name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2.5"], [1.0, 2.5]),
        (["1", "x"], ["1", "x"]),
        (["01", "x"], ["01", "x"]),
        (["1.50", "x"], ["1.50", "x"]),
        (["", "7"], [None, 7]),
        (["", "b"], [None, "b"]),
        (["2024-01-01", "2024-01-01 10:30:00"], [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 10, 30)]),
        (["2024-01-01", "later"], ["2024-01-01", "later"]),
        (["true", "3"], ["true", "3"]),
        (["1", 'say "x"\nand y'], ["1", 'say "x"\nand y']),
    ],
)
def test_a_column_that_no_longer_fits_its_first_block_is_widened(
    values: list[str], expected: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_spool, "_BLOCK_BYTES", 128)
    quoted = ['"' + value.replace('"', '""') + '"' if value else "" for value in values]
    lines = [f"{number},{quoted[0]}" for number in range(50)] + [f"50,{quoted[1]}"]
    (tmp_path / "x.csv").write_text("n,v\n" + "\n".join(lines) + "\n")

    table = load(plan(tmp_path / "x.csv", tmp_path).slice(49, 51))

    assert table.to_pydict() == {"n": [49, 50], "v": expected}


def test_a_column_widened_by_a_later_file_keeps_the_text_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_spool, "_BLOCK_BYTES", 64)
    (tmp_path / "1.csv").write_text("v\n007\n")
    (tmp_path / "2.csv").write_text("v\n" + "8\n" * 60 + "nine\n")
    (tmp_path / "3.csv").write_text("v\n10\n")

    source = plan(tmp_path, tmp_path, split=by_file())

    assert source.file_starts is not None
    assert source.file_starts.tolist() == [0, 1, 62]
    assert load(source.slice(0, 2)).to_pydict() == {"v": ["007", "8"]}
    assert load(source.slice(61, 63)).to_pydict() == {"v": ["nine", "10"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a,b\n1\n", "cannot be read as CSV"),
        (b"a,a\n1,2\n", "two columns named 'a'"),
        (b"a\n\xff\xfe\n", "UTF-8"),
    ],
)
def test_csv_that_cannot_be_read_gets_one_clear_error(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(content)

    with pytest.raises(InputError, match=words):
        plan(tmp_path / "x.csv", tmp_path)
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_missing_csv_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("alpha,beta\n1,2\n")

    with pytest.raises(
        InputError, match=r"x\.csv has no column 'alpa'. Did you mean `alpha`\? It has: alpha, beta"
    ):
        plan(tmp_path / "x.csv", tmp_path, columns=("alpa",))


def test_a_csv_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n")

    source = plan(tmp_path / "x.csv", tmp_path)

    assert source.rows == 0
    assert load(source.slice(0, 1)).column_names == ["a", "b"]


# Plans


def test_a_plan_read_back_gives_the_same_slices(flights: pd.DataFrame, tmp_path: Path) -> None:
    flights.to_parquet(tmp_path / "f.parquet", row_group_size=100)
    for data in (tmp_path / "f.parquet", flights.sort_values("carrier")):
        source = plan(data, tmp_path, split=by_group("carrier"))

        source.save(str(tmp_path / "plan.arrow"))
        again = Source.read(str(tmp_path / "plan.arrow"))

        assert again.slice(150, 450) == source.slice(150, 450)
        assert again.fingerprint == source.fingerprint
        assert again.schema.equals(source.schema, check_metadata=True)
        np.testing.assert_array_equal(again.group_starts, source.group_starts)
        np.testing.assert_array_equal(again.group_keys, source.group_keys)
        again.check_unchanged()


def bounds(*edges: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array(edges[:-1]), np.array(edges[1:])


def test_a_chunk_of_groups_is_known_by_their_values_in_any_input(tmp_path: Path) -> None:
    frame = pd.DataFrame({"pit": [7, 7, 8, 9, 9, 9], "kind": list("aabbbb"), "x": range(6)})
    later = pd.DataFrame({"pit": [9, 5, 8, 7], "kind": list("baba"), "x": range(4)})
    frame.to_parquet(tmp_path / "f.parquet", row_group_size=2)

    first = plan(frame, tmp_path, split=by_group("pit", "kind"))
    read = plan(tmp_path / "f.parquet", tmp_path, split=by_group("pit", "kind"))
    second = plan(later, tmp_path, split=by_group("pit", "kind"))

    keys = first.keys(*bounds(0, 2, 3, 6)).tolist()
    assert read.keys(*bounds(0, 2, 3, 6)).tolist() == keys
    assert len({*keys, 0}) == 4
    other = second.keys(*bounds(0, 1, 2, 3, 4)).tolist()
    assert [other[0], other[2], other[3]] == [keys[2], keys[1], keys[0]]
    assert other[1] not in keys
    together = first.keys(*bounds(0, 3, 6)).tolist()
    assert together[1] == keys[2]
    assert together[0] not in keys


def test_a_whole_file_is_known_by_its_path_and_rows_by_the_input(tmp_path: Path) -> None:
    for name, rows_of in [("a", 3), ("b", 5)]:
        pd.DataFrame({"x": range(rows_of)}).to_csv(tmp_path / f"{name}.csv", index=False)
    both = plan(str(tmp_path / "*.csv"), tmp_path, split=by_file())
    (tmp_path / "a.csv").unlink()
    one = plan(str(tmp_path / "*.csv"), tmp_path, split=by_file())

    keys = both.keys(*bounds(0, 3, 8)).tolist()
    assert one.keys(*bounds(0, 5)).tolist() == keys[1:]
    assert both.keys(*bounds(0, 4, 8)).tolist() != keys

    frames = [plan(frame, tmp_path) for frame in (FRAME, FRAME.copy(), FRAME.head(5))]
    found = [source.keys(*bounds(0, 2, 4)).tolist() for source in frames]
    assert found[0] == found[1]
    assert len({*found[0], *found[2]}) == 4


def test_a_file_that_changed_after_planning_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    source = plan(path, tmp_path)
    source.check_unchanged()

    pq.write_table(pa.table({"x": [1, 2]}), path)
    with pytest.raises(InputError, match=r"f\.parquet was changed after the run was planned"):
        source.check_unchanged()

    path.unlink()
    with pytest.raises(InputError, match=r"f\.parquet was removed"):
        source.check_unchanged()


def test_a_slice_of_many_row_groups_is_small_on_the_wire(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"x": np.arange(5000), "y": np.arange(5000)}), path, row_group_size=5)

    piece = plan(path, tmp_path, columns=("x",)).slice(3, 4990)

    assert isinstance(piece, Slice)
    assert len(pickle.dumps(piece)) < 1000
    assert load(pickle.loads(pickle.dumps(piece)))["x"].to_pylist() == list(range(3, 4990))


def test_relative_paths_are_made_absolute_for_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "f.parquet")
    monkeypatch.chdir(tmp_path)

    source = plan("f.parquet", tmp_path)

    assert os.path.isabs(source.files[0])


def test_by_file_of_a_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs files"):
        plan(FRAME, tmp_path, split=by_file())
