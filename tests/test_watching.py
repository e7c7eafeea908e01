"""Following a run that another process drives: what its observers hear, and when they hear no more."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from batchrun import RetryPolicy, Stage, by_rows
from batchrun.config import Settings
from batchrun.errors import RunNotFoundError, StoreError
from batchrun.events import (
    AttemptEnded,
    AttemptsSolved,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksRecalled,
    ChunksSettled,
    Event,
    FailuresRecalled,
    RetryScheduled,
    RunEnded,
    RunStarted,
    RunStopping,
    RunWaiting,
    SlotsChanged,
    SlotUse,
)
from batchrun.launch import submit_pipeline
from batchrun.outcome import Attempt, Cause, ErrorRecord, Outcome, RunState, SolvedAttempts
from batchrun.progress import Progress
from batchrun.store.database import Database
from batchrun.store.driver import driver_name, driving
from batchrun.store.live import LiveState, LiveWorker, RunningChunk
from batchrun.store.queue import QueueEntry
from batchrun.store.records import SettledChunk, SettledChunks
from batchrun.store.runs import RunRecord, RunStore
from batchrun.store.services import ServiceRecord
from batchrun.store.writer import RunWriter
from batchrun.watching import Watched, watch_run

BEGIN = 1_000.0
ELSEWHERE = "elsewhere/1/1.0"
SEVEN = ErrorRecord("ValueError", "seven is bad", "Traceback", signature="ValueError at x.py:1")


class Stopwatch:
    """A clock that goes on only while somebody waits, and what happens meanwhile."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.steps: list[Callable[[], object]] = []

    def pause(self, seconds: float) -> None:
        assert self.steps, "it is watched for longer than anything happens"
        self.now += seconds
        self.steps.pop(0)()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{(tmp_path / 'store.db').as_posix()}"


@pytest.fixture
def store(url: str) -> Iterator[RunStore]:
    with RunStore(url) as store:
        yield store


@pytest.fixture
def clock() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def watch(url: str, clock: Stopwatch) -> Callable[..., tuple[Watched, list[Event]]]:
    """Watch a run while the given things happen, one between each two looks."""

    def watch(*steps: Callable[[], object], run_id: str = "r1") -> tuple[Watched, list[Event]]:
        clock.steps, heard = list(steps), []
        found = watch_run(url, run_id, [heard.append], clock=lambda: clock.now, pause=clock.pause)
        assert not clock.steps
        return found, heard

    return watch


@pytest.fixture
def driven(store: RunStore) -> Iterator[RunWriter]:
    """A run of ten chunks of four rows that this process drives."""
    with driving("r1"):
        yield store.create(record(state=RunState.RUNNING, started=BEGIN, driver=driver_name(), chunks=10))


def record(run_id: str = "r1", **fields: object) -> RunRecord:
    stages = [{"name": "solve", "memory": 0, "resources": {}, "leg": 0}]
    known: dict[str, object] = {"state": RunState.QUEUED, "heartbeat": BEGIN, "fence": 1, "stages": stages}
    return RunRecord(
        run_id, "pits", None, created=BEGIN, split="by_rows(4)", folder="", rows_in=40, **{**known, **fields}
    )


def attempt(chunk: int, outcome: Outcome = Outcome.SUCCEEDED, **more: object) -> Attempt:
    return Attempt(chunk, "solve", 1, "w-0", outcome, BEGIN + 1, 0.5, rows_in=4, **more)


def settled(*chunks: int, outcome: Outcome = Outcome.SUCCEEDED) -> SettledChunks:
    return SettledChunks.of(SettledChunk(chunk, outcome, 4, 4 * outcome.solved, 0.5) for chunk in chunks)


beats = iter(range(10_000, 20_000))


def solve(writer: RunWriter, *chunks: int, **changes: object) -> None:
    """Chunks are solved, and it is committed, as the driver does it."""
    numbers, one = np.array(chunks), np.ones(len(chunks), np.int64)
    times = np.full(len(chunks), BEGIN + 1)
    solved = SolvedAttempts("solve", "w-0", numbers, one, times, times * 0, one * 4, one * 4)
    writer.commit([], settled(*chunks), [solved], heartbeat=float(next(beats)), **changes)


def end(writer: RunWriter, state: RunState = RunState.SUCCEEDED, **changes: object) -> None:
    writer.end(state=state, ended=BEGIN + 9, **changes)


def of(kind: type[Event], heard: list[Event]) -> list:
    return [event for event in heard if isinstance(event, kind)]


