"""Results of chunks are collected, kept and read back in input order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.data.load import write_table
from batchrun.data.opened import ArrowFile
from batchrun.data.ordered import read_in_order
from batchrun.data.refs import ResultRef, ResultRefs
from batchrun.data.results import ResultSet
from batchrun.data.segments import SegmentWriter
from batchrun.data.table import Labels, encode, to_table, with_each_labels
from batchrun.errors import ResultError, StoreError


def encoded(frame: Any) -> bytes:
    return encode(to_table(frame, owner="stage `s`"))


def written(folder: Path, frames: dict[int, Any], flush_every: int = 10**9) -> ResultSet:
    writer = SegmentWriter(str(folder), 0)
    refs: dict[int, ResultRef] = {}
    for count, (chunk, frame) in enumerate(frames.items(), 1):
        writer.add(chunk, encoded(frame))
        if count % flush_every == 0:
            refs |= flushed(writer)
    refs |= flushed(writer)
    assert writer.pending == writer.pending_bytes == 0
    return result_set(refs)


def flushed(writer: SegmentWriter) -> dict[int, ResultRef]:
    chunks, refs = writer.flush()
    return {chunk: ref for chunk, ref in zip(chunks.tolist(), refs, strict=True) if ref is not None}


def result_set(refs: dict[int, ResultRef]) -> ResultSet:
    return ResultSet(list(refs), ResultRefs.of(refs.values()))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    flush_every=st.integers(1, 5),
)
def test_results_come_back_in_chunk_order_however_they_came(
    lengths: list[int], order: Any, flush_every: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    edges = np.cumsum([0, *lengths])
    frame = pd.DataFrame({"row": np.arange(edges[-1]), "text": [f"t{k}" for k in range(edges[-1])]})
    pieces = {k: frame.iloc[edges[k] : edges[k + 1]] for k in range(len(lengths))}
    shuffled = list(pieces.items())
    order.shuffle(shuffled)

    results = written(tmp_path_factory.mktemp("r"), dict(shuffled), flush_every)

    pd.testing.assert_frame_equal(results.to_pandas(), frame)
    assert results.rows == len(frame)
    assert [len(part) for part in results.parts("pandas")] == lengths
    assert sorted(results.scan().to_table()["row"].to_pylist()) == frame["row"].tolist()


def test_many_results_lie_in_one_file_with_one_batch_each(tmp_path: Path) -> None:
    writer = SegmentWriter(str(tmp_path / "segments"), 3)
    for chunk in (5, 2, 9):
        writer.add(chunk, encoded(pd.DataFrame({"x": [chunk]})))
    assert writer.pending == 3

    refs = flushed(writer)

    assert {chunk: (ref.first_batch, ref.batches, ref.rows) for chunk, ref in refs.items()} == {
        2: (0, 1, 1),
        5: (1, 1, 1),
        9: (2, 1, 1),
    }
    assert [path.name for path in (tmp_path / "segments").iterdir()] == ["segment-000003.arrow"]
    writer.add(1, encoded(None))
    assert flushed(writer)[1].path.endswith("segment-000004.arrow")
    assert flushed(writer) == {}


def test_results_of_other_schemas_go_to_files_of_their_own(tmp_path: Path) -> None:
    frames = {
        0: pd.DataFrame({"x": [1]}),
        1: pd.DataFrame({"x": [1.5], "y": ["a"]}),
        2: None,
        3: pd.DataFrame({"x": [3]}),
    }

    results = written(tmp_path, frames)

    assert len(list(tmp_path.iterdir())) == 3
    expected = pd.DataFrame({"x": [1.0, 1.5, 3.0], "y": [None, "a", None]}).astype({"y": "str"})
    pd.testing.assert_frame_equal(results.to_pandas(), expected)
    assert results.scan().to_table().sort_by("x").to_pydict() == {
        "x": [1.0, 1.5, 3.0],
        "y": [None, "a", None],
    }


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2], [2.5], [1.0, 2.0, 2.5]),
        ([None], ["a"], [None, "a"]),
        ([True], [None], [True, None]),
        (pd.Categorical(["a", "b"]), pd.Categorical(["c"]), ["a", "b", "c"]),
        (pd.Categorical(["a"]), ["b"], ["a", "b"]),
    ],
)
def test_columns_of_different_types_are_settled(
    first: Any, second: Any, expected: Any, tmp_path: Path
) -> None:
    results = written(tmp_path, {0: pd.DataFrame({"v": first}), 1: pd.DataFrame({"v": second})})

    assert results.to_table()["v"].to_pylist() == expected
    assert results.to_pandas()["v"].astype(object).where(lambda v: v.notna(), None).tolist() == expected
    assert results.scan().to_table()["v"].to_pylist() == expected


def test_types_with_nothing_in_common_are_refused_naming_the_column(tmp_path: Path) -> None:
    results = written(tmp_path, {0: pd.DataFrame({"v": [1]}), 1: pd.DataFrame({"v": ["a"]})})

    for read in (results.to_pandas, results.scan):
        with pytest.raises(
            ResultError, match=r"column 'v' is int64 in the result of one chunk and .*string in"
        ):
            read()


def test_pandas_types_survive(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 3], dtype="Int64"),
            "c": pd.Categorical(["u", "v", None], categories=["v", "u"], ordered=True),
            "t": pd.date_range("2024-01-01", periods=3, tz="Europe/Berlin"),
            "o": pd.Series(["a", None, "b"], dtype=object),
        }
    )

    results = written(tmp_path, {0: frame.iloc[:2], 1: frame.iloc[2:]})

    pd.testing.assert_frame_equal(results.to_pandas(), frame)


def test_nullable_and_plain_numbers_of_different_chunks_are_put_together(tmp_path: Path) -> None:
    one = pd.DataFrame({"v": pd.array([1, None], dtype="Int64")})

    results = written(tmp_path, {0: one, 1: pd.DataFrame({"v": [2.5]})})

    assert results.to_pandas()["v"].tolist()[::2] == [1.0, 2.5]


def test_chunks_with_categories_of_their_own_share_a_file(tmp_path: Path) -> None:
    frames = {k: pd.DataFrame({"c": pd.Categorical([f"k{k}"] * (k + 1)), "k": k}) for k in range(5)}

    results = written(tmp_path, frames)

    assert len(list(tmp_path.iterdir())) == 1
    assert results.to_pandas()["c"].astype(str).tolist() == [f"k{k}" for k in range(5) for _ in range(k + 1)]
    assert results.to_pandas()["c"].dtype == "category"


# The row index


def parts_with(*indexes: Any) -> dict[int, pd.DataFrame]:
    return {k: pd.DataFrame({"x": range(len(index))}, index=index) for k, index in enumerate(indexes)}


@pytest.mark.parametrize(
    ("indexes", "expected"),
    [
        ((pd.RangeIndex(0, 2), pd.RangeIndex(2, 5)), [0, 1, 2, 3, 4]),
        ((pd.RangeIndex(2), pd.RangeIndex(3)), [0, 1, 2, 3, 4]),
        ((pd.RangeIndex(0, 2), pd.RangeIndex(7, 9)), [0, 1, 7, 8]),
        ((pd.RangeIndex(0, 2), pd.Index([5, 3])), [0, 1, 5, 3]),
        ((pd.Index(list("ab")), pd.Index(list("a"))), ["a", "b", "a"]),
    ],
)
def test_labels_that_go_on_are_kept_and_those_that_begin_anew_are_numbered_through(
    indexes: Any, expected: list[Any], tmp_path: Path
) -> None:
    assert written(tmp_path, parts_with(*indexes)).to_pandas().index.tolist() == expected


def test_a_named_index_is_kept_and_is_a_column_of_a_scan(tmp_path: Path) -> None:
    parts = parts_with(pd.Index(["AA", "UA"], name="carrier"), pd.Index(["AA"], name="carrier"))

    results = written(tmp_path, parts)

    pd.testing.assert_frame_equal(results.to_pandas(), pd.concat(parts.values()))
    assert results.scan().schema.names == ["x", "carrier"]


def test_a_scan_leaves_out_an_index_without_a_name(tmp_path: Path) -> None:
    assert written(tmp_path, parts_with(pd.Index(["a"]))).scan().schema.names == ["x"]


def test_different_indexes_become_columns(tmp_path: Path) -> None:
    results = written(tmp_path, parts_with(pd.Index(["AA"], name="carrier"), pd.Index([3], name="month")))

    frame = results.to_pandas().reset_index(drop=True)
    assert set(frame.columns) == {"x", "carrier", "month"}
    assert len(frame) == 2


# Reading


def test_large_results_in_files_of_their_own_are_read_among_the_others(tmp_path: Path) -> None:
    writer = SegmentWriter(str(tmp_path), 0)
    for chunk in (0, 2):
        writer.add(chunk, encoded(pd.DataFrame({"x": [chunk]})))
    refs = flushed(writer)
    large = to_table(pd.DataFrame({"x": [1, 1, 1]}), owner="stage `s`")
    refs[1] = ResultRef.of(write_table(large, str(tmp_path / "chunk-1.arrow")))

    results = result_set(refs)

    assert results.to_pandas()["x"].tolist() == [0, 1, 1, 1, 2]
    assert sorted(results.scan().to_table()["x"].to_pylist()) == [0, 1, 1, 1, 2]


def test_a_chunk_done_again_counts_once_in_a_scan(tmp_path: Path) -> None:
    writer = SegmentWriter(str(tmp_path), 0)
    for chunk in range(3):
        writer.add(chunk, encoded(pd.DataFrame({"x": [chunk]})))
    refs = flushed(writer)
    writer.add(1, encoded(pd.DataFrame({"x": [100.5]})))
    refs |= flushed(writer)

    results = result_set(refs)

    assert results.to_pandas()["x"].tolist() == [0, 100.5, 2]
    assert sorted(results.scan().to_table()["x"].to_pylist()) == [0, 2, 100.5]
    assert results.scan().count_rows() == 3


def test_a_scan_is_lazy_and_filters(tmp_path: Path) -> None:
    frames = {k: pd.DataFrame({"k": [k] * 1000, "x": np.arange(1000)}) for k in range(20)}
    results = written(tmp_path, frames, flush_every=4)
    before = pa.total_allocated_bytes()

    scan = results.scan()

    assert pa.total_allocated_bytes() - before < 100_000
    assert scan.to_table(filter=pa.compute.field("k") == 7, columns=["x"]).num_rows == 1000


def test_results_behind_a_url_are_read_back(tmp_path: Path) -> None:
    folder = f"memory://results-{tmp_path.name}"
    writer = SegmentWriter(folder, 0)
    writer.add(0, encoded(pd.DataFrame({"x": [1, 2]})))
    refs = flushed(writer)

    results = result_set(refs)

    assert results.to_pandas()["x"].tolist() == [1, 2]
    assert results.scan().to_table()["x"].to_pylist() == [1, 2]


def test_parts_are_frames_of_the_kind_asked_for(tmp_path: Path) -> None:
    results = written(tmp_path, {0: pl.DataFrame({"x": [1]}), 1: None, 2: pl.DataFrame({"x": [2]})})

    parts = list(results.parts("polars"))

    assert [part["x"].to_list() for part in parts] == [[1], [2]]
    assert isinstance(next(results.parts("arrow")), pa.Table)


def test_no_results_are_an_empty_table() -> None:
    results = result_set({})

    assert results.to_pandas().shape == (0, 0)
    assert results.scan().count_rows() == 0
    assert list(results.parts("pandas")) == []


def test_results_without_rows_keep_their_columns(tmp_path: Path) -> None:
    results = written(tmp_path, {0: pd.DataFrame({"x": pd.Series([], dtype="int64")}), 1: None})

    assert results.to_pandas().dtypes.to_dict() == {"x": np.dtype("int64")}


def test_a_missing_file_is_a_store_error(tmp_path: Path) -> None:
    results = result_set({0: ResultRef(str(tmp_path / "gone.arrow"), 0, 1, 1, 8)})

    for read in (results.to_pandas, results.scan):
        with pytest.raises(StoreError, match=r"gone\.arrow cannot be read"):
            read()


def test_a_failed_flush_keeps_what_waits(tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    folder.write_text("in the way")
    writer = SegmentWriter(str(folder), 0)
    writer.add(0, encoded(pd.DataFrame({"x": [1]})))

    with pytest.raises(StoreError):
        writer.flush()
    folder.unlink()

    assert writer.pending == 1
    assert flushed(writer)[0].rows == 1


# Packs: results of several chunks one below the other


def packed(folder: Path, packs: list[list[tuple[int, pd.DataFrame]]], *, each: bool) -> ResultSet:
    """The results of these packs, written by twos; with *each*, labels begin anew with every chunk."""
    writer = SegmentWriter(str(folder), 0)
    found: list[tuple[np.ndarray, ResultRefs]] = []
    for number, pack in enumerate(packs):
        table = to_table(pd.concat([frame for _, frame in pack], ignore_index=each), owner="stage `s`")
        if each:
            table = with_each_labels(table, Labels(0))
        rows = np.array([len(frame) for _, frame in pack])
        writer.add_pack(np.array([chunk for chunk, _ in pack]), rows, encode(table))
        if number % 2:
            found.append(writer.flush())
    found.append(writer.flush())
    chunks = np.concatenate([chunks for chunks, _ in found])
    return ResultSet(chunks, ResultRefs.joined([refs for _, refs in found]))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    order=st.randoms(use_true_random=False),
    shuffle=st.booleans(),
    size=st.integers(1, 7),
    each=st.booleans(),
)
def test_results_of_packs_come_back_in_chunk_order_however_they_were_packed(
    lengths: list[int],
    order: Any,
    shuffle: bool,
    size: int,
    each: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    edges = np.cumsum([0, *lengths])
    frame = pd.DataFrame({"row": np.arange(edges[-1]), "text": [f"t{k}" for k in range(edges[-1])]})
    pieces = [(k, frame.iloc[edges[k] : edges[k + 1]]) for k in range(len(lengths))]
    if each or shuffle:  # labels that run through a pack are those of neighbours
        pieces = [(k, piece.reset_index(drop=True)) for k, piece in pieces]
        order.shuffle(pieces)
    packs = [pieces[k : k + size] for k in range(0, len(pieces), size)]

    results = packed(tmp_path_factory.mktemp("r"), packs, each=each or shuffle)

    assert results.rows == len(frame)
    pd.testing.assert_frame_equal(results.to_pandas(), frame)
    parts = list(results.parts("pandas"))
    assert [len(part) for part in parts] == lengths
    for part, (_, piece) in zip(parts, sorted(pieces, key=lambda piece: piece[0]), strict=True):
        pd.testing.assert_frame_equal(part, piece)
    assert read_in_order(results._refs).read_all()["row"].to_pylist() == frame["row"].tolist()
    assert sorted(results.scan().to_table()["row"].to_pylist()) == frame["row"].tolist()


def test_packs_among_single_results_are_read_in_order(tmp_path: Path) -> None:
    writer = SegmentWriter(str(tmp_path), 0)
    table = to_table(pd.DataFrame({"x": [1, 3, 3]}), owner="stage `s`")
    writer.add_pack(np.array([1, 3]), np.array([1, 2]), encode(with_each_labels(table, Labels(0))))
    for chunk in (0, 2, 4):
        writer.add(chunk, encoded(pd.DataFrame({"x": [chunk]})))
    chunks, refs = writer.flush()

    results = ResultSet(chunks, refs)

    assert [path.name for path in tmp_path.iterdir()] == ["segment-000000.arrow"]
    assert results.to_pandas()["x"].tolist() == [0, 1, 2, 3, 3, 4]
    assert results.to_pandas().index.tolist() == list(range(6))
    assert [part.index.tolist() for part in results.parts("pandas")] == [[0], [0], [0], [0, 1], [0]]


def test_a_chunk_of_a_pack_that_was_done_again_counts_once_in_a_scan(tmp_path: Path) -> None:
    pieces = [(k, pd.DataFrame({"x": [k]})) for k in range(3)]
    results = packed(tmp_path, [pieces, [(2, pd.DataFrame({"x": [200]}))]], each=True)
    kept = results._refs.where(np.array([True, True, False, True]))

    assert sorted(ResultSet(range(3), kept).scan().to_table()["x"].to_pylist()) == [0, 1, 200]


def test_labels_that_begin_anew_beside_other_labels_are_kept(tmp_path: Path) -> None:
    writer = SegmentWriter(str(tmp_path), 0)
    table = to_table(pd.DataFrame({"x": [0, 0, 1]}), owner="stage `s`")
    writer.add_pack(np.array([0, 1]), np.array([2, 1]), encode(with_each_labels(table, Labels(0))))
    writer.add(2, encoded(pd.DataFrame({"x": [2]}, index=[77])))

    assert ResultSet(*writer.flush()).to_pandas().index.tolist() == [0, 1, 0, 77]


def test_frames_of_a_pack_are_what_the_rows_of_each_chunk_alone_would_be(tmp_path: Path) -> None:
    writer = SegmentWriter(str(tmp_path), 0)
    table = pa.table({"n": pa.array([1, None, 3], pa.int64())})
    writer.add_pack(np.array([0, 1, 2]), np.array([1, 1, 1]), encode(table))
    results = ResultSet(*writer.flush())

    assert [part["n"].dtype.kind for part in results.parts("pandas")] == ["i", "f", "i"]
    assert [part["n"].to_list() for part in results.parts("polars")] == [[1], [None], [3]]


def test_a_frame_of_a_pack_can_be_changed_without_harm_to_the_others(tmp_path: Path) -> None:
    results = packed(tmp_path, [[(k, pd.DataFrame({"x": [k]})) for k in range(3)]], each=True)

    for part in results.parts("pandas"):
        part.loc[0, "x"] = 99

    assert results.to_pandas()["x"].tolist() == [0, 1, 2]


def test_a_pack_whose_rows_do_not_add_up_is_refused(tmp_path: Path) -> None:
    writer = SegmentWriter(str(tmp_path), 0)
    writer.add_pack(np.array([0, 1]), np.array([1, 1]), encoded(pd.DataFrame({"x": [1, 2, 3]})))

    with pytest.raises(ValueError, match="3 rows, its chunks have 2"):
        writer.flush()


def test_neighbours_in_a_pack_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = [
        [(k, pd.DataFrame({"x": [k]})) for k in range(first, first + 100)] for first in range(0, 1000, 100)
    ]
    results = packed(tmp_path, packs, each=True)
    read: list[int] = []
    batch = ArrowFile.batch_with_note
    monkeypatch.setattr(
        ArrowFile, "batch_with_note", lambda self, number: read.append(number) or batch(self, number)
    )

    assert results.to_pandas()["x"].tolist() == list(range(1000))
    assert len(read) == 10
    assert len(list(results.parts("pandas"))) == 1000
    assert len(read) == 20


def test_places_of_a_few_results_name_only_their_own_files() -> None:
    refs = ResultRefs.of([ResultRef(f"{k}.arrow", 0, 1, 1, 8) for k in range(100)])

    few = refs.take(np.array([70, 30, 70]))

    assert few.paths == ("30.arrow", "70.arrow")
    assert [ref and ref.path for ref in few] == ["70.arrow", "30.arrow", "70.arrow"]
    assert ResultRefs.joined([few, ResultRefs.nowhere(1), refs.take(np.array([30]))]).files.tolist() == [
        1,
        0,
        1,
        -1,
        0,
    ]


def test_results_in_files_of_their_own_are_each_read_from_theirs_however_many_windows_it_takes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("batchrun.data.windows.MOST_BYTES", 100)
    frames = {chunk: pd.DataFrame({"x": np.arange(chunk * 50, chunk * 50 + 50)}) for chunk in range(4)}
    refs = {
        chunk: ResultRef.of(write_table(to_table(frame, owner="s"), str(tmp_path / f"{chunk}.arrow")))
        for chunk, frame in frames.items()
    }

    assert result_set(refs).to_pandas()["x"].tolist() == list(range(200))
