"""What processes tell each other by way of the store: requests to cancel, the live state, logs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from batchrun import Outcome, RunState
from batchrun.events import SlotUse
from batchrun.outcome import Attempt
from batchrun.runner.state import RunningTask
from batchrun.status import TaskStatus
from batchrun.store.live import DelayedChunk, LiveState, LiveWorker, RunningChunk, WaitingChunks
from batchrun.store.runs import ChunkLog, RunRecord, RunStore
from tests.writing import writer

RUNNING = RunningChunk(
    chunk=7,
    stage="solve",
    attempt=2,
    worker="highmem-0",
    started=1_000.0,
    rows=3,
    share=0.25,
    message="half of it",
    memory=2**20,
    peak_memory=2**21,
    objective=80.0,
    bound=60.0,
    log="first\nsecond\n",
    answers=((1.0, 90.0, None), (4.0, 80.0, 60.0)),
)
STATE = LiveState(
    at=1_010.0,
    running=(RUNNING, RunningChunk(9, "solve", 1, "highmem-1", 1_005.0, rows=1)),
    delayed=(DelayedChunk(3, "load", 1_020.0, "the licence server is busy"),),
    waiting=(WaitingChunks("solve", "HIGHMEM: 1", 0, {"HIGHMEM": 1.0}, chunks=12),),
    workers=(LiveWorker("highmem-0", 1, 2**31, {"HIGHMEM": 1.0}, "host-a"),),
    stopping=True,
    slots=(SlotUse("HIGHMEM", 1.0, 1.0, 12.0),),
    chunks_planned=20,
    rows_planned=60,
)


@pytest.fixture
def store(tmp_path: Path):
    with RunStore(f"sqlite:///{tmp_path.as_posix()}/store.db") as store:
        for run_id in ("r", "other"):
            store.create(RunRecord(run_id, "p", None, RunState.RUNNING, 0.0, "by_rows(2)", "/r", rows_in=8))
        yield store


def attempt(chunk: int, number: int = 1, log: str = "") -> Attempt:
    return Attempt(chunk, "solve", number, "w", Outcome.FAILED, 0.0, 0.1, rows_in=2, log=log)


class TestTheLiveState:
    def test_is_read_back_as_it_was_told(self, store: RunStore):
        assert store.live("r") is None
        writer(store, "r").save_live(LiveState(at=1.0))
        writer(store, "r").save_live(STATE)

        assert store.live("r") == STATE
        assert store.live("other") is None

    def test_counts_a_chunk_that_runs_twice_once(self):
        assert replace(STATE, running=(*STATE.running, replace(RUNNING, attempt=3))).chunks == 2

    def test_is_forgotten_at_the_end_of_the_run(self, store: RunStore):
        writer(store, "r").save_live(STATE)
        writer(store, "other").save_live(STATE)
        writer(store, "r").end()

        assert store.live("r") is None
        assert store.live("other") == STATE

    def test_that_a_killed_driver_left_is_forgotten_when_the_run_goes_on(self, store: RunStore):
        writer(store, "r").save_live(STATE)
        writer(store, "r").reopen(state=RunState.RUNNING)

        assert store.live("r") is None

    def test_has_the_answers_that_a_solve_told_at_its_present_stage_each_once(self):
        running = RunningTask(None, None, 0.0, [])
        told = [("load", 9.0, 99.0), ("solve", 1.0, None), ("solve", 2.0, 50.0), ("solve", 3.0, 50.0)]
        for stage, seconds, objective in [*told, ("solve", 4.0, 40.0)]:
            status = TaskStatus("key", stage, seconds, objective=objective)
            running.note_answer(status)
            running.status = status
        assert [(one.seconds, one.objective) for one in running.answers.points] == [(2.0, 50.0), (4.0, 40.0)]

    def test_is_json_that_every_reader_knows(self):
        solving = replace(RUNNING, share=float("nan"), objective=float("inf"), message="\udcff\0")
        values = replace(STATE, running=(solving,)).to_json()

        read = LiveState.from_json(json.loads(json.dumps(values, allow_nan=False)))
        assert (read.running[0].share, read.running[0].objective) == (None, None)
        assert read.running[0].message == "?\N{REPLACEMENT CHARACTER}"

    def test_of_a_later_version_is_read_as_far_as_it_is_known(self):
        values = STATE.to_json()
        values["mood"] = "good"
        values["running"][0]["temperature"] = 40

        assert LiveState.from_json(values) == STATE

    def test_of_an_earlier_version_lacks_what_that_did_not_tell(self):
        values = STATE.to_json()
        for name in ("slots", "chunks_planned", "rows_planned"):
            del values[name]

        read = LiveState.from_json(values)
        assert (read.slots, read.chunks_planned, read.rows_planned) == ((), 0, 0)
        assert read.running == STATE.running

    def test_tells_the_last_lines_of_a_long_log(self):
        log = "".join(f"line {number} €\n" for number in range(20_000))
        told = LiveState.from_json(LiveState(0.0, (replace(RUNNING, log=log),)).to_json()).running[0].log

        assert len(told.encode()) <= 2**16
        assert log.endswith(told)
        assert told.startswith("line ")

    def test_tells_the_end_of_a_log_that_is_one_line(self):
        told = LiveState(0.0, (replace(RUNNING, log="€" * 2**16),)).to_json()["running"][0]["log"]
        assert set(told) == {"€"}
        assert 2**15 < len(told.encode()) <= 2**16

    def test_of_many_chunks_with_long_logs_stays_small(self):
        chunks = tuple(replace(RUNNING, chunk=number, log="x" * 2**17) for number in range(200))
        assert len(json.dumps(LiveState(0.0, chunks).to_json())) < 2 * 2**20


class TestRequestsToCancel:
    def test_are_taken_once_oldest_first_each_by_its_own_run(self, store: RunStore):
        store.request_cancel("r", chunk=7, keep_best=True)
        store.request_cancel("r")
        store.request_cancel("other", chunk=1)

        taken = writer(store, "r").take_requests()
        assert [(asked.chunk, asked.keep_best) for asked in taken] == [(7, True), (None, False)]
        assert taken[0].created <= taken[1].created
        assert writer(store, "r").take_requests() == []
        assert [asked.chunk for asked in writer(store, "other").take_requests()] == [1]

    def test_from_another_process_are_seen(self, store: RunStore, tmp_path: Path):
        assert writer(store, "r").take_requests() == []
        with RunStore(f"sqlite:///{tmp_path.as_posix()}/store.db") as other:
            other.request_cancel("r", chunk=2)
        assert [asked.chunk for asked in writer(store, "r").take_requests()] == [2]

    def test_cost_one_look_where_there_is_none(self, store: RunStore):
        import sqlalchemy as sa

        statements: list[str] = []
        mine = writer(store, "r")
        sa.event.listen(
            store._database.engine, "before_cursor_execute", lambda *seen: statements.append(seen[2])
        )
        mine.take_requests()
        assert [statement.split()[0] for statement in statements] == ["BEGIN", "SELECT"]

    def test_that_a_dead_driver_did_not_see_are_forgotten_when_the_run_goes_on(self, store: RunStore):
        store.request_cancel("r")
        store.request_cancel("other")
        writer(store, "r").reopen(state=RunState.RUNNING)

        assert writer(store, "r").take_requests() == []
        assert len(writer(store, "other").take_requests()) == 1

    def test_hold_for_a_run_that_was_queued_when_they_were_made(self, store: RunStore):
        writer(store, "r").update(state=RunState.QUEUED)
        store.request_cancel("r")
        writer(store, "r").reopen(state=RunState.RUNNING)

        assert len(writer(store, "r").take_requests()) == 1


class TestLogs:
    def test_are_those_that_were_recorded_then_those_of_what_runs_by_chunk(self, store: RunStore):
        writer(store, "r").commit([attempt(9, log="nine"), attempt(7, log="seven"), attempt(8)], [])
        writer(store, "r").commit([attempt(7, 3, log="later")], [])
        writer(store, "r").save_live(STATE)

        assert store.logs("r") == [
            ChunkLog(7, "solve", 1, "seven"),
            ChunkLog(7, "solve", 3, "later"),
            ChunkLog(7, "solve", 2, RUNNING.log, live=True),
            ChunkLog(9, "solve", 1, "nine"),
        ]
        assert store.logs("r", 9) == [ChunkLog(9, "solve", 1, "nine")]
        assert store.logs("r", 8) == []
        assert store.logs("other") == []

    def test_of_an_attempt_that_just_ended_are_told_once(self, store: RunStore):
        writer(store, "r").save_live(STATE)
        writer(store, "r").commit([attempt(7, 2, log="first\nsecond\nthird\n")], [])

        assert store.logs("r") == [ChunkLog(7, "solve", 2, "first\nsecond\nthird\n")]
