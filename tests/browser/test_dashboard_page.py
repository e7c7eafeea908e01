"""The live page, seen with a browser while real runs go on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from batchrun import Pipeline, RetryPolicy, Stage, by_group, by_rows, run_pipeline
from batchrun.dashboard.message import (
    RUNNING,
    TOPIC,
    WAITING,
    ChunkColumns,
    FailureLine,
    Message,
    code_of,
    pack_cuts,
)
from batchrun.events import RunStarted
from batchrun.outcome import Outcome
from batchrun.progress import RunningLine

pytestmark = [pytest.mark.browser, pytest.mark.cluster]

SUCCEEDED, FAILED = code_of(Outcome.SUCCEEDED), code_of(Outcome.FAILED)
SCRIPT = "<script>alert(1)</script>"
expect = pytest.importorskip("playwright.sync_api").expect

PATIENCE = 30_000
"""Milliseconds that a browser waits for what must come."""


def gated(chunk: pd.DataFrame, *, gate: str) -> pd.DataFrame:
    """Goes through at once for chunks below five, later ones wait for a file; the third always fails.

    A chunk is one group, which cannot be cut, and takes too long to ride with another.
    """
    first = int(chunk["row"].iloc[0])
    time.sleep(0.12)
    while first >= 50 and not Path(gate).exists():
        time.sleep(0.02)
    if first == 20:
        raise ValueError(f"row 20 is bad {SCRIPT}")
    return chunk


def pipeline() -> Pipeline:
    stage = Stage(gated, resources={"HIGHMEM": 1}, retry=RetryPolicy(attempts=1))
    return Pipeline("gated", split=by_group("pit"), stages=[stage])


@pytest.fixture(scope="module")
def cluster_yaml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    path = folder / "cluster.yaml"
    path.write_text(
        "kind: local\n"
        "workers:\n"
        "  highmem: {count: 1, threads: 1, memory: 512MiB, resources: {HIGHMEM: 1}}\n"
        "dashboard: 127.0.0.1:0\n"
    )
    yield str(path)
    from batchrun.cluster.connect import close_local_clusters

    close_local_clusters()


class RunInBackground:
    """A run in a thread of its own, so that the test can look at it."""

    def __init__(self, cluster: str, gate: Path) -> None:
        self.gate = gate
        self._started: queue.Queue[str] = queue.Queue()
        self._report = None
        arguments = {"params": {"gate": str(gate)}, "cluster": cluster, "progress": False}
        self._thread = threading.Thread(target=self._run, args=(arguments,))
        self._thread.start()

    def _run(self, arguments) -> None:
        def observe(event) -> None:
            if isinstance(event, RunStarted):
                self._started.put(event.dashboard)

        rows = pd.DataFrame({"row": range(100), "pit": [row // 10 for row in range(100)]})
        self._report = run_pipeline(pipeline(), rows, observers=[observe], **arguments)

    def page_address(self) -> str:
        """Where the run says that it can be seen."""
        return self._started.get(timeout=60)

    def finish(self):
        """Let the chunks through and give the report."""
        self.gate.touch()
        self._thread.join(60)
        return self._report


@pytest.fixture
def background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    monkeypatch.chdir(tmp_path)
    runs: list[RunInBackground] = []

    def start(cluster: str) -> RunInBackground:
        runs.append(RunInBackground(cluster, tmp_path / f"gate{len(runs)}"))
        return runs[-1]

    yield start
    for run in runs:
        run.finish()


def await_codes(tab, wanted: str) -> None:
    """Wait until the tiles' codes, as `codes`, meet a condition in JavaScript."""
    source = "Bokeh.documents[0]?.get_model_by_name('batchrun-chunks')"
    script = f"() => {{ const codes = Array.from({source}?.data.code ?? []); return {wanted} }}"
    tab.wait_for_function(script, timeout=PATIENCE)


def test_a_run_is_followed_to_its_end_on_a_page_that_other_pages_lead_to(
    background, cluster_yaml, tab, shown
):
    run = background(cluster_yaml)
    address = run.page_address()
    tab.goto(address)
    await_codes(tab, f"codes.includes({RUNNING}) && codes.filter(c => c > 1).length == 5")
    codes = shown(tab)
    assert codes[:5] == [SUCCEEDED, SUCCEEDED, FAILED, SUCCEEDED, SUCCEEDED]
    assert codes.count(RUNNING) >= 1
    expect(tab.get_by_text("1 of 1 in use").last).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("4 waiting").last).to_be_visible(timeout=PATIENCE)
    before = tab.screenshot()

    report = run.finish()
    await_codes(tab, "codes.every(c => c > 1)")
    expect(tab.get_by_text("partial", exact=True).first).to_be_visible(timeout=PATIENCE)
    assert shown(tab).count(SUCCEEDED) == 9
    expect(tab.get_by_text("90 solved").first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("10 quarantined").first).to_be_visible(timeout=PATIENCE)
    assert (report.rows_solved, report.rows_quarantined) == (90, 10)
    assert tab.screenshot() != before
    # What a stage says in an error is text.
    expect(tab.get_by_text(f"row 20 is bad {SCRIPT}").first).to_be_visible(timeout=PATIENCE)
    # The status page leads to it, and it leads back.
    tab.goto(address.replace("/batchrun", "/status"))
    tab.locator(".navbar").get_by_text("Batchrun", exact=True).click()
    tab.wait_for_url(address)
    expect(tab.get_by_text("100 rows in").first).to_be_visible(timeout=PATIENCE)
    tab.get_by_role("link", name="Workers", exact=True).first.click()
    tab.wait_for_url(address.replace("/batchrun", "/workers"))


