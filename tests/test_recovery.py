"""What becomes of a chunk after a failed attempt: a table."""

from __future__ import annotations

import pytest

from batchrun import Outcome, RetryPolicy
from batchrun.outcome import Cause, ErrorRecord
from batchrun.recovery import Cut, Enlarge, Failure, GiveUp, Retry, Tally, cause_of, decide

GIB = 2**30
BUSY = ErrorRecord("OSError", "busy", classes=("OSError", "Exception"), signature="OSError at solve.py:3")
WRONG = ErrorRecord(
    "ValueError", "bad", classes=("ValueError", "Exception"), signature="ValueError at s.py:9"
)
LOST = ErrorRecord("WorkerLost", "it went away", classes=("WorkerLost",), signature="WorkerLost")
FULL = ErrorRecord("OutOfMemory", "too much", classes=("OutOfMemory",), signature="OutOfMemory")
LATE = ErrorRecord("TimedOut", "too long", classes=("TimedOut",), signature="TimedOut")
UNSENT = ErrorRecord("TaskLost", "not sent", classes=("TaskLost",), signature="TaskLost")
ONLY_OS = RetryPolicy(
    attempts=3, delay="1s", jitter=0, on=OSError, worker_lost=2, timeouts=2, out_of_memory=6, infrastructure=3
)


def failure(cause: Cause, error: ErrorRecord, count: int = 1, **facts) -> Failure:
    return Failure(cause, error, count, **facts)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        # errors of the stage: retried if covered, then cut, then set apart
        (failure(Cause.ERROR, BUSY, 1), Retry),
        (failure(Cause.ERROR, BUSY, 2, divisible=True), Retry),
        (failure(Cause.ERROR, BUSY, 3), GiveUp),
        (failure(Cause.ERROR, BUSY, 3, divisible=True), Cut),
        (failure(Cause.ERROR, WRONG, 1), GiveUp),
        (failure(Cause.ERROR, WRONG, 1, divisible=True), Cut),
        # memory: a fresh process, then fewer rows, then a larger worker, then nothing
        (failure(Cause.MEMORY, FULL, fresh=False, divisible=True, larger=8 * GIB), Retry),
        (failure(Cause.MEMORY, FULL, divisible=True, larger=8 * GIB), Cut),
        (failure(Cause.MEMORY, FULL, larger=8 * GIB), Enlarge),
        (failure(Cause.MEMORY, FULL), GiveUp),
        (failure(Cause.MEMORY, FULL, 5, larger=8 * GIB), Enlarge),
        (failure(Cause.MEMORY, FULL, 6, larger=8 * GIB), GiveUp),
        (failure(Cause.MEMORY, FULL, 6, divisible=True), GiveUp),
        (failure(Cause.MEMORY, FULL, 6, fresh=False), GiveUp),
        # time
        (failure(Cause.TIMEOUT, LATE, 1), Retry),
        (failure(Cause.TIMEOUT, LATE, 2), GiveUp),
        (failure(Cause.TIMEOUT, LATE, 2, divisible=True), Cut),
        (failure(Cause.DEADLINE, LATE, 2), GiveUp),
        # workers: never cut, since each part would cost workers again
        (failure(Cause.WORKER_LOST, LOST, 1), Retry),
        (failure(Cause.WORKER_LOST, LOST, 2), GiveUp),
        (failure(Cause.WORKER_LOST, LOST, 2, divisible=True), GiveUp),
        (failure(Cause.WORKER_LOST, LOST, 99, alone=False), Retry),
        # what is between the runner and the stage
        (failure(Cause.INFRASTRUCTURE, UNSENT, 2), Retry),
        (failure(Cause.INFRASTRUCTURE, UNSENT, 3, divisible=True), GiveUp),
    ],
)
def test_the_decision_follows_from_the_cause_its_budget_and_what_is_left_to_try(what, kind):
    assert type(decide(what, policy=ONLY_OS, chance=0.5)) is kind


def test_waits_grow_from_try_to_try_and_lost_workers_cost_none():
    waits = [decide(failure(Cause.ERROR, BUSY, n), policy=ONLY_OS, chance=0.5).wait for n in (1, 2)]

    assert waits == [1.0, 2.0]
    assert decide(failure(Cause.WORKER_LOST, LOST), policy=ONLY_OS, chance=0.5).wait == 0.0


def test_more_memory_is_the_next_larger_that_a_worker_has():
    decision = decide(failure(Cause.MEMORY, FULL, larger=8 * GIB), policy=ONLY_OS, chance=0.5)

    assert decision == Enlarge(8 * GIB)


@pytest.mark.parametrize(
    ("decision", "sentence"),
    [
        (Retry(0.0, "elsewhere"), "tried again at once elsewhere"),
        (Retry(2.5), "tried again in 2.5 s"),
        (Cut(), "cut in two halves, which are tried by themselves"),
        (Enlarge(8 * GIB), "tried again where it may use 8 GiB"),
        (GiveUp("no worker has more memory"), "its rows are set apart: no worker has more memory"),
        (GiveUp(), "its rows are set apart"),
    ],
)
def test_a_decision_says_what_happens_next(decision, sentence):
    assert str(decision) == sentence


def test_every_outcome_that_is_no_success_has_a_cause():
    assert cause_of(Outcome.OUT_OF_MEMORY) is Cause.MEMORY
    assert cause_of(Outcome.FAILED) is Cause.ERROR
    assert {cause_of(outcome) for outcome in Outcome} <= set(Cause)


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
