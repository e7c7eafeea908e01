"""How long chunks will take, from how long others took."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.forecast import ENOUGH, LATEST, WINDOW, DurationHistory, Forecast, Pace, forecast


def history(*attempts: tuple[int, int, float]) -> DurationHistory:
    keys, rows, seconds = zip(*attempts, strict=True) if attempts else ((), (), ())
    return DurationHistory(np.array(keys, np.int64), np.array(rows, np.int64), np.array(seconds, np.float64))


def unkeyed(rows: np.ndarray, seconds: np.ndarray) -> DurationHistory:
    return DurationHistory(np.zeros(len(rows), np.int64), rows, seconds)


def of_rows(known: DurationHistory, *rows: int) -> Forecast:
    return forecast(known, None, np.array(rows, np.int64))


@pytest.mark.parametrize("attempts", [0, 1, 2])
def test_too_few_attempts_are_no_ground_for_a_forecast(attempts):
    assert forecast(history(*[(1, 10, 1.0)] * attempts), None, np.array([10])) is None


def test_a_key_that_ran_before_takes_the_median_of_its_latest_tries_and_at_most_the_longest_of_them():
    latest = [3.0, 1.0, 2.0, 50.0, 2.5]
    older = [1_000.0] * 20
    known = history(*[(7, 10, seconds) for seconds in [*latest, *older]], (8, 10, 6.0), (8, 10, 4.0))

    found = forecast(known, np.array([8, 7]), np.array([10, 10]))

    assert len(latest) == LATEST
    assert found.seconds.tolist() == [5.0, 2.5]
    assert found.upper.tolist() == [6.0, 50.0]


def test_tries_that_agree_still_leave_a_margin():
    found = forecast(history(*[(7, 10, 2.0)] * 3), np.array([7]), np.array([10]))

    assert found.seconds[0] == 2.0
    assert 2.0 < found.upper[0] <= 2.5


def test_an_attempt_without_a_key_says_nothing_about_a_chunk_without_one():
    known = history((0, 10, 1.0), (0, 10, 2.0), (0, 1000, 500.0), (0, 1000, 500.0))

    found = forecast(known, np.array([0, 5]), np.array([10, 10]))

    assert found.seconds[0] == found.seconds[1] < 3.0


def test_an_unknown_key_is_told_from_its_rows_whatever_the_keys_around_it():
    known = history(*[(key, 10 * key, float(key)) for key in range(-50, 51) if key > 0], (-9, 500, 50.0))

    found = forecast(known, np.array([-9, -8, 10**12, 50]), np.full(4, 250))

    assert found.seconds == pytest.approx([50.0, 25.0, 25.0, 50.0], rel=0.1)


def test_durations_in_proportion_to_rows_are_found_between_and_beyond_the_rows_seen():
    rng = np.random.default_rng(1)
    rows = rng.integers(100, 10_000, 400)
    known = unkeyed(rows, rows / 100 * rng.lognormal(0, 0.2, 400))

    assert of_rows(known, 10, 500, 5_000, 100_000).seconds == pytest.approx([0.1, 5, 50, 1_000], rel=0.25)


def test_durations_that_do_not_depend_on_rows_give_their_median_for_any_rows():
    rng = np.random.default_rng(2)
    seconds = rng.lognormal(2, 0.5, 2_000)
    known = unkeyed(rng.integers(1, 10**6, 2_000), seconds)

    assert of_rows(known, 1, 1_000, 10**6, 10**7).seconds == pytest.approx(np.median(seconds), rel=0.25)


def test_rows_that_are_all_alike_order_larger_chunks_first():
    found = of_rows(history(*[(0, 100, 2.0)] * 5), 50, 100, 200)

    assert found.seconds == pytest.approx([1.0, 2.0, 4.0])


def test_a_few_huge_attempts_do_not_bend_the_curve():
    rng = np.random.default_rng(3)
    rows = rng.integers(100, 10_000, 300)
    seconds = rows / 100.0
    seconds[rng.choice(300, 30, replace=False)] *= 10_000

    assert of_rows(unkeyed(rows, seconds), 1_000).seconds == pytest.approx([10.0], rel=0.3)


def test_nine_of_ten_new_chunks_end_within_the_upper_estimate():
    rng = np.random.default_rng(4)
    rows = rng.integers(1, 10_000, 3_000)
    seconds = rows**1.5 * rng.lognormal(0, 1, 3_000)

    found = forecast(unkeyed(rows[:1_500], seconds[:1_500]), None, rows[1_500:])

    assert 0.86 < np.mean(seconds[1_500:] <= found.upper) < 0.94


def test_a_chunk_of_which_little_is_known_goes_before_a_known_one_that_is_expected_to_take_as_long():
    rng = np.random.default_rng(5)
    spread = [(key, 100, float(seconds)) for key, seconds in enumerate(rng.lognormal(0, 1, 200), start=2)]
    known = history(*[(1, 100, 1.0)] * 5, *spread)

    found = forecast(known, np.array([1, 10_000]), np.array([100, 100]))

    assert found.seconds == pytest.approx([1.0, 1.0], rel=0.3)
    assert found.upper[1] > 2 * found.upper[0]


@given(
    attempts=st.lists(
        st.tuples(st.integers(-3, 3), st.integers(0, 10**9), st.floats(0, 1e6)), min_size=3, max_size=60
    ),
    chunks=st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 10**9)), min_size=1, max_size=30),
)
def test_any_history_gives_each_chunk_a_time_and_without_keys_more_rows_never_take_less(attempts, chunks):
    keys, rows = (np.array(column, np.int64) for column in zip(*chunks, strict=True))

    found = forecast(history(*attempts), keys, rows)
    by_rows = forecast(history(*attempts), None, np.sort(rows))

    assert np.isfinite(found.seconds).all()
    assert (found.seconds >= 0).all()
    assert (found.upper >= found.seconds).all()
    assert (by_rows.seconds[1:] >= by_rows.seconds[:-1] * (1 - 1e-9)).all()


def test_a_common_factor_changes_no_order():
    rng = np.random.default_rng(6)
    keys, rows, seconds = rng.integers(0, 50, 300), rng.integers(1, 1_000, 300), rng.lognormal(0, 2, 300)
    chunks = rng.integers(0, 100, 500), rng.integers(1, 2_000, 500)

    slow = forecast(DurationHistory(keys, rows, 8 * seconds), *chunks)
    fast = forecast(DurationHistory(keys, rows, seconds), *chunks)

    assert slow.upper == pytest.approx(8 * fast.upper)


def test_stages_of_a_leg_add_up():
    one, two = of_rows(history(*[(0, 1, 1.0)] * 3), 1), of_rows(history(*[(0, 1, 2.0)] * 3), 1)

    assert (one + two).seconds == pytest.approx([3.0])
    assert (one + two).upper == pytest.approx(one.upper + two.upper)


def test_a_million_chunks_are_told_from_50_000_attempts_without_delay():
    rng = np.random.default_rng(7)
    known = DurationHistory(
        rng.integers(1, 20_000, 50_000), rng.integers(1, 10**5, 50_000), rng.lognormal(0, 1, 50_000)
    )
    keys, rows = rng.integers(0, 40_000, 10**6), rng.integers(1, 10**5, 10**6)

    before = time.process_time()
    found = forecast(known, keys, rows)

    assert len(found.upper) == 10**6
    assert time.process_time() - before < 4.0


# While a run goes on


def pace(*ended: tuple[int, float]) -> Pace:
    made = Pace()
    for rows, seconds in ended:
        made.ended(rows, seconds)
    return made


def test_nothing_is_expected_before_anything_ended_unless_it_was_forecast():
    assert Pace().expect(10) is None
    assert Pace().expect(10, forecast=4.0) == 4.0


def test_a_chunk_is_expected_to_take_what_those_of_its_size_take():
    made = pace(*[(100, 1.0), (1_000, 10.0)] * 3, (100, 900.0))

    assert made.expect(110) == 1.0
    assert made.expect(1_000) == 10.0


def test_larger_chunks_than_any_that_ended_take_more_in_proportion_and_smaller_ones_no_less():
    made = pace((128, 1.0))

    assert made.expect(1_024) == 8.0
    assert made.expect(1) == 1.0


def test_what_chunks_took_long_ago_is_forgotten():
    made = pace(*[(10, 100.0)] * 500, *[(10, 1.0)] * WINDOW)

    assert made.expect(10) == 1.0


def test_forecasts_are_corrected_by_the_factor_by_which_they_are_off():
    made = Pace()
    for seconds in (1.0, 2.0, 3.0):
        made.ended(10, 5 * seconds, forecast=seconds)

    assert made.expect(10, forecast=7.0) == pytest.approx(35.0)
    assert not made.straggling(10, 100.0, forecast=7.0)
    assert made.straggling(10, 110.0, forecast=7.0)


def test_a_chunk_that_runs_three_times_as_long_as_those_of_its_size_is_a_straggler():
    made = pace(*[(100, 1.0)] * ENOUGH)

    assert not made.straggling(100, 2.9)
    assert made.straggling(100, 3.1)
    assert not made.straggling(400, 11.9)
    assert made.straggling(400, 12.1)


def test_few_that_ended_make_no_straggler():
    made = pace(*[(100, 1.0)] * (ENOUGH - 1))

    assert not made.straggling(100, math.inf)


def test_where_durations_vary_a_chunk_must_stand_out_from_nearly_all_to_be_a_straggler():
    rng = np.random.default_rng(8)
    made = pace(*[(100, float(seconds)) for seconds in rng.lognormal(0, 1, WINDOW)])

    called = [made.straggling(100, float(seconds)) for seconds in rng.lognormal(0, 1, 2_000)]

    assert np.mean(called) < 0.03


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=3 * WINDOW))
def test_what_is_expected_is_the_median_of_the_latest(seconds):
    made = pace(*[(10, one) for one in seconds])

    latest = sorted(seconds[-WINDOW:])
    assert made.expect(10) == latest[math.ceil(len(latest) / 2) - 1]
