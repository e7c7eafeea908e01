"""Rows of a frame become readable while others are written, and go when they are solved."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from batchrun import Pipeline, RetryPolicy, Stage, by_group, by_rows, run_pipeline
from batchrun.config import load_settings
from batchrun.data import shared_memory, spool
from batchrun.data.load import load
from batchrun.data.opening import open_input
from batchrun.data.pandas_frame import table_from_pandas
from batchrun.data.shared_memory import leftovers, offer_memory
from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.data.table import to_frame
from batchrun.doctor import diagnose
from batchrun.errors import InputError, StoreError, UsageError
from batchrun.launch import resume_run
from batchrun.outcome import RunState

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shared memory is a folder there")

FRAME = pd.DataFrame({"x": np.arange(1000.0), "s": [f"row {n}" for n in range(1000)]})


def begin(data: Any, folder: Path, **options: Any) -> tuple[Source, Supply]:
    return open_input(
        data,
        columns=options.pop("columns", None),
        split=options.pop("split", by_rows(10)),
        spool=str(folder / "spool"),
        regroup=lambda *_: pytest.fail("the workers were asked"),
        **options,
    )


def rows(source: Source, start: int, stop: int) -> pd.DataFrame:
    return to_frame(load(source.slice(start, stop)), "pandas")


def whole(source: Source) -> tuple[np.ndarray, np.ndarray]:
    return np.array([0]), np.array([source.rows])


def are_gone(paths: Iterable[str]) -> bool:
    """Whether none of the files is there after a while: they are removed in a thread."""
    deadline = time.monotonic() + 30
    left = list(paths)
    while left and time.monotonic() < deadline:
        left = [path for path in left if os.path.exists(path)]
        time.sleep(0.01)
    return not left


class Gate:
    """Lets the spool write one block for each time that it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._permits = threading.Semaphore(0)
        write = spool.write_batches

        def wait_and_write(*arguments: Any) -> list[int]:
            self._permits.acquire()
            return write(*arguments)

        monkeypatch.setattr(spool, "write_batches", wait_and_write)

    def open(self, blocks: int = 1) -> None:
        self._permits.release(blocks)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BLOCK_BYTES", 100)


