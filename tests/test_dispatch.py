"""Which chunk goes where: by table and by property, without a cluster."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.dispatch import Choice, Dispatcher, share
from batchrun.resources import Demand, Worker
from batchrun.slots import Slots
from batchrun.waiting import Waiting

GIB = 2**30


def standard(number: int, *, threads: int = 1, memory: int = 2 * GIB) -> Worker:
    return Worker(f"tcp://s{number}", f"standard-{number}", threads, memory)


def highmem(number: int = 0, *, threads: int = 1, memory: int = 8 * GIB) -> Worker:
    return Worker(f"tcp://h{number}", f"highmem-{number}", threads, memory, {"HIGHMEM": 1.0})


def dispatcher(*workers: Worker, demands: list[Demand] | None = None) -> Dispatcher:
    made = Dispatcher(demands or [Demand()])
    made.set_workers(workers)
    return made


def measured(d: Dispatcher, seconds: float, *, times: int = 64, cost: float = 0.0) -> None:
    """So many tasks of one chunk ended, as many by default as are remembered."""
    for _ in range(times):
        d.measured(0, seconds, cost=cost)


def test_only_free_slots_are_filled():
    d = dispatcher(standard(0), standard(1))
    for chunk in range(5):
        d.add(Waiting(chunk, 0, 10))

    first, second = d.choose()
    assert (first.first.chunk, second.first.chunk) == (0, 1)
    assert d.choose() == []
    d.give_back(first)
    assert [(c.first.chunk, c.worker.name) for c in d.choose()] == [(2, "standard-0")]


def test_the_longest_chunk_goes_first_and_equal_ones_in_input_order():
    d = dispatcher(standard(0, threads=4))
    for chunk, rows in enumerate([5, 50, 5, 500]):
        d.add(Waiting(chunk, 0, rows))

    assert [c.first.chunk for c in d.choose()] == [3, 1, 0, 2]


def test_the_chunk_with_most_left_to_do_goes_first_whatever_its_next_leg_takes():
    d = dispatcher(standard(0, threads=3))
    for chunk, (seconds, left) in enumerate([(9.0, 10.0), (0.1, 40.0), (1.0, 2.0)]):
        d.add(Waiting(chunk, 0, 1, seconds=seconds, left=left))

    assert [c.first.chunk for c in d.choose()] == [1, 0, 2]


def test_the_longest_chunk_goes_first_whatever_memory_each_asks_for():
    d = dispatcher(standard(0, threads=4, memory=8 * GIB))
    for chunk, (rows, memory) in enumerate([(5, 1), (50, 2), (500, 1), (20, 3)]):
        d.add(Waiting(chunk, 0, rows, memory=memory * GIB))

    assert [c.first.chunk for c in d.choose()] == [2, 1, 3, 0]


def two_legs(*workers: Worker, work: list[float]) -> Dispatcher:
    d = dispatcher(*workers, demands=[Demand(), Demand(tags={"HIGHMEM": 1})])
    d.expect(work)
    return d


def test_a_worker_whose_time_a_later_leg_needs_in_full_is_kept_for_it():
    d = two_legs(standard(0), highmem(), work=[10.0, 30.0])
    for chunk in range(2):
        d.add(Waiting(chunk, 0, 1, seconds=5.0, left=5.0))

    assert [c.worker.name for c in d.choose()] == ["standard-0"]
    assert d.kept_for(Waiting(1, 0, 1, seconds=5.0, left=5.0)) == [1]


def test_a_chunk_on_its_way_to_the_worker_that_is_kept_may_use_it():
    d = two_legs(standard(0), highmem(), work=[10.0, 30.0])
    for chunk in range(2):
        d.add(Waiting(chunk, 0, 1, seconds=5.0, left=25.0))

    assert len(d.choose()) == 2


def test_no_worker_is_kept_for_a_leg_that_has_time_to_spare_or_whose_work_has_begun():
    for work in ([30.0, 10.0], [10.0, 0.0]):
        d = two_legs(standard(0), highmem(), work=work)
        for chunk in range(2):
            d.add(Waiting(chunk, 0, 1, seconds=5.0, left=5.0))
        assert len(d.choose()) == 2, work


def test_a_worker_is_kept_no_longer_once_the_work_for_it_has_begun():
    d = two_legs(standard(0), highmem(threads=2), work=[5.0, 30.0])
    d.add(Waiting(0, 1, 1, seconds=30.0))
    d.add(Waiting(1, 0, 1, seconds=5.0, left=5.0))
    d.add(Waiting(2, 0, 1, seconds=5.0, left=5.0))

    assert [c.worker.name for c in d.choose()] == ["highmem-0", "standard-0", "highmem-0"]


def test_two_stages_of_6_gib_never_overlap_on_a_worker_of_8_gib():
    d = dispatcher(standard(0, threads=4, memory=8 * GIB), demands=[Demand(memory=6 * GIB)])
    for chunk in range(3):
        d.add(Waiting(chunk, 0, 1))

    assert len(d.choose()) == 1
    assert d.choose() == []


def test_a_plain_chunk_leaves_the_tagged_worker_to_those_that_need_it():
    d = dispatcher(highmem(), standard(0), demands=[Demand(), Demand(tags={"HIGHMEM": 1})])
    d.add(Waiting(0, 0, 1_000))
    d.add(Waiting(1, 1, 1))

    assert {c.first.chunk: c.worker.name for c in d.choose()} == {0: "standard-0", 1: "highmem-0"}


def test_an_idle_tagged_worker_is_used_when_nothing_needs_its_tag():
    d = dispatcher(highmem(), standard(0))
    d.add(Waiting(0, 0, 1))
    d.add(Waiting(1, 0, 1))

    assert [c.worker.name for c in d.choose()] == ["standard-0", "highmem-0"]


def test_a_chunk_half_done_goes_before_one_not_begun():
    d = dispatcher(highmem(), demands=[Demand(), Demand(tags={"HIGHMEM": 1})])
    d.add(Waiting(0, 0, 9_999))
    d.add(Waiting(1, 1, 1))

    assert [c.first.chunk for c in d.choose()] == [1]


def test_a_chunk_is_not_tried_again_where_it_failed_if_another_worker_is_free():
    d = dispatcher(standard(0), standard(1))
    d.add(Waiting(0, 0, 1, avoid=frozenset({"standard-0"})))

    assert [c.worker.name for c in d.choose()] == ["standard-1"]


def test_short_chunks_may_wait_behind_a_busy_thread_and_long_ones_may_not():
    d = dispatcher(standard(0))
    for chunk in range(20):
        d.add(Waiting(chunk, 0, 1))
    (first,) = d.choose()

    measured(d, 0.05)
    assert d.choose() == []  # nobody knew how long the first would take
    d.give_back(first)
    choices = d.choose()
    assert [choice.ahead for choice in choices] == [False, *[True] * 5]

    d.give_back(choices[0])
    measured(d, 10.0)
    assert d.choose() == []


def test_a_task_waits_behind_another_only_once_enough_of_them_were_short():
    d = dispatcher(standard(0))

    depths = []
    for _ in range(17):
        depths.append(d.look_ahead(0))
        d.measured(0, 0.001)

    assert depths == [0] * 8 + [1] * 8 + [2]


def test_what_is_mostly_short_and_sometimes_long_is_handed_out_one_by_one():
    d = dispatcher(standard(0), standard(1), standard(2))
    for _ in range(12):
        measured(d, 0.01, times=9)
        d.measured(0, 3.0)
    for chunk in range(100):
        d.add(Waiting(chunk, 0, 1))

    assert [(len(c.items), c.ahead) for c in d.choose()] == [(1, False)] * 3


def test_nothing_waits_behind_another_task_on_a_worker_that_a_scarcer_leg_needs():
    d = dispatcher(standard(0), highmem(), demands=[Demand(), Demand(tags={"HIGHMEM": 1})])
    measured(d, 0.1)
    for chunk in range(20):
        d.add(Waiting(chunk, 0, 1, apart=True))

    choices = d.choose()

    assert Counter(c.worker.name for c in choices) == {"standard-0": 3, "highmem-0": 1}
    d.add(Waiting(20, 1, 1))
    d.give_back(next(c for c in choices if c.worker.name == "highmem-0"))
    assert [(c.first.chunk, c.worker.name) for c in d.choose()] == [(20, "highmem-0")]


def test_a_chunk_that_is_forecast_to_be_long_waits_behind_none_and_none_behind_it():
    d = dispatcher(standard(0), standard(1))
    for _ in range(20):
        d.measured(0, 0.05, cost=0.05)
    for chunk, seconds in enumerate([60.0, 30.0, 0.06, 0.05]):
        d.add(Waiting(chunk, 0, 1, seconds=seconds, apart=True))

    first, second = d.choose()
    assert (first.first.chunk, second.first.chunk) == (0, 1)
    d.give_back(second)
    assert [(c.first.chunk, c.worker.name) for c in d.choose()] == [(2, "standard-1"), (3, "standard-1")]


def test_chunks_that_are_forecast_to_be_short_wait_behind_one_another_before_any_has_ended():
    d = dispatcher(standard(0))
    for chunk in range(9):
        d.add(Waiting(chunk, 0, 1, seconds=0.12))

    assert [choice.ahead for choice in d.choose()] == [False, True, True]


def test_nothing_more_waits_behind_a_short_task_that_turns_out_to_be_long():
    d = dispatcher(standard(0))
    measured(d, 0.05)
    for chunk in range(3):
        d.add(Waiting(chunk, 0, 1, apart=True))
    first, second = d.match(2)
    assert not first.long

    first = d.overdue(first)
    assert d.choose() == []
    d.give_back(first)
    assert [(c.first.chunk, c.ahead) for c in d.choose()] == [(2, True)]
    d.give_back(second)


def test_tagged_chunks_never_wait_on_a_worker_however_short_they_are():
    d = dispatcher(highmem(threads=2), demands=[Demand(tags={"HIGHMEM": 1})])
    measured(d, 0.001)
    for chunk in range(3):
        d.add(Waiting(chunk, 0, 1))

    assert len(d.choose()) == 1


def test_a_suspect_gets_an_idle_worker_for_itself_and_the_others_go_on_elsewhere():
    d = dispatcher(standard(0, threads=2), standard(1, threads=2))
    measured(d, 0.01)
    d.add(Waiting(0, 0, 1, alone=True))
    for chunk in range(1, 1_000):
        d.add(Waiting(chunk, 0, 1))

    choices = d.choose()

    suspect = choices[0]
    assert suspect.first.chunk == 0
    assert suspect.worker.name not in {c.worker.name for c in choices[1:]}
    d.give_back(suspect)
    assert suspect.worker.name in {c.worker.name for c in d.choose()}


def test_a_suspect_waits_for_an_idle_worker_without_holding_up_the_others():
    d = dispatcher(standard(0, threads=2))
    d.add(Waiting(1, 0, 1))
    (busy,) = d.choose()
    d.add(Waiting(0, 0, 1, alone=True))
    d.add(Waiting(2, 0, 1))

    (other,) = d.choose()
    assert other.first.chunk == 2
    d.give_back(busy)
    assert d.choose() == []
    d.give_back(other)
    assert [c.first.chunk for c in d.choose()] == [0]


def test_a_worker_that_left_takes_its_slots_along_and_its_tasks_give_none_back():
    d = dispatcher(standard(0), standard(1))
    d.add(Waiting(0, 0, 1))
    d.add(Waiting(1, 0, 1))
    first, _ = d.choose()

    d.set_workers([standard(1)])
    d.give_back(first)
    d.add(Waiting(2, 0, 1))

    assert d.choose() == []


def test_a_demand_that_no_live_worker_can_meet_is_told():
    demand = Demand(tags={"GPU": 1})
    d = dispatcher(standard(0), demands=[demand])
    assert d.unmet() == []
    d.add(Waiting(0, 0, 1))

    assert d.unmet() == [demand]


def test_slots_show_capacity_use_and_waiting_demand():
    d = dispatcher(standard(0), highmem(), demands=[Demand(memory=GIB, tags={"HIGHMEM": 1})])
    for chunk in range(3):
        d.add(Waiting(chunk, 0, 1))
    d.choose()

    d.behind = 4

    assert d.use_of_slots() == [
        ("threads", 2, 1, 6),
        ("MEMORY", 10 * GIB, GIB, 6 * GIB),
        ("HIGHMEM", 1, 1, 6),
    ]


DEMANDS = st.builds(
    Demand,
    memory=st.sampled_from([0, 1, 3, 6]),
    tags=st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from([1.0, 2.0]), max_size=2),
)
SHAPES = st.tuples(
    st.integers(1, 3),
    st.sampled_from([2, 6, 8]),
    st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from([1.0, 2.0]), max_size=2),
)


@given(
    demands=st.lists(DEMANDS, min_size=1, max_size=3),
    shapes=st.lists(SHAPES, min_size=1, max_size=5),
    chunks=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=30),
)
def test_no_worker_is_ever_overrun_and_no_chunk_waits_beside_a_slot_that_fits(demands, shapes, chunks):
    workers = [Worker(f"w{i}", f"w-{i}", *shape) for i, shape in enumerate(shapes)]
    d = dispatcher(*workers, demands=demands)
    waiting = {}
    for number, (leg, rows) in enumerate(chunks):
        item = Waiting(number, leg % len(demands), rows)
        waiting[number] = item
        d.add(item)

    while True:
        choices = d.choose()
        if not choices:
            break
        free = {w.address: [w.threads, w.memory, dict(w.tags)] for w in workers}
        for choice in choices:
            item = waiting.pop(choice.first.chunk)
            demand, left = demands[item.leg], free[choice.worker.address]
            left[0] -= 1
            left[1] -= demand.memory
            for tag, amount in demand.tags.items():
                left[2][tag] = left[2].get(tag, 0) - amount
            assert left[0] >= 0
            assert left[1] >= 0
            assert all(amount >= 0 for amount in left[2].values())
        for item in waiting.values():
            demand = demands[item.leg]
            for threads, memory, tags in free.values():
                fits = threads > 0 and memory >= demand.memory
                assert not (fits and all(tags.get(t, 0) >= a for t, a in demand.tags.items()))
        for choice in choices:
            d.give_back(choice)

    assert all(not any(w.can_ever_run(demands[i.leg]) for w in workers) for i in waiting.values())


def test_parts_of_cut_chunks_go_first_and_the_smallest_before_all():
    d = dispatcher(standard(0, threads=9))
    d.add(Waiting(0, 0, 1_000))
    for chunk, rows in ((7, 500), (8, 2), (9, 16)):
        d.add(Waiting(chunk, 0, rows, part=True))

    assert [c.first.chunk for c in d.choose()] == [8, 9, 7, 0]


def test_a_chunk_that_needs_more_memory_than_its_leg_asks_for_goes_where_there_is_more():
    d = dispatcher(standard(0), highmem(), demands=[Demand(memory=GIB)])
    d.add(Waiting(0, 0, 10, memory=8 * GIB))
    d.add(Waiting(1, 0, 10))

    placed = {c.first.chunk: c for c in d.choose()}
    assert placed[0].worker.name == "highmem-0"
    assert placed[1].worker.name == "standard-0"
    d.add(Waiting(2, 0, 10, memory=8 * GIB))
    assert d.choose() == []
    d.give_back(placed[0])
    assert [c.first.chunk for c in d.choose()] == [2]


def test_the_next_larger_memory_is_that_of_a_worker_with_the_tags():
    d = dispatcher(
        standard(0), standard(1, memory=16 * GIB), highmem(),
        demands=[Demand(memory=GIB), Demand(GIB, {"HIGHMEM": 1})],
    )  # fmt: skip

    assert [d.larger_memory(0, size * GIB) for size in (1, 2, 8, 16)] == [2 * GIB, 8 * GIB, 16 * GIB, None]
    assert [d.larger_memory(1, size * GIB) for size in (1, 8)] == [8 * GIB, None]


def test_a_chunk_that_is_dropped_waits_no_more():
    d = dispatcher(standard(0, threads=9))
    for chunk in range(4):
        d.add(Waiting(chunk, 0, 10))

    assert {item.chunk for item in d.drop({1, 2, 99})} == {1, 2}

    assert d.waiting == 2
    assert [c.first.chunk for c in d.choose()] == [0, 3]


def test_chunks_of_an_isolated_leg_never_wait_behind_another():
    d = Dispatcher([Demand()], isolated=frozenset({0}))
    d.set_workers([standard(0)])
    measured(d, 0.001)

    assert d.look_ahead(0) == 0


def packed(d: Dispatcher) -> list[list[int]]:
    return [[item.chunk for item in choice.items] for choice in d.choose()]


def test_chunks_of_which_nothing_is_known_go_one_by_one():
    d = dispatcher(standard(0, threads=3))
    for chunk in range(100):
        d.add(Waiting(chunk, 0, 10))

    assert packed(d) == [[0], [1], [2]]


def test_chunks_that_take_milliseconds_ride_together_for_a_tenth_of_a_second():
    d = dispatcher(standard(0), standard(1))
    d.look_ahead_seconds = 0.0
    measured(d, 0.0099, cost=10)
    for chunk in range(100):
        d.add(Waiting(chunk, 0, 10))

    assert packed(d) == [list(range(10)), list(range(10, 20))]


def test_the_last_chunks_are_shared_out_so_that_all_workers_end_together():
    d = dispatcher(standard(0), standard(1))
    d.look_ahead_seconds = 0.0
    measured(d, 0.001, cost=10)
    for chunk in range(16):
        d.add(Waiting(chunk, 0, 10))

    assert packed(d) == [[0, 1, 2, 3], [4, 5, 6]]
    d.behind = 1_000
    d.set_workers([standard(number) for number in range(4)])
    assert packed(d) == [[7, 8, 9, 10, 11, 12, 13, 14, 15]]


def test_a_chunk_that_may_take_long_rides_alone_among_short_ones():
    d = dispatcher(standard(0), standard(1), standard(2))
    for chunk in range(40):
        d.add(Waiting(chunk, 0, 10, seconds=8.0 if chunk == 7 else 0.019))

    assert packed(d)[:3] == [[7], [0, 1, 2, 3, 4], [5, 6, 8, 9, 10]]


def test_a_worker_is_told_what_it_will_be_given_next_and_is_given_that():
    d = dispatcher(standard(0), standard(1))
    d.reads_ahead = True
    for chunk in range(5):
        d.add(Waiting(chunk, 0, 10))

    first, second = d.choose()
    assert first.then is not None
    assert second.then is not None
    assert {first.then.chunk, second.then.chunk} == {2, 3}
    d.give_back(second)
    (third,) = d.choose()
    assert third.worker == second.worker
    assert third.first == second.then
    assert third.then is not None
    assert third.then.chunk == 4
    d.give_back(first)
    (fourth,) = d.choose()
    assert fourth.first == first.then
    assert fourth.then is None  # the last one is promised to the other
    d.give_back(fourth)
    assert [choice.first.chunk for choice in d.choose()] == [4]  # which is busy
    assert d.waiting == 0


def test_what_happened_to_a_chunk_keeps_it_from_riding_with_others():
    d = dispatcher(standard(0, threads=9))
    measured(d, 0.001, cost=10)
    for chunk in range(20):
        d.add(Waiting(chunk, 0, 10, avoid=frozenset({"standard-7"}) if chunk == 1 else frozenset()))

    assert packed(d)[:2] == [[0], [1]]


@pytest.mark.parametrize("more", [{"isolated": frozenset({0})}, {}])
def test_chunks_that_must_be_stoppable_never_ride_together(more):
    d = Dispatcher([Demand()], **more)
    d.set_workers([standard(0)])
    measured(d, 0.001, cost=1)
    for chunk in range(20):
        d.add(Waiting(chunk, 0, 1))

    assert len(packed(d)[0]) == (1 if more else 10)


def test_one_slow_start_does_not_hide_for_long_that_chunks_are_short():
    rides = []
    for others in (2, 40, 64):
        d = dispatcher(standard(0))
        d.look_ahead_seconds = 0.0
        measured(d, 1.5, times=1, cost=10)
        measured(d, 0.0019, times=others, cost=10)
        for chunk in range(1_000):
            d.add(Waiting(chunk, 0, 10))
        rides.append(len(packed(d)[0]))

    assert rides == [1, 2, 52]


def test_no_more_ride_together_than_were_short_for_each_long_one():
    d = dispatcher(standard(0), standard(1))
    d.look_ahead_seconds = 0.0
    measured(d, 0.001, times=5)
    for chunk in range(1_000):
        d.add(Waiting(chunk, 0, 10))

    assert [len(ride) for ride in packed(d)] == [5, 5]


def test_one_slow_start_does_not_distort_forecasts():
    d = dispatcher(standard(0))
    d.look_ahead_seconds = 0.0
    for seconds in (1.5, 0.0019, 0.0019):
        d.measured(0, seconds, cost=0.002)
    for chunk in range(1_000):
        d.add(Waiting(chunk, 0, 10, seconds=0.002))

    assert len(packed(d)[0]) == 52


@pytest.mark.parametrize("known", [0.02, None])
def test_where_one_worker_alone_can_run_them_short_chunks_ride_behind_long_ones(known):
    tagged = Demand(tags={"HIGHMEM": 1})
    d = dispatcher(standard(0), highmem(threads=2), demands=[Demand(), tagged])
    for _ in range(12):
        for seconds in (0.001, 0.001, 2.0):
            d.measured(1, seconds, cost=known or 1.0)
    for chunk in range(30):
        d.add(Waiting(chunk, 1, 1, seconds=known))

    assert packed(d) == [list(range(30))]


def test_chunks_whose_results_a_later_leg_waits_for_do_not_ride_behind_long_ones():
    tagged = Demand(tags={"HIGHMEM": 1})
    d = dispatcher(standard(0), highmem(), demands=[tagged, Demand()])
    for _ in range(12):
        for seconds in (0.001, 0.001, 2.0):
            d.measured(0, seconds)
    for chunk in range(30):
        d.add(Waiting(chunk, 0, 1))

    assert packed(d) == [[0]]


def test_forecasts_order_the_work_and_rows_only_without_them():
    d = dispatcher(standard(0, threads=3))
    for chunk, (rows, seconds) in enumerate([(10, 5.0), (1_000, 1.0), (100, 9.0)]):
        d.add(Waiting(chunk, 0, rows, seconds=seconds))

    assert packed(d) == [[2], [0], [1]]


def test_runs_that_share_workers_get_equal_numbers_of_slots_while_they_want_them():
    slots = Slots()
    many, few = (Dispatcher([Demand()], slots=slots) for _ in range(2))
    many.set_workers([standard(number) for number in range(8)])
    few.set_workers([standard(number) for number in range(8)])
    for chunk in range(50):
        many.add(Waiting(chunk, 0, 1))
    for chunk in range(3):
        few.add(Waiting(chunk, 0, 1))

    given = Counter(number for number, _ in share([many, few]))

    assert given == {0: 5, 1: 3}


def runs_that_share(workers: list[Worker], *runs: dict) -> list[Dispatcher]:
    slots = Slots()
    made = [Dispatcher([Demand()], slots=slots, **run) for run in runs]
    for d in made:
        d.set_workers(workers)
    return made


def let_wait(d: Dispatcher, chunks: int, **more) -> None:
    for chunk in range(chunks):
        d.add(Waiting(chunk, 0, 1, **more))


def shared_out(runs: list[Dispatcher]) -> list[tuple[int, Choice]]:
    return list(share(runs))


def turns_on_one_slot(runs: list[Dispatcher], number: int) -> Counter:
    """How often each run has the only slot, which is given back each time."""
    turns = Counter()
    for _ in range(number):
        ((run, choice),) = shared_out(runs)
        turns[run] += 1
        runs[run].give_back(choice)
    return turns


class TestRunsThatShareWorkers:
    def test_three_long_solves_have_the_next_free_slots_beside_a_hundred_thousand_short_chunks(self):
        short, solves = runs = runs_that_share([standard(number) for number in range(8)], {}, {})
        measured(short, 0.05, cost=1)
        let_wait(short, 100_000)
        busy = [choice for _, choice in shared_out(runs)]
        assert any(choice.ahead for choice in busy)  # it had the workers to itself
        let_wait(solves, 3, seconds=3_600.0)

        given = []
        for choice in busy:
            short.give_back(choice)
            given += shared_out(runs)

        assert [number for number, _ in given][:3] == [1, 1, 1]
        assert not any(choice.ahead for number, choice in given[:3])
        assert solves.waiting == 0
        assert short.in_use >= 1

    def test_a_hundred_thousand_short_chunks_have_what_three_long_solves_leave_them(self):
        solves, short = runs = runs_that_share([standard(number) for number in range(4)], {}, {})
        let_wait(solves, 3, seconds=3_600.0)
        assert [number for number, _ in shared_out(runs)] == [0, 0, 0]
        measured(short, 1.0, cost=1)
        let_wait(short, 100_000)

        for _ in range(50):
            ((number, choice),) = shared_out(runs)
            assert number == 1
            short.give_back(choice)

        assert (solves.in_use, short.in_use) == (3, 0)

    def test_neither_starves_where_there_is_one_slot_for_both(self):
        runs = runs_that_share([standard(0)], {}, {})
        for d in runs:
            let_wait(d, 50)

        assert turns_on_one_slot(runs, 20) == {0: 10, 1: 10}

    def test_priority_counts_where_there_is_one_slot_for_both(self):
        runs = runs_that_share([standard(0)], {"priority": 0}, {"priority": 2})
        for d in runs:
            let_wait(d, 100)

        assert turns_on_one_slot(runs, 50) == {0: 10, 1: 40}

    def test_a_run_that_comes_later_has_not_all_the_turns_that_it_missed(self):
        runs = runs_that_share([standard(0)], {}, {}, {})
        for d in runs[:2]:
            let_wait(d, 100)
        turns_on_one_slot(runs, 60)
        let_wait(runs[2], 100)

        assert turns_on_one_slot(runs, 30) == {0: 10, 1: 10, 2: 10}

    def test_a_priority_that_is_higher_by_two_has_four_slots_for_one(self):
        plain, urgent = runs = runs_that_share([standard(0, threads=50)], {"priority": 0}, {"priority": 2})
        for d in runs:
            let_wait(d, 200)

        shared_out(runs)

        assert (plain.in_use, urgent.in_use) == (10, 40)

    def test_a_run_of_the_least_priority_still_has_a_slot(self):
        last, first = runs = runs_that_share([standard(0, threads=3)], {"priority": -99}, {"priority": 99})
        for d in runs:
            let_wait(d, 200)

        shared_out(runs)

        assert (last.in_use, first.in_use) == (1, 2)

    def test_what_a_run_may_not_have_is_for_the_others(self):
        capped, other = runs = runs_that_share([standard(0, threads=8)], {"most": 2, "priority": 5}, {})
        for d in runs:
            let_wait(d, 20)

        shared_out(runs)

        assert (capped.in_use, other.in_use) == (2, 6)

    def test_nobody_queues_behind_a_busy_thread_while_two_runs_wait(self):
        runs = runs_that_share([standard(0)], {}, {})
        for d in runs:
            measured(d, 0.05, cost=1)
            let_wait(d, 100)

        assert [choice.ahead for _, choice in shared_out(runs)] == [False]


def test_a_run_has_no_more_slots_than_it_may_also_if_it_is_alone():
    d = dispatcher(standard(0, threads=8))
    d.most = 3
    let_wait(d, 20)

    choices = d.choose()
    assert len(choices) == 3
    assert d.choose() == []
    assert d.choose_idle(Waiting(99, 0, 1)) is None
    d.give_back(choices[0])
    assert len(d.choose()) == 1


def test_chunks_that_ride_together_are_shared_out_over_the_slots_that_the_run_may_have():
    d = dispatcher(*[standard(number) for number in range(8)])
    d.look_ahead_seconds, d.most = 0.0, 1
    measured(d, 0.001, cost=1)
    let_wait(d, 16)

    assert packed(d) == [list(range(8))]


@given(
    threads=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    runs=st.lists(
        st.tuples(st.integers(-12, 12), st.none() | st.integers(1, 4), st.integers(0, 12), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    ended=st.lists(st.integers(0, 99), max_size=25),
)
def test_slots_are_shared_so_that_none_is_idle_no_cap_is_passed_and_nobody_starves(threads, runs, ended):
    workers = [standard(number, threads=count) for number, count in enumerate(threads)]
    members = runs_that_share(workers, *[{"priority": p, "most": most} for p, most, _, _ in runs])
    for d, (_, _, chunks, short) in zip(members, runs, strict=True):
        if short:
            measured(d, 0.06, cost=1)
        let_wait(d, chunks, apart=True)
    running: list[tuple[int, Choice]] = []
    total, several = sum(threads), sum(d.waiting > 0 for d in members) > 1

    def may_have(d: Dispatcher) -> bool:
        return bool(d.waiting) and (d.most is None or d.in_use < d.most)

    for turn in [None, *ended]:
        if turn is not None and running:
            number, choice = running.pop(turn % len(running))
            members[number].give_back(choice)
            several = sum(d.waiting > 0 for d in members) > 1
        before = [(d.in_use, d.waiting) for d in members]
        given = list(share(members))
        running += given
        for number, d in enumerate(members):
            mine = sum(one == number for one, _ in given)
            assert d.in_use == before[number][0] + mine
            assert d.waiting == before[number][1] - mine
            assert d.most is None or d.in_use <= d.most
        assert not (several and any(choice.ahead for _, choice in given))
        if any(map(may_have, members)):
            assert sum(d.in_use for d in members) >= total
        if several and given:
            have, wait = ([one[n] for one in before] for n in (0, 1))
            for number, _ in given:  # each was the one with the least of those that could take one
                for other, d in enumerate(members):
                    if wait[other] and (d.most is None or have[other] < d.most):
                        assert weighed(have[number], members[number]) <= weighed(have[other], d)
                have[number] += 1
                wait[number] -= 1


def weighed(in_use: int, d: Dispatcher) -> float:
    return in_use / 2 ** max(-10, min(10, d.priority))
