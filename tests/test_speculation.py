"""Which running chunks deserve a second start, and on which slots: by table, without a cluster."""

from __future__ import annotations

import pytest

from batchrun.dispatch import Dispatcher
from batchrun.forecast import ENOUGH, Pace
from batchrun.resources import Demand, Worker
from batchrun.speculation import Underway, most_copies, stragglers
from batchrun.waiting import Waiting

HIGHMEM = Demand(tags={"HIGHMEM": 1})


def pace(ended: int, seconds: float = 10.0, forecast: float | None = None) -> Pace:
    made = Pace()
    for _ in range(ended):
        made.ended(100, seconds, forecast)
    return made


@pytest.mark.parametrize(
    ("known", "one", "deserves"),
    [
        (pace(ENOUGH), Underway(0, 0, 100, elapsed=31.0), True),
        (pace(ENOUGH), Underway(0, 0, 100, elapsed=29.0), False),
        (pace(ENOUGH), Underway(0, 0, 1_000, elapsed=31.0), False),
        (pace(ENOUGH - 1), Underway(0, 0, 100, elapsed=1e9), False),
        (pace(ENOUGH, 0.1), Underway(0, 0, 100, elapsed=1.9), False),
        (pace(ENOUGH, 0.1), Underway(0, 0, 100, elapsed=2.1), True),
        (pace(3, 10.0, 10.0), Underway(0, 0, 100, elapsed=31.0, forecast=10.0), True),
        (pace(3, 10.0, 10.0), Underway(0, 0, 100, elapsed=31.0, forecast=11.0), False),
        (pace(3, 40.0, 10.0), Underway(0, 0, 100, elapsed=110.0, forecast=10.0), False),
        (pace(2, 10.0, 10.0), Underway(0, 0, 100, elapsed=1e9, forecast=10.0), False),
        (pace(0), Underway(0, 0, 100, elapsed=1e9, forecast=10.0), False),
        (pace(ENOUGH), Underway(0, 0, 100, elapsed=31.0, left=9.0), False),
        (pace(ENOUGH), Underway(0, 0, 100, elapsed=31.0, left=11.0), True),
    ],
    ids=[
        "three times as long as others of its size",
        "not quite so long",
        "not so long for its size",
        "too few ended to tell",
        "too short to be worth it",
        "just long enough to be worth it",
        "three times its forecast",
        "not so long for its forecast",
        "all chunks take longer than their forecasts",
        "too few ended to trust forecasts",
        "none ended",
        "it will end before a second try",
        "a second try will end before it",
    ],
)
def test_a_chunk_deserves_a_second_start(known, one, deserves):
    assert stragglers([one], [known]) == ([one] if deserves else [])


def test_the_straggler_that_has_run_longest_comes_first_and_each_leg_has_its_own_pace():
    running = [
        Underway(0, 0, 100, elapsed=40.0),
        Underway(1, 1, 100, elapsed=40.0),
        Underway(2, 0, 100, elapsed=50.0),
        Underway(3, 0, 100, elapsed=20.0),
        Underway(4, 1, 100, elapsed=400.0),
    ]

    found = stragglers(running, [pace(ENOUGH, 10.0), pace(ENOUGH, 100.0)])

    assert [one.chunk for one in found] == [4, 2, 0]


@pytest.mark.parametrize(("slots", "copies"), [(0, 1), (1, 1), (19, 1), (20, 2), (1_000, 100)])
def test_a_tenth_of_the_slots_at_most_run_second_starts_and_one_always_may(slots, copies):
    assert most_copies(slots) == copies


def standard(number: int, threads: int = 1) -> Worker:
    return Worker(f"tcp://s{number}", f"standard-{number}", threads, 2**31)


def highmem(number: int = 0) -> Worker:
    return Worker(f"tcp://h{number}", f"highmem-{number}", 1, 2**33, {"HIGHMEM": 1.0})


def dispatcher(*workers: Worker, demands: tuple[Demand, ...] = (Demand(),)) -> Dispatcher:
    made = Dispatcher(demands)
    made.set_workers(workers)
    return made


def on(worker: str, leg: int = 0) -> Waiting:
    """A chunk that runs on a worker."""
    return Waiting(7, leg, 100, avoid=frozenset({worker}))


def test_a_second_start_takes_an_idle_slot_on_another_worker_and_gives_it_back():
    d = dispatcher(standard(0), standard(1))

    choice = d.choose_idle(on("standard-0"))

    assert choice is not None
    assert choice.worker.name == "standard-1"
    assert d.choose_idle(on("standard-0")) is None
    d.give_back(choice)
    assert d.in_use == 0
    assert d.choose_idle(on("standard-0")) is not None


def test_a_second_start_never_goes_to_the_worker_of_the_first():
    assert dispatcher(standard(0, threads=4)).choose_idle(on("standard-0")) is None


def test_a_second_start_has_what_its_stage_needs():
    d = dispatcher(standard(0), standard(1), highmem(), demands=(HIGHMEM,))

    assert d.choose_idle(on("highmem-0")) is None
    d.set_workers([standard(0), highmem(0), highmem(1)])
    choice = d.choose_idle(on("highmem-0"))
    assert choice is not None
    assert choice.worker.name == "highmem-1"


def test_a_slot_that_a_waiting_chunk_could_use_is_not_idle():
    """It needs a worker for itself, and gets it as soon as one of the two threads is free."""
    d = dispatcher(standard(0, threads=2), standard(1, threads=2))
    for chunk in (1, 2):
        d.add(Waiting(chunk, 0, 100))
    d.choose()
    d.add(Waiting(3, 0, 100, alone=True))
    assert d.choose() == []

    assert d.choose_idle(on("standard-0")) is None
    d.drop({3})
    assert d.choose_idle(on("standard-0")) is not None


def test_slots_that_no_waiting_chunk_could_use_are_idle():
    d = dispatcher(standard(0), highmem(), demands=(Demand(), HIGHMEM))
    for chunk in (1, 2):
        d.add(Waiting(chunk, 1, 100))
    d.choose()
    assert d.waiting == 1

    choice = d.choose_idle(on("highmem-0"))

    assert choice is not None
    assert choice.worker.name == "standard-0"


@pytest.mark.parametrize("later", ["behind", "soon", "kept"])
def test_slots_that_chunks_will_want_before_long_are_not_idle(later):
    d = dispatcher(standard(0), highmem(), demands=(Demand(), HIGHMEM))
    item = Waiting(7, 0, 100, seconds=10.0, avoid=frozenset({"standard-0"}))
    idle = d.choose_idle(item)
    assert idle is not None
    d.give_back(idle)

    if later == "behind":
        d.behind = 1
    if later == "kept":
        d.expect([0.0, 100.0])

    assert d.choose_idle(item, [HIGHMEM] if later == "soon" else []) is None
