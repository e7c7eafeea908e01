"""Groups are brought together: whole, in order, with their rows' labels."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import pickle
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

from batchrun.data import spool
from batchrun.data.load import load
from batchrun.data.opening import open_source
from batchrun.data.regroup import (
    assemble,
    find_groups,
    labelled,
    partition_numbers,
    regroup_here,
    write_regrouped,
)
from batchrun.data.source import Source
from batchrun.data.table import to_frame
from batchrun.errors import InputError
from batchrun.split import by_group, by_rows, plan_chunks


def plan(data: Any, folder: Path, *keys: str, **options: Any) -> Source:
    return open_source(
        data,
        columns=options.pop("columns", None),
        split=by_group(*keys) if keys else by_rows(10),
        spool=str(folder / "spool"),
        regroup=options.pop("regroup", lambda *_: pytest.fail("the workers were asked")),
        **options,
    )


def chunks(source: Source, *keys: str) -> list[pd.DataFrame]:
    cut = plan_chunks(by_group(*keys), source.rows, group_starts=source.group_starts)
    return [
        to_frame(load(source.slice(start, stop)), "pandas")
        for start, stop in zip(cut.starts.tolist(), cut.stops.tolist(), strict=True)
    ]


key_values = {
    "whole": st.none() | st.integers(-3, 3),
    "real": st.none() | st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf]),
    "text": st.none() | st.sampled_from(["", "a", "b", "ab"]),
    "flag": st.none() | st.booleans(),
    "day": st.none() | st.dates(dt.date(2024, 1, 1), dt.date(2024, 1, 3)),
    "when": st.none() | st.datetimes(dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 0, 0, 0, 2)),
    "raw": st.none() | st.sampled_from([b"", b"\xff", b"a"]),
}
types = {
    "whole": pa.int64(),
    "real": pa.float64(),
    "text": pa.string(),
    "flag": pa.bool_(),
    "day": pa.date32(),
    "when": pa.timestamp("us", "UTC"),
    "raw": pa.binary(),
}


@st.composite
def keyed_tables(draw: st.DrawFn) -> pa.Table:
    length = draw(st.integers(0, 25))
    names = draw(st.lists(st.sampled_from(sorted(types)), min_size=1, max_size=2, unique=True))
    columns = {
        name: pa.array(draw(st.lists(key_values[name], min_size=length, max_size=length)), types[name])
        for name in names
    }
    if "text" in columns and draw(st.booleans()):
        columns["text"] = columns["text"].dictionary_encode()
    return pa.table(columns | {"row": pa.array(range(length), pa.int64())})


def same(value: Any) -> Any:
    """A value in the form in which equal ones are one group."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return None if missing else value + 0.0 if isinstance(value, float) else value


