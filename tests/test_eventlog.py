"""Changes of state are told in order, each if and only if it was committed."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from batchrun import Outcome, RetryPolicy, RunReport, Stage, by_rows, run_pipeline
from batchrun.outcome import Attempt, ErrorRecord, RunState
from batchrun.store import telling
from batchrun.store.event_record import EventKind, EventRecord
from batchrun.store.eventlog import PAGE, tell
from batchrun.store.queue import QueueEntry
from batchrun.store.records import RunRecord, SettledChunk, SettledChunks
from batchrun.store.runs import RunStore
from batchrun.store.services import ServiceRecord

NONE = SettledChunks.empty()
BUSY = ErrorRecord("OSError", "the licence server is busy\ncall again")


@pytest.fixture
def url(store_url: str) -> str:
    """A store of each kind that there is."""
    return store_url


def record(run_id: str = "delays-1", state: RunState = RunState.QUEUED) -> RunRecord:
    return RunRecord(run_id, "delays", None, state, 1.0, "by_rows(3)", "/runs", 100, fence=1)


def failed(chunk: int) -> Attempt:
    return Attempt(
        chunk, "solve", 2, "w-0", Outcome.FAILED, 5.0, 0.25, error=BUSY, decision="retry", next_step="again"
    )


def told(store: RunStore, *kinds: EventKind, run_id: str = "delays-1") -> list[EventRecord]:
    return list(store.events.read(run_id=run_id, kinds=kinds))


def kinds(store: RunStore, run_id: str | None = "delays-1") -> list[str]:
    return [event.kind for event in store.events.read(run_id=run_id)]


def test_a_run_is_told_from_its_beginning_to_its_end(url):
    with RunStore(url) as store:
        driver = store.create(record())
        driver.reopen(state=RunState.RUNNING, cluster="two workers")
        settled = SettledChunks.of(
            [SettledChunk(0, Outcome.SUCCEEDED, 30, 3, 0.1), SettledChunk(1, Outcome.FAILED, 70, 0, 0.1)]
        )
        driver.commit([failed(1)], settled, chunks=2)
        driver.end(state=RunState.PARTIAL, rows_solved=30, rows_quarantined=70, error=BUSY)

        assert kinds(store) == [
            "run_queued",
            "run_taken",
            "run_started",
            "chunks_planned",
            "chunk_failed",
            "chunks_settled",
            "run_ended",
        ]
        assert told(store, EventKind.RUN_STARTED)[0].data == {"resumed": False, "cluster": "two workers"}
        assert told(store, EventKind.CHUNKS_SETTLED)[0].data == {
            "chunks": {"succeeded": 1, "failed": 1},
            "rows": {"succeeded": 30, "failed": 70},
        }
        [failure] = told(store, EventKind.CHUNK_FAILED)
        assert failure.chunk == 1
        assert failure.data["decision"] == "retry"
        assert failure.data["error"] == "OSError: the licence server is busy"
        assert told(store, EventKind.RUN_ENDED)[0].data == {
            "state": "partial",
            "rows_in": 100,
            "rows_solved": 30,
            "rows_quarantined": 70,
            "rows_cancelled": 0,
            "error": "OSError: the licence server is busy",
        }


def test_a_change_that_is_rolled_back_is_not_told(url):
    with RunStore(url) as store:
        driver = store.create(record())
        before = kinds(store)

        with contextlib.suppress(ZeroDivisionError), driver.transaction() as (connection, run):
            tell(connection, EventKind.RUN_STOPPING, run=run)
            raise ZeroDivisionError

        driver.update(heartbeat=3.0)
        assert kinds(store) == before


def test_a_million_chunks_in_one_commit_are_told_in_one_event(url):
    many = np.arange(50_000)
    with RunStore(url) as store:
        driver = store.create(record())
        driver.commit([], SettledChunks.succeeded(many, many, many, many.astype(float)), chunks=50_000)

        [event] = told(store, EventKind.CHUNKS_SETTLED)
        assert event.data == {"chunks": {"succeeded": 50_000}, "rows": {"succeeded": int(many.sum())}}


def test_of_many_failures_in_one_commit_a_hundred_are_told_and_the_rest_counted(url):
    with RunStore(url) as store:
        driver = store.create(record())
        driver.commit([failed(chunk) for chunk in range(telling.MOST + 30)], NONE)

        *single, rest = told(store, EventKind.CHUNK_FAILED)
        assert [event.chunk for event in single] == list(range(telling.MOST))
        assert (rest.chunk, rest.data) == (None, {"more": 30})


def test_what_was_cancelled_or_solved_is_no_failure(url):
    attempts = [
        replace(failed(0), outcome=outcome)
        for outcome in (Outcome.CANCELLED, Outcome.SUCCEEDED, Outcome.STOPPED_WITH_SOLUTION)
    ]
    assert telling.news_of_commit(attempts, NONE, None) == []


def test_more_chunks_are_told_only_when_there_are_more(url):
    with RunStore(url) as store:
        driver = store.create(record())
        for planned in (4, 4, 9):
            driver.commit([], NONE, chunks=planned)

        assert [event.data for event in told(store, EventKind.CHUNKS_PLANNED)] == [
            {"chunks": 4},
            {"chunks": 9},
        ]


def test_a_cancel_is_told_when_it_is_asked_and_when_the_driver_hears_of_it(url):
    with RunStore(url) as store:
        driver = store.create(record())
        store.request_cancel("delays-1", chunk=7, keep_best=True)
        driver.take_requests()
        driver.take_requests()

        assert [(event.kind, event.chunk, event.data) for event in told(store)[2:]] == [
            ("cancel_asked", 7, {"keep_best": True}),
            ("cancel_taken", 7, {"keep_best": True}),
        ]


def test_a_run_that_was_abandoned_is_told_to_have_ended_once(url):
    with RunStore(url) as store:
        store.create(record())
        found = store.find("delays-1")

        assert store.end_abandoned(found, state=RunState.CANCELLED, rows_cancelled=100)
        assert not store.end_abandoned(found, state=RunState.CANCELLED)
        assert [event.data["rows_cancelled"] for event in told(store, EventKind.RUN_ENDED)] == [100]


def test_a_queued_run_is_told_each_time_it_changes_hands(url):
    with RunStore(url) as store:
        store.queue.submit(replace(record(), fence=0), QueueEntry(queued=1.0, prepared=False))
        driver = store.queue.claim("delays-1", "s-1", lease=30.0, driver="host/1/1.0")
        store.queue.prepared(driver, b"program", rows_in=5)
        store.queue.release(driver)
        store.queue.requeue("delays-1", only=[3, 4])

        assert [(event.kind, event.data) for event in told(store)] == [
            ("run_queued", {"pipeline": "delays"}),
            ("run_taken", {"process": "host/1/1.0", "service": "s-1"}),
            ("run_prepared", {}),
            ("run_released", {"fruitless": 0}),
            ("run_requeued", {"chunks": 2}),
        ]


def test_services_are_told_when_they_come_are_asked_and_go(url):
    with RunStore(url) as store:
        for service in ("s-1", "s-2"):
            store.services.add(ServiceRecord(service, "host/1/1.0", 1.0, 1.0, 30.0))
        store.services.ask("s-1", "finish")
        store.services.beat("s-1")
        store.services.remove("s-1")
        store.services.remove("s-2", gone=True)
        store.services.remove("s-2", gone=True)

        assert [(event.kind, event.data["service"]) for event in store.events.read()] == [
            ("service_started", "s-1"),
            ("service_started", "s-2"),
            ("service_asked", "s-1"),
            ("service_stopped", "s-1"),
            ("service_gone", "s-2"),
        ]


def test_events_are_read_by_run_kind_time_and_place(url):
    with RunStore(url) as store:
        store.create(record("delays-1"))
        driver = store.create(record("delays-2"))
        first, *_, last = store.events.read()
        driver.reopen(state=RunState.RUNNING)
        driver.end(state=RunState.FAILED)

        assert {event.run_id for event in store.events.read(run_id="delays-2")} == {"delays-2"}
        assert [event.kind for event in store.events.read(after=last.id)] == ["run_started", "run_ended"]
        assert [event.kind for event in store.events.read(kinds=["run_ended"])] == ["run_ended"]
        assert next(store.events.read(since=first.at)) == first
        assert list(store.events.read(since=first.at + 3600)) == []
        assert store.events.last("delays-2", EventKind.RUN_ENDED).data["state"] == "failed"
        assert store.events.last("delays-1", EventKind.RUN_ENDED) is None
        assert store.events.newest() == store.events.last("delays-2", EventKind.RUN_ENDED).id


def test_more_events_than_are_read_in_one_go_are_read_all(url):
    with RunStore(url) as store:
        driver = store.create(record())
        with driver.transaction() as (connection, run):
            for number in range(2 * PAGE):
                tell(connection, EventKind.RUN_STOPPING, run=run, running=number)

        stopping = store.events.read(kinds=[EventKind.RUN_STOPPING])
        assert [event.data["running"] for event in stopping] == list(range(2 * PAGE))


def test_text_that_no_database_takes_is_told_all_the_same(url):
    with RunStore(url) as store:
        driver = store.create(record())
        driver.commit([replace(failed(0), error=ErrorRecord("E", "zero \0 and half \udc80"))], NONE)

        [event] = told(store, EventKind.CHUNK_FAILED)
        assert event.data["error"] == "E: zero � and half ?"


def test_a_reader_that_remembers_the_last_id_misses_no_event_of_writers_side_by_side(url):
    writers, each = 4, 15
    seen: list[int] = []
    with RunStore(url) as store:
        drivers = [store.create(record(f"delays-{number}")) for number in range(writers)]
        after = store.events.newest()

        def write(number: int) -> None:
            for event in range(each):
                with drivers[number].transaction() as (connection, run):
                    tell(connection, EventKind.RUN_STOPPING, run=run, running=event)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
        for thread in threads:
            thread.start()
        going_on = True
        while going_on:
            going_on = any(thread.is_alive() for thread in threads)
            seen += [event.id for event in store.events.read(after=seen[-1] if seen else after)]

        assert seen == [event.id for event in store.events.read(after=after)]
        assert len(seen) == writers * each


def test_every_kind_describes_itself():
    descriptions = [kind.description for kind in EventKind]
    assert len(set(descriptions)) == len(descriptions)
    assert not [text for text in descriptions if text.endswith(".") or text[0].isupper()]


def test_the_manual_lists_every_kind():
    manual = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z_`, ]+) \|", manual, flags=re.MULTILINE)
    listed: set[str] = set()
    for row in rows:
        first, *others = re.findall(r"`([a-z_]+)`", row)
        subject = first.partition("_")[0]
        listed |= {first, *(subject + other if other[0] == "_" else other for other in others)}
    assert listed == set(EventKind)


def picky(chunk: pd.DataFrame) -> pd.DataFrame:
    if (chunk["x"] == 5).any():
        raise ValueError("five is bad")
    return chunk


@pytest.fixture
def report(here) -> RunReport:
    stage = Stage(picky, retry=RetryPolicy(attempts=1))
    return run_pipeline(
        stage, pd.DataFrame({"x": range(8)}), split=by_rows(4), cluster="inline", progress=False
    )


def test_a_run_with_a_bad_row_tells_of_each_cut_and_accounts_for_every_row(report):
    events = report.events

    assert list(events.columns) == ["id", "at", "kind", "chunk", "data"]
    assert events["kind"].iloc[[0, 1, 2, -1]].tolist() == [
        "run_queued",
        "run_taken",
        "run_started",
        "run_ended",
    ]
    assert events["id"].is_monotonic_increasing
    cuts = events[events["kind"] == "chunk_cut"]
    assert [sum(data["rows"]) for data in cuts["data"]] == [4, 2]
    settled = [data["rows"] for data in events.loc[events["kind"] == "chunks_settled", "data"]]
    assert sum(sum(rows.values()) for rows in settled) == 8
    assert events["data"].iloc[-1]["rows_quarantined"] == 1
