"""The schedules of a store: each firing time leads to one run, whoever looks and whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from batchrun.config import load_settings
from batchrun.errors import UsageError
from batchrun.outcome import RunState
from batchrun.recording import unplanned_record
from batchrun.schedule import Missed, Overlap, Schedule
from batchrun.service import Service
from batchrun.service.schedules import fire_due, run_now
from batchrun.store.runs import RunRecord, RunStore
from batchrun.submission import Submission
from tests.writing import writer

ASKED = Submission("pipelines.flights:delays", "/work", "/work/flights.parquet", {"late_after": 30})
SETTINGS = load_settings(None, {"artifacts": "/runs"})
MINUTE = 60.0
START = 1_800_000_000.0
"""A whole minute; the schedules of these tests are due a minute later."""


@pytest.fixture
def store(store_url: str) -> Iterator[RunStore]:
    with RunStore(store_url) as store:
        yield store


def added(store: RunStore, name: str = "often", cron: str = "* * * * *", **values) -> Schedule:
    asked = values.pop("submission", ASKED)
    schedule = replace(Schedule.parse(name, cron, asked, now=START), **values)
    store.schedules.add(schedule)
    return schedule


def fire(store: RunStore, now: float) -> list[str]:
    return fire_due(store, now, lambda asked: unplanned_record(asked, SETTINGS, now))


def runs(store: RunStore) -> list[RunRecord]:
    """The runs that were made, oldest first."""
    return sorted(store.list(limit=10_000), key=lambda record: record.created)


def ended(store: RunStore, run_id: str) -> None:
    writer(store, run_id).update(state=RunState.FAILED)


class TestBookkeeping:
    def test_a_schedule_is_read_back_as_it_was_written(self, store):
        written = added(store, "b", missed=Missed.SKIP, overlap=Overlap.QUEUE, timezone="Europe/Berlin")
        other = added(store, "a")

        assert store.schedules.get("b") == written
        assert list(store.schedules.list()) == [other, written]

    def test_a_name_that_is_taken_is_refused_and_the_schedule_stays(self, store):
        before = added(store, cron="0 2 * * *")

        with pytest.raises(UsageError, match=r"there is a schedule often already, .*--replace"):
            added(store)

        assert store.schedules.get("often") == before

    def test_one_that_is_replaced_hands_its_last_run_on(self, store):
        added(store)
        fire(store, START + MINUTE)
        new = Schedule.parse("often", "0 2 * * *", ASKED, now=START + 90)

        store.schedules.add(new, replace=True)

        [run] = runs(store)
        kept = {"last_run": run.run_id, "last_fire": START + MINUTE}
        assert store.schedules.get("often") == replace(new, **kept)

    @pytest.mark.parametrize("command", ["get", "pause", "remove"])
    def test_a_name_that_is_unknown_is_told_with_its_near_miss(self, store, command):
        added(store)

        with pytest.raises(UsageError, match=r"no schedule 'oftn'\. Did you mean `often`\?"):
            getattr(store.schedules, command)("oftn")

    def test_one_that_is_removed_is_gone_and_its_runs_stay(self, store):
        added(store)
        fire(store, START + MINUTE)

        assert store.schedules.remove("often").name == "often"

        assert not store.schedules.list()
        assert len(runs(store)) == 1

    def test_while_it_is_paused_nothing_fires_and_nothing_is_made_up_for(self, store):
        added(store)

        paused = store.schedules.pause("often")
        assert fire(store, START + 10 * MINUTE) == []
        resumed = store.schedules.resume("often", START + 10 * MINUTE)

        assert (paused.paused, paused.next_fire) == (True, None)
        assert (resumed.paused, resumed.next_fire) == (False, START + 11 * MINUTE)
        assert store.schedules.get("often") == resumed

    def test_resuming_what_is_not_paused_changes_nothing(self, store):
        before = added(store)

        assert store.schedules.resume("often", START + 10 * MINUTE) == before == store.schedules.get("often")


class TestFiring:
    def test_a_run_is_queued_as_it_was_asked_for_and_is_not_planned_yet(self, store):
        asked = replace(ASKED, priority=2, lock="gpu", max_slots=3, max_quarantined="5%", after=("a-1",))
        added(store, submission=asked)

        [told] = fire(store, START + MINUTE + 0.5)

        [run] = runs(store)
        assert told == f"schedule often fired: run {run.run_id}"
        assert (run.pipeline, run.target, run.params) == ("delays", asked.pipeline, asked.params)
        assert (run.state, run.rows_in) == (RunState.QUEUED, 0)
        assert run.folder == os.path.join("/runs", run.run_id)
        entry = store.queue.entry(run.run_id)
        assert (entry.schedule, entry.submission, entry.prepared) == ("often", asked, False)
        assert (entry.priority, entry.lock, entry.max_slots) == (2, "gpu", 3)
        assert (entry.max_quarantined, entry.after) == ("5%", ("a-1",))
        after = store.schedules.get("often")
        assert (after.last_run, after.last_fire) == (run.run_id, START + MINUTE)
        assert after.next_fire == START + 2 * MINUTE

    def test_before_its_time_and_again_at_its_time_nothing_is_made(self, store):
        added(store)

        assert fire(store, START + MINUTE - 0.1) == []
        fire(store, START + MINUTE)

        assert fire(store, START + MINUTE) == []
        assert len(runs(store)) == 1

    def test_firings_that_were_missed_are_made_up_for_by_one_run(self, store):
        added(store)

        [told] = fire(store, START + 5 * MINUTE)

        assert "it makes up for 4 firings before" in told
        assert len(runs(store)) == 1

    def test_or_left_out(self, store):
        added(store, cron="0 * * * *", missed=Missed.SKIP)

        [told] = fire(store, START + 5 * 3600 + 90)

        assert told.startswith("schedule often was skipped: it was missed by")
        assert runs(store) == []
        assert store.schedules.get("often").next_fire == START + 6 * 3600
        assert store.schedules.get("often").last_fire is None

    def test_while_the_run_before_goes_on_firings_are_skipped(self, store):
        added(store)
        fire(store, START + MINUTE)
        [first] = runs(store)

        [told] = fire(store, START + 2 * MINUTE)
        assert told == f"schedule often was skipped: the run before, {first.run_id}, has not ended"
        ended(store, first.run_id)
        fire(store, START + 3 * MINUTE)

        assert [run.created for run in runs(store)] == [START + MINUTE, START + 3 * MINUTE]

    def test_or_queued_one_after_the_other_even_if_one_fails(self, store):
        added(store, overlap=Overlap.QUEUE)
        fire(store, START + MINUTE)
        fire(store, START + 2 * MINUTE)
        first, second = (run.run_id for run in runs(store))

        def claim(run_id: str):
            return store.queue.claim(run_id, "s", lease=60.0, driver="host/1/1.0")

        assert claim(first) is not None
        assert claim(second) is None
        ended(store, first)
        assert claim(second) is not None

    def test_or_made_side_by_side(self, store):
        added(store, overlap=Overlap.ALLOW)

        for minute in (1, 2):
            fire(store, START + minute * MINUTE)

        assert [store.queue.entry(run.run_id).lock for run in runs(store)] == [None, None]

    def test_a_schedule_that_was_replaced_since_it_was_read_is_not_fired(self, store, monkeypatch):
        added(store)
        newer = replace(ASKED, params={"late_after": 60})

        def replaced_meanwhile(asked: Submission) -> RunRecord:
            store.schedules.add(Schedule.parse("often", "* * * * *", newer, now=START + 1), replace=True)
            return unplanned_record(asked, SETTINGS, START)

        assert fire_due(store, START + MINUTE, replaced_meanwhile) == []
        assert runs(store) == []
        fire(store, START + MINUTE)
        assert [run.params for run in runs(store)] == [{"late_after": 60}]

    def test_one_that_cannot_be_read_here_does_not_keep_others_from_firing(self, store):
        added(store, "a", timezone="Mars/Olympus")
        added(store, "b")

        told = fire(store, START + MINUTE)

        assert [sentence.split(":")[0] for sentence in told] == [
            "schedule a cannot be fired",
            "schedule b fired",
        ]


class TestNow:
    def now(self, store: RunStore, at: float) -> str:
        return run_now(store, "often", at, lambda asked: unplanned_record(asked, SETTINGS, at))

    def test_a_run_is_made_at_once_and_the_firing_times_stay(self, store):
        before = added(store)

        run_id = self.now(store, START + 5)

        assert store.queue.entry(run_id).schedule == "often"
        assert store.schedules.get("often") == replace(before, last_run=run_id)

    def test_also_while_it_is_paused(self, store):
        added(store)
        store.schedules.pause("often")

        self.now(store, START + 5)

        assert len(runs(store)) == 1

    def test_not_while_the_run_before_goes_on_if_that_is_to_be_skipped(self, store):
        added(store)
        first = self.now(store, START + 5)

        with pytest.raises(UsageError, match=f"run {first} .* has not ended.* batchrun cancel {first}"):
            self.now(store, START + 6)

        ended(store, first)
        self.now(store, START + 7)
        assert len(runs(store)) == 2

    def test_a_firing_after_it_waits_for_it_as_for_any_other(self, store):
        added(store)
        run_id = self.now(store, START + 5)

        [told] = fire(store, START + MINUTE)

        assert run_id in told
        assert len(runs(store)) == 1


def test_each_change_of_a_schedule_is_told_once(store):
    added(store)
    fire(store, START + MINUTE)
    fire(store, START + MINUTE)
    fire(store, START + 2 * MINUTE)
    for _ in range(2):
        store.schedules.pause("often")
    for _ in range(2):
        store.schedules.resume("often", START)
    store.schedules.remove("often")

    [run] = runs(store)
    told = [event for event in store.events.read() if event.kind.startswith("schedule_")]
    names = ("added", "fired", "skipped", "paused", "resumed", "removed")
    assert [event.kind for event in told] == [f"schedule_{name}" for name in names]
    assert {event.data["schedule"] for event in told} == {"often"}
    assert (told[1].run_id, told[1].data["due"]) == (run.run_id, START + MINUTE)
    assert run.run_id in told[2].data["reason"]


class TestService:
    """The loop of a service, without a cluster."""

    @pytest.fixture
    def service(self, store_url: str) -> Service:
        return Service(load_settings(None, {"store": store_url}))

    def test_it_queues_the_runs_of_schedules_that_are_due_by_the_clock_of_the_store(self, store, service):
        added(store, created=0.0, next_fire=MINUTE)

        service._fire()

        [run] = runs(store)
        assert run.created == pytest.approx(store.services.now(), abs=60)
        assert store.schedules.get("often").next_fire > run.created

    def test_what_cannot_be_fired_is_told_once(self, store, service, caplog):
        added(store, timezone="Mars/Olympus", next_fire=MINUTE)

        with caplog.at_level("INFO", "batchrun.service"):
            service._fire()
            service._fire()

        assert [record.message.split(":")[0] for record in caplog.records] == [
            "schedule often cannot be fired"
        ]


def _fire_often(url: str, times: int, together) -> None:
    with RunStore(url) as store:
        for number in range(1, times + 1):
            together.wait(150)
            fire(store, START + number * MINUTE)


def _fire_until_killed(url: str, started) -> None:
    with RunStore(url) as store:
        while True:
            fire(store, store.schedules.get("often").next_fire)
            started.set()


def test_services_that_race_make_one_run_of_each_firing(store, store_url):
    added(store, overlap=Overlap.ALLOW)
    processes, context = 8, multiprocessing.get_context("spawn")
    together = context.Barrier(processes)
    racing = [context.Process(target=_fire_often, args=(store_url, 12, together)) for _ in range(processes)]

    for process in racing:
        process.start()
    for process in racing:
        process.join(200)

    assert [process.exitcode for process in racing] == [0] * processes
    assert [run.created for run in runs(store)] == [START + number * MINUTE for number in range(1, 13)]
    assert store.schedules.get("often").next_fire == START + 13 * MINUTE


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill so")
def test_a_service_that_is_killed_has_fired_fully_or_not_at_all(store, store_url):
    added(store, overlap=Overlap.ALLOW)
    context = multiprocessing.get_context("spawn")
    chance = random.Random(4)

    for _ in range(6):
        started = context.Event()
        process = context.Process(target=_fire_until_killed, args=(store_url, started))
        process.start()
        assert started.wait(150)
        time.sleep(chance.uniform(0, 0.05))  # anywhere in a transaction
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)

        made, schedule = runs(store), store.schedules.get("often")
        assert [run.created for run in made] == [START + n * MINUTE for n in range(1, len(made) + 1)]
        assert schedule.next_fire == START + (len(made) + 1) * MINUTE
        assert schedule.last_run == made[-1].run_id
        assert len(store.queue.under_way()) == len(made)
    assert len(made) >= 6
