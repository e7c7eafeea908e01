"""Which chunk goes where: by table and by property, without a cluster."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchrun.dispatch import Dispatcher, Waiting
from batchrun.resources import Demand, Worker

GIB = 2**30


def standard(number: int, *, threads: int = 1, memory: int = 2 * GIB) -> Worker:
    return Worker(f"tcp://s{number}", f"standard-{number}", threads, memory)


def highmem(number: int = 0, *, threads: int = 1, memory: int = 8 * GIB) -> Worker:
    return Worker(f"tcp://h{number}", f"highmem-{number}", threads, memory, {"HIGHMEM": 1.0})


def dispatcher(*workers: Worker, demands: list[Demand] | None = None) -> Dispatcher:
    made = Dispatcher(demands or [Demand()])
    made.set_workers(workers)
    return made


def test_only_free_slots_are_filled():
    d = dispatcher(standard(0), standard(1))
    for chunk in range(5):
        d.add(Waiting(chunk, 0, 10))

    first, second = d.choose()
    assert (first.waiting.chunk, second.waiting.chunk) == (0, 1)
    assert d.choose() == []
    d.give_back(first)
    assert [(c.waiting.chunk, c.worker.name) for c in d.choose()] == [(2, "standard-0")]


def test_the_longest_chunk_goes_first_and_equal_ones_in_input_order():
    d = dispatcher(standard(0, threads=4))
    for chunk, rows in enumerate([5, 50, 5, 500]):
        d.add(Waiting(chunk, 0, rows))

    assert [c.waiting.chunk for c in d.choose()] == [3, 1, 0, 2]


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

    assert {c.waiting.chunk: c.worker.name for c in d.choose()} == {0: "standard-0", 1: "highmem-0"}


def test_an_idle_tagged_worker_is_used_when_nothing_needs_its_tag():
    d = dispatcher(highmem(), standard(0))
    d.add(Waiting(0, 0, 1))
    d.add(Waiting(1, 0, 1))

    assert [c.worker.name for c in d.choose()] == ["standard-0", "highmem-0"]


def test_a_chunk_half_done_goes_before_one_not_begun():
    d = dispatcher(highmem(), demands=[Demand(), Demand(tags={"HIGHMEM": 1})])
    d.add(Waiting(0, 0, 9_999))
    d.add(Waiting(1, 1, 1))

    assert [c.waiting.chunk for c in d.choose()] == [1]


def test_a_chunk_is_not_tried_again_where_it_failed_if_another_worker_is_free():
    d = dispatcher(standard(0), standard(1))
    d.add(Waiting(0, 0, 1, avoid=frozenset({"standard-0"})))

    assert [c.worker.name for c in d.choose()] == ["standard-1"]


def test_short_chunks_may_wait_behind_a_busy_thread_and_long_ones_may_not():
    d = dispatcher(standard(0))
    for chunk in range(20):
        d.add(Waiting(chunk, 0, 1))
    (first,) = d.choose()

    d.measured(0, 0.05)
    assert len(d.choose()) == 5

    for _ in range(50):
        d.measured(0, 10.0)
    d.give_back(first)
    assert d.choose() == []


def test_tagged_chunks_never_wait_on_a_worker_however_short_they_are():
    d = dispatcher(highmem(threads=2), demands=[Demand(tags={"HIGHMEM": 1})])
    d.measured(0, 0.001)
    for chunk in range(3):
        d.add(Waiting(chunk, 0, 1))

    assert len(d.choose()) == 1


def test_a_suspect_gets_an_idle_worker_for_itself_and_the_others_go_on_elsewhere():
    d = dispatcher(standard(0, threads=2), standard(1, threads=2))
    d.measured(0, 0.01)
    d.add(Waiting(0, 0, 1, alone=True))
    for chunk in range(1, 40):
        d.add(Waiting(chunk, 0, 1))

    choices = d.choose()

    suspect = choices[0]
    assert suspect.waiting.chunk == 0
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
    assert other.waiting.chunk == 2
    d.give_back(busy)
    assert d.choose() == []
    d.give_back(other)
    assert [c.waiting.chunk for c in d.choose()] == [0]


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

    assert d.slots(behind=4) == [
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
            item = waiting.pop(choice.waiting.chunk)
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

    assert [c.waiting.chunk for c in d.choose()] == [8, 9, 7, 0]


def test_a_chunk_that_needs_more_memory_than_its_leg_asks_for_goes_where_there_is_more():
    d = dispatcher(standard(0), highmem(), demands=[Demand(memory=GIB)])
    d.add(Waiting(0, 0, 10, memory=8 * GIB))
    d.add(Waiting(1, 0, 10))

    placed = {c.waiting.chunk: c for c in d.choose()}
    assert placed[0].worker.name == "highmem-0"
    assert placed[1].worker.name == "standard-0"
    d.add(Waiting(2, 0, 10, memory=8 * GIB))
    assert d.choose() == []
    d.give_back(placed[0])
    assert [c.waiting.chunk for c in d.choose()] == [2]


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
    assert [c.waiting.chunk for c in d.choose()] == [0, 3]


def test_chunks_of_an_isolated_leg_never_wait_behind_another():
    d = Dispatcher([Demand()], isolated=frozenset({0}))
    d.set_workers([standard(0)])
    d.measured(0, 0.001)

    assert d.look_ahead(0) == 0
