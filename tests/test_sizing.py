"""What to ask for next time: said where the numbers support it, and only there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from batchrun.outcome import Cause, Outcome
from batchrun.resources import Demand, WorkerKind
from batchrun.sizing import RunUse, StageUse, advise
from batchrun.sizing.memory import right_size
from batchrun.store.records import StageFigures, WorkerTime

MIB, GIB = 2**20, 2**30
LARGE = WorkerKind("large", 1, threads=8, memory=6 * GIB)
STANDARD = WorkerKind("standard", 4, threads=1, memory=2 * GIB)
HIGHMEM = WorkerKind("highmem", 1, threads=1, memory=8 * GIB, tags={"HIGHMEM": 1})


def stage(
    name: str = "solve",
    *,
    memory: int = 0,
    tags: Mapping[str, float] | None = None,
    peak: int | None = None,
    attempts: int = 12,
    seconds: float = 1.0,
    longest: float | None = None,
    longest_solved: float | None = None,
    outcomes: Mapping[Outcome, int] | None = None,
    causes: Mapping[Cause, int] | None = None,
    workers: Mapping[str, tuple[float, float, float]] | None = None,
    **more: Any,
) -> StageUse:
    """A stage whose attempts took *seconds* each; *workers* has the seconds, the first and the last moment of
    each."""
    times = {worker: WorkerTime(*time) for worker, time in (workers or {}).items()}
    longest = longest if longest is not None else seconds
    figures = StageFigures(
        stage=name,
        attempts=attempts,
        failed=0,
        seconds=sum(time.seconds for time in times.values()) or attempts * seconds,
        median=seconds,
        longest=longest,
        median_peak=peak,
        peak_memory=peak,
        rows_in=0,
        rows_out=0,
        outcomes=outcomes or {Outcome.SUCCEEDED: attempts},
        causes=causes or {},
        longest_solved=longest if longest_solved is None else longest_solved,
        measured=0 if peak is None else attempts,
        by_worker=times,
    )
    return StageUse(name, Demand(memory, tags or {}), figures, **more)


def said(*stages: StageUse, rows: int = 1_000, **run: Any) -> list[str]:
    return [str(advice) for advice in advise(RunUse(stages, rows=rows, **run))]


def test_a_stage_that_asked_for_far_too_much_is_told_how_many_would_run_at_once():
    assert said(stage(memory=6 * GIB, peak=int(1.1 * GIB)), workers=[LARGE]) == [
        "solve: asked 6 GiB, and the largest of 12 attempts peaked at 1.1 GiB: lower it to 1.5GiB, and 4 "
        "would run at once on these workers, not 1"
    ]


def test_less_memory_may_let_smaller_workers_run_a_stage():
    [advice] = said(stage(memory=4 * GIB, peak=GIB), workers=[STANDARD, HIGHMEM])
    assert "lower it to 1.25GiB, and 5 would run at once on these workers, not 1" in advice


@pytest.mark.parametrize(
    "use",
    [
        stage(memory=6 * GIB),
        stage(memory=6 * GIB, peak=GIB, attempts=2),
        stage(memory=2 * GIB, peak=int(1.5 * GIB)),
        stage(memory=6 * GIB, peak=GIB, tags={"HIGHMEM": 1}),
        stage(memory=512 * MIB, peak=10 * MIB),
        stage(memory=6 * GIB, peak=GIB, auto=True),
        stage(peak=GIB),
        stage(),
    ],
    ids=[
        "never measured",
        "seen too seldom",
        "fits",
        "no worker would run more",
        "threads are the limit already",
        "auto",
        "asked for nothing",
        "nothing at all",
    ],
)
def test_nothing_is_said_of_memory_where_nothing_would_be_won(use: StageUse):
    workers = [HIGHMEM] if use.demand.tags else [WorkerKind("large", 1, threads=2, memory=6 * GIB)]
    assert said(use, workers=workers) == []


def test_where_the_workers_are_not_known_no_number_of_slots_is_made_up():
    [advice] = said(stage(memory=6 * GIB, peak=GIB))
    assert advice.endswith("peaked at 1 GiB: 1.25GiB would do")


OUT = {Outcome.SUCCEEDED: 10, Outcome.OUT_OF_MEMORY: 2}


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (
            stage(memory=2 * GIB, peak=int(2.3 * GIB), outcomes=OUT),
            "2 of 12 attempts passed 2 GiB: ask for 3GiB or more (1 would run at once, not 5), or make its "
            "chunks smaller",
        ),
        (
            stage(memory=8 * GIB, peak=9 * GIB, outcomes=OUT),
            "2 of 12 attempts passed 8 GiB, and no worker that may run it has 12 GiB: start a larger "
            "worker, or make its chunks smaller",
        ),
        (
            stage(memory=GIB, peak=2 * GIB, outcomes=OUT, auto=True),
            '2 of 12 attempts passed the 1 GiB that memory="auto" began with: nothing to change, the next '
            "run begins with what was measured",
        ),
        (
            stage(outcomes=OUT),
            "2 of 12 attempts ran out of memory: give it a memory, and it runs only where that is free",
        ),
        (
            stage(memory=2 * GIB, peak=GIB, causes={Cause.MEMORY: 1}),
            "1 of 12 attempts passed 2 GiB: ask for 2.5GiB or more (1 would run at once, not 5), or make its "
            "chunks smaller",
        ),
        (
            stage(memory=2 * GIB, peak=int(1.95 * GIB)),
            "peaked at 1.95 GiB of 2 GiB, so a little more data would pass it: ask for 2.5GiB (1 would run "
            "at once, not 5)",
        ),
    ],
    ids=["passed", "no worker is larger", "auto", "asked for nothing", "kept its best answer", "near"],
)
def test_memory_that_was_passed_or_nearly_so_is_told_first(use: StageUse, expected: str):
    assert said(use, workers=[STANDARD, HIGHMEM]) == [f"solve: {expected}"]


def test_chunks_of_one_row_cannot_be_made_smaller():
    [advice] = said(stage(memory=GIB, peak=GIB, outcomes=OUT), rows=12, chunks=12)
    assert advice == "solve: 2 of 12 attempts passed 1 GiB: ask for 1.25GiB or more"


def test_a_peak_near_all_that_a_worker_has_leads_to_no_demand_that_none_can_meet():
    assert said(stage(memory=8 * GIB, peak=int(7.9 * GIB)), workers=[HIGHMEM]) == []


def test_stages_that_share_a_process_are_spoken_of_together():
    use = [stage("clean", memory=6 * GIB, peak=GIB // 2), stage("solve", memory=6 * GIB, peak=GIB)]
    assert said(*use, workers=[LARGE])[0].startswith(
        "clean, solve: asked 6 GiB, and the largest of 12 attempts peaked at 1 GiB: lower it to 1.25GiB"
    )


@pytest.mark.parametrize("peak", [1, 300 * MIB, GIB, int(1.1 * GIB), 3 * GIB, 100 * GIB])
def test_what_is_advised_leaves_room_above_the_peak_and_not_much_more(peak: int):
    assert 1.2 * peak <= right_size(peak) <= max(256 * MIB, 1.51 * peak)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (
            stage(timeout=60.0, causes={Cause.TIMEOUT: 12}),
            "every attempt passed its timeout of 1 min: raise it, or publish the best answer so far with "
            "ctx.incumbent, and it is kept",
        ),
        (
            stage(timeout=60.0, longest=60.0, longest_solved=50.0, causes={Cause.TIMEOUT: 2}),
            "2 of 12 attempts passed its timeout of 1 min, and others took up to 50.0 s: raise it",
        ),
        (
            stage(timeout=60.0, longest=60.0, longest_solved=2.0, causes={Cause.TIMEOUT: 2}),
            "2 of 12 attempts passed its timeout of 1 min, while those that ended took 2.0 s at most: more "
            "time is unlikely to help, see what is special about these rows",
        ),
        (
            stage(stop_after=60.0, causes={Cause.DEADLINE: 12}),
            "all 12 attempts were stopped by its stop_after of 1 min: none ended by itself, so more time may "
            "give better answers",
        ),
        (
            stage(timeout=7200.0, longest=100.0),
            "the longest of 12 attempts took 1 min 40 s, its timeout is 2 h: 5 min would end one that hangs "
            "sooner",
        ),
    ],
    ids=["all passed", "too short", "they hang", "always stopped", "never near"],
)
def test_limits_of_time_are_spoken_of_where_they_were_always_or_never_reached(use: StageUse, expected: str):
    assert said(use) == [f"solve: {expected}"]


@pytest.mark.parametrize(
    "use",
    [
        stage(timeout=60.0, longest=60.0, longest_solved=20.0, causes={Cause.TIMEOUT: 2}),
        stage(timeout=60.0, longest=1.0),
        stage(timeout=7200.0, longest=1000.0),
        stage(timeout=7200.0, longest=10.0, attempts=2),
        stage(stop_after=60.0, causes={Cause.DEADLINE: 11}),
        stage(stop_after=60.0, longest=1.0),
    ],
)
def test_a_limit_of_time_that_does_its_work_is_left_alone(use: StageUse):
    assert said(use) == []


def busy(**seconds: float) -> dict[str, tuple[float, float, float]]:
    """Workers that were busy for so long, from the beginning to that moment."""
    return {name.replace("_", "-"): (time, 0.0, time) for name, time in seconds.items()}


def test_the_tag_that_all_waited_for_is_named():
    use = [
        stage("clean", workers=busy(standard_0=10.0, standard_1=20.0, standard_2=5.0, standard_3=5.0)),
        stage("solve", tags={"HIGHMEM": 1}, workers=busy(highmem_0=100.0), leg=1),
    ]
    assert said(*use, workers=[STANDARD, HIGHMEM], rows=100, chunks=10, split="by_rows(10)") == [
        "HIGHMEM: its slot was busy for 100 % of the time, all other threads for 10 %: another worker that "
        "has it, or a stage that needs less, would end the run sooner"
    ]


def test_no_tag_is_blamed_where_all_workers_were_busy_or_the_run_was_short():
    full = busy(standard_0=90.0, standard_1=90.0, standard_2=90.0, standard_3=90.0)
    solve = stage("solve", tags={"HIGHMEM": 1}, workers=busy(highmem_0=100.0), leg=1)
    assert said(stage("clean", workers=full), solve, workers=[STANDARD, HIGHMEM]) == []
    short = stage("solve", tags={"HIGHMEM": 1}, workers=busy(highmem_0=5.0))
    assert said(short, workers=[STANDARD, HIGHMEM]) == []


def test_a_stage_that_could_need_less_memory_is_not_blamed_for_its_slots_as_well():
    use = stage(memory=6 * GIB, peak=GIB, workers=busy(highmem_0=100.0))
    [advice] = said(use, workers=[STANDARD, HIGHMEM])
    assert "lower it" in advice


UNEVEN = busy(standard_0=100.0, standard_1=40.0, standard_2=30.0, standard_3=30.0)
EVEN = busy(standard_0=100.0, standard_1=95.0, standard_2=90.0, standard_3=90.0)


@pytest.mark.parametrize(
    ("split", "remedy"),
    [
        ("by_rows(10)", 'fewer rows a chunk even that out, and by_rows("auto") makes the last ones small'),
        ("by_group('pit', max_rows=500)", "a smaller max_rows evens that out"),
        ("by_file()", "more and smaller files even that out"),
    ],
)
def test_workers_that_waited_for_the_last_chunks_are_told_of(split: str, remedy: str):
    use = stage(workers=UNEVEN, seconds=20.0, longest=60.0)
    assert said(use, workers=[STANDARD], rows=100, chunks=10, split=split) == [
        "chunks: workers waited for the last of 10 for 50 % of the time; the longest took 1 min, half of "
        f"them 20.0 s or less: {remedy}"
    ]


@pytest.mark.parametrize(
    "run",
    [
        {"split": 'by_rows("auto")'},
        {"split": "by_group('pit')"},
        {"rows": 10},
        {"whole": False},
        {"workers": []},
    ],
    ids=["batchrun sizes them", "groups stay whole", "one row each", "two sessions", "workers unknown"],
)
def test_nothing_is_said_of_chunks_that_cannot_be_made_smaller_or_are_not_known(run: dict[str, Any]):
    usual = {"workers": [STANDARD], "rows": 100, "chunks": 10, "split": "by_rows(10)"}
    assert said(stage(workers=UNEVEN), **{**usual, **run}) == []


def test_workers_that_ended_together_did_not_wait():
    assert said(stage(workers=EVEN), workers=[STANDARD], rows=100, chunks=10, split="by_rows(10)") == []


def test_fewer_chunks_than_slots_leave_some_without_work():
    use = stage(workers=busy(standard_0=100.0))
    [advice] = said(use, workers=[STANDARD], rows=100, chunks=1, split="by_rows(100)")
    assert advice.startswith("chunks: there were 1 for 4 slots, so 3 had nothing to do")


@pytest.mark.parametrize(
    ("split", "remedy"),
    [
        ("by_rows(10)", 'by_rows(500) or by_rows("auto") would hand out fewer and larger ones'),
        ("by_group('pit')", "with max_rows, neighbouring groups share a chunk"),
    ],
)
def test_many_chunks_that_took_next_to_no_time_are_better_handed_out_together(split: str, remedy: str):
    use = stage(seconds=0.002, workers={"standard-0": (20.0, 0.0, 50.0)})
    assert said(use, workers=[STANDARD], rows=100_000, chunks=10_000, split=split) == [
        f"chunks: half of them took 2 ms or less, and the workers computed for 10 % of the time: {remedy}"
    ]


def test_what_costs_results_comes_before_what_costs_time():
    subjects = [
        line.partition(":")[0]
        for line in said(
            stage("idle", timeout=7200.0, leg=0),
            stage("large", memory=6 * GIB, peak=GIB, leg=1),
            stage("slow", timeout=60.0, causes={Cause.TIMEOUT: 12}, leg=2),
            stage("small", memory=GIB, peak=GIB, outcomes=OUT, leg=3),
            workers=[LARGE],
        )
    ]
    assert subjects == ["small", "slow", "large", "idle"]


def test_a_run_in_which_nothing_was_tried_is_given_no_advice():
    assert said(workers=[STANDARD], split="by_rows(10)") == []
