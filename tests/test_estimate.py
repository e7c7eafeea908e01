"""How much memory a chunk will need, from what others used."""

from __future__ import annotations

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from batchrun import Pipeline, Stage, by_rows
from batchrun.estimate import LEAST, estimate_memory, fit_memory
from batchrun.resources import Worker

MIB = 2**20
GIB = 2**30


def solve(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk


def test_nothing_is_estimated_from_nothing():
    assert estimate_memory([]) is None


@given(peaks=st.lists(st.tuples(st.integers(1, 10**6), st.integers(MIB, 64 * GIB)), min_size=1, max_size=50))
def test_no_earlier_peak_lies_above_the_estimate(peaks):
    found = estimate_memory(peaks)

    assert all(found.memory(rows) >= peak for rows, peak in peaks)
    assert found.memory(0) >= LEAST


def test_memory_that_grows_with_the_rows_is_estimated_for_more_rows():
    found = estimate_memory([(rows, 200 * MIB + rows * MIB) for rows in (100, 200, 400)])

    assert 1.15 * 1000 * MIB < found.memory(800) < 1.4 * 1000 * MIB


def test_chunks_of_similar_size_need_the_same_so_that_they_share_a_queue():
    found = estimate_memory([(100, 900 * MIB), (200, 950 * MIB)])

    assert len({found.memory(rows) for rows in range(100, 140)}) <= 2


def test_a_stage_that_was_seen_starts_with_what_it_used_and_says_so():
    pipeline = Pipeline("p", split=by_rows(1), stages=[Stage(solve, memory="auto", resources={"BIG": 1})])
    workers = [Worker("a", "s-0", 1, 2 * GIB), Worker("b", "b-0", 1, 8 * GIB, {"BIG": 1})]

    fitted, estimates, reasons = fit_memory(pipeline, {"solve": [(10, GIB)]}.get, workers)

    assert GIB < fitted.stages[0].demand.memory < 2 * GIB
    assert fitted.stages[0].demand.tags == {"BIG": 1}
    assert estimates["solve"].seen == 1
    assert reasons["solve"] == "from 1 earlier attempt, at most 1 GiB"


def test_a_stage_that_was_never_seen_starts_with_a_thread_of_the_smallest_worker():
    pipeline = Pipeline("p", split=by_rows(1), stages=[Stage(solve, memory="auto")])
    workers = [Worker("a", "s-0", 2, 4 * GIB), Worker("b", "b-0", 1, 8 * GIB)]

    fitted, estimates, reasons = fit_memory(pipeline, lambda stage: [], workers)

    assert fitted.stages[0].demand.memory == 2 * GIB
    assert estimates == {}
    assert "no earlier run" in reasons["solve"]


def test_a_pipeline_that_says_its_memory_is_left_as_it_is():
    pipeline = Pipeline("p", split=by_rows(1), stages=[Stage(solve, memory="1GiB")])

    assert fit_memory(pipeline, lambda stage: [], []) == (pipeline, {}, {})
