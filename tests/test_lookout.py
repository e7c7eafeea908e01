"""A service looks at its store soon after a commit, and seldom otherwise."""

from __future__ import annotations

import pytest

from batchrun.service import lookout as module
from batchrun.service.lookout import Lookout


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def looks(lookout: Lookout, clock: Clock, versions: list[int | None], step: float = 1.0) -> list[bool]:
    """Whether a look was due at each of these versions, one every *step* seconds."""
    found = []
    for version in versions:
        found.append(lookout.due(version))
        clock.now += step
    return found


def test_the_first_look_is_due_at_once_and_the_next_after_a_commit(clock: Clock):
    assert looks(Lookout(1.0, 10.0), clock, [7, 7, 7, 8, 8]) == [True, False, False, True, False]


def test_a_burst_of_commits_is_looked_at_no_oftener_than_asked(clock: Clock):
    found = looks(Lookout(1.0, 10.0), clock, list(range(9)), step=0.25)
    assert found == [True, False, False, False, True, False, False, False, True]


def test_a_commit_that_came_too_soon_after_a_look_is_not_forgotten(clock: Clock):
    assert looks(Lookout(1.0, 10.0), clock, [1, 2, 2, 2], step=0.5) == [True, False, True, False]


def test_without_a_commit_a_look_is_due_now_and_then(clock: Clock):
    assert looks(Lookout(1.0, 3.0), clock, [1] * 7) == [True, False, False, True, False, False, True]


def test_a_store_that_cannot_tell_is_looked_at_as_often_as_one_that_changes(clock: Clock):
    assert looks(Lookout(1.0, 10.0), clock, [None] * 5, step=0.5) == [True, False, True, False, True]


def test_the_next_look_can_be_asked_for_earlier_and_the_one_after_it_is_as_ever(clock: Clock):
    lookout = Lookout(1.0, 4.0)
    assert lookout.due(1)
    lookout.again_in(2.0)
    clock.now += 1.0
    assert looks(lookout, clock, [1, 1, 1, 1, 1, 1]) == [False, True, False, False, False, True]


def test_no_look_is_put_off_or_asked_for_too_often(clock: Clock):
    lookout = Lookout(1.0, 3.0)
    assert lookout.due(1)
    lookout.again_in(float("inf"))
    assert looks(lookout, clock, [1, 1, 1, 1]) == [False, False, False, True]
    lookout.again_in(-5.0)
    clock.now -= 0.5
    assert looks(lookout, clock, [1, 1], step=0.5) == [False, True]


def test_a_look_can_be_asked_for_at_once(clock: Clock):
    lookout = Lookout(1.0, 10.0)
    assert lookout.due(1)
    lookout.at_once()
    assert looks(lookout, clock, [1, 1], step=0.1) == [True, False]