def fold(heard: list[Event]) -> Progress:
    progress = Progress()
    for event in heard:
        progress.tell(event)
    return progress


def test_a_run_is_told_from_its_start_to_its_end(watch, driven):
    solve(driven, 0, 1)

    found, heard = watch(
        lambda: solve(driven, 2, 3),
        lambda: None,
        lambda: (solve(driven, *range(4, 10), rows_solved=40), end(driven)),
    )

    assert found is Watched.ENDED
    started, planned = heard[:2]
    assert isinstance(started, RunStarted)
    assert (started.pipeline, started.stages, started.rows, started.at) == ("pits", ("solve",), 40, BEGIN)
    assert isinstance(planned, ChunksPlanned)
    assert planned.chunks == 10
    told = [event.chunks.tolist() for event in of(ChunksSettled, heard)]
    assert told == [[0, 1], [2, 3], [4, 5, 6, 7, 8, 9]]
    assert [event.attempts.chunks.tolist() for event in of(AttemptsSolved, heard)] == told[1:]
    last = heard[-1]
    assert isinstance(last, RunEnded)
    assert (last.state, last.rows_in, last.rows_solved, last.seconds) == (RunState.SUCCEEDED, 40, 40, 9.0)


def test_what_the_driver_noted_of_memory_and_grace_is_told_too(watch, store):
    stage = {"name": "solve", "memory": 2**30, "memory_from": "the peaks of 12 earlier attempts"}
    grace = {"key": "run.stop_grace", "value": "500 ms", "source": "default"}
    fields = {"state": RunState.RUNNING, "started": BEGIN, "driver": driver_name(), "settings": [grace]}
    writer = store.create(record(stages=[stage], **fields))
    live = LiveState(BEGIN + 1, stopping=True)

    with driving("r1"):
        _, heard = watch(lambda: writer.save_live(live), lambda: end(writer, RunState.CANCELLED))

    [started], [stopping] = of(RunStarted, heard), of(RunStopping, heard)
    assert started.notes == ("stage `solve` starts with 1 GiB: the peaks of 12 earlier attempts",)
    assert stopping.grace == 0.5


def test_a_run_that_has_ended_is_told_at_once(watch, driven):
    solve(driven, *range(10))
    end(driven, rows_solved=40)

    found, heard = watch()

    assert found is Watched.ENDED
    progress = fold(heard)
    assert (progress.chunks_settled, progress.rows_settled, progress.state) == (10, 40, RunState.SUCCEEDED)


def test_attempts_that_failed_are_told_with_what_was_done_about_them(watch, driven):
    error: dict[str, object] = {"error": SEVEN, "cause": Cause.ERROR}
    again = attempt(7, Outcome.FAILED, decision="retry", next_step="tried again at once", **error)
    given_up = attempt(7, Outcome.FAILED, decision="quarantine", next_step="its rows are set apart", **error)
    seen = attempt(8, peak_memory=2**20)

    def happen() -> None:
        driven.commit([again, seen], settled(8), heartbeat=1.0)
        driven.commit([given_up], settled(7, outcome=Outcome.FAILED), heartbeat=2.0)

    _, heard = watch(happen, lambda: end(driven, RunState.PARTIAL))

    assert [event.attempt for event in of(AttemptEnded, heard)] == [again, seen, given_up]
    [retry] = of(RetryScheduled, heard)
    assert (retry.chunk, retry.stage, retry.error) == (7, "solve", SEVEN)
    progress = fold(heard)
    assert progress.outcomes == {Outcome.FAILED: 1, Outcome.SUCCEEDED: 1}
    assert (progress.retries, progress.peak_memory) == (1, 2**20)


def test_what_failed_before_is_told_by_its_cause_and_what_fails_later_is_added(watch, driven):
    other = replace(SEVEN, type="KeyError", message="'x'", signature="KeyError at x.py:2")

    def fail(chunk: int, error: ErrorRecord) -> None:
        failed = attempt(chunk, Outcome.FAILED, error=error, cause=Cause.ERROR, decision="quarantine")
        driven.commit([failed], settled(chunk, outcome=Outcome.FAILED), heartbeat=float(next(beats)))

    solve(driven, 9)
    for chunk in range(3):
        fail(chunk, SEVEN)
    fail(3, other)
    _, heard = watch(lambda: fail(4, SEVEN), lambda: end(driven, RunState.PARTIAL))

    [recalled] = of(FailuresRecalled, heard)
    assert [(one.error_type, one.stage, one.times) for one in recalled.failures] == [
        ("ValueError", "solve", 3),
        ("KeyError", "solve", 1),
    ]
    known = [(one.error_type, one.error, one.times) for one in fold(heard).failures.values()]
    assert known == [("KeyError", "'x'", 1), ("ValueError", "seven is bad", 4)]


