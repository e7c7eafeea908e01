"""Runs in the background: they begin, are waited for, stopped, and found again from elsewhere."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from batchrun import by_rows
from batchrun.config import Settings
from batchrun.context import ChunkContext
from batchrun.definition import Pipeline
from batchrun.errors import ParameterError, RunNotFoundError, UsageError
from batchrun.events import ChunksSettled, Event, RunEnded, RunStarted
from batchrun.handle import RunHandle
from batchrun.launch import resume_run, run_pipeline, submit_pipeline
from batchrun.outcome import Outcome, RunState
from batchrun.retry import RetryPolicy
from batchrun.stage import Stage
from batchrun.store.queue import QueueEntry
from batchrun.store.runs import RunRecord, RunStore
from tests.writing import writer

STORE = "sqlite:///.batchrun/store.db"

pytestmark = pytest.mark.usefixtures("here")


def double(chunk: pd.DataFrame, *, factor: int = 2) -> pd.DataFrame:
    return chunk * factor


def dawdle(chunk: pd.DataFrame) -> pd.DataFrame:
    time.sleep(0.05)
    return chunk


def table(rows: int = 4) -> pd.DataFrame:
    return pd.DataFrame({"x": range(rows)})


def submit(function: Callable[..., Any] = double, rows: int = 4, **more: Any) -> RunHandle:
    options: dict[str, Any] = {"split": by_rows(1), "cluster": "inline", "progress": False, **more}
    return submit_pipeline(function, table(rows), **options)


def abandoned_run() -> str:
    """A run with a row that is not solved, as one whose driver was killed leaves it."""

    def picky(chunk: pd.DataFrame) -> pd.DataFrame:
        if chunk["x"].iloc[0] == 2:
            raise ValueError("two")
        return chunk

    stage = Stage(picky, retry=RetryPolicy(attempts=1))
    report = run_pipeline(stage, table(), split=by_rows(1), cluster="inline", progress=False)
    with RunStore(STORE) as store:
        gone = {"state": RunState.RUNNING, "ended": None, "driver": "elsewhere/1/1.0", "heartbeat": 1_000.0}
        writer(store, report.run_id).update(**gone, started=990.0, rows_quarantined=0)
    return report.run_id


def quick_pipeline() -> Pipeline:
    """The pipeline of `dawdle`, quicker."""
    return Pipeline("dawdle", split=by_rows(1), stages=[Stage(lambda chunk: chunk, name="dawdle")])


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_run_that_was_submitted_can_be_waited_for():
    handle = submit(params={"factor": 3})

    report = handle.wait(60)

    assert report.run_id == handle.run_id
    assert report.state is RunState.SUCCEEDED
    assert report.results()["x"].tolist() == [0, 3, 6, 9]
    assert handle.done
    assert handle.report.params == {"factor": 3}


def test_submitting_returns_while_the_run_goes_on_and_is_recorded():
    handle = submit(dawdle, rows=400)

    assert not handle.done
    assert handle.report.driven
    assert "going on" in repr(handle)
    assert handle.run_id in handle.why()
    with pytest.raises(TimeoutError, match=f"run {handle.run_id} is not done after 0.05 s"):
        handle.wait(0.05)
    handle.cancel()
    handle.wait(60)


def test_what_cannot_run_is_refused_when_it_is_submitted():
    with pytest.raises(ParameterError, match="factr"):
        submit(params={"factr": 3})
    with pytest.raises(TypeError, match="colour"):
        submit(colour="red")

    with RunStore(STORE) as store:
        assert store.list() == []


def test_an_error_that_ends_the_run_reaches_who_waits():
    def burst(event: Event) -> None:
        if isinstance(event, ChunksSettled):
            raise RuntimeError("the observer is broken")

    handle = submit(observers=[burst])

    with pytest.raises(RuntimeError, match="the observer is broken"):
        handle.wait(60)
    assert handle.done
    assert handle.report.state is RunState.FAILED


def test_observers_hear_all_of_the_run_and_live_in_the_context_that_submitted_it():
    cell = contextvars.ContextVar("cell", default="nowhere")
    cell.set("cell 4")
    heard: list[tuple[type[Event], str]] = []

    submit(observers=[lambda event: heard.append((type(event), cell.get()))]).wait(60)

    assert heard[0] == (RunStarted, "cell 4")
    assert heard[-1] == (RunEnded, "cell 4")


def test_a_cancelled_run_keeps_what_is_solved_and_can_be_resumed():
    handle = submit(dawdle, rows=400)
    until(lambda: handle.report.rows_solved > 0)

    handle.cancel()
    report = handle.wait(60)

    assert report.state is RunState.CANCELLED
    assert 0 < report.rows_solved < 400
    assert report.rows_solved + report.rows_cancelled == 400
    assert handle.why().startswith(f"run {handle.run_id} was cancelled after ")
    again = resume_run(handle.run_id, pipeline=quick_pipeline(), cluster="inline", progress=False)
    assert again.state is RunState.SUCCEEDED


def test_one_chunk_can_be_cancelled_and_the_others_go_on():
    handle = submit(dawdle, rows=60)
    until(lambda: len(handle.report.chunks) == 60)

    handle.cancel(59)
    report = handle.wait(60)

    assert (report.state, report.rows_cancelled) == (RunState.PARTIAL, 1)
    assert report.chunks["outcome"].value_counts().to_dict() == {"succeeded": 59, "cancelled": 1}
    assert report.chunks["outcome"].iloc[59] == Outcome.CANCELLED


def test_what_has_ended_cannot_be_cancelled():
    handle = submit()
    handle.wait(60)

    with pytest.raises(UsageError, match=r"has ended \(succeeded\); there is nothing left to cancel"):
        handle.cancel()


def test_a_chunk_that_has_ended_or_is_not_there_cannot_be_cancelled():
    handle = submit(dawdle, rows=400)
    until(lambda: handle.report.rows_solved > 0)

    with pytest.raises(UsageError, match=r"chunk 0 has ended \(succeeded\)"):
        handle.cancel(0)
    with pytest.raises(UsageError, match="has no chunk 400; its chunks are 0 to 399 so far"):
        handle.cancel(400)
    handle.cancel()
    handle.wait(60)


def test_a_run_can_be_found_again_and_waited_for_by_its_id():
    handle = submit(dawdle, rows=30)

    found = RunHandle.attach(handle.run_id[:-1])

    assert found.run_id == handle.run_id
    assert not found.done
    with pytest.raises(TimeoutError):
        found.wait(0.05)
    assert found.wait(60).state is RunState.SUCCEEDED
    assert found.done
    with pytest.raises(RunNotFoundError):
        RunHandle.attach("nothing")


def test_a_run_that_nothing_drives_is_recorded_as_cancelled_at_once():
    found = RunHandle.attach(abandoned_run())
    assert found.done
    assert found.wait(1).abandoned
    with pytest.raises(UsageError, match="so chunk 2 does not run"):
        found.cancel(2)

    found.cancel()

    report = found.report
    assert report.state is RunState.CANCELLED
    assert (report.rows_solved, report.rows_quarantined, report.rows_cancelled) == (3, 0, 1)
    assert report.seconds == 10.0


def queued_run() -> RunHandle:
    record = RunRecord("q1", "double", None, RunState.QUEUED, time.time(), "by_rows(1)", "", rows_in=4)
    with RunStore(STORE) as store:
        store.queue.submit(record, QueueEntry(queued=time.time(), prepared=True))
    return RunHandle.attach("q1")


def test_a_queued_run_is_not_done_though_nothing_drives_it():
    found = queued_run()

    assert not found.done
    assert not found.report.abandoned
    assert found.state is RunState.QUEUED
    assert repr(found) == "<RunHandle q1: queued>"
    with pytest.raises(TimeoutError):
        found.wait(0.05)
    with pytest.raises(UsageError, match="run q1 is queued, so chunk 0 does not run"):
        found.cancel(0)


def test_a_queued_run_that_is_cancelled_will_not_be_taken():
    found = queued_run()

    found.cancel()

    assert found.wait(1).state is RunState.CANCELLED
    assert (found.report.rows_cancelled, found.report.seconds) == (4, 0.0)
    with RunStore(STORE) as store:
        assert store.queue.claim("q1", "s1", lease=60.0, driver="host/1/1.0") is None


def test_an_interrupt_ends_the_watching_and_not_the_run():
    handle = submit(dawdle, rows=100)

    def interrupt(event: Event) -> None:
        if isinstance(event, ChunksSettled):
            raise KeyboardInterrupt

    report = handle.watch(progress=False, observers=[interrupt])

    assert report.state is RunState.RUNNING
    assert handle.watch(progress=False).state is RunState.SUCCEEDED


def test_a_handle_shows_the_card_and_the_logs_of_its_run(here: Path):
    def talk(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
        ctx.log.warning("chunk %d speaks", ctx.chunk)
        return chunk

    handle = submit(talk)
    handle.wait(60)

    assert handle.run_id in handle._repr_html_()
    assert "chunk 2 speaks" in handle.logs(2)
    assert "chunk 1 speaks" not in handle.logs(2)


@pytest.mark.cluster
def test_a_solve_that_is_cancelled_on_a_worker_can_leave_its_best_answer(cluster: Settings):
    def solve(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
        for step in range(100_000 if ctx.chunk == 1 else 1):
            ctx.incumbent(chunk.assign(step=step), objective=100.0, bound=90.0)
            time.sleep(0.01)
        return chunk.assign(step=-1)

    handle = submit(Stage(solve, isolate=True), rows=3, cluster=cluster)
    until(lambda: len(handle.report.chunks) == 3)
    until(lambda: "objective 100, bound 90, gap 10 %" in handle.why(1))

    handle.cancel(1, keep_best=True)
    report = handle.wait(120)

    assert report.state is RunState.SUCCEEDED
    assert report.chunks["outcome"].tolist() == ["succeeded", "stopped_with_solution", "succeeded"]
    steps = report.results()["step"].tolist()
    assert steps[0] == steps[2] == -1
    assert steps[1] >= 0
    assert "because somebody asked for it: objective 100, bound 90, gap 10 %" in handle.why(1)
