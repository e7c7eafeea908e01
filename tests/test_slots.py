"""Which worker is taken, against a search that looks at every one of them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from batchrun.resources import MEMORY, Demand, Worker
from batchrun.slots import Slots

DEMANDS = st.builds(
    Demand,
    memory=st.sampled_from([0, 1, 3, 4, 7]),
    tags=st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from([1.0, 2.0]), max_size=2),
)
SHAPES = st.tuples(
    st.integers(0, 3),
    st.integers(2, 9),
    st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from([1.0, 2.0]), max_size=2),
)
FLEETS = st.lists(SHAPES, min_size=1, max_size=7).map(
    lambda shapes: [Worker(f"w{number}", f"w-{number}", *shape) for number, shape in enumerate(shapes)]
)
TASKS = st.tuples(DEMANDS, st.integers(0, 2), st.booleans(), st.booleans())


class Reference:
    """What each worker has in use, looked at one by one."""

    def __init__(self, workers):
        self.workers = {worker.address: worker for worker in workers}
        self.running = {address: [] for address in self.workers}

    def used(self, address):
        used = Counter()
        for demand, *_ in self.running[address]:
            used.update({"threads": 1, **demand.resources()})
        return used

    def rank(self, address, demand, depth, alone, avoid, keep):
        """Where a worker stands among those that could be taken, the least first; None if it cannot be."""
        worker, running, used = self.workers[address], self.running[address], self.used(address)
        has = {MEMORY: worker.memory, **worker.tags}
        queue = 0 if any(long for *_, long in running) else depth * worker.threads
        if not worker.can_ever_run(demand) or any(map(worker.can_ever_run, keep)):
            return None
        if any(exclusive for _, exclusive, _ in running) or (alone and running):
            return None
        if used["threads"] >= worker.threads + queue:
            return None
        if any(has.get(tag, 0) - used[tag] < amount for tag, amount in demand.resources().items()):
            return None
        surplus = len(worker.tags.keys() - demand.tags.keys())
        free = worker.threads - used["threads"]
        return worker.name in avoid, free <= 0, surplus, worker.memory, -free


@given(
    workers=FLEETS,
    tasks=st.lists(TASKS, max_size=25),
    avoid=st.frozensets(st.sampled_from([f"w-{number}" for number in range(4)]), max_size=2),
    keep=st.lists(DEMANDS.filter(lambda demand: demand.memory or demand.tags), max_size=2),
    ends=st.lists(st.booleans(), min_size=25, max_size=25),
)
def test_the_worker_with_least_to_spare_is_taken_whatever_is_in_use(workers, tasks, avoid, keep, ends):
    slots, reference, placed = Slots(), Reference(workers), []
    slots.set_workers(workers)
    for (demand, depth, alone, long), end in zip(tasks, ends, strict=False):
        ranks = {
            address: rank
            for address in reference.workers
            if (rank := reference.rank(address, demand, depth, alone, avoid, keep)) is not None
        }

        found = slots.best(demand, depth=depth, alone=alone, avoid=avoid, keep=keep)

        assert (found is not None) == bool(ranks)
        if found is not None:
            assert ranks[found.address] == min(ranks.values())
            behind = slots.take(found.address, demand, exclusive=alone, long=long)
            assert behind == ranks[found.address][1]
            reference.running[found.address].append((demand, alone, long))
            placed.append((found.address, demand, alone, long))
        if end and placed:
            address, demand, alone, long = placed.pop(0)
            slots.give_back(address, demand, exclusive=alone, long=long)
            reference.running[address].remove((demand, alone, long))


@given(workers=FLEETS, demand=DEMANDS)
def test_what_workers_could_do_when_idle_is_counted_over_all_of_them(workers, demand):
    slots = Slots()
    slots.set_workers(workers)
    able = [worker for worker in workers if worker.can_ever_run(demand)]

    assert slots.able(demand) == len(able)
    assert slots.threads(demand) == sum(worker.threads for worker in able)
    assert slots.capacity(demand) == sum(worker.slots(demand) for worker in able)
    assert slots.memories(demand) == {worker.memory for worker in able}


@given(before=FLEETS, after=FLEETS, demand=DEMANDS)
def test_workers_that_stay_keep_what_they_have_in_use_and_others_come_and_go_whole(before, after, demand):
    slots, anew = Slots(), Slots()
    slots.set_workers(before)
    first = slots.best(demand)
    if first is not None:
        slots.take(first.address, demand)

    slots.set_workers(after)
    anew.set_workers(after)
    if first in after:
        anew.take(first.address, demand)
    elif first is not None and first.address not in {worker.address for worker in after}:
        slots.give_back(first.address, demand)

    assert slots.totals() == anew.totals()
    assert slots.states == anew.states


def test_a_slot_of_an_earlier_stay_of_a_worker_is_not_given_back_to_it_when_it_has_come_back():
    slots, worker, demand = Slots(), Worker("w", "w", 1, 8), Demand()
    slots.set_workers([worker])
    before = slots.stay("w")
    slots.take("w", demand)
    slots.set_workers([])
    slots.set_workers([worker])
    slots.take("w", demand)

    slots.prolong("w", stay=before)
    slots.give_back("w", demand, stay=before)
    assert not slots.any_free
    slots.give_back("w", demand, stay=slots.stay("w"))

    assert slots.best(demand, depth=1) == worker
    slots.take("w", demand)
    assert slots.best(demand) is None
    assert slots.best(demand, depth=1) == worker  # nothing on it is held to be long
