"""When a failed chunk is tried again."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun import RetryPolicy
from batchrun.errors import PipelineError


def test_waits_grow_exponentially_up_to_the_longest():
    policy = RetryPolicy(attempts=9, delay="1s", factor=3, max_delay="20s", jitter=0)

    assert [policy.wait_after(n, chance=0.9) for n in range(1, 6)] == [1, 3, 9, 20, 20]


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_jitter_takes_off_a_share_and_never_more(failures, chance):
    policy = RetryPolicy(delay=2, max_delay="1h", jitter=0.25)

    longest = policy.wait_after(failures, chance=0)
    assert 0.75 * longest <= policy.wait_after(failures, chance=chance) <= longest <= 3600


def test_an_error_is_covered_by_the_name_of_its_class_or_of_a_base():
    policy = RetryPolicy(on=(OSError, "SolverBusy"))

    assert policy.covers([cls.__name__ for cls in ConnectionResetError.__mro__])
    assert policy.covers(["SolverBusy", "Exception"])
    assert not policy.covers([cls.__name__ for cls in ValueError.__mro__])


def test_a_policy_survives_pickling():
    policy = RetryPolicy(attempts=7, on=OSError)

    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"factor": 0.5},
        {"jitter": 2},
        {"delay": "soon"},
        {"delay": -1},
        {"worker_lost": 0},
        {"timeouts": 0},
        {"out_of_memory": 0},
        {"infrastructure": -1},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(PipelineError):
        RetryPolicy(**wrong)
