"""A service drives what is queued: from the queue to the report, by way of the store alone."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pandas as pd
import pytest

from batchrun.errors import DemandError, UsageError
from batchrun.handle import RunHandle
from batchrun.loading import load_pipeline
from batchrun.outcome import RunState
from batchrun.queueing import QueueOptions, queue_run
from batchrun.report import RunReport
from batchrun.requeue import requeue_run
from tests.services import Place, place, until

MODULE = """\
import os
import time
import pandas as pd
from batchrun import Pipeline, RetryPolicy, Stage, by_group, by_rows, pipeline

@pipeline(split=by_rows(2))
def double(chunk, *, seconds: float = 0.0):
    time.sleep(seconds)
    return chunk.assign(x=chunk["x"] * 2)

@pipeline(split=by_rows(1))
def crawl(chunk):
    time.sleep(2.0)
    return chunk.assign(x=chunk["x"] * 2)

@pipeline(split=by_rows(2), retry=RetryPolicy(attempts=1))
def picky(chunk):
    if (chunk["x"] == 5).any():
        raise ValueError("not five")
    return chunk

@pipeline(split=by_rows(1), retry=RetryPolicy(attempts=1))
def fussy(chunk, *, unless: str):
    if (chunk["x"] > 8).any() and not os.path.exists(unless):
        raise ValueError("more than eight")
    return chunk

def summed(parts):
    return pd.DataFrame({"total": [sum(part["x"].sum() for part in parts)]})

@pipeline(split=by_rows(2), combine=summed)
def total(chunk):
    return chunk

@pipeline(split=by_rows(2), resources={"GPU": 1})
def greedy(chunk):
    return chunk
"""

NUMBERS = pd.DataFrame({"x": range(12)})


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with a service."""
    with place(tmp_path_factory.mktemp("service"), MODULE) as made:
        NUMBERS.to_parquet("in.parquet")
        made.up()
        yield made


def queued(here: Place, name: str, data="in.parquet", params=None, **options) -> str:
    return queue_run(
        load_pipeline(f"work:{name}"),
        data,
        settings=here.settings,
        params=params,
        options=QueueOptions(**options),
    )


def ended(here: Place, run_id: str, timeout: float = 60.0) -> RunReport:
    return RunHandle.attach(run_id, cluster=here.settings).wait(timeout)


pytestmark = pytest.mark.cluster


def test_a_queued_run_is_driven_to_its_report(here: Place):
    report = ended(here, queued(here, "double"))

    assert report.state is RunState.SUCCEEDED
    assert report.results()["x"].tolist() == [2 * x for x in range(12)]
    assert (report.rows_in, report.rows_solved) == (12, 12)
    assert report.input["description"].endswith("in.parquet")


def test_a_frame_is_written_to_the_artifacts_first(here: Place):
    report = ended(here, queued(here, "total", NUMBERS))
    assert report.results()["total"].tolist() == [66]


def test_the_code_that_was_submitted_runs_whatever_becomes_of_its_file(here: Place):
    namespace: dict = {}
    exec("def triple(chunk):\n    return chunk * 3\n", namespace)
    from batchrun import by_rows
    from batchrun.definition import as_pipeline

    pipe = as_pipeline(namespace["triple"], split=by_rows(3))
    report = ended(here, queue_run(pipe, "in.parquet", settings=here.settings))
    assert report.results()["x"].tolist() == [3 * x for x in range(12)]


def test_bad_rows_are_set_apart_as_ever(here: Place):
    report = ended(here, queued(here, "picky"))
    assert report.state is RunState.PARTIAL
    assert (report.rows_solved, report.rows_quarantined) == (11, 1)
    assert report.quarantined["x"].tolist() == [5]


def test_a_run_goes_back_into_the_queue_for_the_chunks_that_are_asked_for(here: Place, tmp_path):
    mended = tmp_path / "mended"
    first = ended(here, queued(here, "fussy", params={"unless": str(mended)}))
    assert (first.state, first.rows_quarantined) == (RunState.PARTIAL, 3)
    mended.touch()

    waits = requeue_run(first.run_id, chunks=[10], settings=here.settings)
    report = ended(here, first.run_id)

    assert waits.run_id == first.run_id
    assert (report.state, report.rows_solved, report.rows_quarantined) == (RunState.PARTIAL, 10, 2)
    assert report.quarantined["x"].tolist() == [9, 11]
    assert report.attempts.query("attempt == 2")["chunk"].tolist() == [10]
    assert "run_requeued" in report.events["kind"].tolist()
    requeue_run(first.run_id, settings=here.settings)
    assert ended(here, first.run_id).state is RunState.SUCCEEDED


def test_what_cannot_be_run_is_refused_before_it_is_queued(here: Place):
    with here.store() as store:
        before = len(store.list(limit=1000))
        with pytest.raises(DemandError, match="GPU"):
            queued(here, "greedy")
        with pytest.raises(UsageError, match=r"missing\.parquet"):
            queued(here, "double", "missing.parquet")
        with pytest.raises(UsageError, match="needs an input"):
            queued(here, "double", None)
        with pytest.raises(UsageError, match="no run"):
            queued(here, "double", after=("nothing-like-it",))
        assert len(store.list(limit=1000)) == before


