"""The queue of a store: who may take a run, and for how long."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrun.errors import LeaseLostError
from batchrun.outcome import RunState
from batchrun.recording import new_run_id
from batchrun.store.queue import QueueEntry
from batchrun.store.runs import RunRecord, RunStore
from batchrun.submission import Submission


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path.as_posix()}/store.db"


@pytest.fixture
def store(url: str) -> Iterator[RunStore]:
    with RunStore(url) as store:
        yield store


def record(run_id: str) -> RunRecord:
    return RunRecord(run_id, "p", "m:p", RunState.QUEUED, time.time(), "by_rows(1)", "/runs", rows_in=3)


def queued(store: RunStore, run_id: str, **fields) -> str:
    entry = QueueEntry(**{"queued": time.time(), "prepared": True, **fields})
    return store.queue.submit(record(run_id), entry, b"program")


def claim(store: RunStore, run_id: str, service: str, lease: float = 60.0, **options):
    return store.queue.claim(run_id, service, lease=lease, driver="host/1/1.0", **options)


def test_what_was_submitted_can_be_read_back(store: RunStore):
    asked = Submission("m:p", "/work", "/work/x.parquet", {"rate": 0.1}, after=("r0",))
    queued(store, "r1", priority=2, after=("r0",), lock="solver", submission=asked, max_slots=3)

    [run] = store.queue.under_way()
    assert (run.run_id, run.state) == ("r1", RunState.QUEUED)
    assert (run.entry.priority, run.entry.after, run.entry.lock) == (2, ("r0",), "solver")
    assert (run.entry.submission, run.entry.max_slots, run.entry.only) == (asked, 3, None)
    assert store.queue.program("r1") == b"program"
    assert store.queue.entry("r1") == run.entry
    assert store.queue.anything_free()


def test_a_program_that_many_runs_share_is_kept_once(store: RunStore):
    import sqlalchemy as sa

    for number in range(3):
        queued(store, f"r{number}")
    with store._database.begin() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM programs")).scalar() == 1


def test_one_service_holds_a_run_until_its_lease_has_passed(store: RunStore):
    queued(store, "r1")
    queued(store, "r2")
    claim(store, "r2", "one")
    assert claim(store, "r2", "two") is None

    first = claim(store, "r1", "one", lease=0.05)
    time.sleep(0.06)
    second = claim(store, "r1", "two")
    assert second is not None
    with pytest.raises(LeaseLostError):
        first.update(rows_solved=1)
    with pytest.raises(LeaseLostError):
        store.queue.release(first)
    assert store.queue.renew("one", 60.0, ["r1", "r2"]) == {"r2"}
    assert store.queue.renew("two", 60.0, ["r1"]) == {"r1"}
    assert not store.queue.anything_free()


def test_a_lease_that_is_renewed_does_not_pass(store: RunStore):
    queued(store, "r1")
    claim(store, "r1", "one", lease=0.05)
    store.queue.renew("one", 60.0, ["r1"])
    time.sleep(0.06)
    assert claim(store, "r1", "two") is None


def test_a_run_that_its_service_holds_and_does_not_drive_becomes_free(store: RunStore):
    queued(store, "r1")
    claim(store, "r1", "one", lease=0.05)
    assert store.queue.renew("one", 60.0, []) == {"r1"}
    time.sleep(0.06)
    assert claim(store, "r1", "one") is not None


def test_a_run_of_a_service_that_is_known_to_be_gone_is_taken_at_once(store: RunStore):
    queued(store, "r1")
    claim(store, "r1", "one")
    assert claim(store, "r1", "two", gone=["one"]) is not None


def test_a_run_that_was_let_go_waits_again(store: RunStore):
    queued(store, "r1")
    writer = claim(store, "r1", "one")
    writer.update(state=RunState.RUNNING)
    store.queue.release(writer, fruitless=2)

    [run] = store.queue.under_way()
    assert (run.state, run.entry.owner, run.entry.fruitless) == (RunState.QUEUED, None, 2)
    assert claim(store, "r1", "two") is not None


def test_a_run_that_has_ended_is_not_taken_but_can_be_queued_again(store: RunStore):
    queued(store, "r1")
    writer = claim(store, "r1", "one")
    writer.update(state=RunState.PARTIAL, ended=5.0)
    store.queue.ended(writer)
    assert claim(store, "r1", "two") is None
    assert store.queue.under_way() == []

    assert store.queue.requeue("r1", only=[4, 7])
    assert store.queue.entry("r1").only == (4, 7)
    assert store.find("r1").ended is None
    assert claim(store, "r1", "two") is not None
    assert not store.queue.requeue("r1")


def test_runs_with_one_lock_are_held_one_at_a_time(store: RunStore):
    queued(store, "r1", lock="solver")
    queued(store, "r2", lock="solver")
    first = claim(store, "r1", "one")
    assert claim(store, "r2", "two") is None
    first.update(state=RunState.SUCCEEDED)
    assert claim(store, "r2", "two") is not None


def test_a_service_that_ends_lets_go_of_all_that_it_held(store: RunStore):
    from batchrun.store.services import ServiceRecord

    store.services.add(ServiceRecord("one", "host/1/1.0", time.time(), 0.0, 30.0))
    queued(store, "r1")
    claim(store, "r1", "one")
    [service] = store.services.all()
    assert abs(service.heartbeat - store.services.now()) < 5

    store.services.ask("one", "finish")
    assert store.services.beat("one") == "finish"
    store.services.remove("one")
    assert store.services.all() == []
    assert store.queue.anything_free()


def _in_processes(function, *argument_lists) -> list:
    with multiprocessing.get_context("spawn").Pool(len(argument_lists)) as pool:
        return pool.starmap(function, argument_lists)


def _claim_all(url: str, service: str, runs: list[str]) -> list[str]:
    with RunStore(url) as store:
        return [run for run in runs if claim(store, run, service) is not None]


def _submit_unique(url: str, run_id: str) -> str:
    with RunStore(url) as store:
        return queued(store, run_id, unique_key="same")


def test_services_that_race_never_hold_the_same_run(store: RunStore, url: str):
    runs = [queued(store, f"r{number}") for number in range(30)]
    held = _in_processes(_claim_all, *((url, f"s{number}", runs) for number in range(4)))
    assert sorted(run for mine in held for run in mine) == sorted(runs)


def test_services_that_race_hold_one_run_of_each_lock(store: RunStore, url: str):
    runs = [queued(store, f"r{number}", lock=f"lock{number % 3}") for number in range(12)]
    held = _in_processes(_claim_all, *((url, f"s{number}", runs) for number in range(4)))
    assert len([run for mine in held for run in mine]) == 3


def test_of_unique_runs_that_are_submitted_at_once_one_is_made(store: RunStore, url: str):
    told = _in_processes(_submit_unique, *((url, f"r{number}") for number in range(6)))
    assert len(set(told)) == 1
    assert len(store.list()) == 1
    writer = claim(store, told[0], "one")
    writer.update(state=RunState.FAILED)
    assert queued(store, "again", unique_key="same") == "again"


def test_runs_that_are_queued_in_a_burst_have_ids_of_their_own():
    assert len({new_run_id("delays") for _ in range(1_000)}) == 1_000
