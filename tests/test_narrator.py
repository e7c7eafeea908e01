"""What the runner tells reaches observers as one event, however many chunks it is about."""

from __future__ import annotations

import itertools
import math

import pytest

from batchrun.events import AttemptsSolved, ChunksPlaced, ChunksRecalled, ChunksReturned, ChunksSettled, Event
from batchrun.narrator import Narrator
from batchrun.outcome import Outcome, relative_gap
from batchrun.store.records import SettledChunk, SettledChunks
from tests.told import solved_attempts


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def narrator(heard: list[Event]) -> Narrator:
    return Narrator("r1", [heard.append], clock=lambda: 0.0, slots_every=0.25)


def settled(chunk: int, objective: float | None = None, bound: float | None = None) -> SettledChunk:
    outcome = Outcome.FAILED if chunk % 3 == 2 else Outcome.SUCCEEDED
    return SettledChunk(chunk, outcome, 10 + chunk, chunk, 0.5 * chunk, objective=objective, bound=bound)


def test_chunks_that_are_settled_together_are_one_event_in_columns(narrator, heard):
    narrator.settled(SettledChunks.of(map(settled, range(3))))
    (event,) = heard
    assert isinstance(event, ChunksSettled)
    assert event.chunks.tolist() == [0, 1, 2]
    assert event.outcomes == (Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED)
    assert (event.rows.tolist(), event.rows_out.tolist()) == ([10, 11, 12], [0, 1, 2])
    assert event.seconds.tolist() == [0.0, 0.5, 1.0]
    assert all(map(math.isnan, event.gaps))


def test_gaps_are_those_that_one_chunk_would_have(narrator, heard):
    values = (None, -math.inf, math.inf, -2.0, 0.0, 1e-300, 930.0, 1_000.0)
    pairs = list(itertools.product(values, values))
    narrator.settled(SettledChunks.of([settled(n, *pair) for n, pair in enumerate(pairs)]))
    (event,) = heard
    assert isinstance(event, ChunksSettled)
    told = [None if math.isnan(gap) else gap for gap in event.gaps.tolist()]
    assert told == [relative_gap(*pair) for pair in pairs]


def test_nothing_is_told_where_nothing_was_settled_or_recalled(narrator, heard):
    narrator.settled(SettledChunks.of([]))
    narrator.recalled(SettledChunks.of([]))
    assert heard == []


def test_what_earlier_sessions_settled_is_handed_on_without_a_copy(narrator, heard):
    before = SettledChunks.of(map(settled, range(5)))
    narrator.recalled(before)
    (event,) = heard
    assert isinstance(event, ChunksRecalled)
    assert event.chunks is before.chunks
    assert event.outcomes is before.outcomes
    assert event.rows is before.rows


def test_packs_are_told_as_they_are_placed_solved_and_taken_back(narrator, heard):
    narrator.placed([0, 1, 2, 3], ["w-0", "w-0", "w-0", "w-1"], packs=[3, 1])
    narrator.returned([2])
    attempts = solved_attempts(range(2))
    narrator.solved(attempts)
    placed, returned, solved = heard
    assert isinstance(placed, ChunksPlaced)
    assert (placed.chunks, placed.packs) == ((0, 1, 2, 3), (3, 1))
    assert isinstance(returned, ChunksReturned)
    assert returned.chunks == (2,)
    assert isinstance(solved, AttemptsSolved)
    assert solved.attempts is attempts