def test_a_cluster_that_was_there_before_gets_the_page_too(background, dask_processes, tab):
    def plain(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk

    seen: list[str] = []

    def observe(event) -> None:
        if isinstance(event, RunStarted):
            seen.append(event.dashboard)

    rows = pd.DataFrame({"row": range(100)})
    options = {"split": by_rows(10), "cluster": dask_processes, "progress": False, "observers": [observe]}
    run_pipeline(plain, rows, **options)
    tab.goto(seen[0])
    await_codes(tab, "codes.length == 10 && codes.every(c => c == 2)")
    run_pipeline(plain, rows, **options)
    expect(tab.get_by_text("2 runs ·").first).to_be_visible(timeout=PATIENCE)
    tab.locator("select").select_option(index=1)
    await_codes(tab, "codes.length == 10 && codes.every(c => c == 2)")


def test_before_the_first_run_it_says_how_to_start_one(bare, tab):
    tab.goto(bare[1])
    expect(tab.get_by_text("No run yet").first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("batchrun submit").first).to_be_visible(timeout=PATIENCE)


def test_no_name_that_a_user_chose_runs_as_a_script(bare, tab):
    client, address = bare
    evil = f"{SCRIPT}<img src=x onerror=alert(1)>"
    message = Message(
        evil,
        at=time.time(),
        started=time.time(),
        pipeline=evil,
        cluster=evil,
        rows_in=10,
        slots=((evil, 1.0, 1.0, 1.0),),
        failures=(FailureLine(evil, evil, evil, "failed", 1, (1,)),),
        error=evil,
    )
    client.log_event(TOPIC, message.as_dict())
    tab.goto(address)
    expect(tab.get_by_text(evil, exact=True).first).to_be_visible(timeout=PATIENCE)
    assert tab.locator("img[src=x]").count() == 0


def test_running_chunks_and_the_parts_of_one_that_was_cut_are_shown(bare, tab):
    client, address = bare
    evil = f"{SCRIPT} node 7"
    message = Message(
        "cut",
        at=time.time(),
        started=time.time(),
        pipeline="cut",
        rows_in=30,
        chunks_planned=5,
        changed=settled(np.array([3, 4]), np.array([SUCCEEDED, FAILED])),
        cuts=pack_cuts({1: (3, 4)}),
        running=(RunningLine(2, "highmem-0", 60.0, evil, 0.4, evil, 2**30, 1_000.0, 968.0),),
    )
    client.log_event(TOPIC, message.as_dict())
    tab.goto(address)
    await_codes(tab, f"codes.join() == '{WAITING},{SUCCEEDED},{FAILED},{WAITING}'")
    expect(tab.get_by_text(evil, exact=True).first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("40 % · gap 3.2 % · 1 GiB").first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("cut into parts").first).to_be_visible(timeout=PATIENCE)


def settled(chunks: np.ndarray, codes: np.ndarray | int) -> dict[str, bytes]:
    """The columns of a message about chunks that were settled."""
    each = np.ones(len(chunks), np.int64)
    return ChunkColumns(chunks, (each * codes).astype(np.uint8), each, (each * 0.1).astype(np.float32)).pack()


def test_a_million_chunks_are_drawn_and_kept_up_with(bare, tab):
    client, address = bare
    chunks = 1_000_000
    head = {"at": time.time(), "started": time.time() - 60, "rows_in": chunks, "chunks_planned": chunks}
    client.log_event(TOPIC, Message("large", pipeline="large", **head).as_dict())
    tab.goto(address)
    await_codes(tab, "codes.length == 4000")
    for first in (0, chunks // 2):
        changed = settled(np.arange(first, first + chunks // 2), SUCCEEDED)
        client.log_event(TOPIC, Message("large", pipeline="large", changed=changed, **head).as_dict())
        await_codes(tab, f"codes.filter(c => c == {SUCCEEDED}).length == {2_000 if first == 0 else 4_000}")
    changed = settled(np.array([777_777]), FAILED)
    client.log_event(TOPIC, Message("large", pipeline="large", changed=changed, **head).as_dict())
    await_codes(tab, f"codes.findIndex(c => c == {FAILED}) == {777_777 // 250}")
    told = tab.get_by_text("250 settled, worst: succeeded").first
    for step in (0, 3):  # one of the two is not on the line between tiles
        tab.mouse.move(500 + step, 300 + step)
        tab.wait_for_timeout(500)
        if told.is_visible():
            break
    expect(told).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("250 rows in 25").first).to_be_visible(timeout=PATIENCE)
