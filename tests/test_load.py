"""From references to tables and frames, and from frames to tables."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile

from batchrun.data import files, opened
from batchrun.data import load as loading
from batchrun.data.load import load, load_frame, preload, write_table
from batchrun.data.opening import open_source
from batchrun.data.table import Inline, Part, Slice, Stored, decode, encode, to_frame, to_table
from batchrun.errors import InputError, ResultError, StoreError
from batchrun.split import by_rows


def planned(path: Path, **options: Any) -> Any:
    return open_source(
        str(path),
        columns=options.get("columns"),
        split=by_rows(5),
        spool="",
        regroup=lambda *_: pytest.fail("nothing is grouped"),
    )


# References


def test_a_table_travels_inline_and_through_a_file(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1, 2], "c": pd.Categorical(["a", None])}, index=pd.RangeIndex(4, 8, 2))
    table = to_table(frame, owner="stage `s`")

    stored = write_table(table, str(tmp_path / "new" / "folder" / "r.arrow"))

    assert (stored.rows, stored.nbytes) == (2, table.nbytes)
    for ref in (Inline(encode(table)), stored):
        pd.testing.assert_frame_equal(to_frame(load(ref), "pandas"), frame)


def test_a_table_without_rows_or_columns_keeps_what_it_has(tmp_path: Path) -> None:
    none = to_table(None, owner="stage `s`")
    empty = to_table(pd.DataFrame({"c": pd.Categorical([], categories=["a"])}), owner="stage `s`")

    for table in (none, empty):
        back = load(write_table(table, str(tmp_path / "t.arrow")))
        assert back.schema.equals(table.schema)
        assert decode(encode(table)).schema.equals(table.schema)
    assert to_frame(decode(encode(empty)), "pandas")["c"].dtype.categories.tolist() == ["a"]


def test_a_local_arrow_file_is_mapped_not_copied(tmp_path: Path) -> None:
    stored = write_table(pa.table({"x": np.zeros(1_000_000)}), str(tmp_path / "t.arrow"))
    before = pa.total_allocated_bytes()

    table = load(stored)

    assert table.num_rows == 1_000_000
    assert pa.total_allocated_bytes() - before < 100_000


def test_a_file_that_changed_is_opened_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "t.arrow")
    assert load(write_table(pa.table({"x": [1]}), path))["x"].to_pylist() == [1]
    assert load(write_table(pa.table({"x": [1, 2]}), path))["x"].to_pylist() == [1, 2]


def test_small_slices_of_a_large_row_group_decode_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.close_files()
    pq.write_table(pa.table({"x": np.arange(1000), "y": np.arange(1000)}), tmp_path / "f.parquet")
    source = planned(tmp_path / "f.parquet", columns=("x",))
    decodes: list[Any] = []
    decode_groups = opened.ParquetFile._decode

    def counted(self: Any, *arguments: Any) -> Any:
        decodes.append(arguments)
        return decode_groups(self, *arguments)

    monkeypatch.setattr(opened.ParquetFile, "_decode", counted)
    values = [
        value
        for start in range(0, 1000, 100)
        for value in load(source.slice(start, start + 100))["x"].to_pylist()
    ]

    assert values == list(range(1000))
    assert decodes == [(0, 1, ["x"])]


def test_threads_may_load_from_one_file_at_once(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(20_000)})
    with pa.ipc.new_file(tmp_path / "f.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    source = planned(tmp_path / "f.arrow")
    sums: list[int] = []

    def work(first: int) -> None:
        total = sum(
            int(load(source.slice(start, start + 130))["x"].to_numpy().sum())
            for start in range(first, 20_000, 520)
        )
        sums.append(total)

    threads = [threading.Thread(target=work, args=(130 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(sums) == sum(range(20_000))


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that were decoded, in order."""
    opened.close_files()
    found: list[int] = []
    decode_groups = opened.ParquetFile._decode

    def counted(self: Any, first: int, count: int, columns: Any) -> pa.Table:
        found.extend(range(first, first + count))
        return decode_groups(self, first, count, columns)

    monkeypatch.setattr(opened.ParquetFile, "_decode", counted)
    return found


