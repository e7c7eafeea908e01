"""How a table is cut: every row once, groups whole, sizes within bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import PipelineError
from batchrun.split import AutoSizer, ChunkPlan, by_file, by_group, by_rows, plan_chunks

sizes = st.lists(st.integers(1, 40), max_size=60)


def starts_of(lengths: list[int]) -> np.ndarray:
    return np.cumsum([0, *lengths])[:-1].astype(np.int64) if lengths else np.zeros(0, np.int64)


def assert_covers(plan: ChunkPlan, rows: int) -> None:
    """The chunks follow one another from row 0 to the last, and none is empty."""
    assert (plan.stops > plan.starts).all()
    edges = [0, *plan.stops.tolist()]
    assert edges[:-1] == plan.starts.tolist()
    assert edges[-1] == rows
    assert plan.rows == rows


@given(rows=st.integers(0, 5_000), size=st.integers(1, 700))
def test_by_rows_takes_every_row_once_in_chunks_of_that_size(rows: int, size: int) -> None:
    plan = plan_chunks(by_rows(size), rows)

    assert_covers(plan, rows)
    lengths = (plan.stops - plan.starts).tolist()
    assert all(length == size for length in lengths[:-1])
    assert len(plan) == math.ceil(rows / size)


@given(groups=sizes)
def test_by_group_makes_a_chunk_of_each_group(groups: list[int]) -> None:
    plan = plan_chunks(by_group("pit"), sum(groups), group_starts=starts_of(groups))

    assert_covers(plan, sum(groups))
    assert (plan.stops - plan.starts).tolist() == groups


@given(groups=sizes, most=st.integers(1, 90))
def test_packed_groups_stay_whole_and_a_pack_respects_max_rows(groups: list[int], most: int) -> None:
    starts = starts_of(groups)
    plan = plan_chunks(by_group("pit", max_rows=most), sum(groups), group_starts=starts)

    assert_covers(plan, sum(groups))
    assert set(plan.starts.tolist()) <= set(starts.tolist())
    for start, stop in zip(plan.starts, plan.stops, strict=True):
        within = int(((starts >= start) & (starts < stop)).sum())
        assert stop - start <= most or within == 1


@given(groups=sizes, most=st.integers(1, 90))
def test_neighbouring_packs_could_not_have_shared_a_chunk(groups: list[int], most: int) -> None:
    starts = starts_of(groups)
    plan = plan_chunks(by_group("pit", max_rows=most), sum(groups), group_starts=starts)

    ends = dict(zip(starts.tolist(), np.cumsum(groups).tolist(), strict=True))
    for start, stop in zip(plan.starts.tolist()[:-1], plan.stops.tolist()[:-1], strict=True):
        assert ends[stop] - start > most


@given(files=st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_by_file_makes_a_chunk_of_each_file_that_has_rows(files: list[int]) -> None:
    plan = plan_chunks(by_file(), sum(files), file_starts=starts_of(files))

    assert_covers(plan, sum(files))
    assert (plan.stops - plan.starts).tolist() == [length for length in files if length]


@given(
    rows=st.integers(0, 10**7),
    bytes_per_row=st.floats(0, 10**7),
    slots=st.integers(1, 64),
    memory=st.integers(2**20, 2**36),
    pace=st.floats(1e-12, 1e4),
    block=st.none() | st.integers(1, 10**6),
)
def test_auto_sized_waves_end_and_take_every_row_once_within_bounds(
    rows: int, bytes_per_row: float, slots: int, memory: int, pace: float, block: int | None
) -> None:
    blocks = None if block is None else np.append(np.arange(0, rows, block), rows)
    sizer = AutoSizer(rows, bytes_per_row, slots, memory, block_starts=blocks)
    most = max(1, memory * sizer.memory_share / max(1.0, bytes_per_row))
    plan = sizer.next_wave()
    for _ in range(60):
        sizer.seconds_per_row = pace
        wave = sizer.next_wave()
        if not len(wave):
            break
        assert len(wave) <= slots
        lengths = wave.stops - wave.starts
        assert lengths.max() <= most
        assert lengths.max() * pace <= max(sizer.longest, pace) * 1.001
        plan = ChunkPlan(np.append(plan.starts, wave.starts), np.append(plan.stops, wave.stops))
    assert_covers(plan, sizer.planned)
    assert sizer.planned <= rows


@given(rows=st.integers(1, 10**7), slots=st.integers(1, 64))
def test_auto_sizing_ends_in_few_waves_when_rows_are_cheap(rows: int, slots: int) -> None:
    sizer = AutoSizer(rows, 8.0, slots, 2**33)
    waves = 0
    while len(sizer.next_wave()):
        sizer.seconds_per_row = 1e-6
        waves += 1

    assert sizer.planned == rows
    assert waves <= 40


def test_auto_sized_chunks_end_with_a_block_where_one_ends_near() -> None:
    blocks = np.arange(0, 100_001, 1000)
    sizer = AutoSizer(100_000, 8.0, 2, 2**33, shortest=2.5, probe_bytes=8 * 300, block_starts=blocks)
    assert sizer.next_wave().stops.tolist() == [300, 600], "no block ends in a probe"

    sizer.seconds_per_row = 2.5 / 2500
    sizer.longest = 2.5

    assert sizer.next_wave().stops.tolist() == [3000, 5000]
    assert sizer.next_wave().stops.tolist() == [7000, 9000]


def test_the_first_wave_is_a_small_probe() -> None:
    sizer = AutoSizer(10**7, 100.0, 4, 2**33)

    wave = sizer.next_wave()

    assert len(wave) == 4
    assert wave.rows * 100 <= 4 * sizer.probe_bytes


def test_chunks_shrink_towards_the_end() -> None:
    sizer = AutoSizer(10**6, 8.0, 4, 2**33)
    sizer.next_wave()
    sizer.seconds_per_row = 1e-4

    lengths = []
    while len(wave := sizer.next_wave()):
        lengths.append(int((wave.stops - wave.starts).max()))

    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] * 1e-4 <= 2 * sizer.shortest


@pytest.mark.parametrize("rows", [0, -1, True, 2.5, "automatic", None])
def test_a_row_count_that_is_none_is_refused(rows: object) -> None:
    with pytest.raises(PipelineError, match=r"whole number of rows above zero"):
        by_rows(rows)  # type: ignore[arg-type]


def test_a_group_without_columns_is_refused() -> None:
    with pytest.raises(PipelineError, match="by_group needs the names"):
        by_group()


def test_packing_below_one_row_is_refused() -> None:
    with pytest.raises(PipelineError, match="above zero"):
        by_group("pit", max_rows=0)


def test_by_file_of_a_frame_says_what_to_give_instead() -> None:
    with pytest.raises(PipelineError, match="needs files"):
        plan_chunks(by_file(), 10)