def test_a_run_follows_another_and_takes_its_results(here: Place):
    first = queued(here, "double", params={"seconds": 0.1})
    second = queued(here, "total", None, input_from=first)
    report = ended(here, second)

    assert report.results()["total"].tolist() == [132]
    assert report.rows_in == 12
    assert report.record.started >= ended(here, first).ended


def test_what_follows_a_run_that_failed_is_cancelled(here: Place):
    first = queued(here, "double", params={"seconds": 5.0})
    second = queued(here, "double", after=(first,))
    handle = RunHandle.attach(first, cluster=here.settings)
    until(lambda: handle.report.state is RunState.RUNNING)
    handle.cancel()
    handle.wait(60)

    report = ended(here, second)
    assert report.state is RunState.CANCELLED
    assert "which it was to follow, has ended cancelled" in str(report.error)
    assert report.rows_cancelled == 12
    with pytest.raises(UsageError, match="nothing can follow it"):
        queued(here, "double", after=(first,))


def test_a_queued_run_can_be_cancelled_before_it_begins(here: Place):
    run = queued(here, "double", not_before=time.time() + 3600)
    time.sleep(1.5)
    handle = RunHandle.attach(run, cluster=here.settings)
    assert not handle.done
    handle.cancel()
    assert handle.wait(60).state is RunState.CANCELLED


def test_runs_with_one_lock_go_one_after_the_other(here: Place):
    runs = [queued(here, "double", params={"seconds": 0.1}, lock="solver") for _ in range(3)]
    records = sorted((ended(here, run).record for run in runs), key=lambda record: record.started)
    assert all(before.ended <= after.started for before, after in itertools.pairwise(records))


def test_a_unique_run_answers_with_the_one_that_exists(here: Place):
    params = {"seconds": 0.01}
    first = queued(here, "double", params=params, unique=True)
    assert queued(here, "double", params=params, unique=True) == first
    ended(here, first)
    assert queued(here, "double", params=params, unique=True) == first
    assert queued(here, "double", params={"seconds": 0.02}, unique=True) != first
    assert queued(here, "double", NUMBERS, params=params, unique=True) != first


def test_runs_go_on_side_by_side(here: Place):
    long = queued(here, "crawl")
    until(lambda: RunReport(here.settings.store_url, long).rows_solved > 0)
    short = ended(here, queued(here, "double"))
    assert short.record.ended < ended(here, long).record.ended


def test_the_scheduler_tells_how_old_the_leases_of_driven_runs_are(here: Place):
    with here.store() as store:
        [service] = store.services.all()
    metrics = service.dashboard.replace("/batchrun", "/metrics")

    def lease() -> str | None:
        with urllib.request.urlopen(metrics, timeout=30) as answer:
            found = re.search(
                r'^batchrun_lease_age_seconds\{pipeline="double"\} (.*)$', answer.read().decode(), re.M
            )
        return found and found[1]

    run = queued(here, "double", params={"seconds": 0.5})
    age = float(until(lease))
    ended(here, run)

    assert 0 <= age < 3
    until(lambda: lease() is None)


class TestTheCommandLine:
    def batchrun(self, here: Place, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "batchrun", *arguments],
            cwd=here.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    def test_submit_attaches_and_ends_with_the_exit_code_of_the_run(self, here: Place):
        done = self.batchrun(here, "submit", "work:picky", "-i", "in.parquet", code=3)
        assert "is queued; Ctrl-C detaches" in done.stderr
        assert "11 solved + 1 quarantined" in done.stdout

    def test_submit_detached_prints_the_id(self, here: Place):
        done = self.batchrun(here, "submit", "work:double", "-i", "in.parquet", "--detach")
        assert ended(here, done.stdout.strip()).state is RunState.SUCCEEDED

    def test_what_only_a_queue_can_do_is_refused_in_the_foreground(self, here: Place):
        done = self.batchrun(
            here, "submit", "work:double", "-i", "in.parquet", "-c", "inline", "--lock", "x", code=2
        )
        assert "in the foreground is not queued" in done.stderr


def test_a_service_that_is_stopped_leaves_its_runs_to_the_next(tmp_path):
    with place(tmp_path, MODULE) as here:
        NUMBERS.to_parquet("in.parquet")
        run = queued(here, "crawl")
        assert not RunHandle.attach(run, cluster=here.settings).done
        here.up()
        until(lambda: RunReport(here.settings.store_url, run).rows_solved >= 2)
        down = subprocess.run(
            [sys.executable, "-m", "batchrun", "down"], cwd=here.folder, capture_output=True, check=True
        )
        assert b"has ended" in down.stderr + down.stdout
        assert here.processes[0].wait(30) == 0
        left = RunReport(here.settings.store_url, run)
        assert left.state is RunState.QUEUED
        assert 0 < left.rows_solved < 12

        here.up()
        report = ended(here, run)
        assert report.state is RunState.SUCCEEDED
        assert report.results()["x"].tolist() == [2 * x for x in range(12)]
        solved = report.attempts.query("outcome == 'succeeded'")
        assert sorted(solved["chunk"]) == list(range(12))
