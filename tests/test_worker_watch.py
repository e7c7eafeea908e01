"""What a worker decides about a stage that runs in a child, by what it knows of it."""

from __future__ import annotations

import pytest

from batchrun.outcome import Cause, ErrorRecord, Outcome
from batchrun.worker.ledger import History
from batchrun.worker.leg import StageEnd
from batchrun.worker.running import StopRequest, running, stop_tasks
from batchrun.worker.task import Limits
from batchrun.worker.watch import Ask, Kill, Watch, decide, final, memory_limit

GIB = 2**30
ERROR = ErrorRecord("ValueError", "no")


def watch(asked: Cause | None = None, asked_at: float = 0.0, **limits: float) -> Watch:
    """A stage that began at 0 s."""
    return Watch(0, Limits("solve", **limits), clock=0.0, asked=asked, asked_at=asked_at)


def step(watched: Watch, now: float, stop: StopRequest | None = None, memory: int = 0) -> Ask | Kill | None:
    return decide(watched, now, stop=stop, memory=memory, limit=GIB, grace=5.0)


def ended(outcome: Outcome, cause: Cause | None = None) -> StageEnd:
    error = None if outcome.solved else ERROR
    return StageEnd("solve", outcome, 0.0, 1.0, cause=cause, error=error)


class TestDecide:
    @pytest.mark.parametrize(
        ("watched", "now", "wanted"),
        [
            (watch(), 1e9, None),
            (watch(timeout=10), 9.9, None),
            (watch(timeout=10), 10, Cause.TIMEOUT),
            (watch(stop_after=10), 9.9, None),
            (watch(Cause.DEADLINE, 10, stop_after=10), 14.9, None),
            (watch(Cause.DEADLINE, 10, stop_after=10), 15, Cause.DEADLINE),
            (watch(Cause.DEADLINE, 10, stop_after=10, timeout=12), 12, Cause.TIMEOUT),
        ],
    )
    def test_kills_when_a_time_is_over(self, watched: Watch, now: float, wanted: Cause | None) -> None:
        found = step(watched, now)
        assert (found.cause if isinstance(found, Kill) else found) == wanted

    def test_asks_once_when_stop_after_is_over(self) -> None:
        assert step(watch(stop_after=10), 10) == Ask(Cause.DEADLINE)
        assert step(watch(Cause.DEADLINE, 10, stop_after=10), 11) is None

    def test_puts_a_stop_above_the_stage_s_own_deadline(self) -> None:
        stop = StopRequest(keep_best=True, deadline=20.0, grace=9.0)
        asked = watch(Cause.DEADLINE, 10, stop_after=10)
        assert step(asked, 11, stop) == Ask(Cause.CANCEL)
        assert step(watch(Cause.CANCEL, 11, stop_after=10), 16, stop) is None
        late = step(watch(Cause.CANCEL, 11, stop_after=10), 20, stop)
        assert isinstance(late, Kill)
        assert late.cause is Cause.CANCEL
        assert "within 9" in late.record.message

    def test_puts_memory_above_all(self) -> None:
        found = step(watch(timeout=1), 2, memory=GIB * 13 // 10)
        assert isinstance(found, Kill)
        assert found.cause is Cause.MEMORY
        assert found.record.message == "the stage used 1.3 GiB, its memory is 1 GiB"
        assert step(watch(), 2, memory=GIB) is None

    def test_holds_no_stage_to_a_memory_that_it_did_not_name(self) -> None:
        assert decide(watch(), 1, stop=None, memory=2**60, limit=memory_limit(0), grace=1) is None


class TestFinal:
    def test_takes_the_answer_of_a_stage_that_was_stopped(self) -> None:
        watched = watch()
        watched.published(((0.5, 3.0, None),), b"frame")
        for cause in (Cause.MEMORY, Cause.TIMEOUT, Cause.DEADLINE):
            found = final(ended(Outcome.TIMED_OUT, cause), watched, None)
            assert (found.outcome, found.cause, found.error) == (Outcome.STOPPED_WITH_SOLUTION, cause, None)

    def test_leaves_an_error_an_error(self) -> None:
        watched = watch()
        watched.published(((0.5, 3.0, None),), b"frame")
        failed = ended(Outcome.FAILED, Cause.ERROR)
        assert final(failed, watched, None) == failed

    def test_counts_an_answer_that_came_by_itself_while_a_stop_was_on_its_way(self) -> None:
        stop = StopRequest(keep_best=False, deadline=0, grace=0)
        assert final(ended(Outcome.SUCCEEDED), watch(), stop).outcome is Outcome.SUCCEEDED

    @pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED])
    def test_counts_nothing_after_a_cancel_that_keeps_nothing(self, outcome: Outcome) -> None:
        stop = StopRequest(keep_best=False, deadline=0, grace=0)
        assert final(ended(outcome), watch(), stop).outcome is Outcome.CANCELLED

    def test_counts_what_was_solved_after_a_cancel_that_keeps_the_best(self) -> None:
        stop = StopRequest(keep_best=True, deadline=0, grace=0)
        assert final(ended(Outcome.SUCCEEDED), watch(), stop).outcome is Outcome.SUCCEEDED
        assert final(ended(Outcome.FAILED, Cause.ERROR), watch(), stop).outcome is Outcome.CANCELLED


class TestHistory:
    def test_keeps_first_last_and_what_changed(self) -> None:
        history = History(most=10)
        for number in range(1000):
            history.add(_point(number, number // 100))
        kept = history.thinned()
        assert len(kept) <= 10
        assert (kept[0].seconds, kept[-1].seconds) == (0, 999)
        assert {point.objective for point in kept} >= {0, 9}
        assert [point.seconds for point in kept] == sorted(point.seconds for point in kept)

    def test_keeps_all_of_a_few(self) -> None:
        history = History()
        for number in range(500):
            history.add(_point(number, 1))
        assert len(history.thinned()) == 500

    def test_holds_little_of_many(self) -> None:
        history = History()
        for number in range(100_000):
            history.add(_point(number, number))
        assert len(history.points) <= 1000
        assert len(history.thinned()) == 500


def _point(seconds: float, objective: float):
    from batchrun.outcome import Incumbent

    return Incumbent(seconds, objective)


class TestTheRegistry:
    def test_finds_what_runs_while_it_runs(self) -> None:
        with running("one") as ticket:
            assert stop_tasks(["one", "two"], keep_best=True, grace=3) == ["one"]
            assert ticket.stop is not None
            assert ticket.stop.keep_best
        assert stop_tasks(["one"], keep_best=True, grace=3) == []

    def test_of_two_requests_keeps_the_stricter(self) -> None:
        with running("one") as ticket:
            stop_tasks(["one"], keep_best=True, grace=100)
            stop_tasks(["one"], keep_best=False, grace=1)
            stop_tasks(["one"], keep_best=True, grace=50)
            assert ticket.stop is not None
            assert (ticket.stop.keep_best, ticket.stop.grace) == (False, 1)
