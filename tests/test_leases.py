"""How a service tells its scheduler of leases: after each renewal, without holding up the heart."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchrun.service.leases import LeaseTeller


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def told() -> queue.Queue[dict[str, Any]]:
    """What was told, in order."""
    return queue.Queue()


@pytest.fixture
def teller(now: list[float], told: queue.Queue[dict[str, Any]]) -> Iterator[LeaseTeller]:
    made = LeaseTeller("s1", 30.0, told.put, clock=lambda: now[0])
    made.start()
    yield made
    made.stop()
    assert not made.is_alive()


@pytest.fixture
def runs(told: queue.Queue[dict[str, Any]]) -> Callable[[], dict[str, list[Any]]]:
    """The runs of the next message."""
    return lambda: told.get(timeout=30)["runs"]


def test_a_run_is_told_of_once_it_is_taken_and_after_each_renewal(teller, now, told, runs):
    teller.taken("r1", "delays")
    assert told.get(timeout=30) == {"service": "s1", "seconds": 30.0, "runs": {"r1": ["delays", 0.0]}}
    now[0] += 5
    teller.taken("r2", "pits")
    assert runs() == {"r1": ["delays", 5.0], "r2": ["pits", 0.0]}
    teller.beat({"r1", "r2"}, {"r1": "delays", "r2": "pits"})
    assert runs() == {"r1": ["delays", 0.0], "r2": ["pits", 0.0]}


def test_a_lease_that_is_held_and_not_renewed_grows_older_and_one_that_is_lost_is_told_of_no_more(
    teller, now, runs
):
    for run_id in ("r1", "r2"):
        teller.taken(run_id, "delays")
        runs()
    now[0] += 5
    teller.beat({"r1"}, {})
    assert runs() == {"r1": ["delays", 5.0]}
    teller.released("r1")
    assert runs() == {}


def test_a_run_that_is_taken_while_others_are_renewed_is_told_of_at_the_next_beat(teller, runs):
    teller.taken("r1", "delays")
    runs()
    teller.beat(set(), {"r1": "delays"})  # what was held was read before it was taken
    assert runs() == {}
    teller.beat({"r1"}, {"r1": "delays"})
    assert runs() == {"r1": ["delays", 0.0]}


def test_a_service_without_runs_says_so_once(teller, told, runs):
    for _ in range(3):
        teller.beat(set(), {})
    teller.taken("r1", "delays")
    seen = runs()
    while not seen:
        seen = runs()
    assert list(seen) == ["r1"]
    assert told.empty()


def test_at_the_end_the_service_holds_nothing(now, told):
    made = LeaseTeller("s1", 30.0, told.put, clock=lambda: now[0])
    made.start()
    made.taken("r1", "delays")
    assert told.get(timeout=30)["runs"]
    made.stop()
    assert told.get(timeout=30)["runs"] == {}


def test_a_scheduler_that_does_not_answer_or_refuses_holds_up_nobody(now):
    asked, answer = threading.Event(), threading.Event()

    def publish(_: object) -> None:
        asked.set()
        answer.wait(30)
        raise OSError("it is gone")

    made = LeaseTeller("s1", 30.0, publish, clock=lambda: now[0])
    made.start()
    made.taken("r1", "delays")
    assert asked.wait(30)
    made.beat({"r1"}, {"r1": "delays"})  # returns at once
    answer.set()
    made.stop()
    assert not made.is_alive()
