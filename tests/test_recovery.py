"""What becomes of a chunk after a failed attempt: a table."""

from __future__ import annotations

import pytest

from batchrun import Outcome, RetryPolicy
from batchrun.outcome import ErrorRecord
from batchrun.recovery import GiveUp, Retry, Tally, decide

BUSY = ErrorRecord("OSError", "busy", classes=("OSError", "Exception"), signature="OSError at solve.py:3")
WRONG = ErrorRecord(
    "ValueError", "bad", classes=("ValueError", "Exception"), signature="ValueError at s.py:9"
)
LOST = ErrorRecord("WorkerLost", "it went away", classes=("WorkerLost",), signature="WorkerLost")
ONLY_OS = RetryPolicy(attempts=3, delay="1s", jitter=0, on=OSError, worker_lost=2)


@pytest.mark.parametrize(
    ("outcome", "error", "failures", "policy", "decision"),
    [
        (Outcome.FAILED, BUSY, 1, ONLY_OS, Retry(1.0)),
        (Outcome.FAILED, BUSY, 2, ONLY_OS, Retry(2.0)),
        (Outcome.FAILED, BUSY, 3, ONLY_OS, GiveUp()),
        (Outcome.FAILED, WRONG, 1, ONLY_OS, GiveUp()),
        (Outcome.FAILED, WRONG, 1, RetryPolicy(attempts=1), GiveUp()),
        (Outcome.FAILED, WRONG, 1, RetryPolicy(attempts=2, delay=4, jitter=0), Retry(4.0)),
        (Outcome.WORKER_LOST, LOST, 1, ONLY_OS, Retry(0.0)),
        (Outcome.WORKER_LOST, LOST, 2, ONLY_OS, GiveUp()),
        (Outcome.WORKER_LOST, LOST, 1, RetryPolicy(attempts=1), Retry(0.0)),
    ],
)
def test_the_decision_follows_outcome_error_and_policy(outcome, error, failures, policy, decision):
    assert decide(outcome, error, failures=failures, policy=policy, chance=0.5) == decision


def test_a_lost_worker_is_not_held_against_a_chunk_that_was_not_alone_there():
    for failures in (1, 2, 99):
        decision = decide(
            Outcome.WORKER_LOST, LOST, failures=failures, policy=ONLY_OS, chance=0.5, alone=False
        )
        assert decision == Retry(0.0)


def test_first_chunks_that_all_fail_alike_mean_a_broken_function():
    tally = Tally(enough=3)

    assert tally.failed("solve", WRONG) is None
    assert tally.failed("solve", BUSY) is None
    assert tally.failed("solve", WRONG) is None
    assert tally.failed("solve", WRONG) == WRONG


def test_one_chunk_that_passed_a_stage_makes_later_failures_at_it_the_chunks_own():
    tally = Tally(enough=1)

    tally.passed("check")

    assert tally.failed("check", WRONG) is None
    assert tally.failed("solve", WRONG) == WRONG
