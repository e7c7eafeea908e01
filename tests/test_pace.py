"""How long tasks take, by those that ended."""

from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.pace import REMEMBERED, USUAL, LegPace

TASKS = st.lists(
    st.tuples(st.floats(1e-6, 1e6), st.integers(1, 2_000), st.floats(0, 1e6), st.booleans()),
    min_size=1,
    max_size=3 * REMEMBERED,
)


@given(TASKS)
def test_it_is_what_the_latest_tasks_alone_say(tasks):
    pace = LegPace()
    for seconds, chunks, cost, long in tasks:
        pace.add(seconds, chunks, cost, long=long)

    latest, last = tasks[-REMEMBERED:], tasks[-USUAL:]
    number = sum(chunks for _, chunks, _, _ in latest)
    # Times are kept to the nanosecond.
    assert pace.task == pytest.approx(fmean(seconds for seconds, *_ in latest), rel=1e-9, abs=1e-9)
    assert pace.chunk == pytest.approx(sum(seconds for seconds, *_ in latest) / number, rel=1e-9, abs=1e-9)
    assert pace.trust == number // (1 + sum(long for *_, long in latest))
    assert pace.usual == median(seconds / chunks for seconds, chunks, _, _ in last)
    assert pace.cost == median(cost / chunks for _, chunks, cost, _ in last)