def test_what_runs_is_told_as_the_driver_told_it(watch, driven):
    one = RunningChunk(3, "solve", 1, "w-0", BEGIN + 1, rows=4, share=0.25, objective=5.0, message="warm")
    silent = RunningChunk(4, "solve", 1, "w-1", BEGIN + 2, rows=4)
    workers = (LiveWorker("w-0", 1, 2**30, {}), LiveWorker("w-1", 1, 2**30, {}))
    use = (SlotUse("threads", 2, 2, 6),)
    live = LiveState(BEGIN + 3, (one, silent), workers=workers, slots=use, rows_planned=40, chunks_planned=10)
    shown: list[set[int]] = []

    _, heard = watch(
        lambda: driven.save_live(live),
        lambda: driven.save_live(replace(live, at=BEGIN + 4, running=(silent,))),
        lambda: (solve(driven, 3), driven.save_live(replace(live, at=BEGIN + 5, stopping=True))),
        lambda: end(driven, RunState.CANCELLED),
    )
    progress = Progress()
    for event in heard:
        progress.tell(event)
        if isinstance(event, (ChunksPlaced, ChunkReported, RunStopping)):
            shown.append(set(progress.running))

    assert [(event.chunks, event.workers, event.at) for event in of(ChunksPlaced, heard)] == [
        ((3,), ("w-0",), BEGIN + 1),
        ((4,), ("w-1",), BEGIN + 2),
    ]
    [said] = of(ChunkReported, heard)
    assert (said.chunk, said.status.share, said.status.objective, said.status.seconds) == (3, 0.25, 5.0, 2.0)
    assert [(event.slots, event.workers) for event in of(SlotsChanged, heard)] == [(use, 2)]
    assert [(event.running, event.interruptible) for event in of(RunStopping, heard)] == [(2, False)]
    # Chunk 3 has ended by what was committed, whatever the older live state says.
    assert shown == [{3}, {3}, {3, 4}, {4}]
    assert fold(heard[:3]).planned_in_full is False
    assert of(ChunksPlanned, heard)[-1].rows == 40


def test_chunks_that_were_never_tried_are_told_at_the_end(watch, driven):
    def stop() -> None:
        driven.commit([], settled(8, 9, outcome=Outcome.CANCELLED), heartbeat=2.0)
        end(driven, RunState.CANCELLED, rows_cancelled=8)

    _, heard = watch(lambda: solve(driven, 0), stop)

    assert fold(heard).outcomes == {Outcome.SUCCEEDED: 1, Outcome.CANCELLED: 2}


def test_another_session_of_the_run_is_told_from_its_start(watch, driven, store):
    again: list[RunWriter] = []
    late = attempt(0, Outcome.FAILED, error=SEVEN, decision="quarantine")
    later = replace(late, started=BEGIN + 60)

    def resume() -> None:
        again.append(store.take_over("r1"))
        again[0].reopen(state=RunState.RUNNING, started=BEGIN + 50, driver=driver_name())

    def solve_rest() -> None:
        again[0].commit([later], settled(0, outcome=Outcome.FAILED), heartbeat=3.0)
        end(again[0], RunState.PARTIAL)

    driven.commit([late], settled(0, outcome=Outcome.FAILED), heartbeat=1.0)
    _, heard = watch(lambda: solve(driven, *range(1, 10)), resume, solve_rest)

    assert [event.at for event in of(RunStarted, heard)] == [BEGIN, BEGIN + 50]
    [recalled] = of(ChunksRecalled, heard)
    assert recalled.chunks.tolist() == list(range(1, 10))
    progress = fold(heard)
    assert (progress.chunks_settled, progress.chunks_recalled, progress.rows_settled) == (10, 9, 40)
    assert progress.outcomes == {Outcome.FAILED: 1}


