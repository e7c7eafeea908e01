"""A reader that remembers the last event it saw misses none, whoever commits beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from batchrun.outcome import RunState
from batchrun.store.event_record import EventKind
from batchrun.store.eventlog import tell
from batchrun.store.records import RunRecord
from batchrun.store.runs import RunStore
from batchrun.store.writer import RunWriter

WAITERS = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


@pytest.fixture
def store(postgres) -> Iterator[RunStore]:
    with RunStore(postgres.url()) as store:
        yield store


def create(store: RunStore, number: int) -> RunWriter:
    return store.create(
        RunRecord(f"delays-{number}", "delays", None, RunState.QUEUED, 1.0, "by_rows(3)", "/runs", 9, fence=1)
    )


def tell_once(writer: RunWriter) -> None:
    with writer.transaction() as (connection, run):
        tell(connection, EventKind.RUN_STOPPING, run=run)


def test_an_event_is_not_committed_before_one_with_a_lower_number(store):
    """Without that, the second is read and the first, with a lower number, never."""
    first, second = create(store, 1), create(store, 2)
    engine = store._database.engine
    committing, may_commit = threading.Event(), threading.Event()

    def hold_first(_: sa.Connection) -> None:
        if threading.current_thread().name == "first":
            committing.set()
            may_commit.wait(30)

    threads = [threading.Thread(target=tell_once, args=(one,)) for one in (first, second)]
    threads[0].name = "first"
    sa.event.listen(engine, "commit", hold_first)
    try:
        threads[0].start()
        assert committing.wait(30)
        threads[1].start()
        waits, until = 0, time.monotonic() + 30
        while not waits and threads[1].is_alive() and time.monotonic() < until:
            with engine.connect() as connection:
                waits = connection.execute(WAITERS).scalar_one()

        assert waits == 1
        assert list(store.events.read(kinds=["run_stopping"])) == []
        may_commit.set()
        for thread in threads:
            thread.join()
        told = list(store.events.read(kinds=["run_stopping"]))
        assert [event.run_id for event in told] == ["delays-1", "delays-2"]
    finally:
        may_commit.set()
        sa.event.remove(engine, "commit", hold_first)


def test_writers_side_by_side_are_read_each_event_once_and_in_order(store):
    writers = [create(store, number) for number in range(5)]
    after, seen = store.events.newest(), []

    def write(writer: RunWriter) -> None:
        for _ in range(20):
            tell_once(writer)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    going_on = True
    while going_on:
        going_on = any(thread.is_alive() for thread in threads)
        seen += [event.id for event in store.events.read(after=seen[-1] if seen else after)]

    assert seen == [event.id for event in store.events.read(after=after)]
    assert len(seen) == 100
