"""Dispatch and recovery on many workers, in virtual time."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from batchrun.outcome import Cause
from batchrun.resources import Demand
from batchrun.retry import RetryPolicy
from tests.simulation import engine
from tests.simulation.__main__ import main
from tests.simulation.engine import Simulation
from tests.simulation.findings import simulate
from tests.simulation.model import FLEETS, GIB, Costs, Fleet, Group, Work, bound_of, work

FREE = Costs(latency=0, place=0, take=0, record=0, start=0, row_bytes=0)
"""Nothing costs anything, so that durations can be told by hand."""


def fleet(name: str, workers: int, *, life: float | None = None) -> Fleet:
    return Fleet.of(FLEETS[name], workers, life=life)


def simulated(workers: Fleet, *works: Work, costs: Costs | None = None, seed: int = 0) -> Simulation:
    return Simulation(workers, works, costs=costs, seed=seed).run()


def test_virtual_time_is_what_a_hand_would_count():
    chunks = Work(np.array([[1.0, 2.0, 4.0, 6.0]]), np.array([1, 2, 4, 6]))

    alone = simulated(fleet("alike", 1), chunks, costs=FREE)
    two = simulated(fleet("alike", 2), chunks, costs=FREE)
    dear = simulated(fleet("alike", 1), chunks, costs=replace(FREE, latency=0.5, start=0.25, take=0.25))

    assert alone.makespan == 13.0
    assert two.makespan == 7.0
    assert dear.makespan == 13.0 + 4 * (0.5 + 0.25 + 0.5 + 0.25)


def one_long_among_short() -> Work:
    """Of forty chunks alike to look at, one takes half a minute and the others a twentieth of a second."""
    seconds = np.where(np.arange(40) == 10, 30.0, 0.05)
    return Work(seconds[None, :], np.ones(40, np.int64))


def test_what_waits_behind_a_task_that_turns_out_long_is_asked_back_and_runs_elsewhere(monkeypatch):
    (run,) = simulated(fleet("alike", 2), one_long_among_short()).runs
    monkeypatch.setattr(engine, "RECALL_AFTER", 1e9)
    (left_there,) = simulated(fleet("alike", 2), one_long_among_short()).runs

    assert run.recalled > 0
    assert run.passed == run.placed == 40
    assert left_there.recalled == 0
    assert run.ended < left_there.ended - 0.05


def test_a_chunk_with_a_bad_row_that_is_asked_back_fails_once_it_runs():
    rows = np.full(40, 2)
    chunks = replace(one_long_among_short(), rows=rows, bad_row=np.where(np.arange(40) >= 11, 0, -1))

    (run,) = simulated(fleet("alike", 2), chunks).runs

    assert run.recalled > 0
    assert (run.rows_solved, run.rows_apart) == (80 - 29, 29)
    assert run.placed == run.passed + run.failed.total()


def test_nothing_that_a_worker_has_is_promised_twice_or_the_simulation_would_end():
    demand = Demand(memory=GIB)
    chunks = Work(np.ones((1, 2)), np.ones(2, np.int64), (demand,))
    simulation = Simulation(fleet("alike", 1), [chunks])
    worker = simulation.fleet.workers[0]
    simulation.slots.best = lambda *_, **__: replace(worker, address=f"{worker.address}:0")  # always "free"
    simulation.runs[0].work.demands[0].tags["HIGHMEM"] = 1

    with pytest.raises(AssertionError, match="HIGHMEM of standard-0 was promised twice"):
        simulation.run()


@pytest.mark.parametrize("seed", range(8))
def test_no_row_is_lost_and_nothing_runs_twice_without_reason_whatever_goes_wrong(seed):
    rng = np.random.default_rng(seed)
    workers = fleet("mixed", 12, life=600.0)
    trouble = work(
        "pareto",
        300,
        rng,
        slots=workers.threads,
        known=("known", "partly", "unknown")[seed % 3],
        mean=20.0,
        tagged=0.2,
        flaky=0.05,
        killers=frozenset({3, 5}),
        memory=np.where(rng.random(300) < 0.1, 24 * GIB, GIB),
        asks=np.full(300, 2 * GIB),
    )
    trouble = replace(trouble, bad_row=np.where(rng.random(300) < 0.1, trouble.rows // 3, -1))

    found = simulated(workers, trouble, seed=seed)

    (run,) = found.runs
    assert run.rows_solved + run.rows_apart == trouble.rows.sum()
    assert run.placed == run.passed + run.failed.total()
    assert run.passed == sum(map(int.bit_count, run.solved))
    assert found.losses > 0
    assert set(run.failed) == {Cause.ERROR, Cause.MEMORY, Cause.WORKER_LOST}


def test_a_run_without_trouble_runs_each_chunk_once():
    workers = fleet("mixed", 30)
    chunks = work("two_huge", 2_000, np.random.default_rng(1), slots=workers.threads, tagged=0.1)

    (run,) = simulated(workers, chunks).runs

    assert run.placed == run.passed == 2_000
    assert run.tasks <= 2_000


def test_of_a_chunk_with_a_bad_row_that_row_alone_is_set_apart():
    workers, rows = fleet("alike", 8), np.full(40, 1_000)
    bad = np.where(np.arange(40) % 4 == 0, 77, -1)
    chunks = Work(np.full((1, 40), 10.0), rows, bad_row=bad, policy=RetryPolicy(2))

    (run,) = simulated(workers, chunks).runs

    assert run.rows_apart == 10
    assert run.failed[Cause.ERROR] <= 10 * (2 + 10 + 1)


def test_chunks_that_kill_workers_are_given_up_and_those_near_them_are_not():
    workers = Fleet.of((Group("wide", 1.0, threads=4),), 10)
    chunks = Work(np.full((1, 400), 10.0), np.full(400, 7), killers=frozenset({10, 200}))

    (run,) = simulated(workers, chunks).runs

    assert run.rows_apart == 2 * 7
    assert run.rows_solved == 398 * 7


def test_a_chunk_that_passes_its_memory_is_cut_or_moved_to_where_there_is_more():
    workers = fleet("half_tagged", 4)
    needs = np.where(np.arange(50) % 5 == 0, 20 * GIB, GIB)
    asks = np.full(50, 2 * GIB)
    chunks = Work(np.full((1, 50), 5.0), np.ones(50, np.int64), memory=needs, asks=asks)

    (run,) = simulated(workers, chunks).runs

    assert run.rows_solved == 50
    assert run.failed == {Cause.MEMORY: 10 * 2}


@pytest.mark.parametrize(
    ("kind", "known", "limit"),
    [
        ("lognormal", "known", 1.02),
        ("pareto", "known", 1.02),
        ("two_huge", "known", 1.02),
        ("lognormal", "partly", 1.1),
        ("two_huge", "partly", 1.1),
    ],
)
def test_runs_that_are_known_end_close_to_the_bound(kind, known, limit):
    workers = fleet("mixed", 20)
    ratios = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        chunks = work(kind, 1_500, rng, slots=workers.threads, known=known, tagged=0.1)
        ratios.append(simulated(workers, chunks, seed=seed).makespan / bound_of([chunks], workers).most)

    assert max(ratios) <= limit


@pytest.mark.parametrize("kind", ["lognormal", "pareto", "two_huge"])
def test_runs_of_which_nothing_is_known_stay_within_what_an_unlucky_order_costs_anybody(kind):
    workers = fleet("alike", 30)
    ratios = []
    for seed in range(10):
        chunks = work(kind, 600, np.random.default_rng(seed), slots=workers.threads, known="unknown")
        ratios.append(simulated(workers, chunks, seed=seed).makespan / bound_of([chunks], workers).most)

    assert max(ratios) <= 2 - 1 / workers.threads
    assert np.mean(ratios) <= 1.3


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_known_chunks_of_several_legs_end_close_to_the_bound_where_the_tagged_leg_is_scarce_and_where_not(
    share,
):
    workers = fleet("mixed", 10)
    ratios = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        chunks = work("lognormal", 1_500, rng, slots=workers.threads, tagged=share, chained=True)
        ratios.append(simulated(workers, chunks, seed=seed).makespan / bound_of([chunks], workers).most)

    assert max(ratios) <= 1.03


def test_what_is_known_of_earlier_runs_shortens_a_run_with_a_heavy_tail():
    workers = fleet("alike", 30)
    total = {"known": 0.0, "unknown": 0.0}
    for known in total:
        for seed in range(6):
            rng = np.random.default_rng(seed)
            chunks = work("two_huge", 600, rng, slots=workers.threads, known=known)
            total[known] += simulated(workers, chunks).makespan

    assert total["known"] < 0.97 * total["unknown"]


def test_runs_beside_each_other_have_the_same_slots_while_they_want_more():
    rng = np.random.default_rng(2)
    alike = [work("lognormal", 300 * n, rng, slots=40, name=f"{n}", mean=10.0) for n in (1, 2, 4)]

    found = simulate("three", Simulation(fleet("alike", 40), alike))

    assert found.jain is not None
    assert found.jain > 0.99
    assert found.elapsed["1"] < found.elapsed["2"] < found.elapsed["4"]


def test_a_run_of_a_priority_higher_by_two_has_four_fifths_of_the_slots_while_both_want_them():
    rng = np.random.default_rng(6)
    plain, urgent = (
        work("lognormal", 2_000, rng, slots=40, name=name, mean=10.0, priority=priority)
        for name, priority in (("plain", 0), ("urgent", 2))
    )

    found = simulated(fleet("alike", 40), plain, urgent)

    plain_run, urgent_run = found.runs
    expected = urgent.seconds.sum() / (0.8 * 40)
    assert urgent_run.ended == pytest.approx(expected, rel=0.1)
    assert plain_run.ended == pytest.approx((plain.seconds.sum() + urgent.seconds.sum()) / 40, rel=0.1)


def test_more_runs_than_slots_all_come_to_an_end_at_about_the_same_time():
    rng = np.random.default_rng(7)
    runs = [work("lognormal", 200, rng, slots=2, name=f"{n}", mean=10.0) for n in range(6)]

    found = simulated(fleet("alike", 2), *runs)

    ends = [run.ended / one.seconds.sum() for run, one in zip(found.runs, runs, strict=True)]
    assert max(ends) < 1.5 * min(ends)


class Watched(Simulation):
    """Remembers of which run each task was, in the order in which they were submitted."""

    def run(self) -> Simulation:
        self.submitted: list[tuple[str, float]] = []
        return super().run()

    def _submit(self, chosen):
        self.submitted += [(run.work.name, self.now) for run, _ in chosen]
        super()._submit(chosen)


def three_solves_beside(kind: str, chunks: int) -> list[tuple[str, float]]:
    """The tasks that were submitted after three solves began, a second after the other run, and when."""
    rng = np.random.default_rng(3)
    solves = work("lognormal", 3, rng, slots=20, known="unknown", name="solves", begins=1.0)
    other = work(kind, chunks, rng, slots=20, name="other", mean=3.0)
    watched = Watched(fleet("alike", 20), [other, solves])
    watched.run()
    return [(name, when) for name, when in watched.submitted if when >= 1.0]


def test_a_small_run_has_the_next_free_slots_beside_a_large_one():
    tasks = three_solves_beside("lognormal", 2_000)

    assert [name for name, _ in tasks[:4]] == ["solves", "solves", "solves", "other"]


def test_a_small_run_does_not_wait_until_a_run_of_very_many_short_chunks_is_over():
    tasks = three_solves_beside("short", 30_000)

    assert max(when for name, when in tasks if name == "solves") < 2.0 < max(when for _, when in tasks) - 3.0


def test_the_longest_chunk_goes_first_whatever_memory_each_chunk_asks_for():
    workers = fleet("alike", 30)
    rng = np.random.default_rng(5)
    chunks = work("two_huge", 900, rng, slots=workers.threads)
    chunks = replace(chunks, asks=rng.integers(1, 9, 900) * (GIB // 2))

    assert simulated(workers, chunks).makespan / bound_of([chunks], workers).most < 1.05


def test_workers_that_go_away_by_themselves_cost_no_row_however_often_they_do():
    workers = Fleet.of((Group("wide", 1.0, threads=4),), 10, life=60.0, away=5.0)
    chunks = Work(np.full((1, 600), 10.0), np.full(600, 7), policy=RetryPolicy(worker_lost=6))

    (run,) = simulated(workers, chunks, seed=1).runs

    assert run.failed[Cause.WORKER_LOST] > 100
    assert run.rows_solved == 600 * 7


def seconds_a_decision(workers: Fleet, chunks: int) -> float:
    """Of processor time, the least of three tries."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        one = work("lognormal", chunks, rng, slots=workers.threads)
        found.append(1 / simulate("cost", Simulation(workers, [one])).decisions_per_second)
    return min(found)