def test_a_queued_run_says_what_it_waits_for_until_it_begins(watch, store, clock):
    store.queue.submit(record(), QueueEntry(queued=time.time(), prepared=True))

    def claim_and_end() -> None:
        up = ServiceRecord(
            "s1", driver_name(), BEGIN, BEGIN, 60.0, dashboard="http://127.0.0.1:8787/batchrun"
        )
        store.services.add(up)
        mine = store.queue.claim("r1", "s1", lease=60.0, driver=driver_name())
        assert mine is not None
        mine.reopen(state=RunState.RUNNING, started=BEGIN + 5)
        solve(mine, *range(10), chunks=10)
        end(mine, rows_solved=40)

    found, heard = watch(*[lambda: None] * 5, claim_and_end)

    assert found is Watched.ENDED
    waiting = of(RunWaiting, heard)
    assert waiting[0].reason.startswith("run r1 is queued for ")
    assert waiting[0].reason.endswith(
        " and waits for a service; no service is up; start one with `batchrun up`"
    )
    assert [event.at - BEGIN for event in waiting][:2] == [0.0, 2.0] or len(waiting) == 1
    [started] = of(RunStarted, heard)
    assert started.dashboard == "http://127.0.0.1:8787/batchrun"
    assert heard.index(started) == len(waiting)
    assert fold(heard).chunks_settled == 10
    assert fold(heard).waits == ""


def test_a_run_whose_service_was_lost_is_watched_until_another_takes_it(watch, store):
    entry = QueueEntry(queued=BEGIN, prepared=True, owner="s1", lease_until=BEGIN)
    store.queue.submit(record(state=RunState.RUNNING, started=BEGIN, driver=ELSEWHERE, chunks=10), entry)

    def take() -> None:
        mine = store.queue.claim("r1", "s2", lease=60.0, driver=driver_name())
        assert mine is not None
        mine.reopen(state=RunState.RUNNING, started=BEGIN + 5)
        end(mine)

    found, heard = watch(lambda: None, lambda: None, take)

    assert found is Watched.ENDED
    assert "lost its service, and waits for a service; no service is up" in of(RunWaiting, heard)[0].reason
    assert len(of(RunStarted, heard)) == 2


def test_a_run_that_nothing_drives_is_not_watched_on(watch, store):
    store.create(record(state=RunState.RUNNING, started=BEGIN, driver=ELSEWHERE))

    found, heard = watch(lambda: None)

    assert found is Watched.ABANDONED
    assert isinstance(heard[-1], RunWaiting)
    assert "nothing drives the run" in heard[-1].reason
    assert "`batchrun resume r1` goes on" in heard[-1].reason


def test_a_moment_without_a_driver_is_not_the_end(watch, driven, store):
    found, heard = watch(
        lambda: driven.update(driver=ELSEWHERE),
        lambda: driven.update(driver=driver_name()),
        lambda: driven.update(driver=ELSEWHERE),
        lambda: driven.update(driver=driver_name()),
        lambda: end(driven),
    )

    assert found is Watched.ENDED
    assert of(RunWaiting, heard) == []


@pytest.fixture
def unreachable(monkeypatch) -> Callable[[bool], None]:
    """Make every store unreachable, or reachable again."""
    begin, away = Database.begin, [False]

    @contextlib.contextmanager
    def maybe(self: Database) -> Iterator[sa.Connection]:
        if away[0]:
            raise StoreError("the store at x failed: connection refused")
        with begin(self) as connection:
            yield connection

    monkeypatch.setattr(Database, "begin", maybe)

    def switch(value: bool) -> None:
        away[0] = value

    return switch


def test_a_store_that_is_away_for_a_while_loses_nothing(watch, driven, unreachable):
    solve(driven, 0)

    def back() -> None:
        unreachable(False)
        solve(driven, 1)

    found, heard = watch(lambda: unreachable(True), *[lambda: None] * 50, back, lambda: end(driven))

    assert found is Watched.ENDED
    [away] = of(RunWaiting, heard)
    assert away.reason.startswith("run r1 cannot be looked at for now: the store at x failed")
    assert away.pipeline == "pits"
    assert [event.chunks.tolist() for event in of(ChunksSettled, heard)] == [[0], [1]]
    goes_on = heard[heard.index(away) + 1 :]
    assert fold([*heard[: heard.index(away) + 1], *goes_on[:-1]]).waits == ""


def test_a_store_that_stays_away_is_given_up_after_a_minute(watch, driven, unreachable, clock):
    with pytest.raises(StoreError, match="connection refused"):
        watch(lambda: unreachable(True), *[lambda: None] * 200)

    assert clock.now == pytest.approx(BEGIN + 60, abs=2)


def test_whoever_watches_can_stop_at_any_time(url, driven):
    assert watch_run(url, "r1", [], until=lambda: True) is Watched.LEFT