def test_a_slice_that_was_read_ahead_is_not_read_again(tmp_path: Path, decodes: list[int]) -> None:
    pq.write_table(pa.table({"x": np.arange(1000)}), tmp_path / "f.parquet", row_group_size=100)
    source = planned(tmp_path / "f.parquet")

    for number in range(3):
        preload(source.slice(100 * number, 100 * number + 100), "arrow")
    preload(source.slice(200, 300), "arrow")
    assert decodes == [0, 1, 2]

    assert load_frame(source.slice(200, 300), "arrow")["x"].to_pylist() == list(range(200, 300))
    assert load_frame(source.slice(100, 200), "arrow")["x"].to_pylist() == list(range(100, 200))
    assert decodes == [0, 1, 2]
    assert load_frame(source.slice(0, 100), "arrow").num_rows == 100
    assert decodes == [0, 1, 2, 0], "two frames are kept, no more"
    assert load_frame(source.slice(200, 300), "arrow").num_rows == 100
    assert decodes == [0, 1, 2, 0, 2], "a frame is given once"


def test_a_load_waits_for_a_slice_that_is_being_read_ahead(
    tmp_path: Path, decodes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"x": np.arange(10)}), tmp_path / "f.parquet")
    ref = planned(tmp_path / "f.parquet").slice(0, 10)
    begun, go_on = threading.Event(), threading.Event()
    read = loading._read_parquet

    def slowly(*arguments: Any) -> pa.Table:
        begun.set()
        assert go_on.wait(30)
        return read(*arguments)

    monkeypatch.setattr(loading, "_read_parquet", slowly)
    ahead = threading.Thread(target=preload, args=(ref, "arrow"))
    ahead.start()
    assert begun.wait(30)
    threading.Timer(0.05, go_on.set).start()

    assert load_frame(ref, "arrow")["x"].to_pylist() == list(range(10))
    ahead.join()
    assert decodes == [0]


def test_what_goes_wrong_while_reading_ahead_is_told_by_the_load(tmp_path: Path) -> None:
    gone = Slice("parquet", (Part(str(tmp_path / "gone"), 0, 1, 0, 1),), None, 0, 1)

    preload(gone, "arrow")

    with pytest.raises(InputError, match="gone cannot be read"):
        load_frame(gone, "arrow")


def test_large_slices_and_mapped_files_are_not_read_ahead(
    tmp_path: Path, decodes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"x": np.arange(1000)}), tmp_path / "f.parquet")
    monkeypatch.setattr(loading, "_LARGEST_AHEAD", 4000)

    preload(planned(tmp_path / "f.parquet").slice(0, 1000), "arrow")

    assert not decodes
    with pa.ipc.new_file(tmp_path / "f.arrow", pa.schema([("x", pa.int64())])) as writer:
        writer.write_table(pa.table({"x": np.arange(10)}))
    preload(planned(tmp_path / "f.arrow").slice(0, 10), "arrow")
    assert not loading._ahead


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_of_a_remote_file_only_the_wanted_ranges_are_fetched(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(1)
    table = pa.table({f"c{number}": chance.random(80_000) for number in range(20)})
    url = f"memory://ranges-{kind}/f.{kind}"
    with fsspec.open(url, "wb") as file:
        if kind == "parquet":
            pq.write_table(table, file, row_group_size=10_000, use_dictionary=False)
        else:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table, max_chunksize=10_000)
    fetched: list[int] = []
    read = MemoryFile.read

    def counted(self: Any, *arguments: Any) -> bytes:
        data: bytes = read(self, *arguments)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(MemoryFile, "read", counted)
    opened.close_files()
    source = open_source(
        url, columns=("c3", "c4", "c5"), split=by_rows(5), spool="", regroup=lambda *_: pytest.fail("grouped")
    )
    fetched.clear()

    found = load(source.slice(20_000, 40_000))

    assert found["c4"].to_pylist() == table["c4"].slice(20_000, 20_000).to_pylist()
    wanted = 3 * 20_000 * 8
    assert wanted <= sum(fetched) < 1.2 * wanted
    if kind == "parquet":
        assert len(fetched) <= 2, "neighbouring columns are fetched in one go"
    fsspec.filesystem("memory").rm(f"/ranges-{kind}", recursive=True)


