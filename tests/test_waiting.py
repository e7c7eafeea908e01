"""The order of what waits, and what workers are promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.waiting import Queue, Waiting


def queue_of(*rows: int) -> Queue:
    queue = Queue()
    for chunk, number in enumerate(rows):
        queue.add(Waiting(chunk, 0, number))
    return queue


def test_the_largest_is_taken_first_and_equal_ones_in_input_order():
    queue = queue_of(1, 5, 5, 9)

    assert [queue.take().chunk for _ in range(4)] == [3, 1, 2, 0]
    assert queue.first is None
    with pytest.raises(IndexError):
        queue.take()


def test_a_worker_is_given_what_it_was_promised_if_that_is_about_as_much_work():
    queue = queue_of(100, 100, 99, 81)
    mine = queue.promise("w")
    queue.add(Waiting(4, 0, 120))

    assert mine is not None
    assert mine.chunk == 0
    assert queue.take("w").chunk == 0
    assert queue.take("v").chunk == 4


def test_a_promise_does_not_hold_up_a_chunk_with_more_work():
    queue = queue_of(100, 50)
    queue.promise("w")
    queue.add(Waiting(2, 0, 200))

    assert queue.take("w").chunk == 2
    assert queue.take("w").chunk == 0


def test_what_was_promised_goes_elsewhere_when_its_turn_comes_and_its_worker_is_busy():
    queue = queue_of(100, 50)
    queue.promise("w")

    assert queue.first is not None
    assert queue.first.chunk == 0
    assert queue.take("v").chunk == 0
    assert queue.take("w").chunk == 1
    assert len(queue) == 0


def test_each_worker_is_promised_another_chunk_and_the_same_as_long_as_it_waits():
    queue = queue_of(3, 2, 1)

    assert [getattr(queue.promise(worker), "chunk", None) for worker in "abab"] == [0, 1, 0, 1]
    assert len(queue) == 3
    assert getattr(queue.promise("c"), "chunk", None) == 2
    assert queue.promise("d") is None


def test_a_chunk_to_which_something_happened_is_promised_to_nobody():
    queue = Queue()
    queue.add(Waiting(0, 0, 10, avoid=frozenset({"w"})))

    assert queue.promise("w") is None


def test_promised_chunks_can_be_dropped_too():
    queue = queue_of(3, 2, 1)
    queue.promise("a")

    assert sorted(item.chunk for item in queue.drop({0, 2})) == [0, 2]
    assert len(queue) == 1
    assert queue.take("a").chunk == 1
    assert queue.first is None


@given(
    st.lists(st.integers(1, 5), max_size=30),
    st.lists(st.tuples(st.sampled_from("ptd"), st.sampled_from("abc")), max_size=60),
)
def test_each_chunk_is_taken_once_whatever_was_promised(rows, steps):
    queue = queue_of(*rows)
    taken = []
    for step, worker in steps:
        if step == "p":
            queue.promise(worker)
        elif step == "d" and len(taken) % 7 == 3:
            taken += [item.chunk for item in queue.drop({len(taken)})]
        elif len(queue):
            taken.append(queue.take(worker).chunk)
        assert len(taken) + len(queue) == len(rows)
        assert (queue.first is None) == (len(queue) == 0)
    taken += [queue.take().chunk for _ in range(len(queue))]
    assert sorted(taken) == list(range(len(rows)))
