"""The page in Dask's dashboard: what is told, what is kept, what is drawn."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from bokeh.core.properties import validate
from bokeh.document import Document
from bokeh.models import Title
from bokeh.protocol import Protocol

from batchrun.dashboard import panels
from batchrun.dashboard.board import Board, Throughput
from batchrun.dashboard.cells import MOST_CELLS, Cells, ChunkState
from batchrun.dashboard.chunk_map import COLORS, INKS, LABELS, SYMBOLS, ChunkMap
from batchrun.dashboard.durations import Durations
from batchrun.dashboard.frame import HIDDEN
from batchrun.dashboard.message import (
    CUT,
    RUNNING,
    WAITING,
    ChunkColumns,
    FailureLine,
    Message,
    code_of,
    pack_cuts,
)
from batchrun.dashboard.opening import Ahead
from batchrun.dashboard.pace import Pace
from batchrun.dashboard.page import Page, open_page
from batchrun.dashboard.publisher import Publisher
from batchrun.dashboard.rates import Rates
from batchrun.dashboard.spread import SecondsTally
from batchrun.events import (
    AttemptEnded,
    AttemptsSolved,
    ChunkCut,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksRecalled,
    ChunksReturned,
    ChunksSettled,
    RunEnded,
    RunStarted,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import Attempt, Cause, ErrorRecord, Outcome, RunState
from batchrun.progress import RunningLine
from batchrun.status import TaskStatus
from tests.contrast import contrast
from tests.loops import run_apart
from tests.told import chunk_settled, chunks_recalled, solved_attempts

SCRIPT = "<script>alert(1)</script>"


def started(run_id="r", at=100.0, pipeline="delays", rows=1_000):
    return RunStarted(run_id, at, pipeline, ("clean", "solve"), rows, "folder", "2 workers")


def attempt(chunk, outcome=Outcome.SUCCEEDED, stage="solve", error=None):
    return AttemptEnded("r", 101.0, Attempt(chunk, stage, 1, "w", outcome, 100.0, 1.0, error=error))


def settled(chunk, outcome=Outcome.SUCCEEDED, rows=10, seconds=1.5):
    return chunk_settled("r", 101.0, chunk, outcome, rows, seconds)


def reported(chunk, text="", **status):
    return ChunkReported("r", time.time(), chunk, "w", TaskStatus("k", "solve", 1.0, message=text, **status))


def ended(state=RunState.SUCCEEDED, rows=(1_000, 0, 0)):
    return RunEnded("r", 110.0, state, 1_000, *rows, seconds=10.0)


def told(*events):
    """The board after these events of one run, told through a publisher."""
    board = Board()
    publisher = Publisher(board.take)
    for event in events:
        publisher(event)
    publisher.close()
    return board


def packed(changes):
    """Columns of a message: code, rows and seconds by chunk."""
    values = list(changes.values())
    codes, rows, seconds = zip(*values, strict=True) if values else ((), (), ())
    return ChunkColumns(
        np.array(list(changes), np.int64),
        np.array(codes, np.uint8),
        np.array(rows, np.int64),
        np.array(seconds, np.float32),
    ).pack()


def all_succeeded(chunks):
    """The same for chunks that succeeded alike."""
    columns = (
        np.full(len(chunks), 2, np.uint8),
        np.full(len(chunks), 10),
        np.full(len(chunks), 0.1, np.float32),
    )
    return ChunkColumns(chunks, *columns).pack()


def size(values):
    """Bytes of the columns of a message."""
    return sum(map(len, values["changed"].values()))


def message(run_id="r", **changes):
    fields = {"at": 101.0, "started": 100.0, "rows_in": 1_000, "pipeline": "delays"} | changes
    return Message(run_id, **fields)


def cells_of(view, most=MOST_CELLS):
    """The tiles of a run, counted from all of its chunks."""
    return Cells(view.order, ChunkState(view.codes, view.rows, view.seconds), most=most)


class TestMessages:
    def test_a_message_survives_the_way_through_msgpack(self):
        msgpack = pytest.importorskip("msgpack")
        line = FailureLine("ValueError", "no", "solve", "failed", 3, (7, 8))
        changed = packed({3: (code_of(Outcome.FAILED), 10, 1.5)})
        first = message(
            running=(RunningLine(3, "w", 1.5, "solve", 0.5, "node 7", 2**30, 10.0, 9.0),),
            cuts=pack_cuts({3: (8, 9)}),
            slots=(("HIGHMEM", 1.0, 1.0, 2.0),),
            failures=(line,),
            changed=changed,
            rows_ended=(1, 2, 3),
        )
        assert Message.from_dict(msgpack.unpackb(msgpack.packb(first.as_dict()))) == first

    def test_fields_of_a_newer_version_are_left_out(self):
        assert Message.from_dict(message().as_dict() | {"colour": "blue"}) == message()

    def test_columns_come_back_as_they_were_packed(self):
        changes = {
            5: (RUNNING, 0, 0.0),
            2**33: (code_of(Outcome.SUCCEEDED), 2**40, 0.5),
            7: (WAITING, 0, 0.0),
        }
        columns = ChunkColumns.unpack(packed(changes))
        assert columns.chunks.tolist() == [5, 2**33, 7]
        assert columns.codes.tolist() == [RUNNING, code_of(Outcome.SUCCEEDED), WAITING]
        assert columns.rows.tolist() == [0, 2**40, 0]
        assert columns.seconds.tolist() == [0.0, 0.5, 0.0]

    def test_seconds_come_back_to_within_half_a_percent_from_microseconds_to_years(self):
        seconds = np.geomspace(1e-6, 1e9, 1_000)
        changes = {number: (2, 1, each) for number, each in enumerate(seconds)}
        assert ChunkColumns.unpack(packed(changes)).seconds == pytest.approx(seconds, rel=0.005)

    def test_a_message_without_chunks_has_empty_columns(self):
        for nothing in ({}, packed({})):
            assert len(ChunkColumns.unpack(nothing).chunks) == len(ChunkColumns.unpack(nothing).seconds) == 0

    def test_every_code_has_a_label_a_colour_and_a_sign(self):
        assert len(LABELS) == len(COLORS) == len(SYMBOLS) == len(Outcome) + 2
        for outcome in Outcome:
            assert COLORS[code_of(outcome)] == outcome.color
            assert SYMBOLS[code_of(outcome)] == outcome.symbol


class TestPublisher:
    def test_the_page_knows_the_end_when_the_last_event_returns(self):
        board = Board()
        publisher = Publisher(board.take)
        for event in (started(), ChunksPlanned("r", 100.0, 2, 20), settled(0), settled(1), ended()):
            publisher(event)
        view = board.get("r")
        assert view is not None
        assert view.message.state == "succeeded"
        assert view.message.rows_ended == (1_000, 0, 0)
        assert view.codes.tolist() == [code_of(Outcome.SUCCEEDED)] * 2

    def test_ten_thousand_events_make_few_and_small_messages(self):
        sent = []
        publisher = Publisher(sent.append, interval=0.25)
        begun = time.monotonic()
        publisher(started())
        publisher(ChunksPlanned("r", 100.0, 10_000, 100_000))
        for chunk in range(10_000):
            publisher(settled(chunk))
        publisher(ended())
        assert len(sent) <= 3 + (time.monotonic() - begun) / 0.25
        assert sum(map(size, sent)) <= 10_000

    def test_a_million_chunks_in_packs_make_small_messages_and_few_bytes_each(self):
        sent, chunks, each = [], 1_000_000, 500
        rng = np.random.default_rng(7)
        order, rows, seconds = (
            rng.permutation(chunks),
            rng.integers(1, 1_000, chunks),
            rng.exponential(1e-3, chunks),
        )
        unknown = np.full(each, np.nan)
        begun = time.monotonic()
        publisher = Publisher(sent.append, interval=0.25)
        publisher(started(rows=int(rows.sum())))
        publisher(ChunksPlanned("r", 100.0, chunks, int(rows.sum())))
        for first in range(0, chunks, each):
            pack = order[first : first + each]
            publisher(ChunksPlaced("r", 100.0, tuple(pack.tolist()), ("w",) * each, (each,)))
            solved = replace(solved_attempts(range(each)), chunks=pack)
            publisher(AttemptsSolved("r", 100.0, solved))
            outcomes = (Outcome.SUCCEEDED,) * each
            publisher(
                ChunksSettled("r", 101.0, pack, outcomes, rows[pack], rows[pack], seconds[pack], unknown)
            )
        publisher(ended())
        # What was told while chunks were settled, and then no more than it takes to tell of each of them.
        assert len(sent) <= 3 + (time.monotonic() - begun) / 0.25 + chunks / 32_768
        assert max(map(size, sent)) <= 200_000
        assert sum(map(size, sent)) <= 8 * chunks
        board = Board()
        for values in sent:
            board.take(values)
        view = board.get("r")
        assert view.counts[code_of(Outcome.SUCCEEDED)] == chunks
        assert (view.rows == rows).all()
        assert sum(column.nbytes for column in (view.codes, view.rows, view.seconds)) <= 13 * chunks

    def test_a_million_chunks_of_an_earlier_session_are_told_in_messages_of_bounded_size(self):
        sent, chunks = [], 1_000_000
        publisher = Publisher(sent.append, interval=0.01)
        publisher(started())
        publisher(ChunksPlanned("r", 100.0, chunks, 10 * chunks, chunks, 10 * chunks))
        outcomes = (Outcome.SUCCEEDED,) * chunks
        publisher(ChunksRecalled("r", 100.0, np.arange(chunks), outcomes, np.full(chunks, 10)))
        publisher(ended())
        assert max(map(size, sent)) <= 10_000
        board = Board()
        for values in sent:
            board.take(values)
        assert board.get("r").counts[code_of(Outcome.SUCCEEDED)] == chunks

    def test_what_does_not_fit_in_a_message_follows_without_another_event(self):
        board, done = Board(), threading.Event()

        def publish(values):
            board.take(values)
            if board.get("r").counts[code_of(Outcome.SUCCEEDED)] == 100_000:
                done.set()

        publisher = Publisher(publish, interval=0.01, heartbeat=60.0)
        publisher(started())
        publisher(ChunksPlanned("r", 100.0, 100_000, 100_000))
        publisher(chunks_recalled("r", 100.0, succeeded=dict.fromkeys(range(100_000), 1)))
        assert done.wait(30)
        publisher.close()

    def test_what_is_told_late_is_sent_without_another_event(self):
        sent = []
        arrived = threading.Event()

        def publish(values):
            sent.append(values)
            if values["chunks"]:
                arrived.set()

        publisher = Publisher(publish, interval=0.01, heartbeat=60.0)
        publisher(started())
        publisher(settled(0))
        assert arrived.wait(30)
        publisher.close()

    def test_a_quiet_run_gives_signs_of_life(self):
        beats = threading.Semaphore(0)
        publisher = Publisher(lambda values: beats.release(), interval=0.01, heartbeat=0.02)
        publisher(started())
        assert all(beats.acquire(timeout=30) for _ in range(4))
        publisher.close()

    def test_a_page_that_cannot_be_reached_costs_no_run_and_no_chunk(self):
        board, failed = Board(), threading.Event()

        def publish(values):
            if not failed.is_set() and values["chunks"]:
                failed.set()
                raise OSError("the scheduler went away")
            board.take(values)

        publisher = Publisher(publish, interval=0.01, heartbeat=0.01)
        publisher(started())
        publisher(ChunksPlanned("r", 100.0, 3, 30))
        publisher(settled(1))
        assert failed.wait(30)
        publisher(settled(2))
        publisher(ended())
        assert board.get("r").codes.tolist() == [WAITING, *[code_of(Outcome.SUCCEEDED)] * 2]

    def test_closing_twice_or_without_a_run_is_harmless(self):
        sent = []
        Publisher(sent.append).close()
        assert sent == []
        publisher = Publisher(sent.append)
        publisher(started())
        publisher.close()
        told = len(sent)
        assert told > 0
        publisher.close()
        assert len(sent) == told

    def test_a_chunk_runs_from_its_placement_to_the_end_of_the_attempt(self):
        placed = (
            started(),
            ChunksPlanned("r", 100.0, 4, 40),
            ChunksPlaced("r", 100.0, (0, 1, 2), ("w",) * 3),
        )
        assert told(*placed).get("r").codes.tolist() == [RUNNING] * 3 + [WAITING]
        after = (attempt(0, stage="clean"), attempt(1, Outcome.FAILED), attempt(2))
        assert told(*placed, *after).get("r").codes.tolist() == [WAITING, WAITING, RUNNING, WAITING]

    def test_chunks_of_a_pack_wait_after_all_stages_but_the_last_and_when_they_are_taken_back(self):
        placed = (
            started(),
            ChunksPlanned("r", 100.0, 6, 60),
            ChunksPlaced("r", 100.0, tuple(range(6)), ("w",) * 6, (2, 2, 2)),
        )
        after = (
            AttemptsSolved("r", 101.0, solved_attempts(range(2), "clean")),
            AttemptsSolved("r", 101.0, solved_attempts(range(2, 4), "solve")),
            ChunksReturned("r", 101.0, (5,)),
        )
        view = told(*placed, *after).get("r")
        assert view.codes.tolist() == [WAITING, WAITING, RUNNING, RUNNING, RUNNING, WAITING]
        assert view.message.attempts == {"succeeded": 4}

    def test_a_settled_chunk_does_not_go_back_to_waiting_when_a_later_try_ends(self):
        view = told(
            started(), ChunksPlanned("r", 100.0, 1, 10), settled(0), attempt(0, Outcome.CANCELLED)
        ).get("r")
        assert view.codes.tolist() == [code_of(Outcome.SUCCEEDED)]

    def test_a_chunk_that_was_started_twice_runs_until_both_tries_ended(self):
        def ended(worker, outcome):
            return AttemptEnded("r", 101.0, Attempt(0, "solve", 1, worker, outcome, 100.0, 1.0))

        twice = (
            started(),
            ChunksPlanned("r", 100.0, 1, 10),
            ChunksPlaced("r", 100.0, (0,), ("a",)),
            ChunksPlaced("r", 110.0, (0,), ("b",)),
        )
        assert told(*twice, ended("a", Outcome.FAILED)).get("r").codes.tolist() == [RUNNING]
        view = told(*twice, ended("a", Outcome.FAILED), ended("b", Outcome.FAILED)).get("r")
        assert view.codes.tolist() == [WAITING]

    def test_a_try_that_was_slower_than_another_is_no_failure(self):
        slower = Attempt(0, "solve", 1, "a", Outcome.CANCELLED, 100.0, 1.0, cause=Cause.CANCEL)
        view = told(started(), ChunksPlanned("r", 100.0, 1, 10), AttemptEnded("r", 101.0, slower)).get("r")
        assert view.message.failures == ()

    def test_what_many_running_chunks_say_is_told_once_a_second_and_in_small_messages(self):
        sent = []
        publisher = Publisher(sent.append, interval=0.01, heartbeat=60.0)
        begun = time.monotonic()
        publisher(started())
        publisher(ChunksPlaced("r", time.time(), tuple(range(500)), ("w",) * 500))
        told = []
        while not told and time.monotonic() < begun + 30:
            for chunk in range(500):
                publisher(reported(chunk, "x" * 5_000, objective=1.0))
            told = [values["running"] for values in list(sent) if values["running"]]
        for number in range(20):
            for chunk in range(500):
                publisher(reported(chunk, f"{number} {'x' * 5_000}", objective=1.0))
        publisher.close()
        told = [values["running"] for values in sent if values["running"]]
        assert 1 <= len(told) <= 2 + (time.monotonic() - begun)
        assert max(map(len, told)) == 50
        assert max(len(json.dumps(lines)) for lines in told) < 20_000

    def test_the_status_of_a_chunk_reaches_a_page_without_another_event(self):
        arrived = threading.Event()
        publisher = Publisher(
            lambda values: values["running"] and arrived.set(), interval=0.01, heartbeat=60.0
        )
        publisher(started())
        publisher(ChunksPlaced("r", time.time(), (0,), ("w",)))
        deadline = time.monotonic() + 10
        while not arrived.wait(0.05) and time.monotonic() < deadline:
            publisher(reported(0, "node 7"))
        assert arrived.is_set()
        publisher.close()

    def test_failures_that_are_alike_are_one_line(self):
        error = ErrorRecord("ValueError", "no blocks", signature="ValueError at mine.py:3")
        events = [attempt(chunk, Outcome.FAILED, error=error) for chunk in range(8)]
        (line,) = told(started(), *events).get("r").message.failures
        assert (line.type, line.attempts, line.chunks) == ("ValueError", 8, (7, 6, 5, 4, 3))

    def test_only_the_latest_kinds_of_failure_are_kept_and_long_texts_are_clipped(self):
        events = [
            attempt(0, Outcome.FAILED, error=ErrorRecord("E", "x" * 9_999, signature=str(number)))
            for number in range(100)
        ]
        failures = told(started(), *events).get("r").message.failures
        assert len(failures) == 12
        assert max(len(line.message) for line in failures) == 400


class TestBoard:
    def test_chunks_of_an_earlier_session_keep_their_colours(self):
        recalled = chunks_recalled("r", 100.0, succeeded={0: 10}, failed={2: 10})
        view = told(started(), ChunksPlanned("r", 100.0, 3, 30, 2, 20), recalled).get("r")
        assert view.codes.tolist() == [code_of(Outcome.SUCCEEDED), WAITING, code_of(Outcome.FAILED)]
        assert view.rows.tolist() == [10, 0, 10]
        assert view.message.settled == 0

    def test_a_new_session_of_a_run_begins_with_what_it_tells_itself(self):
        failed, solved = code_of(Outcome.FAILED), code_of(Outcome.SUCCEEDED)
        board = Board()
        before = packed({0: (solved, 10, 1.0), 1: (failed, 10, 1.0), 2: (RUNNING, 0, 0.0)})
        board.take(message(chunks_planned=3, changed=before, chunks={"succeeded": 1, "failed": 1}).as_dict())
        version = board.get("r").version
        changes = {
            "started": 200.0,
            "at": 201.0,
            "chunks_planned": 3,
            "changed": packed({0: (solved, 10, 0.0)}),
        }
        board.take(message(**changes).as_dict())
        view = board.get("r")
        assert view.codes.tolist() == [solved, WAITING, WAITING]
        assert view.version > version
        assert view.throughput.rates()[1].sum() == 0

    def test_parts_take_the_place_of_the_chunk_that_was_cut(self):
        view = told(
            started(),
            ChunksPlanned("r", 100.0, 3, 30),
            attempt(1, Outcome.FAILED),
            ChunkCut("r", 101.0, 1, (3, 4), (5, 5)),
            settled(4, Outcome.FAILED, rows=5),
            ChunkCut("r", 102.0, 3, (5, 6), (2, 3)),
            ChunksPlanned("r", 102.0, 5, 30),
            settled(6, rows=3),
        ).get("r")
        assert view.order.tolist() == [0, 5, 6, 4, 2]
        good, bad = code_of(Outcome.SUCCEEDED), code_of(Outcome.FAILED)
        assert view.codes.tolist() == [WAITING, CUT, WAITING, CUT, bad, WAITING, good]
        assert cells_of(view).numbers.tolist() == [0, 5, 6, 4, 2]

    def test_a_cut_that_was_not_told_leaves_the_parts_at_the_end(self):
        board = Board()
        board.take(message(chunks_planned=4, cuts=pack_cuts({2**40: (3,), 0: (2**41,)})).as_dict())
        assert board.get("r").order.tolist() == [0, 1, 2, 3]

    def test_a_cut_is_told_again_when_a_message_was_lost(self):
        board, failed = Board(), threading.Event()

        def publish(values):
            if not failed.is_set() and values["cuts"]["parts"]:
                failed.set()
                raise OSError("the scheduler went away")
            board.take(values)

        publisher = Publisher(publish, interval=0.01, heartbeat=0.01)
        for event in (started(), ChunksPlanned("r", 100.0, 2, 20), ChunkCut("r", 101.0, 0, (2, 3), (5, 5))):
            publisher(event)
        assert failed.wait(30)
        publisher(ended())
        assert board.get("r").order.tolist() == [2, 3, 1]

    def test_chunks_of_an_earlier_session_are_numbered_beyond_those_that_count(self):
        recalled = chunks_recalled("r", 100.0, succeeded={0: 10, 4: 5})
        view = told(
            started(),
            ChunkCut("r", 100.0, 1, (3, 4), (5, 5)),
            ChunksPlanned("r", 100.0, 4, 30, 2, 15),
            recalled,
        ).get("r")
        assert view.order.tolist() == [0, 3, 4, 2]

    def test_parts_that_are_left_of_an_earlier_session_are_shown_when_they_run(self):
        view = told(started(), ChunksPlanned("r", 100.0, 4, 30), ChunksPlaced("r", 101.0, (4,), ("w",))).get(
            "r"
        )
        assert view.codes.tolist() == [WAITING] * 4 + [RUNNING]

    def test_what_runs_is_kept_until_it_is_told_anew(self):
        board = Board()
        line = RunningLine(3, "w", 1.5, message="node 7")
        board.take(message(running=(line,)).as_dict())
        board.take(message().as_dict())
        assert board.get("r").running == (line,)
        board.take(message(running=()).as_dict())
        assert board.get("r").running == ()

    def test_a_chunk_that_was_never_planned_takes_no_memory(self):
        board = Board()
        changed = packed({2**40: (RUNNING, 0, 0.0)})
        board.take(message(chunks_planned=3, changed=changed).as_dict())
        assert board.get("r").codes.tolist() == [WAITING] * 3

    def test_nothing_runs_once_the_run_has_ended(self):
        placed = ChunksPlaced("r", 100.0, (0,), ("w",))
        view = told(started(), ChunksPlanned("r", 100.0, 1, 10), placed, ended(RunState.CANCELLED)).get("r")
        assert view.codes.tolist() == [WAITING]

    def test_the_latest_fifty_runs_are_kept(self):
        board = Board()
        for number in range(60):
            board.take(message(f"r{number}", started=100.0 + number, state="succeeded").as_dict())
        assert [view.message.run_id for view in board.newest_first()] == [f"r{n}" for n in range(59, 9, -1)]

    def test_runs_that_have_ended_are_forgotten_before_those_that_go_on(self):
        board = Board()
        board.take(message("old", started=1.0).as_dict())
        for number in range(60):
            board.take(message(f"r{number}", started=100.0 + number, state="succeeded").as_dict())
        assert board.get("old") is not None
        assert len(board.newest_first()) == 50

    def test_large_runs_leave_before_their_arrays_fill_the_scheduler(self):
        board = Board()
        for number in range(5):
            changes = {"started": 100.0 + number, "state": "succeeded", "chunks_planned": 1_500_000}
            board.take(message(f"r{number}", **changes).as_dict())
        assert [view.message.run_id for view in board.newest_first()] == ["r4", "r3"]

    def test_elapsed_time_goes_by_the_runners_clock_however_wrong_it_is(self):
        now = [5_000.0]
        board = Board(clock=lambda: now[0])
        board.take(message(at=103.0).as_dict())
        now[0] += 2.0
        assert board.get("r").elapsed(now[0]) == 5.0

    def test_the_time_left_follows_from_the_rows_of_this_session(self):
        board = Board(clock=lambda: 0.0)
        board.take(message(at=110.0, rows_before=500, rows={"succeeded": 100}).as_dict())
        assert board.get("r").seconds_left(0.0) == 40.0

    def test_the_time_left_is_unknown_before_the_first_chunk(self):
        board = Board()
        board.take(message().as_dict())
        assert board.get("r").seconds_left(time.time()) is None

    def test_a_hundred_thousand_chunks_are_taken_in_quickly(self):
        changes = packed(dict.fromkeys(range(100_000), (2, 10, 1.0)))
        values = message(chunks_planned=100_000, changed=changes).as_dict()
        board = Board()
        begun = time.process_time()
        board.take(values)
        assert time.process_time() - begun < 0.25


class TestThroughput:
    def test_all_that_was_counted_is_in_the_bins(self):
        counted = Throughput()
        rng = np.random.default_rng(3)
        times = np.sort(rng.uniform(0, 5_000, 2_000))
        for elapsed in times:
            counted.add(float(elapsed), 1, 10)
        starts, chunks, rows = counted.rates()
        assert len(starts) <= 600
        assert counted.width == 16.0
        assert (chunks * counted.width).sum() == pytest.approx(2_000)
        assert (rows * counted.width).sum() == pytest.approx(20_000)
        expected = np.histogram(times, np.append(starts, starts[-1] + counted.width))[0]
        assert (chunks * counted.width).round().tolist() == expected.tolist()


class TestChunkMap:
    def view(self, *codes):
        board = Board()
        changes = {n: (code, 10, 1.0) for n, code in enumerate(codes)}
        board.take(message(chunks_planned=len(codes), changed=packed(changes)).as_dict())
        return board.get("r")

    def test_a_cell_is_a_chunk_where_they_fit(self):
        cells = cells_of(self.view(WAITING, RUNNING, 2, 4), most=4)
        assert (cells.size, cells.code.tolist(), cells.settled.tolist()) == (1, [0, 1, 2, 4], [0, 0, 1, 1])

    def test_a_cell_of_several_chunks_shows_the_worst_of_them(self):
        good, bad = code_of(Outcome.SUCCEEDED), code_of(Outcome.FAILED)
        cells = cells_of(self.view(good, bad, good, WAITING, RUNNING, WAITING, good), most=4)
        assert (cells.size, len(cells)) == (2, 4)
        assert cells.code.tolist() == [bad, good, RUNNING, good]
        assert cells.settled.tolist() == [2, 1, 0, 1]
        assert cells.alpha.tolist() == pytest.approx([1.0, 0.65, 1.0, 1.0])

    @pytest.mark.parametrize("chunks", [10, 1_000, 100_000])
    def test_the_map_has_four_thousand_cells_at_most_and_counts_every_chunk(self, chunks):
        cells = cells_of(self.view(*[2] * chunks))
        assert len(cells) <= 4_000
        assert cells.settled.sum() == chunks
        assert cells.rows.sum() == 10 * chunks

    def test_only_tiles_that_changed_are_sent(self):
        board = Board()
        board.take(message(chunks_planned=1_000).as_dict())
        shown = ChunkMap()
        shown.update(board.get("r"))
        document, sent = Document(), []
        document.add_root(shown.figure)
        document.on_change(sent.append)
        changed = packed({7: (4, 10, 1.0), 8: (RUNNING, 0, 0.0)})
        board.take(message(chunks_planned=1_000, changed=changed).as_dict())
        shown.update(board.get("r"))
        shown.update(board.get("r"))
        (patch,) = sent
        assert [number for number, _ in patch.patches["code"]] == [7, 8]

    def test_a_million_chunks_that_change_all_over_the_map_are_a_patch_of_small_columns(self):
        board, chunks = Board(), 1_000_000
        order = np.random.default_rng(5).permutation(chunks)
        board.take(message(chunks_planned=chunks).as_dict())
        shown = ChunkMap()
        shown.update(board.get("r"))
        document, sent = Document(), []
        document.add_root(shown.figure)
        document.on_change(sent.append)
        board.take(message(chunks_planned=chunks, changed=all_succeeded(np.sort(order[:20_000]))).as_dict())
        shown.update(board.get("r"))
        (patch,) = sent
        assert set(patch.patches) == {"code", "alpha", "settled", "rows", "seconds"}
        parts = Protocol().create("PATCH-DOC", sent)
        assert len(parts.content_json) + sum(len(part.to_bytes()) for part in parts.buffers) < 100_000

    def test_tiles_that_were_changed_chunk_by_chunk_are_those_that_are_counted_anew(self):
        board, rng, planned = Board(), np.random.default_rng(7), 9_000
        for step in range(40):
            chunks = np.sort(rng.choice(planned, 500, replace=False))
            fresh = {
                int(chunk): (code, 10 * (code > RUNNING), 1.5 * (code > RUNNING))
                for chunk, code in zip(chunks, rng.integers(0, CUT, len(chunks)).tolist(), strict=True)
            }
            cuts = {int(chunks[0]): (planned, planned + 1)} if step % 10 == 5 else {}
            planned += 2 * len(cuts)
            state = "cancelled" if step == 39 else "running"
            told = {
                "chunks_planned": planned,
                "changed": packed(fresh),
                "cuts": pack_cuts(cuts),
                "state": state,
            }
            board.take(message(**told).as_dict())
            view = board.get("r")
            kept, counted = view.cells, cells_of(view)
            assert kept.size > 1
            for name in ("numbers", "code", "settled", "rows", "seconds", "alpha", "first", "last"):
                assert getattr(kept, name).tolist() == pytest.approx(getattr(counted, name).tolist())
            assert view.counts.tolist() == np.bincount(view.codes, minlength=CUT + 1).tolist()
            spread, anew = view.spread.spread(), SecondsTally()
            anew.count(view.codes, view.seconds)
            assert (spread.total, spread.median) == (anew.spread().total, anew.spread().median)

    def test_two_tabs_are_each_sent_what_changed_since_they_looked(self):
        board = Board()
        board.take(message(chunks_planned=1_000).as_dict())
        tabs, sent = [ChunkMap(), ChunkMap()], [[], []]
        documents = [Document(), Document()]
        for tab, document, events in zip(tabs, documents, sent, strict=True):
            tab.update(board.get("r"))
            document.add_root(tab.figure)
            document.on_change(events.append)
        for chunk in (7, 8):
            board.take(message(chunks_planned=1_000, changed=packed({chunk: (2, 10, 1.0)})).as_dict())
            tabs[0].update(board.get("r"))
        tabs[1].update(board.get("r"))
        patched = [[[number for number, _ in patch.patches["code"]] for patch in events] for events in sent]
        assert patched == [[[7], [8]], [[7, 8]]]

    @pytest.mark.parametrize("width", [300, 960, 2_000])
    def test_tiles_are_about_square_however_wide_the_browser_says_that_the_map_is(self, width):
        shown = ChunkMap()
        shown.update(self.view(*[2] * 400))
        shown._resized("inner_width", 0, width)
        across, lines = shown.figure.x_range.end, shown.figure.y_range.start
        assert (width / across) / (shown.figure.height / lines) == pytest.approx(1, abs=0.25)
        assert across * lines >= 400

    def test_signs_can_be_read_on_their_tiles(self):
        weak = {
            ink: color for ink, color in zip(INKS[1:], COLORS[1:], strict=True) if contrast(ink, color) < 4.5
        }
        assert weak == {}

    def test_two_tabs_can_show_the_same_run(self):
        for _ in range(2):
            shown = ChunkMap()
            shown.update(self.view(2, RUNNING))
            Document().add_root(shown.figure)


class TestOpening:
    def test_a_page_is_made_in_a_thread_whose_checks_nobody_turns_off(self):
        here, made = threading.get_ident(), []

        def fill(doc):
            made.append(threading.get_ident())
            open_page(Board(), None, {"prefix": "/"}, doc, pace=Pace())

        async def opened(doc):
            async def give(func):
                await func(doc)

            await Ahead(fill).on_session_created(SimpleNamespace(with_locked_document=give))

        def looks(doc):
            names = {}
            text = json.dumps(doc.to_json().content, default=repr)
            return re.sub('"p[0-9]+"', lambda id_: names.setdefault(id_.group(), f'"{len(names)}"'), text)

        doc, usual, plain = Document(), sys.getswitchinterval(), Document()
        fill(plain)
        with validate(False):
            run_apart(opened(doc))
            assert Title(text=7).text == 7  # nothing is checked here
        assert made[1] != here
        assert sys.getswitchinterval() == usual
        assert len(doc.roots) == len(doc.session_callbacks) == 1
        fill(doc)  # as Bokeh has it, once the page is there
        assert len(doc.roots) == len(doc.session_callbacks) == 1
        assert looks(doc) == looks(plain)


class TestPace:
    def pace(self):
        now = [100.0]
        return Pace(lambda: now[0]), now

    def test_a_page_is_drawn_twice_a_second_if_that_takes_little(self):
        pace, now = self.pace()
        assert not pace.is_turn(drawn=99.7, looked=99.9)
        assert pace.is_turn(drawn=99.5, looked=99.9)
        with pace.drawing():
            now[0] += 0.002
        now[0] += 0.05
        assert pace.is_turn(drawn=99.5, looked=now[0] - 0.1)

    def test_after_a_drawing_that_took_long_no_page_is_drawn_for_a_while(self):
        pace, now = self.pace()
        with pace.drawing():
            now[0] += 0.1
        now[0] += 1.5
        assert not pace.is_turn(drawn=0.0, looked=now[0] - 0.1)
        now[0] += 0.5
        assert pace.is_turn(drawn=0.0, looked=now[0] - 0.1)

    def test_parts_of_a_drawing_that_took_long_count_together(self):
        pace, now = self.pace()
        for _ in range(3):
            with pace.drawing() as has_time:
                assert has_time()
                now[0] += 0.03
                assert not has_time()
        now[0] += 1.6
        assert not pace.is_turn(drawn=0.0, looked=now[0] - 0.1)
        now[0] += 0.2
        assert pace.is_turn(drawn=0.0, looked=now[0] - 0.1)

    def test_while_the_loop_is_late_no_page_is_drawn(self):
        pace, now = self.pace()
        assert not pace.is_turn(drawn=0.0, looked=99.0)
        now[0] += 0.5
        assert not pace.is_turn(drawn=0.0, looked=now[0] - 0.1)
        now[0] += 0.5
        assert pace.is_turn(drawn=0.0, looked=now[0] - 0.1)


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


class TestPage:
    def page(self, board, now=105.0):
        page = Page(board, clock=lambda: now)
        page.update()
        return page

    def test_nothing_that_a_user_named_becomes_markup(self):
        line = FailureLine(SCRIPT, SCRIPT, SCRIPT, "failed", 1, (1,))
        evil = replace(
            message(f"r{SCRIPT}", pipeline=SCRIPT, cluster=SCRIPT, error=SCRIPT, state="failed"),
            slots=((SCRIPT, 1.0, 1.0, 1.0),),
            failures=(line,),
            running=(RunningLine(1, SCRIPT, 1.0, SCRIPT, message=SCRIPT),),
        )
        board = Board()
        board.take(evil.as_dict())
        view = board.get(f"r{SCRIPT}")
        texts = [panels.headline(view, 0.0), panels.slots(evil), panels.failures(evil), panels.which(view, 1)]
        for text in [*texts, panels.running(view, 0.0)]:
            parser = _Tags()
            parser.feed(text)
            assert "script" not in parser.tags
            assert "&lt;script&gt;" in text

    def test_without_a_run_it_says_how_to_start_one(self):
        page = self.page(Board())
        assert page._empty.visible
        assert not page._full.visible
        assert "batchrun submit" in panels.EMPTY

    def test_it_follows_the_newest_run_until_somebody_chooses(self):
        board = Board()
        board.take(message("a", started=1.0).as_dict())
        page = self.page(board)
        board.take(message("b", started=2.0).as_dict())
        page.update()
        assert page._select.value == "b"
        page._select.value = "a"
        board.take(message("c", started=3.0).as_dict())
        page.update()
        assert page._select.value == "a"
        page._select.value = "c"
        board.take(message("d", started=4.0).as_dict())
        page.update()
        assert page._select.value == "d"

    def test_behind_another_tab_it_is_not_drawn_and_in_front_at_once(self):
        board, now = Board(), [0.0]
        page = Page(board, archive=lambda: None, pace=Pace(lambda: now[0]))
        page.root.tags = [HIDDEN]
        board.take(message("a", pipeline="first").as_dict())
        now[0] += 60.0
        page.look()
        assert not page._full.visible
        page.root.tags = []
        assert page._full.visible
        board.take(message("a", pipeline="second").as_dict())
        for _ in range(6):
            now[0] += 0.1
            page.look()
        assert "second" in page._headline.text

    def test_what_takes_long_to_draw_is_drawn_part_by_part(self, monkeypatch):
        board, now, drawn = Board(), [0.0], []
        board.take(message("a", chunks_planned=3, changed=packed({0: (2, 10, 1.0)})).as_dict())
        for part in (ChunkMap, Rates, Durations):
            plain = part.update

            def update(self, view, plain=plain, name=part.__name__):
                plain(self, view)
                drawn.append(name)
                now[0] += 0.03

            monkeypatch.setattr(part, "update", update)
        page, seen = Page(board, archive=lambda: None, pace=Pace(lambda: now[0])), []
        for _ in range(4):
            now[0] += 0.1
            page.look()
            seen.append(list(drawn))
            drawn.clear()
        assert seen == [["ChunkMap"], ["Rates"], ["Durations"], []]
        assert page._full.visible
        assert "1,000</b> rows in" in page._headline.text

    def test_rows_add_up_on_the_page(self):
        view = told(
            started(), settled(0), settled(1, Outcome.FAILED, rows=20), settled(2, Outcome.CANCELLED, rows=5)
        ).get("r")
        text = panels.headline(view, view.heard)
        for part in (
            "1,000</b> rows in",
            "10</b> solved",
            "20</b> quarantined",
            "5</b> cancelled",
            "965</b> to",
        ):
            assert part in text

    def test_running_chunks_show_how_far_they_are_and_their_time_goes_on(self):
        board = Board()
        line = RunningLine(17, "highmem-0", 60.0, "solve", 0.4, "node 7", 3 * 2**29, 1_000.0, 968.0)
        board.take(message(running=(line,)).as_dict())
        view = board.get("r")
        text = panels.running(view, view.running_heard + 30)
        for part in ("chunk 17", "solve on highmem-0", "40 % · gap 3.2 % · 1.5 GiB · 1 min 30 s", "node 7"):
            assert part in text
        assert "width:40.0%" in text

    def test_chunks_that_were_cut_are_counted_apart(self):
        view = told(started(), ChunksPlanned("r", 100.0, 3, 30), ChunkCut("r", 101.0, 1, (3, 4), (5, 5))).get(
            "r"
        )
        text = panels.outcomes(view)
        assert "<h2>4 chunks</h2>" in text
        assert "cut into parts</th><td>1</td>" in text

    def test_what_a_run_that_has_ended_did_not_come_to_waits_for_nothing(self):
        begun = (started(), ChunksPlanned("r", 100.0, 3, 30), settled(0))
        shown = ChunkMap()
        shown.update(view := told(*begun).get("r"))
        assert "waiting</th><td>2</td>" in panels.outcomes(view)
        assert shown._said.args["labels"][0] == "waiting"

        shown.update(view := told(*begun, ended(RunState.CANCELLED, (10, 0, 990))).get("r"))
        assert "not run</th><td>2</td>" in panels.outcomes(view)
        assert "waiting" not in panels.outcomes(view)
        assert shown._said.args["labels"][0] == "not run"

    def test_a_runner_that_went_silent_is_named(self):
        view = told(started()).get("r")
        assert "no word from the runner for 45.0 s" in panels.headline(view, view.heard + 45)

    def test_memory_is_shown_in_sizes_and_waiting_demand_is_told(self):
        slots = (SlotUse("MEMORY", 8 * 2**30, 6 * 2**30, 0), SlotUse("HIGHMEM", 1, 1, 7))
        text = panels.slots(told(started(), SlotsChanged("r", 100.0, slots, 3)).get("r").message)
        assert "6 GiB of 8 GiB in use" in text
        assert "1 of 1 in use" in text
        assert "7 waiting" in text
        assert "Slots on 3 workers" in text

    def test_of_a_run_that_has_ended_no_use_of_slots_is_told(self):
        slots = (("MEMORY", 8.0 * 2**30, 6.0 * 2**30, 0.0), ("HIGHMEM", 1.0, 1.0, 7.0))
        text = panels.slots(message(slots=slots, state="cancelled"))
        assert "8 GiB</span>" in text
        assert "the run has ended" in panels.slots(message(state="cancelled"))
        assert "in use" not in text
        assert "waiting" not in text

    def test_a_tag_that_no_worker_has_is_drawn_all_the_same(self):
        text = panels.slots(message(slots=(("GPU", 0.0, 0.0, 2.0),)))
        assert "0 of 0 in use" in text
        assert "width:100.00%" in text


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as started_cluster:
        yield started_cluster


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.status == 200
        return answer.read().decode()


class TestInstall:
    def test_the_page_is_served_beside_dasks_own_and_linked_from_them(self, cluster):
        from distributed import Client

        from batchrun.dashboard.plugin import install

        with Client(cluster, set_as_default=False) as client:
            url = install(client)
            assert url == client.dashboard_link.replace("/status", "/batchrun")
        for page in ("status", "workers", "batchrun"):
            assert '<a href="batchrun">Batchrun</a>' in read(url.replace("/batchrun", f"/{page}"))

    def test_a_second_client_finds_the_page_and_what_it_knows(self, cluster):
        from distributed import Client

        from batchrun.dashboard.plugin import DashboardPlugin, install

        with Client(cluster, set_as_default=False) as first:
            url = install(first)
            Publisher(lambda values: first.log_event("batchrun", values), interval=0.01)(started("kept"))
            with Client(cluster.scheduler_address, set_as_default=False) as second:
                assert install(second) == url
                applications = cluster.scheduler.http_application.applications
                assert sum("/batchrun" in getattr(app, "app_paths", ()) for app in applications) == 1
                assert read(url.replace("/batchrun", "/status")).count(">Batchrun</a>") == 1
                second.log_event("batchrun", message("kept").as_dict())
                board = cluster.scheduler.plugins[DashboardPlugin.name].board
                assert "kept" in {view.message.run_id for view in board.newest_first()}

    def test_the_scheduler_is_asked_once_for_each_connection_to_it(self, cluster, monkeypatch):
        from distributed import Client

        from batchrun.dashboard import plugin

        asked = []
        monkeypatch.setattr(plugin, "_install", lambda client: asked.append(client) or "http://here/batchrun")
        with Client(cluster, set_as_default=False) as client:
            assert plugin.install(client) == plugin.install(client) == "http://here/batchrun"
            assert asked == [client]
            monkeypatch.setattr(client, "scheduler_comm", type(client.scheduler_comm)("1s"))  # as a new one
            plugin.install(client)
            assert asked == [client, client]
            monkeypatch.undo()

    def test_a_message_that_is_no_message_does_no_harm(self, cluster):
        from distributed import Client

        from batchrun.dashboard.plugin import DashboardPlugin, install

        with Client(cluster, set_as_default=False) as client:
            install(client)
            client.log_event("batchrun", {"nonsense": 1})
            client.log_event("another", "topic")
            client.log_event("batchrun", message("sound").as_dict())
            assert cluster.scheduler.plugins[DashboardPlugin.name].board.get("sound") is not None

    def test_dask_still_has_the_names_that_the_link_needs(self, cluster):
        from distributed.dashboard.components.scheduler import BOKEH_THEME, env
        from distributed.dashboard.scheduler import template_variables

        assert isinstance(template_variables(cluster.scheduler)["pages"], list)
        assert env.get_template("simple.html")
        assert BOKEH_THEME

    def test_without_those_names_the_page_is_there_without_a_link(self, monkeypatch):
        import distributed.dashboard.scheduler as names

        from batchrun.dashboard.plugin import _link

        monkeypatch.delattr(names, "template_variables")
        assert _link(object()) == {}

    def test_a_cluster_without_a_dashboard_has_no_page(self):
        from distributed import Client, LocalCluster

        from batchrun.dashboard.plugin import install

        with (
            LocalCluster(
                n_workers=0,
                processes=False,
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
            ) as bare,
            Client(bare, set_as_default=False) as client,
        ):
            assert install(client) == ""

    def test_a_scheduler_that_cannot_have_the_page_is_no_error(self, cluster, monkeypatch, caplog):
        from distributed import Client

        from batchrun.dashboard.plugin import install

        def refuse(*arguments, **named):
            raise ModuleNotFoundError("No module named 'batchrun'")

        with Client(cluster, set_as_default=False) as client:
            monkeypatch.setattr(client, "register_plugin", refuse)
            assert install(client) == ""
        assert "install batchrun where the scheduler runs" in caplog.text


def test_messages_are_plain_values_but_for_the_packed_columns():
    sent = []
    publisher = Publisher(sent.append)
    for event in (started(), settled(0), ended()):
        publisher(event)
    for values in sent:
        packed = [*values.pop("changed").values(), *values.pop("cuts").values()]
        assert all(isinstance(column, bytes) for column in packed)
        json.dumps(values)