def test_an_input_that_went_away_is_an_input_error(tmp_path: Path) -> None:
    for kind in ("parquet", "arrow"):
        gone = Slice(kind, (Part(str(tmp_path / "gone"), 0, 1, 0, 1),), None, 0, 1)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="gone cannot be read"):
            load(gone)


def test_a_stored_table_that_went_away_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone cannot be read"):
        load(Stored(str(tmp_path / "gone"), 1, 1))


# Frames for stages


@pytest.mark.parametrize("column", ["x", "c", "t", "n", "s", "b", "p", "i", "d"])
def test_a_pandas_frame_may_be_changed_in_place(column: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "x": [1.0, 2.0, 3.0],
            "c": pd.Categorical(["a", "b", "a"]),
            "t": pd.date_range("2024-01-01", periods=3, tz="UTC"),
            "n": pd.array([1, None, 3], dtype="Int64"),
            "s": ["u", "v", "w"],
            "b": pd.array([True, None, False], dtype="boolean"),
            "p": pd.period_range("2024-01", periods=3, freq="M"),
            "i": pd.interval_range(0.0, 3.0),
            "d": pd.to_timedelta([1, 2, 3], unit="s"),
        }
    )[[column]]
    stored = write_table(to_table(frame, owner="the input"), str(tmp_path / "t.arrow"))

    got = to_frame(load(stored), "pandas")
    got.loc[got.index[0], column] = got[column].iloc[2]
    got.iloc[1, 0] = got[column].iloc[2]

    expected = frame.iloc[[2, 2, 2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(got, expected)
    pd.testing.assert_frame_equal(to_frame(load(stored), "pandas"), frame)


def test_a_pandas_index_is_a_column_in_other_frames_only_if_it_has_a_name() -> None:
    named = to_table(pd.DataFrame({"x": [1]}, index=pd.Index(["a"], name="key")), owner="the input")
    unnamed = to_table(pd.DataFrame({"x": [1]}, index=["a"]), owner="the input")

    assert to_frame(named, "polars").columns == ["x", "key"]
    assert to_frame(unnamed, "polars").columns == ["x"]
    assert to_frame(unnamed, "arrow").column_names == ["x"]


def test_polars_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "polars", None)

    with pytest.raises(ResultError, match=r"pip install 'batchrun\[polars\]'"):
        to_frame(pa.table({"x": [1]}), "polars")


# What stages give back


def test_frames_of_every_kind_become_tables() -> None:
    expected = {"x": [1, 2]}
    for frame in (
        pd.DataFrame(expected),
        pl.DataFrame(expected),
        pa.table(expected),
        pa.RecordBatch.from_pydict(expected),
    ):
        assert to_table(frame, owner="stage `s`").to_pydict() == expected
    assert to_table(None, owner="stage `s`").num_columns == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.5, "stage `s` returned float, which is not a table"),
        ([1], r"returned list.*pd\.DataFrame"),
        ({"a": [1]}, r"returned dict.*pd\.DataFrame"),
        (pd.Series([1]), r"Series.*\.to_frame\(\)"),
        (pl.Series([1]), r"Series.*\.to_frame\(\)"),
        (pl.LazyFrame({"a": [1]}), r"LazyFrame.*\.collect\(\)"),
        (np.zeros((2, 2)), r"numpy\.ndarray"),
    ],
)
def test_what_is_no_table_is_refused_with_the_way_to_make_one(value: Any, words: str) -> None:
    with pytest.raises(ResultError, match=words):
        to_table(value, owner="stage `s`")


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (
            pd.DataFrame({"a": [1, "x"]}),
            r"stage `s` has a column 'a' of mixed types \(int, str\).*astype\(str\)",
        ),
        (pd.DataFrame({"a": [object()]}), "column 'a' of Python objects"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns named 'a'"),
        (pa.table([[1], [2]], names=["a", "a"]), "two columns named 'a'"),
        (pd.DataFrame({"a": [1j]}), "column 'a'"),
        (pd.DataFrame({"a": [2**70]}), "column 'a'"),
        (pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}), "column 'a' of Python objects"),
    ],
)
def test_a_frame_that_cannot_be_stored_names_the_column(frame: Any, words: str) -> None:
    with pytest.raises(ResultError, match=words):
        to_table(frame, owner="stage `s`")


