"""Sizes, times and demands read as people write them, and are written as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import PipelineError
from batchrun.resources import (
    Demand,
    Worker,
    describe_workers,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_seconds,
    summarize_workers,
)

GIB = 2**30
STANDARD = [Worker(f"tcp://127.0.0.1:400{n}", f"standard-{n}", 1, 1536 * 2**20) for n in range(2)]
HIGHMEM = Worker("tcp://127.0.0.1:4009", "highmem-0", 1, 4 * GIB, {"HIGHMEM": 1})


@pytest.mark.parametrize(
    ("written", "size"),
    [("6GiB", 6 * GIB), ("512 MiB", 2**29), ("1.5kB", 1500), ("8e9", 8_000_000_000), (2048, 2048)],
)
def test_a_size_is_read_as_people_write_it(written: str | float, size: int):
    assert parse_bytes(written) == size


@pytest.mark.parametrize("written", ["", " ", "much", "6 GiBB", "inf", float("inf"), "1e400", None, True, []])
def test_what_is_no_size_is_refused_with_an_example(written: object):
    with pytest.raises(PipelineError, match="write it like '6GiB'"):
        parse_bytes(written)  # type: ignore[arg-type]


@pytest.mark.parametrize("written", [0, "0", "-1GiB", "0.2"])
def test_a_size_must_be_above_zero(written: str | float):
    with pytest.raises(PipelineError, match="above zero"):
        parse_bytes(written)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90min", 5400),
        ("1.5 min", 90),
        ("2h", 7200),
        ("250ms", 0.25),
        (" 30 s ", 30),
        (3, 3),
        ("5", 5),
        (0, 0),
    ],
)
def test_a_time_is_read_as_people_write_it(written: str | float, seconds: float):
    assert parse_seconds(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["", "soon", "3 moons", "nan", float("nan"), "inf", "1e400", None, True])
def test_what_is_no_time_is_refused_with_an_example(written: object):
    with pytest.raises(PipelineError, match="write it like '90min'"):
        parse_seconds(written)  # type: ignore[arg-type]


def test_a_time_cannot_be_negative():
    with pytest.raises(PipelineError, match="negative"):
        parse_seconds(-3)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1023.6, "1 KiB"),
        (1024, "1 KiB"),
        (999.6 * 2**10, "1000 KiB"),
        (1023 * 2**20, "1023 MiB"),
        (1023.6 * 2**20, "1 GiB"),
        (1023.6 * 2**30, "1 TiB"),
        (1.46 * GIB, "1.46 GiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_a_size_is_told_in_the_unit_that_it_rounds_to(size: float, text: str):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0042, "4.2 ms"),
        (0.0996, "100 ms"),
        (0.25, "250 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min"),
        (90, "1 min 30 s"),
        (3599.6, "1 h"),
        (3 * 3600 - 1, "3 h"),
        (100 * 3600 + 60, "100 h 1 min"),
    ],
)
def test_a_time_is_told_in_the_unit_that_it_rounds_to(seconds: float, text: str):
    assert format_seconds(seconds) == text


@given(st.integers(1, 2**50))
def test_a_size_that_was_told_reads_back_as_nearly_the_same(size: int):
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.006)


@given(st.floats(0, 1e7))
def test_no_time_is_told_in_powers_of_ten(seconds: float):
    assert "e+" not in format_seconds(seconds)


def test_a_demand_says_what_it_takes_and_gives_it_to_dask_in_bytes():
    demand = Demand(memory=GIB, tags={"SOLVER": 1, "HIGHMEM": 0.5})
    assert str(demand) == "HIGHMEM: 0.5, SOLVER: 1, MEMORY: 1 GiB"
    assert demand.resources() == {"HIGHMEM": 0.5, "SOLVER": 1, "MEMORY": GIB}
    assert str(Demand()) == "one thread"
    assert Demand().resources() == {}


def test_demands_are_alike_whatever_the_order_of_their_tags():
    one, other = Demand(tags={"A": 1, "B": 2}), Demand(tags={"B": 2, "A": 1})
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("demand", "able"),
    [
        (Demand(), True),
        (Demand(memory=4 * GIB), True),
        (Demand(memory=4 * GIB + 1), False),
        (Demand(tags={"HIGHMEM": 1}), True),
        (Demand(tags={"HIGHMEM": 2}), False),
        (Demand(tags={"GPU": 1}), False),
    ],
)
def test_a_worker_can_run_what_it_has_room_for_when_idle(demand: Demand, able: bool):
    assert HIGHMEM.can_ever_run(demand) is able


def test_a_worker_without_threads_can_run_nothing():
    assert not Worker("a", "a", 0, GIB).can_ever_run(Demand())


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("standard-12", "standard"),
        ("high-mem-0", "high-mem"),
        ("high-mem", "high-mem"),
        ("solver", "solver"),
        ("3", ""),
        ("tcp://node-17:4001", ""),
    ],
)
def test_a_group_is_what_comes_before_the_number(name: str, group: str):
    assert Worker("tcp://node-17:4001", name, 1, GIB).group == group


def test_workers_are_described_by_group_and_shape():
    assert describe_workers([HIGHMEM, *STANDARD]) == (
        "1 × highmem (1 thread, MEMORY: 4 GiB, HIGHMEM: 1), 2 × standard (1 thread, MEMORY: 1.5 GiB)"
    )
    assert describe_workers([]) == "no worker at all"


def test_workers_of_one_group_and_two_shapes_are_not_taken_for_alike():
    workers = [Worker("a", "w-0", 1, GIB), Worker("b", "w-1", 2, GIB)]
    assert describe_workers(workers) == "1 × w (1 thread, MEMORY: 1 GiB), 1 × w (2 threads, MEMORY: 1 GiB)"


def test_a_headline_counts_workers_by_group_the_largest_first():
    assert summarize_workers([HIGHMEM, *STANDARD]) == "2 standard, 1 highmem"


def test_a_headline_stays_short_where_workers_have_no_groups_or_too_many():
    assert summarize_workers([Worker("tcp://a:1", "tcp://a:1", 1, GIB)]) == "1 worker"
    assert summarize_workers([Worker("a", str(n), 1, GIB) for n in range(3)]) == "3 workers"
    assert summarize_workers([Worker("a", f"node{n}", 1, GIB) for n in range(9)]) == "9 workers"
    assert summarize_workers([]) == "no worker"


@pytest.mark.parametrize("unit", ["KiB", "MB", "GiB", "TB"])
def test_sizes_that_are_read_without_dask_are_what_dask_reads(unit):
    from dask.utils import parse_bytes as parse

    assert parse_bytes(f"7{unit}") == parse_bytes(f"7 {unit}") == parse(f"7{unit}")


@pytest.mark.parametrize("unit", ["ms", "s", "h", "d", "min"])
def test_times_that_are_read_without_dask_are_what_dask_reads(unit):
    from dask.utils import parse_timedelta

    assert parse_seconds(f"90{unit}") == parse_seconds(f"90 {unit}")
    assert parse_seconds(f"90{unit}") == parse_timedelta(f"90 {'minutes' if unit == 'min' else unit}")
