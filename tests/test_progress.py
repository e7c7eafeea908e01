"""What the faces know of a run comes from its events alone."""

from __future__ import annotations

import numpy as np
import pytest

from batchrun.events import (
    AttemptEnded,
    AttemptsSolved,
    ChunkCut,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksReturned,
    ChunksSettled,
    RetryScheduled,
    RunEnded,
    RunStarted,
    RunStopping,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import Attempt, ErrorRecord, Outcome, RunState
from batchrun.progress import Progress
from batchrun.render.wording import describe_slot, describe_stop, describe_time
from batchrun.status import TaskStatus
from tests.told import chunk_settled, chunks_recalled, solved_attempts

ERROR = ErrorRecord("ValueError", "no due date")


def started(rows: int = 1_000, at: float = 100.0) -> RunStarted:
    return RunStarted("r1", at, "delays", ("clean", "solve"), rows, "runs/r1", "two workers")


def settled(chunk: int, at: float, rows: int = 100, outcome: Outcome = Outcome.SUCCEEDED) -> ChunksSettled:
    return chunk_settled("r1", at, chunk, outcome, rows)


def placed(*chunks: int) -> ChunksPlaced:
    return ChunksPlaced("r1", 100, chunks, tuple("w-0" for _ in chunks))


def attempted(chunk: int, outcome: Outcome = Outcome.SUCCEEDED, stage: str = "clean") -> AttemptEnded:
    error = None if outcome.solved else ERROR
    return AttemptEnded("r1", 101, Attempt(chunk, stage, 1, "w-0", outcome, 100.0, 1.0, error=error))


def told(*events: object) -> Progress:
    progress = Progress()
    for event in events:
        progress.tell(event)  # type: ignore[arg-type]
    return progress


def test_rows_and_chunks_are_counted_as_they_settle():
    progress = told(
        started(),
        ChunksPlanned("r1", 100, chunks=10, rows=1_000),
        settled(0, 101),
        settled(1, 102, outcome=Outcome.FAILED),
    )
    assert (progress.rows_settled, progress.chunks_settled, progress.unsolved) == (200, 2, 1)
    assert progress.share == pytest.approx(0.2)


def test_rows_that_an_earlier_session_settled_count_for_the_share_but_not_for_the_rate():
    progress = told(
        started(),
        ChunksPlanned("r1", 100, chunks=10, rows=1_000, settled=8, settled_rows=800),
        settled(8, 102),
    )
    assert progress.share == pytest.approx(0.9)
    assert progress.chunks_settled == 9
    assert progress.rows_per_second(102) == pytest.approx(50)
    assert progress.seconds_left(102) == pytest.approx(2)


def test_planning_again_does_not_count_the_earlier_session_twice():
    progress = told(
        started(),
        ChunksPlanned("r1", 100, chunks=4, rows=400, settled=2, settled_rows=200),
        settled(2, 101),
        ChunksPlanned("r1", 102, chunks=10, rows=1_000, settled=2, settled_rows=200),
    )
    assert (progress.rows_settled, progress.chunks_settled) == (300, 3)


def test_the_plan_is_known_to_be_unfinished_while_rows_are_not_cut():
    assert not told(started(), ChunksPlanned("r1", 100, chunks=2, rows=10)).planned_in_full
    assert told(started(), ChunksPlanned("r1", 100, chunks=2, rows=1_000)).planned_in_full


def test_there_is_no_estimate_before_a_chunk_has_ended():
    progress = told(started(), ChunksPlanned("r1", 100, chunks=10, rows=1_000))
    assert progress.seconds_left(150) is None


def test_small_first_chunks_do_not_hold_the_estimate_down():
    slow = [settled(number, 100 + 10 * (number + 1), rows=1) for number in range(5)]
    fast = [settled(5 + number, 150 + (number + 1), rows=100) for number in range(50)]
    progress = told(started(rows=20_000), *slow, *fast)
    assert progress.rows_per_second(200) == pytest.approx(100, rel=0.05)


def test_the_estimate_stays_near_the_truth_over_a_run_of_a_million_chunks_in_bounded_memory():
    progress = told(started(rows=10_000_000))
    for number in range(20_000):
        progress.tell(settled(number, 100 + number, rows=10))
    assert len(progress._rate._samples) <= 4_000
    assert progress.rows_per_second(100 + 20_000) == pytest.approx(10, rel=0.01)


def test_an_empty_input_is_complete_once_the_run_has_ended():
    progress = told(started(rows=0))
    assert progress.share == 0
    progress.tell(RunEnded("r1", 101, RunState.SUCCEEDED, 0, 0, 0, 0, 1.0))
    assert progress.share == 1
    assert progress.state is RunState.SUCCEEDED


def test_attempts_retries_and_the_newest_error_are_kept():
    attempt = Attempt(0, "solve", 1, "w-0", Outcome.FAILED, 100.0, 1.0, error=ERROR)
    progress = told(
        started(), AttemptEnded("r1", 101, attempt), RetryScheduled("r1", 101, 0, "solve", 1.0, ERROR)
    )
    assert progress.attempts[Outcome.FAILED] == 1
    assert progress.retries == 1
    assert progress.last_error == ERROR


def test_slots_are_described_with_what_waits():
    progress = told(SlotsChanged("r1", 100, (SlotUse("HIGHMEM", 1, 1, 3), SlotUse("threads", 4, 2, 0)), 3))
    assert [describe_slot(slot) for slot in progress.slots] == ["HIGHMEM 1/1, 3 waiting", "threads 2/4"]
    assert (
        describe_slot(SlotUse("MEMORY", 8 * 2**30, 6 * 2**30, 2**30)) == "MEMORY 6 GiB/8 GiB, 1 GiB waiting"
    )


def test_memory_that_nobody_asks_for_is_not_told():
    idle = SlotUse("MEMORY", 8 * 2**30, 0, 0)
    threads = SlotUse("threads", 4, 2, 0)
    assert told(SlotsChanged("r1", 100, (threads, idle), 3)).telling_slots == (threads,)


def test_a_chunk_runs_from_when_it_is_placed_until_its_attempt_ends_or_its_worker_is_lost():
    progress = told(started(), placed(0, 1, 2))
    assert progress.running == {0, 1, 2}
    progress.tell(attempted(0))
    progress.tell(attempted(1, Outcome.FAILED))
    progress.tell(attempted(2, Outcome.WORKER_LOST))
    assert progress.running == set()
    progress.tell(placed(2))
    assert progress.running == {2}


def test_a_chunk_runs_again_when_it_is_placed_for_its_next_leg():
    progress = told(started(), placed(0), attempted(0, stage="clean"))
    progress.tell(placed(0))
    assert progress.running == {0}
    progress.tell(attempted(0, stage="solve"))
    progress.tell(settled(0, 102))
    assert progress.running == set()


def test_two_stages_of_one_leg_end_the_same_run_of_a_chunk():
    progress = told(started(), placed(0, 1), attempted(0, stage="clean"), attempted(0, stage="solve"))
    assert progress.running == {1}


def test_nothing_runs_after_the_end_though_chunks_were_cancelled():
    progress = told(started(), placed(0, 1), RunEnded("r1", 101, RunState.CANCELLED, 9, 0, 0, 9, 1.0))
    assert progress.running == set()


def test_chunks_of_earlier_sessions_are_known_apart():
    progress = told(
        started(),
        ChunksPlanned("r1", 100, chunks=10, rows=1_000, settled=2, settled_rows=200),
        chunks_recalled("r1", 100, succeeded={0: 100, 1: 100}),
        settled(2, 101),
    )
    assert progress.chunks_recalled == 2
    assert progress.outcomes.total() == 1


def test_the_estimate_counts_down_while_no_chunk_ends_and_never_below_zero():
    progress = told(started(), ChunksPlanned("r1", 100, chunks=4, rows=400), settled(0, 110), settled(1, 120))
    assert progress.seconds_left(120) == pytest.approx(80)
    assert progress.seconds_left(150) == pytest.approx(50)
    assert progress.seconds_left(999) == 0


def test_the_rate_sinks_while_no_chunk_ends_and_does_not_vanish():
    progress = told(started(), settled(0, 110), settled(1, 110.1))
    rates = [progress.rows_per_second(now) for now in (130.0, 150.0, 300.0, 1_100.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.2)


def test_the_time_goes_on_and_says_what_the_run_waits_for():
    progress = told(started())
    assert describe_time(progress, 100.5) == "0 s elapsed, starting"
    progress.tell(ChunksPlanned("r1", 101, chunks=4, rows=1_000))
    assert describe_time(progress, 112.0) == "12 s elapsed, no chunk has ended yet"
    progress.tell(settled(0, 120, rows=250))
    assert describe_time(progress, 130.0) == "30 s elapsed, 50 s left"
    assert describe_time(progress, 300.0) == "3 min 20 s elapsed, longer than estimated"
    progress.tell(settled(1, 301, rows=750))
    assert describe_time(progress, 301.0) == "3 min 21 s elapsed, finishing"


def test_a_request_to_stop_says_what_happens_and_counts_down():
    progress = told(started(), placed(0, 1), RunStopping("r1", 110.0, running=2, grace=5.0))

    def said(now: float) -> str:
        return describe_stop(progress, now, again="Ctrl-C again stops at once")

    assert said(110.0) == "stopping: 2 running chunks have up to 5 s to end; Ctrl-C again stops at once"
    progress.tell(attempted(0))
    assert said(113.5) == "stopping: 1 running chunk has up to 2 s to end; Ctrl-C again stops at once"
    assert said(115.0) == "stopping: 1 running chunk did not end in time"
    progress.tell(attempted(1))
    assert said(115.0) == "stopping: no chunk is running any more"
    progress.tell(ChunksPlanned("r1", 115, chunks=4, rows=1_000))
    assert describe_time(progress, 115.0) == "15 s elapsed, stopping"


def reported(chunk: int, at: float, seconds: float = 1.0, **status: object) -> ChunkReported:
    return ChunkReported("r1", at, chunk, "w-1", TaskStatus("k", "solve", seconds, **status))  # type: ignore[arg-type]


def test_parts_of_a_chunk_that_was_cut_count_in_its_place_and_rows_stay_the_same():
    progress = told(started(), ChunksPlanned("r1", 100, chunks=4, rows=1_000), placed(0), attempted(0))
    progress.tell(ChunkCut("r1", 101, 0, (4, 5), (125, 125)))
    assert (progress.chunks_planned, progress.rows_planned, progress.chunks_cut) == (5, 1_000, 1)
    progress.tell(ChunksPlanned("r1", 102, chunks=5, rows=1_000))
    for chunk in (1, 2, 3):
        progress.tell(settled(chunk, 103, rows=250))
    progress.tell(settled(4, 104, rows=125))
    progress.tell(settled(5, 105, rows=125, outcome=Outcome.FAILED))
    assert (progress.chunks_settled, progress.chunks_planned, progress.share) == (5, 5, 1.0)


def test_chunks_that_say_something_are_shown_first_and_the_longest_running_of_them_first():
    progress = told(started(), placed(0, 1, 2, 3))
    progress.tell(reported(2, 150, seconds=40, message="node 7"))
    progress.tell(reported(1, 150, seconds=20, done=0.5))
    lines = progress.running_lines(150, most=3)
    assert [line.chunk for line in lines] == [2, 1, 0]
    assert [line.seconds for line in lines] == [40, 20, 50]
    assert (lines[0].stage, lines[0].worker, lines[0].message) == ("solve", "w-1", "node 7")
    assert lines[1].share == 0.5


def test_a_chunk_that_says_nothing_is_shown_once_it_has_run_for_a_while():
    progress = told(started(), placed(0))
    assert progress.running_lines(104, most=5) == []
    assert [line.chunk for line in progress.running_lines(106, most=5)] == [0]


def test_a_status_that_comes_after_the_attempt_ended_brings_nothing_back():
    progress = told(started(), placed(0), attempted(0), reported(0, 102, message="late"))
    assert progress.running == set()
    assert progress.running_lines(200, most=5) == []


def test_a_new_try_of_a_chunk_says_nothing_that_the_one_before_said():
    progress = told(started(), placed(0), reported(0, 101, message="old"), attempted(0), placed(0))
    (line,) = progress.running_lines(110, most=5)
    assert line.message == ""


def test_the_worst_gap_the_most_memory_and_the_decisions_of_a_session_are_kept():
    stopped = Outcome.STOPPED_WITH_SOLUTION
    progress = told(
        started(),
        chunk_settled("r1", 101, 0, stopped, 10, gap=0.01),
        chunk_settled("r1", 102, 1, stopped, 10, gap=0.04),
        chunk_settled("r1", 102, 5, stopped, 10),
        chunk_settled("r1", 103, 2, Outcome.SUCCEEDED, 10, gap=0.5),
        reported(3, 104, peak_memory=7),
        AttemptEnded(
            "r1",
            105,
            Attempt(4, "solve", 1, "w", Outcome.OUT_OF_MEMORY, 100, 1.0, peak_memory=9, decision="cut"),
        ),
    )
    assert progress.worst_gap == 0.04
    assert progress.peak_memory == 9
    assert progress.decisions["cut"] == 1


def test_chunks_that_settle_together_count_like_those_that_settle_one_by_one():
    ended = (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.SUCCEEDED)
    rows = np.array([100, 200, 300])
    unknown = np.full(3, np.nan)
    together = ChunksSettled("r1", 102, np.arange(3), ended, rows, rows, unknown, unknown)
    progress = told(started(), placed(0, 1, 2, 3), together)
    assert (progress.rows_settled, progress.chunks_settled, progress.unsolved) == (600, 3, 1)
    assert progress.running == {3}
    assert progress.rows_per_second(102) == pytest.approx(300)


def pack(chunks: range) -> ChunksPlaced:
    return ChunksPlaced("r1", 100, tuple(chunks), ("w-0",) * len(chunks), (len(chunks),))


def test_chunks_of_a_pack_run_until_its_attempts_are_told_together():
    progress = told(started(), pack(range(500)), placed(500))
    assert len(progress.running) == 501
    progress.tell(AttemptsSolved("r1", 101, solved_attempts(range(500))))
    assert progress.running == {500}
    assert progress.attempts[Outcome.SUCCEEDED] == 500


def test_a_pack_that_takes_long_is_one_line_with_the_chunk_that_it_is_at():
    progress = told(started(), pack(range(500)), pack(range(500, 700)), placed(700, 701))
    assert [(line.chunk, line.others) for line in progress.running_lines(106, most=9)] == [
        (0, 499),
        (500, 199),
        (700, 0),
        (701, 0),
    ]
    status = TaskStatus("k", "solve", 1.0, message="node 7", chunk=17)
    progress.tell(ChunkReported("r1", 107, 17, "w-0", status))
    (line,) = progress.running_lines(107, most=1)
    assert (line.chunk, line.others, line.message) == (17, 499, "node 7")


def test_chunks_of_a_pack_that_were_taken_back_do_not_run():
    progress = told(started(), pack(range(5)), ChunksReturned("r1", 101, (2, 3, 4)))
    assert progress.running == {0, 1}
    assert [(line.chunk, line.others) for line in progress.running_lines(106, most=9)] == [(0, 1)]


def test_what_is_kept_of_a_run_of_packs_does_not_grow_with_its_chunks():
    progress = told(started())
    for first in range(0, 100_000, 500):
        progress.tell(pack(range(first, first + 500)))
        progress.tell(AttemptsSolved("r1", 101, solved_attempts(range(first, first + 500))))
    assert len(progress._at_work) == 0


def placed_on(worker: str, *chunks: int) -> ChunksPlaced:
    return ChunksPlaced("r1", 100, chunks, (worker,) * len(chunks))


def ended_on(worker: str, chunk: int, outcome: Outcome) -> AttemptEnded:
    return AttemptEnded("r1", 101, Attempt(chunk, "solve", 1, worker, outcome, 100.0, 1.0))


@pytest.mark.parametrize(("worker", "other"), [("w-0", "w-1"), ("w-1", "w-0")])
def test_a_chunk_that_was_started_twice_counts_once_and_runs_until_both_tries_ended(worker, other):
    twice = (started(), placed_on("w-0", 7), placed_on("w-1", 7))

    both, one = told(*twice), told(*twice, ended_on(worker, 7, Outcome.FAILED))
    none = told(*twice, ended_on(worker, 7, Outcome.FAILED), ended_on(other, 7, Outcome.SUCCEEDED))

    assert [progress.running for progress in (both, one, none)] == [{7}, {7}, set()]
    assert [line.worker for line in both.running_lines(200.0, 9)] == ["w-0", "w-1"]
    assert [line.worker for line in one.running_lines(200.0, 9)] == [other]


def test_what_each_of_two_tries_says_is_kept_apart():
    def says(worker: str, message: str) -> ChunkReported:
        return ChunkReported("r1", 110.0, 7, worker, TaskStatus("k", "solve", 5.0, message=message))

    progress = told(
        started(), placed_on("w-0", 7), placed_on("w-1", 7), says("w-1", "quick"), says("w-0", "slow")
    )

    lines = progress.running_lines(200.0, 9)
    assert {line.worker: line.message for line in lines} == {"w-0": "slow", "w-1": "quick"}


def test_nothing_is_left_of_a_chunk_that_ran_twice_once_it_is_settled():
    progress = told(started(), placed_on("w-0", 7), placed_on("w-1", 7), settled(7, 102.0))

    assert progress.running == set()
    assert progress.running_lines(200.0, 9) == []
    assert progress.chunks_settled == 1


def test_chunks_that_were_solved_before_went_through_every_stage():
    progress = Progress()
    progress.tell(RunStarted("r1", 0.0, "mine", ("clean", "solve"), 100, "", "here"))
    progress.tell(ChunksPlanned("r1", 0.0, chunks=10, rows=100, settled=3, settled_rows=30))
    progress.tell(chunks_recalled("r1", 0.0, succeeded={0: 10, 1: 10}, failed={2: 10}))
    progress.tell(AttemptsSolved("r1", 1.0, solved_attempts(range(3, 8), "clean")))

    assert [(line.name, line.passed) for line in progress.stage_lines] == [("clean", 7), ("solve", 2)]