def expected_groups(table: pa.Table) -> list[list[int]]:
    """Row numbers of each group, in order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for number, row in enumerate(table.drop_columns("row").to_pylist()):
        groups.setdefault(tuple(map(same, row.values())), []).append(number)
    return list(groups.values())


@settings(max_examples=150, deadline=None)
@given(table=keyed_tables(), batch=st.sampled_from([1, 100, 10**6]))
def test_every_group_is_one_chunk_with_its_rows_in_order(
    table: pa.Table, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = table.column_names[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "BLOCK_BYTES", batch)
        patch.setattr(spool, "BATCH_BYTES", batch)
        source = plan(table, tmp_path_factory.mktemp("g"), *keys)

    assert [chunk["row"].tolist() for chunk in chunks(source, *keys)] == expected_groups(table)
    assert all(chunk.index.tolist() == chunk["row"].tolist() for chunk in chunks(source, *keys))


@settings(max_examples=100, deadline=None)
@given(table=keyed_tables(), batch=st.sampled_from([1, 100, 10**6]))
def test_groups_are_known_exactly_when_groups_are_whole(
    table: pa.Table, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = table.column_names[:-1]
    groups = expected_groups(table)
    whole = [row for group in groups for row in group] == list(range(table.num_rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "BLOCK_BYTES", batch)
        patch.setattr(spool, "BATCH_BYTES", batch)
        source = plan(table, tmp_path_factory.mktemp("g"))

    found = find_groups(source, keys)

    assert (found is not None) == whole
    if found is not None:
        assert found.starts.tolist() == [group[0] for group in groups]


@settings(max_examples=80, deadline=None)
@given(table=keyed_tables(), partitions=st.integers(1, 4), pieces=st.integers(1, 4))
def test_files_regrouped_by_workers_make_one_source_of_whole_groups(
    table: pa.Table, partitions: int, pieces: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("g")
    keys = table.column_names[:-1]
    source = plan(table, folder)
    edges = np.linspace(0, table.num_rows, pieces + 1).astype(int).tolist()
    read = [labelled(load(source.slice(low, high))) for low, high in itertools.pairwise(edges)]
    homes = [partition_numbers(piece, keys, partitions) for piece in read]

    written = []
    for number in range(partitions):
        rows = [piece.filter(pa.array(home == number)) for piece, home in zip(read, homes, strict=True)]
        part = write_regrouped(pa.concat_tables(rows), keys, str(folder / f"part-{number}.arrow"))
        written.append(pickle.loads(pickle.dumps(part)))
    again = assemble(source, read[0].schema, written, str(folder))

    found = [chunk["row"].tolist() for chunk in chunks(again, *keys)]
    assert sorted(found) == sorted(expected_groups(table))
    assert all(chunk.index.tolist() == chunk["row"].tolist() for chunk in chunks(again, *keys))


def test_a_groups_partition_does_not_depend_on_the_piece_it_is_read_in() -> None:
    with_null = pa.table(
        {"k": pa.array([1, None, 2], pa.int64()), "c": pa.array(["a", "b", "a"]).dictionary_encode()}
    )
    without = pa.table({"k": pa.array([2, 1], pa.int64()), "c": pa.array(["a", "a"]).dictionary_encode()})

    first = partition_numbers(with_null, ["k", "c"], 7)
    second = partition_numbers(without, ["k", "c"], 7)

    assert [first[2], first[0]] == second.tolist()


def test_partitions_are_about_even() -> None:
    counts = np.bincount(partition_numbers(pa.table({"k": np.arange(10_000)}), ["k"], 10), minlength=10)

    assert counts.min() > 800


def test_a_pandas_frame_keeps_its_labels_when_it_is_regrouped(tmp_path: Path) -> None:
    frame = pd.DataFrame({"pit": list("abab"), "x": [1, 2, 3, 4]}, index=pd.RangeIndex(10, 50, 10, name="id"))
    odd = frame.set_axis(list("zzyx"))

    for number, given_frame in enumerate((frame, odd)):
        source = plan(given_frame, tmp_path / str(number), "pit")
        pd.testing.assert_frame_equal(
            chunks(source, "pit")[1], given_frame.iloc[[1, 3]], check_index_type=False
        )


def test_a_polars_frame_gets_no_column_more_when_it_is_regrouped(tmp_path: Path) -> None:
    frame = pl.DataFrame({"pit": ["a", "b", "a"], "x": [1, 2, 3]})

    source = plan(frame, tmp_path, "pit")

    assert to_frame(load(source.slice(0, 3)), "polars").to_dicts() == frame[[0, 2, 1]].to_dicts()


def test_a_frame_whose_groups_are_whole_is_spooled_as_it_is(tmp_path: Path) -> None:
    frame = pd.DataFrame({"pit": ["b", "b", "a"], "x": [1, 2, 3]})

    source = plan(frame, tmp_path, "pit")

    assert source.group_starts is not None
    assert source.group_starts.tolist() == [0, 2]
    pd.testing.assert_frame_equal(to_frame(load(source.slice(1, 3)), "pandas"), frame.iloc[1:3])
    assert source.labels is not None


def test_a_sorted_parquet_file_stays_where_it_is_and_only_its_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(
        pa.table({"pit": np.repeat(np.arange(20), 7), "x": np.arange(140)}), path, row_group_size=10
    )

    source = plan(path, tmp_path, "pit", columns=("x", "pit"))

    assert source.files == (str(path),)
    assert source.group_starts is not None
    assert source.group_starts.tolist() == list(range(0, 140, 7))
    assert not (tmp_path / "spool").exists()


def test_a_parquet_file_that_is_not_sorted_is_regrouped_into_the_spool(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    table = pa.table({"pit": np.arange(100) % 3, "x": np.arange(100)})
    pq.write_table(table, path, row_group_size=9)

    source = plan(path, tmp_path, "pit")

    assert [chunk["x"].tolist() for chunk in chunks(source, "pit")] == [
        list(range(k, 100, 3)) for k in range(3)
    ]


def test_a_large_input_that_is_not_sorted_is_left_to_the_workers(tmp_path: Path) -> None:
    asked = []

    def regroup(source: Source, columns: tuple[str, ...], folder: str) -> Source:
        asked.append((source.rows, columns))
        return regroup_here(source, columns, folder)

    frame = pd.DataFrame({"pit": [1, 2, 1], "x": [1, 2, 3]})
    frame.to_parquet(tmp_path / "f.parquet")
    for data in (frame, tmp_path / "f.parquet"):
        source = plan(data, tmp_path, "pit", regroup=regroup, in_memory_limit=10)
        assert [chunk["x"].tolist() for chunk in chunks(source, "pit")] == [[1, 3], [2]]
    plan(frame.sort_values("pit"), tmp_path, "pit", regroup=regroup, in_memory_limit=10)

    assert asked == [(3, ("pit",))] * 2


def test_a_group_column_may_be_a_named_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3]}, index=pd.Index(["a", "b", "a"], name="pit"))

    assert [chunk["x"].tolist() for chunk in chunks(plan(frame, tmp_path, "pit"), "pit")] == [[1, 3], [2]]


def test_group_columns_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"pit": ["a"], "path": [[1]]})
    frame.to_parquet(tmp_path / "f.parquet")

    for data in (frame, tmp_path / "f.parquet"):
        with pytest.raises(InputError, match=r"no column 'pitt'. Did you mean `pit`"):
            plan(data, tmp_path, "pitt")
        with pytest.raises(InputError, match=r"by_group\('path'\): values of type list.* cannot be compared"):
            plan(data, tmp_path, "path")
