"""The page of a store, seen with a browser: ended runs, what lies behind a chunk, and the buttons."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pandas as pd
import pytest

from batchrun import RunReport
from batchrun.outcome import RunState
from tests.services import Place, place, until

pytestmark = [pytest.mark.browser, pytest.mark.cluster]
expect = pytest.importorskip("playwright.sync_api").expect

PATIENCE = 60_000
"""Milliseconds that a browser waits for what must come."""
SCRIPT = "<script>alert(1)</script>"
MODULE = f"""\
import time
from batchrun import ChunkContext, Pipeline, RetryPolicy, Stage, by_group

def solve(chunk, ctx: ChunkContext, *, seconds: float):
    x = int(chunk["x"].iloc[0])
    print("solving", x)
    if x == 3:
        raise ValueError("no answer for 3 {SCRIPT}")
    began = time.time()
    while time.time() - began < seconds and not ctx.should_stop:
        ctx.incumbent(chunk.assign(y=x), objective=10.0 + x, bound=10.0)
        ctx.progress(time.time() - began, seconds, message="node {SCRIPT}")
        time.sleep(0.05)
    return chunk.assign(y=x)

once = RetryPolicy(attempts=1)
solves = Pipeline("solves", split=by_group("x"), stages=[Stage(solve, memory="256MiB", retry=once)])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A place with a service, and a run that has ended."""
    with place(tmp_path_factory.mktemp("site"), MODULE) as made:
        pd.DataFrame({"x": range(8)}).to_parquet("in.parquet")
        service = made.up()
        ended = submit(made, seconds=0.1)
        until(lambda: report(made, ended).state.ended)
        yield SimpleNamespace(place=made, dashboard=service.dashboard, ended=ended)


def submit(made: Place, *, seconds: float) -> str:
    """Queue a run."""
    command = [sys.executable, "-m", "batchrun", "submit", "work:solves", "--input", "in.parquet"]
    options = ["-p", f"seconds={seconds}", "--detach", "--json"]
    done = subprocess.run([*command, *options], cwd=made.folder, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["run"])


def report(made: Place, run_id: str) -> RunReport:
    return RunReport(made.settings.store_url, run_id)


@pytest.fixture(scope="module")
def alone(site: SimpleNamespace) -> Iterator[str]:
    """The address of ``batchrun dashboard``, which has no cluster."""
    command = [sys.executable, "-m", "batchrun", "dashboard", "--address", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(command, cwd=site.place.folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = ""
    while "}" not in text:
        text += process.stdout.readline()
    yield json.loads(text)["dashboard"]
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("whose", ["alone", "cluster"])
def test_a_run_that_ended_is_shown_as_it_ended(whose, site, request, tab):
    address = request.getfixturevalue("alone") if whose == "alone" else site.dashboard
    tab.goto(f"{address}?run={site.ended}")
    expect(tab.get_by_text("partial", exact=True).first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("7 solved").first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("1 quarantined").first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text(f"no answer for 3 {SCRIPT}").first).to_be_visible(timeout=PATIENCE)
    source = "Bokeh.documents[0].get_model_by_name('batchrun-chunks')"
    codes = f"Array.from({source}.data.code)"
    tab.wait_for_function(f"() => {codes}.filter(c => c == 2).length == 7", timeout=PATIENCE)


def test_what_lies_behind_a_chunk_is_a_click_or_a_number_away(site, alone, tab):
    tab.goto(f"{alone}?run={site.ended}")
    number = tab.get_by_label("Number of a chunk")
    expect(number).to_be_visible(timeout=PATIENCE)
    number.fill("3")
    number.press("Enter")
    expect(tab.get_by_text("chunk 3 (1 row) was given up").first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("Traceback (most recent call last)").first).to_be_visible(timeout=PATIENCE)
    source = "Bokeh.documents[0].get_model_by_name('batchrun-chunks')"
    tab.wait_for_function(f"() => {source}.data.code.length == 8", timeout=PATIENCE)
    canvas = tab.get_by_role("application", name="Map of the chunks").bounding_box()
    across = tab.evaluate(f"() => Math.max(...Array.from({source}.data.x)) + 0.5")
    tab.mouse.click(canvas["x"] + canvas["width"] / across / 2, canvas["y"] + 30)
    expect(tab.get_by_text("chunk 0 (1 row) succeeded").first).to_be_visible(timeout=PATIENCE)
    expect(tab.get_by_text("solving 0").first).to_be_visible(timeout=PATIENCE)


def test_a_run_is_stopped_with_its_best_answers_after_a_question(site, tab):
    run_id = submit(site.place, seconds=300)
    tab.goto(f"{site.dashboard}?run={run_id}")
    expect(tab.get_by_text(f"node {SCRIPT}").first).to_be_visible(timeout=PATIENCE)
    stop = tab.get_by_role("button", name="Stop, keep the best", exact=True)
    stop.click(timeout=PATIENCE)
    expect(stop).to_be_disabled(timeout=PATIENCE)
    tab.get_by_role("button", name="No", exact=True).click(timeout=PATIENCE)
    assert not report(site.place, run_id).state.ended
    stop.click(timeout=PATIENCE)
    tab.get_by_role("button", name="Yes: stop, keep the best").click(timeout=PATIENCE)
    until(lambda: report(site.place, run_id).state.ended)
    ended = report(site.place, run_id)
    assert ended.state is RunState.CANCELLED
    assert 1 <= ended.rows_solved < 7
    expect(tab.get_by_text("cancelled", exact=True).first).to_be_visible(timeout=PATIENCE)
    tab.get_by_role("button", name="Requeue", exact=True).click(timeout=PATIENCE)
    tab.get_by_role("button", name="Yes: requeue").click(timeout=PATIENCE)
    until(lambda: not report(site.place, run_id).state.ended)
    tab.get_by_role("button", name="Cancel", exact=True).click(timeout=PATIENCE)
    tab.get_by_role("button", name="Yes: cancel").click(timeout=PATIENCE)
    until(lambda: report(site.place, run_id).state.ended)


def test_from_within_another_page_nothing_can_be_stopped(site, tab):
    frame = tab.frame_locator("iframe")
    tab.set_content(f'<iframe src="{site.dashboard}?run={site.ended}" width="1200" height="700"></iframe>')
    expect(frame.get_by_text("7 solved").first).to_be_visible(timeout=PATIENCE)
    expect(frame.get_by_role("button", name="Requeue", exact=True)).to_have_count(0)