def test_a_run_that_is_not_there_cannot_be_watched(url, store):
    with pytest.raises(RunNotFoundError, match="r9"):
        watch_run(url, "r9", [])


def test_a_look_at_a_run_in_which_nothing_happened_reads_none_of_its_chunks(store, driven):
    solve(driven, *range(10))
    news = store.news("r1")
    list(news.standing(news.look().record).parts)
    list(news.committed())
    said: list[str] = []

    def look() -> list[str]:
        said.clear()
        news.look()
        list(news.committed())
        return [statement for statement in said if "attempts" in statement or "chunks " in statement]

    engine = store._database.engine
    listener = lambda *told: said.append(told[2])  # noqa: E731
    sa.event.listen(engine, "before_cursor_execute", listener)
    try:
        quiet = look()
        solve(driven, 9)
        busy = look()
    finally:
        sa.event.remove(engine, "before_cursor_execute", listener)

    assert ["max(attempts.id)" in statement for statement in quiet] == [True]
    assert len(busy) == 2  # the highest id, and the new attempts with their chunks


def test_what_other_runs_commit_is_not_read_again_and_again(store, driven):
    other = store.create(record("r2", state=RunState.RUNNING, started=BEGIN))
    news = store.news("r1")
    list(news.standing(news.look().record).parts)
    for chunk in range(5):
        solve(other, chunk)
        driven.update(heartbeat=float(next(beats)))
        news.look()
        assert list(news.committed()) == []
    assert news._position == 4  # up to the change before the last one

    solve(driven, 7)
    news.look()
    [told] = news.committed()
    assert told.settled.chunks.tolist() == [7]


# Runs that are driven


def picky(chunk: pd.DataFrame) -> pd.DataFrame:
    time.sleep(0.01)
    if 7 in set(chunk["x"]):
        raise ValueError("seven is bad")
    return chunk


@pytest.mark.usefixtures("here")
def test_those_who_watch_know_in_the_end_what_the_driver_knows():
    own = Progress()
    stage = Stage(picky, retry=RetryPolicy(attempts=2, delay=0.0))
    options = {"split": by_rows(4), "cluster": "inline", "progress": False}
    handle = submit_pipeline(stage, pd.DataFrame({"x": range(200)}), observers=[own.tell], **options)
    watched = Progress()

    report = handle.watch(progress=False, observers=[watched.tell])

    handle.wait(60)
    assert report.state is RunState.PARTIAL
    for name in ("run_id", "pipeline", "rows", "rows_settled", "chunks_settled", "chunks_planned", "state"):
        assert getattr(watched, name) == getattr(own, name), name
    assert watched.outcomes == own.outcomes
    assert watched.ended is not None
    assert (watched.ended.rows_solved, watched.ended.rows_quarantined) == (199, 1)
    assert watched.chunks_cut <= own.chunks_cut


@pytest.mark.cluster
def test_a_run_on_a_cluster_can_be_watched_from_another_process(cluster: Settings, tmp_path: Path):
    go = tmp_path / "go"

    def held(chunk: pd.DataFrame) -> pd.DataFrame:
        while not go.exists():
            time.sleep(0.05)
        return chunk

    stage, table = Stage(held, isolate=True), pd.DataFrame({"x": range(30)})
    handle = submit_pipeline(stage, table, split=by_rows(1), cluster=cluster, progress=False)
    command = ["-m", "batchrun", "watch", handle.run_id, "--json", "--set", f"store={cluster.store_url}"]
    other = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    heard: list[Event] = []
    here = threading.Thread(target=lambda: handle.watch(progress=False, observers=[heard.append]))
    here.start()
    assert other.stderr is not None
    begun = other.stderr.readline()
    deadline = time.monotonic() + 60
    while not of(ChunksPlaced, heard):
        assert time.monotonic() < deadline, "no chunk was seen to run"
        time.sleep(0.05)
    go.touch()

    report = handle.wait(120)
    here.join(30)
    out, err = other.communicate(timeout=60)

    assert report.state is RunState.SUCCEEDED
    assert (other.returncode, json.loads(out)["rows_solved"]) == (0, 30), err
    assert begun.startswith(f"run {handle.run_id}: ")
    assert f"run {handle.run_id}: succeeded after " in err
    assert {chunk for event in of(ChunksSettled, heard) for chunk in event.chunks.tolist()} == set(range(30))
    assert {event.slots[0].tag for event in of(SlotsChanged, heard)} == {"threads"}
    assert fold(heard).state is RunState.SUCCEEDED