@pytest.fixture
def gate(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_the_first_rows_can_be_read_before_the_last_are_written(gate: Gate, tmp_path: Path) -> None:
    source, supply = begin(FRAME, tmp_path)
    assert (source.rows, supply.ready, supply.done) == (1000, 0, False)
    assert not supply.wait(1, timeout=0.01)

    gate.open()

    assert supply.wait(1, timeout=30)
    assert 0 < supply.ready < 1000
    pd.testing.assert_frame_equal(rows(source, 2, 9), FRAME.iloc[2:9])
    gate.open(1000)
    assert supply.wait(1000, timeout=30)
    pd.testing.assert_frame_equal(rows(source, 0, 1000), FRAME)


def test_what_is_changed_in_place_meanwhile_is_not_seen(gate: Gate, tmp_path: Path) -> None:
    frame = FRAME.copy()
    source, supply = begin(frame, tmp_path)

    frame.loc[:, "x"] = -1.0
    frame.iloc[5, 1] = "changed"
    gate.open(1000)
    supply.wait(1000)

    pd.testing.assert_frame_equal(rows(source, 0, 1000), FRAME)


def every_type(rows: int) -> pd.DataFrame:
    """A column of each type that is converted without asking what is in it."""
    number = np.arange(rows)
    return pd.DataFrame(
        {
            "i": number.astype("i1"),
            "u": number.astype("u2"),
            "half": number.astype("f2"),
            "single": np.where(number % 3, 1.5, np.nan).astype("f4"),
            "infinite": np.where(number % 2, np.inf, np.nan),
            "bool": number % 2 == 0,
            "time": pd.Series(pd.date_range("2020", periods=rows)).where(number % 2 == 0),
            "span": pd.to_timedelta(number, unit="s"),
            "zone": pd.date_range("2020", periods=rows, tz="Europe/Berlin"),
            "text": pd.Series(["a", None] * (rows // 2), dtype="str"),
        }
    )


@pytest.mark.parametrize("index", [None, "i", "single", "time", "zone", "text"])
def test_rows_become_what_arrow_makes_of_the_whole_frame(
    index: str | None, small_blocks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spool, "STRETCH", 7)
    frame = every_type(50) if index is None else every_type(50).set_index(index)

    source, supply = begin(frame, tmp_path, split=by_rows(3))
    supply.wait(50, timeout=30)

    assert len(source.files) > 3
    expected = table_from_pandas(frame, owner="the frame")
    found = load(source.slice(0, 50)).combine_chunks()
    assert found.schema.equals(expected.schema, check_metadata=index is not None)
    assert found.equals(expected.combine_chunks())
    pd.testing.assert_frame_equal(rows(source, 0, 50), frame)


@pytest.mark.parametrize("size", [1, 7, 10, 250, 999])
def test_no_chunk_lies_in_two_blocks(size: int, small_blocks: None, tmp_path: Path) -> None:
    source, supply = begin(FRAME, tmp_path, split=by_rows(size))
    supply.wait(1000)

    assert len(source.files) > 1
    assert all(
        len(source.slice(start, start + size).parts) == 1
        and load(source.slice(start, start + size))["x"].num_chunks == 1
        for start in range(0, 1000, size)
    )


def test_whole_groups_lie_in_one_block(small_blocks: None, tmp_path: Path) -> None:
    frame = FRAME.assign(g=np.arange(1000) % 37)
    source, supply = begin(frame, tmp_path, split=by_group("g"))
    supply.wait(1000)

    assert source.group_starts is not None
    assert len(source.files) > 1
    edges = [*source.group_starts.tolist(), 1000]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        assert len(source.slice(start, stop).parts) == 1
        assert rows(source, start, stop)["x"].tolist() == list(range(number, 1000, 37))


def test_a_block_goes_when_all_its_rows_are_solved_and_not_before(small_blocks: None, tmp_path: Path) -> None:
    source, supply = begin(FRAME, tmp_path)
    supply.wait(1000)
    edges = source.block_starts
    middle = int(edges[1])

    supply.settled(np.array([middle - 4, 0]), np.array([middle + 2, middle - 5]))
    assert os.path.exists(source.files[0])
    supply.settled(np.array([middle - 5]), np.array([middle - 4]))

    assert are_gone(source.files[:1])
    assert os.path.exists(source.files[1])
    source.check_unchanged((np.array([middle + 2]), np.array([1000])))
    with pytest.raises(InputError, match="block-00000"):
        source.check_unchanged((np.array([middle - 1]), np.array([1000])))
    supply.settled(np.array([middle + 2]), np.array([1000]))
    assert are_gone(source.files)
    supply.close()
    assert not os.path.exists(source.spool or "")


def test_files_of_the_user_stay_whatever_is_solved(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "f.parquet")
    source, supply = begin(tmp_path / "f.parquet", tmp_path)
    assert (supply.ready, supply.done) == (1000, True)

    supply.settled(*whole(source))
    supply.close()
    supply.discard()

    assert (tmp_path / "f.parquet").exists()


def test_a_csv_goes_once_all_of_it_is_solved(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "f.csv", index=False)
    source, supply = begin(tmp_path / "f.csv", tmp_path)

    supply.settled(np.array([0]), np.array([999]))
    assert os.path.exists(source.files[0])
    supply.settled(np.array([999]), np.array([1000]))

    assert are_gone(source.files)
    assert (tmp_path / "f.csv").exists()


def test_a_disk_that_refuses_is_told_to_who_waits(
    small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: Any) -> list[int]:
        raise StoreError(f"{path} cannot be written: the disk is full")

    monkeypatch.setattr(spool, "write_batches", refuse)
    _, supply = begin(FRAME, tmp_path)

    with pytest.raises(StoreError, match="the disk is full"):
        supply.wait(1000)
    with pytest.raises(StoreError, match="the disk is full"):
        supply.check()
    assert not supply.done
    supply.close()


def test_closing_writes_what_is_left_so_that_the_run_can_be_resumed(gate: Gate, tmp_path: Path) -> None:
    source, supply = begin(FRAME, tmp_path)
    gate.open(1000)

    supply.close()

    source.check_unchanged(whole(source))
    pd.testing.assert_frame_equal(rows(source, 0, 1000), FRAME)


def test_a_frame_that_was_not_written_in_full_cannot_be_resumed(gate: Gate, tmp_path: Path) -> None:
    source, supply = begin(FRAME, tmp_path)
    gate.open()
    supply.wait(1)
    closing = threading.Thread(target=supply.close, kwargs={"patience": 0.0})
    closing.start()
    gate.open()
    closing.join()
    source.save(str(tmp_path / "plan.arrow"))

    again = Source.read(str(tmp_path / "plan.arrow"))

    again.check_unchanged((np.array([0]), np.array([1])))
    with pytest.raises(InputError, match="DataFrame was not written in full before the run was stopped"):
        again.check_unchanged(whole(again))


# Shared memory


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for shared memory."""
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(shared_memory, "ROOT", str(tmp_path / "shm"))
    return tmp_path / "shm"


@on_linux
def test_a_frame_that_fits_goes_to_shared_memory_where_only_its_owner_looks(
    shared: Path, tmp_path: Path
) -> None:
    memory = offer_memory("run-1")
    assert memory is not None

    source, supply = begin(FRAME, tmp_path, memory=memory)
    supply.wait(1000)

    assert memory.path == str(shared / "batchrun-run-1")
    assert len(os.listdir(memory.path)) == len(source.files)
    assert os.stat(memory.path).st_mode & 0o777 == 0o700
    assert leftovers().keys() == {"run-1"}
    supply.discard()
    assert not list(shared.iterdir())


@on_linux
def test_a_frame_that_does_not_fit_goes_to_the_disk_unless_it_must_not(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "_free", lambda: 100.0)

    source, _ = begin(FRAME, tmp_path, memory=offer_memory("run-1"))
    assert not os.path.islink(source.spool or "")
    with pytest.raises(UsageError, match=r"set `run\.spool` to auto or disk"):
        begin(FRAME, tmp_path, memory=offer_memory("run-2", required=True))

    assert not list(shared.iterdir())


@on_linux
@pytest.mark.parametrize("data", [[1], FRAME])
def test_nothing_is_left_in_shared_memory_of_an_input_that_is_refused(
    data: Any, shared: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        begin(data, tmp_path, memory=offer_memory("run-1"), columns=("x",), where=((("z", ">", 1),),))

    assert not list(shared.iterdir())


@on_linux
def test_a_missing_folder_in_shared_memory_is_explained(shared: Path, tmp_path: Path) -> None:
    memory = offer_memory("run-1")
    assert memory is not None
    source, supply = begin(FRAME, tmp_path, memory=memory)
    supply.wait(1000)
    memory.remove()

    with pytest.raises(InputError, match="does not outlive a restart of the machine"):
        source.check_unchanged(whole(source))


@on_linux
def test_what_is_not_solved_when_a_run_ends_moves_from_memory_to_the_disk(
    shared: Path, small_blocks: None, tmp_path: Path
) -> None:
    source, supply = begin(FRAME, tmp_path, memory=offer_memory("run-1"))
    supply.wait(1000)
    table = load(source.slice(100, 900))
    supply.settled(np.array([0]), np.array([100]))

    supply.close()

    assert not list(shared.iterdir())
    source.check_unchanged((np.array([100]), np.array([1000])))
    pd.testing.assert_frame_equal(rows(source, 100, 1000), FRAME.iloc[100:])
    pd.testing.assert_frame_equal(to_frame(table, "pandas"), FRAME.iloc[100:900])


@on_linux
def test_what_the_disk_does_not_take_stays_in_memory(
    shared: Path, small_blocks: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, supply = begin(FRAME, tmp_path, memory=offer_memory("run-1"))
    supply.wait(1000)

    supply.close(patience=-1.0)

    assert "stays in shared memory" in caplog.text
    pd.testing.assert_frame_equal(rows(source, 0, 1000), FRAME)
    again = Supply(source, needed=(np.array([990]), np.array([1000])))
    again.settled(np.array([990]), np.array([1000]))
    again.close()
    assert not list(shared.iterdir())
    assert not os.path.lexists(source.spool or "")


@on_linux
@pytest.mark.parametrize("place", ["auto", "memory", "disk"])
def test_a_run_is_resumed_with_what_is_left_of_its_frame_and_leaves_nothing(
    place: str, shared: Path, small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flag = tmp_path / "flag"
    seen: set[int] = set()

    def half(chunk: pd.DataFrame) -> pd.DataFrame:
        if chunk["x"].iloc[0] >= 20 and not flag.exists():
            raise ValueError("not yet")
        return chunk

    half.__module__ = "__main__"
    pipeline = Pipeline("half", split=by_rows(10), stages=[Stage(half, retry=RetryPolicy(attempts=1))])
    options: dict[str, Any] = {
        "cluster": "inline",
        "settings": load_settings(overrides={"run.stop_after_alike": "0", "run.spool": place}),
        "progress": False,
    }
    first = run_pipeline(
        pipeline, FRAME.head(30), observers=[lambda _: seen.add(len(list(shared.iterdir())))], **options
    )
    assert first.state is RunState.PARTIAL
    assert seen == {0 if place == "disk" else 1}
    assert not list(shared.iterdir())
    spooled = Path(first.folder, "spool", "input")
    assert "block-00000.arrow" not in os.listdir(spooled)

    flag.touch()
    report = resume_run(first.run_id, pipeline=pipeline, **options)

    assert report.state is RunState.SUCCEEDED
    pd.testing.assert_frame_equal(report.results(), FRAME.head(30))
    assert not spooled.exists()


@on_linux
def test_the_doctor_tells_of_what_runs_that_are_gone_left(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    memory = offer_memory("gone-1")
    assert memory is not None
    Path(memory.path, "block-00000.arrow").write_bytes(b"x" * 2**20)

    checks = {check.name: check for check in diagnose(load_settings())}

    assert "1 MiB of runs that are not in" in checks["shared memory"].detail
    assert memory.path in checks["shared memory"].advice
    memory.remove()
    assert "shared memory" not in {check.name for check in diagnose(load_settings())}


def test_a_polars_frame_is_spooled_as_it_is(small_blocks: None, tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": range(100), "s": [None, "a"] * 50, "l": [[1], None] * 50})
    source, supply = begin(frame, tmp_path)
    supply.wait(100)

    assert to_frame(load(source.slice(13, 57)), "polars").equals(frame.slice(13, 44))
