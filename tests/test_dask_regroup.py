"""Groups are brought together on the workers, whatever the columns are, and no row is lost or changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, Worker

from batchrun.cluster import regroup as dask_regroup
from batchrun.cluster.connect import Connection, start_local
from batchrun.cluster.connection import worker_facts
from batchrun.cluster.executor import DaskExecutor
from batchrun.config import load_settings
from batchrun.data.load import load
from batchrun.data.opening import open_source
from batchrun.data.regroup import group_codes, keys_of
from batchrun.data.source import Source
from batchrun.data.table import to_frame
from batchrun.errors import BatchrunError, ClusterError, InputError
from batchrun.split import by_rows

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    path.write_text("workers: {w: {count: 2, memory: 400MiB}}\ndashboard: off\n")
    with start_local(load_settings(path)) as connection:
        yield connection


@pytest.fixture
def executor(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaskExecutor]:
    monkeypatch.setattr(dask_regroup, "PIECE_BYTES", 2**20)
    executor = DaskExecutor(connection)
    yield executor
    executor.close()


def planned(data: object, folder: Path) -> Source:
    return open_source(data, columns=None, split=by_rows(1), spool=str(folder / "spool"), regroup=_unused)


def _unused(*_: object) -> Source:
    raise AssertionError("a split by rows needs no regrouping")


def assert_groups_are_whole(table: pa.Table, columns: tuple[str, ...], source: Source) -> None:
    codes = group_codes(keys_of(table, columns))
    starts = np.append(0, np.flatnonzero(np.diff(codes)) + 1)
    assert len(starts) == codes.max() + 1
    assert source.group_starts is not None
    assert source.group_starts.tolist() == starts.tolist()


def mixed(rows: int) -> pd.DataFrame:
    """Columns of many kinds, in no order, with missing values."""
    chance = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "pit": chance.integers(0, 300, rows).astype(float),
            "kind": pd.Categorical(chance.choice(["ore", "waste", "fill"], rows)),
            "when": pd.date_range("2024-03-30", periods=rows, freq="s", tz="Europe/Berlin"),
            "price": [Decimal(n) / 100 for n in range(rows)],
            "route": [[n, n + 1] if n % 3 else None for n in range(rows)],
            "note": [f"row {n}" for n in range(rows)],
        }
    )
    frame.loc[::11, "pit"] = np.nan
    frame["kind"] = frame["kind"].where(chance.random(rows) > 0.05)
    return frame


def test_rows_of_every_kind_come_through_in_whole_groups(executor: DaskExecutor, tmp_path: Path) -> None:
    frame = mixed(60_000)
    source = planned(frame, tmp_path)
    regrouped = executor.regroup(source, ("pit", "kind"), str(tmp_path / "grouped"))
    assert len(regrouped.files) > 2
    table = load(regrouped.slice(0, regrouped.rows))
    assert_groups_are_whole(table, ("pit", "kind"), regrouped)
    again = to_frame(table, "pandas")
    as_it_was = to_frame(load(source.slice(0, source.rows)), "pandas")
    pd.testing.assert_frame_equal(again.sort_index(), as_it_was, check_freq=False, check_index_type=False)
    for _, group in again.groupby(["pit", "kind"], dropna=False, observed=True):
        assert group.index.is_monotonic_increasing


def test_groups_that_span_row_groups_and_files_become_whole(executor: DaskExecutor, tmp_path: Path) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    for number in range(4):
        rows = np.arange(number * 40_000, (number + 1) * 40_000)
        table = pa.table({"key": pa.array(rows % 5, pa.int32()), "row": rows, "fill": rows * 0.5})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=7_000)
    source = planned(str(folder), tmp_path)
    regrouped = executor.regroup(source, ("key",), str(tmp_path / "grouped"))
    table = load(regrouped.slice(0, regrouped.rows))
    assert_groups_are_whole(table, ("key",), regrouped)
    assert sorted(table["row"].to_pylist()) == list(range(160_000))
    sizes = np.diff(np.append(regrouped.group_starts, regrouped.rows))
    assert sizes.tolist() == [32_000] * 5


def test_partitions_are_even(executor: DaskExecutor, tmp_path: Path) -> None:
    frame = pd.DataFrame({"key": np.arange(400_000) % 5_003, "value": np.arange(400_000.0)})
    regrouped = executor.regroup(planned(frame, tmp_path), ("key",), str(tmp_path / "grouped"))
    sizes = [os.path.getsize(path) for path in regrouped.files]
    assert len(sizes) == len(dask_regroup._labels(len(sizes)))
    assert max(sizes) < 1.5 * min(sizes)


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 64, 1000])
def test_every_partition_has_a_label_that_dask_sends_there(partitions: int) -> None:
    from dask.dataframe.shuffle import partitioning_index

    labels = pd.DataFrame({"partition": dask_regroup._labels(partitions)})
    assert sorted(partitioning_index(labels, partitions).tolist()) == list(range(partitions))


def test_data_larger_than_the_memory_of_a_worker_passes(
    executor: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_regroup, "PIECE_BYTES", 16 * 2**20)
    rows, folder = 450_000, tmp_path / "large"
    folder.mkdir()
    chance = np.random.default_rng(3)
    for number in range(4):
        values = chance.random(rows)
        fill = {f"c{column}": values + column for column in range(29)}
        table = pa.table({"key": chance.integers(0, 10_000, rows), **fill})
        pq.write_table(
            table,
            folder / f"{number}.parquet",
            row_group_size=50_000,
            compression=None,
            use_dictionary=["key"],
        )
    source = planned(str(folder), tmp_path)
    assert source.rows * source.bytes_per_row > 400 * 2**20
    regrouped = executor.regroup(source, ("key",), str(tmp_path / "grouped"))
    assert regrouped.rows == source.rows
    keys = load(replace(regrouped, columns=("key",)).slice(0, regrouped.rows))
    assert_groups_are_whole(keys, ("key",), regrouped)


def statuses(client: Client) -> set[str]:
    return {known["status"] for known in worker_facts(client).values()}


def until(promise: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not promise():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_workers_that_are_all_out_of_memory_are_not_waited_for(
    executor: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(dask_worker: Worker) -> None:
        dask_worker.memory_manager.memory_pause_fraction = 0.01

    def go_on(dask_worker: Worker) -> None:
        dask_worker.memory_manager.memory_pause_fraction = 0.8

    monkeypatch.setattr(dask_regroup, "_PAUSED_SECONDS", 1.0)
    source = planned(mixed(1000), tmp_path)
    client = executor._client
    client.run(pause)
    until(lambda: statuses(client) == {"paused"})
    try:
        with pytest.raises(ClusterError, match="every worker has reached 80 % of its memory"):
            executor.regroup(source, ("pit",), str(tmp_path / "grouped"))
    finally:
        client.run(go_on)
        until(lambda: statuses(client) == {"running"})


def test_input_that_disappears_is_an_input_error(executor: DaskExecutor, tmp_path: Path) -> None:
    path = tmp_path / "gone.parquet"
    pq.write_table(pa.table({"key": list(range(1000))}), path)
    source = planned(str(path), tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"gone\.parquet"):
        executor.regroup(source, ("key",), str(tmp_path / "grouped"))


def test_a_folder_that_cannot_be_made_is_said(executor: DaskExecutor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    source = planned(pd.DataFrame({"key": [1, 2, 1]}), tmp_path)
    with pytest.raises(BatchrunError, match="file"):
        executor.regroup(source, ("key",), str(tmp_path / "file" / "grouped"))
