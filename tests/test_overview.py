"""A store as a whole: which runs there are and why they stand so, who has slots, and what failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from batchrun.events import SlotUse
from batchrun.outcome import Attempt, Cause, ErrorRecord, Outcome, RunState
from batchrun.overview import Overview, RunStanding, StoreWatch
from batchrun.store.driver import driver_name, driving
from batchrun.store.live import LiveState, LiveWorker, RunningChunk, WaitingChunks
from batchrun.store.queue import QueueEntry
from batchrun.store.records import SettledChunk, SettledChunks
from batchrun.store.runs import RunRecord, RunStore
from batchrun.store.services import ServiceRecord
from batchrun.store.writer import RunWriter

ELSEWHERE = "elsewhere/1/1.0"
SEVEN = ErrorRecord("ValueError", "seven is bad", "Traceback", signature="ValueError at x.py:1")
LARGE = ErrorRecord("MemoryError", "it is large", "", signature="MemoryError at x.py:2")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore(f"sqlite:///{(tmp_path / 'store.db').as_posix()}") as store:
        yield store


@pytest.fixture
def now() -> list[float]:
    """The time, which a test may change."""
    return [time.time()]


@pytest.fixture
def look(store: RunStore, now: list[float]) -> Callable[..., Overview]:
    return StoreWatch(store, clock=lambda: now[0]).look


def record(run_id: str, state: RunState = RunState.QUEUED, **fields: object) -> RunRecord:
    at = time.time()
    stages = [{"name": "solve", "memory": 0, "resources": {}, "leg": 0}]
    known = {"created": at, "rows_in": 40, "heartbeat": at, "stages": stages, "fence": 1}
    known |= {"split": "by_rows(4)", "folder": ""}
    return RunRecord(run_id, "pits", None, state, **{**known, **fields})


def going(store: RunStore, run_id: str, **fields: object) -> RunWriter:
    """A run that this process drives, as long as it is in the context of ``driving``."""
    known = {"started": time.time() - 10, "driver": driver_name()}
    return store.create(record(run_id, RunState.RUNNING, **{**known, **fields}))


def live(*chunks: int, **fields: object) -> LiveState:
    running = tuple(RunningChunk(chunk, "solve", 1, "w-0", time.time() - chunk, 4) for chunk in chunks)
    workers = (LiveWorker("w-0", 2, 2**30, {}),)
    return LiveState(time.time(), running, workers=workers, **fields)


def give_up(writer: RunWriter, error: ErrorRecord, *chunks: int) -> None:
    failed = [
        Attempt(one, "solve", 1, "w-0", Outcome.FAILED, time.time(), 0.5, 4, error=error, cause=Cause.ERROR)
        for one in chunks
    ]
    settled = SettledChunks.of(SettledChunk(one, Outcome.FAILED, 4, 0, 0.5) for one in chunks)
    before = len(chunks) * 4
    writer.commit(failed, settled, heartbeat=time.time(), rows_quarantined=before)


def standing(overview: Overview, run_id: str) -> RunStanding:
    found = overview.find(run_id)
    assert found is not None
    return found


def test_runs_are_listed_by_what_they_want_of_whoever_looks(store, look):
    old = time.time() - 100
    store.create(record("ended", RunState.SUCCEEDED, ended=old, created=old, rows_solved=40))
    store.create(record("newer", RunState.PARTIAL, ended=old + 1, created=old + 1))
    store.create(record("lost", RunState.RUNNING, started=old, driver=ELSEWHERE, heartbeat=old))
    store.queue.submit(record("second", fence=0), QueueEntry(queued=old, prepared=True, priority=-3))
    store.queue.submit(record("first", fence=0), QueueEntry(queued=old + 1, prepared=True))
    with driving("driven"):
        going(store, "driven")
        seen = look()

    assert [run.record.run_id for run in seen.runs] == [
        "driven",
        "first",
        "second",
        "lost",
        "newer",
        "ended",
    ]
    assert [run.state for run in seen.runs][:3] == [RunState.RUNNING, RunState.QUEUED, RunState.QUEUED]
    assert [run.abandoned for run in seen.runs] == [False, False, False, True, False, False]


def test_each_run_says_what_it_does_or_waits_for(store, look):
    store.create(record("lost", RunState.RUNNING, driver=ELSEWHERE, heartbeat=0.0))
    store.queue.submit(record("q1", fence=0), QueueEntry(queued=time.time(), prepared=True))
    waits = WaitingChunks("solve", "GPU: 2", 0, {"GPU": 2}, 3)
    with driving("busy"), driving("new"):
        going(store, "busy").save_live(live(1, 2, waiting=(waits,)))
        going(store, "new", started=None)
        seen = look()

    assert standing(seen, "busy").why == "2 chunks run and 3 wait for GPU: 2, which no worker has"
    assert standing(seen, "new").why == "its cluster and its input are being made ready"
    assert standing(seen, "lost").why == "nothing drives it; go on with: batchrun resume lost"
    said = standing(seen, "q1").why
    assert said.startswith("is queued for ")
    assert said.endswith(" and waits for a service; no service is up; start one with `batchrun up`")


def test_the_time_that_is_left_is_told_at_the_first_look_and_again_as_rows_are_settled(store, look, now):
    began = now[0] - 10
    with driving("r1"):
        writer = going(store, "r1", started=began)
        writer.update(rows_solved=10)
        assert standing(look(), "r1").seconds_left == pytest.approx(30.0)
        now[0] += 10
        writer.update(rows_solved=30)
        assert standing(look(), "r1").seconds_left == pytest.approx(5.0)
        now[0] += 2
        assert standing(look(), "r1").seconds_left == pytest.approx(3.0)


def test_rows_of_earlier_sessions_tell_nothing_about_the_rate(store, look, now):
    with driving("r1"):
        writer = going(store, "r1", started=now[0] - 10, fence=2, rows_solved=20)
        assert standing(look(), "r1").seconds_left is None
        now[0] += 10
        writer.update(rows_solved=30)
        assert standing(look(), "r1").seconds_left == pytest.approx(10.0)


def test_runs_of_one_process_have_their_slots_in_common_and_each_its_own_demand(store, look):
    seen_by = {"a": (SlotUse("threads", 4, 2, 6),), "b": (SlotUse("threads", 4, 3, 1),)}
    with driving("a"), driving("b"):
        for run_id, slots in seen_by.items():
            going(store, run_id).save_live(live(1, slots=slots))
        [place] = look().places

    assert place.slots == (SlotUse("threads", 4, 3, 7),)
    assert (place.runs, place.workers) == (2, 1)


def test_a_service_without_a_run_shows_the_slots_that_it_has(store, look):
    workers = [{"name": "w", "threads": 2, "tags": {"HIGHMEM": 1, "MEMORY": 9}}] * 2
    beat = time.time()
    store.services.add(ServiceRecord("s1", driver_name(), beat, beat, 60.0, workers=workers))
    [place] = look().places

    assert place.slots == (SlotUse("threads", 4, 0, 0), SlotUse("HIGHMEM", 2, 0, 0))
    assert (place.name, place.runs, place.silent) == ("s1", 0, False)


def test_failures_are_grouped_by_their_cause_and_those_of_a_run_are_read_once(store, look, monkeypatch):
    asked: list[str] = []
    kinds = RunStore.failure_kinds
    monkeypatch.setattr(RunStore, "failure_kinds", lambda self, run: (asked.append(run), kinds(self, run))[1])
    torn = ErrorRecord("DataError", "there is no column x", "Traceback")
    store.create(record("torn", RunState.FAILED, ended=1.0, created=1.0, error=torn))
    with driving("r1"):
        writer = going(store, "r1")
        give_up(writer, SEVEN, 1, 2)
        look()
        first = look()
        give_up(writer, LARGE, 3)
        writer.update(rows_quarantined=12)
        later = look()

    told = [(one.run_id, one.error_type, one.chunks, one.rows) for one in first.failures]
    assert told == [("r1", "ValueError", 2, 8), ("torn", "DataError", 0, 0)]
    assert [(one.error_type, one.chunks) for one in later.failures] == [
        ("ValueError", 2),
        ("MemoryError", 1),
        ("DataError", 0),
    ]
    assert asked == ["r1", "r1"]


def test_more_is_told_of_the_run_that_is_looked_at(store, look):
    with driving("r1"):
        give_up(going(store, "r1"), SEVEN, 1, 2)
        assert look().outcomes == {}
        assert look("r1").outcomes == {Outcome.FAILED: 2}
        assert look("gone").outcomes == {}


def test_a_run_that_ends_between_two_looks_is_not_called_abandoned(store, look, monkeypatch):
    writer = going(store, "r1")
    stale = store.list()
    writer.end(state=RunState.SUCCEEDED, ended=time.time())
    monkeypatch.setattr(RunStore, "list", lambda *_, **__: stale)

    seen = standing(look(), "r1")

    assert (seen.abandoned, seen.record.state) == (False, RunState.SUCCEEDED)


def test_a_standing_counts_all_rows_that_have_an_outcome():
    run = RunStanding(record("r1", rows_solved=10, rows_quarantined=8, rows_cancelled=2))
    assert (run.settled, run.share) == (20, 0.5)
    none = RunStanding(record("r1", rows_in=0))
    assert none.share == 0.0
    assert RunStanding(replace(none.record, state=RunState.SUCCEEDED)).share == 1.0