def test_a_decision_costs_about_as_much_for_ten_thousand_workers_as_for_a_hundred():
    few, many = (seconds_a_decision(fleet("mixed", workers), 3_000) for workers in (100, 10_000))

    assert many < 3 * few


def test_a_decision_costs_about_as_much_among_eight_thousand_chunks_as_among_five_hundred():
    few, many = (seconds_a_decision(fleet("mixed", 50), chunks) for chunks in (500, 8_000))

    assert many < 3 * few


def test_a_decision_costs_about_as_much_where_no_two_workers_have_the_same_memory():
    alike = fleet("alike", 1_000)
    uneven = [replace(worker, memory=worker.memory + 4096 * n) for n, worker in enumerate(alike.workers)]

    same, other = (seconds_a_decision(one, 3_000) for one in (alike, replace(alike, workers=tuple(uneven))))

    assert other < 3 * same


def test_a_simulation_gives_the_same_each_time():
    workers = fleet("mixed", 20, life=900.0)
    chunks = work("pareto", 500, np.random.default_rng(4), slots=workers.threads, tagged=0.1, flaky=0.1)

    assert simulated(workers, chunks).makespan == simulated(workers, chunks).makespan


def test_the_command_prints_a_table_and_json(capsys, tmp_path):
    main(["--workers", "10", "--chunks", "1000", "--grow", "--known", "known", "unknown"])
    printed = capsys.readouterr().out
    main(["--workers", "10", "--chunks", "100", "--json", str(tmp_path / "found.json")])

    text, _, document = printed.partition("\n\n")
    assert text.splitlines()[0].startswith("simulation")
    assert [one["name"] for one in json.loads(document)] == ["lognormal, known", "lognormal, unknown"]
    assert json.loads((tmp_path / "found.json").read_text())[0]["rows_apart"] == 0