# Files


def test_an_error_while_writing_leaves_neither_file_nor_trace(tmp_path: Path) -> None:
    path = tmp_path / "r.bin"
    files.write_bytes(str(path), b"before")

    def write_half() -> None:
        with files.write_atomically(str(path)) as file:
            file.write(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()

    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_a_disk_that_refuses_is_a_store_error_with_advice(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)

    with pytest.raises(StoreError, match=rf"r\.arrow cannot be written: {words}"):
        write_table(pa.table({"x": [1]}), str(tmp_path / "r.arrow"))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_full_disk_is_recognized(tmp_path: Path) -> None:
    os.symlink("/dev/full", tmp_path / "full")

    def write() -> None:
        with files._explained(str(tmp_path / "full"), "written"), open(tmp_path / "full", "wb") as file:
            file.write(b"x")

    with pytest.raises(StoreError, match="the disk is full"):
        write()


@pytest.mark.parametrize("root", ["local", "memory://files-test"])
def test_files_are_handled_alike_by_path_and_by_url(root: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "files") if root == "local" else root
    path = files.join(folder, "a", "b.bin")

    files.write_bytes(path, b"one")
    files.write_bytes(path, b"two")

    assert files.exists(path)
    assert files.read_bytes(path) == b"two"
    assert files.stamp(path).startswith("3 ")
    files.remove(path)
    files.remove(path)
    assert not files.exists(path)
    files.write_bytes(path, b"three")
    files.remove_folder(folder)
    files.remove_folder(folder)
    assert not files.exists(path)
    with pytest.raises(StoreError, match="it is not there"):
        files.read_bytes(path)


def test_file_urls_are_local_paths(tmp_path: Path) -> None:
    files.write_bytes(f"file://{tmp_path}/x", b"1")

    assert (tmp_path / "x").read_bytes() == b"1"
    assert files.join(f"file://{tmp_path}", "x") == str(tmp_path / "x")


def test_a_url_of_an_unknown_protocol_says_so() -> None:
    with pytest.raises(StoreError, match="nosuch://x cannot be opened"):
        files.read_bytes("nosuch://x")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts mapped pages by /proc")
def test_a_slice_that_is_let_go_takes_its_mapped_pages_along(tmp_path):
    def resident() -> int:
        return psutil.Process().memory_info().rss

    frame = pd.DataFrame({f"c{number}": np.arange(2_000_000, dtype="float64") for number in range(8)})
    source = open_source(
        frame, columns=None, split=by_rows(1), spool=str(tmp_path), regroup=None, in_memory_limit=2**40
    )
    del frame
    before = resident()

    for start in range(0, source.rows, 100_000):
        table = load(source.slice(start, start + 100_000))
        assert sum(float(pc.sum(column).as_py()) for column in table.columns) > 0
        del table

    assert resident() - before < 40 * 2**20 < source.rows * source.bytes_per_row
