"""A real kernel, and a front end that does what JupyterLab does: the button, the interrupt, tracebacks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

VIEW = "application/vnd.jupyter.widget-view+json"
CLUSTER = "kind: local\nworkers:\n  only: {count: 1, threads: 1, memory: 1GiB}\ndashboard: 127.0.0.1:0\n"
SETUP = """
import time
import pandas as pd
from batchrun import ChunkContext, Pipeline, RetryPolicy, Stage, by_rows
from batchrun import RunHandle, open_report, run_pipeline, submit_pipeline

rows = pd.DataFrame({"x": range(4)})

def search(chunk, ctx: ChunkContext):
    best = chunk.assign(answer=1)
    while not ctx.should_stop:
        ctx.incumbent(best, objective=100, bound=90)
        time.sleep(0.02)
    return best

def double(chunk):
    return 2 * chunk

def broken(chunk):
    weight = chunk["x"].sum()
    raise ValueError(f"no scale holds {weight}")

solves = Pipeline("solves", split=by_rows(1), stages=[search])
"""


class Frontend:
    """Runs cells, keeps what they show, and answers as a page with widgets does."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self.subshell: str | None = None
        self.begin()

    def begin(self) -> None:
        """Forget what was shown."""
        self.idle = False
        self.shown: dict[str, dict[str, Any]] = {}
        self.displays: list[dict[str, Any]] = []
        self.buttons: dict[str, dict[str, Any]] = {}
        self.said: list[dict[str, Any]] = []
        self.text = ""
        self.error: dict[str, Any] | None = None

    def start(self, code: str, *, watched: bool = True) -> None:
        """Run a cell, and do not wait for it."""
        self.begin()
        self.cell = self.client.execute(code, allow_stdin=watched)

    def run(self, code: str, **options: Any) -> str:
        """Run a cell; what it printed."""
        self.start(code, **options)
        self.wait(lambda: self.idle)
        return self.text

    def wait(self, ready: Callable[[], object], seconds: float = 45.0) -> None:
        """Take messages in until something is so."""
        until = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < until, f"nothing came of it: {self.text} {self.shown} {self.error}"
            if self.client.iopub_channel.msg_ready():
                self._take(self.client.get_iopub_msg(timeout=1))
            else:
                time.sleep(0.005)

    def answer(self, model: str, data: dict[str, Any]) -> None:
        """Send what the page does with a widget."""
        message = self.client.session.msg("comm_msg", {"comm_id": model, "data": data})
        message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)

    def draw(self) -> str:
        """Wait for the button and draw it; its model."""
        self.wait(lambda: any(VIEW in data for data in self.displays))
        [model] = [data[VIEW]["model_id"] for data in self.displays if VIEW in data]
        self.wait(lambda: model in self.buttons)
        self.answer(model, {"method": "update", "state": {"_view_count": 1}, "buffer_paths": []})
        return str(model)

    def click(self, model: str) -> None:
        """Press the button."""
        self.answer(model, {"method": "custom", "content": {"event": "click"}})

    def html(self) -> str:
        """All that is shown now."""
        return "\n".join(data["text/html"] for data in self.shown.values() if "text/html" in data)

    def _take(self, message: dict[str, Any]) -> None:
        content, kind = message["content"], message["msg_type"]
        if kind in ("display_data", "update_display_data"):
            self.displays += [content["data"]] if kind == "display_data" else []
            self.shown[content["transient"]["display_id"]] = content["data"]
        elif kind == "comm_open" and content["data"]["state"].get("_model_name") == "ButtonModel":
            self.buttons[content["comm_id"]] = content["data"]["state"]
        elif kind == "comm_msg" and content["comm_id"] in self.buttons:
            if content["data"]["method"] == "update":
                self.said.append(content["data"]["state"])
                self.buttons[content["comm_id"]] |= content["data"]["state"]
        elif kind == "stream":
            self.text += content["text"]
        elif kind == "error":
            self.error = content
        elif kind == "status" and message["parent_header"].get("msg_id") == self.cell:
            self.idle |= content["execution_state"] == "idle"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "cluster.yaml").write_text(CLUSTER)
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder))
    try:
        frontend = Frontend(manager, client)
        frontend.run(SETUP)
        yield frontend
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def lab(page: Frontend) -> Iterator[Frontend]:
    """A page that sends its widgets' messages to a subshell, as JupyterLab does."""
    page.client.control_channel.send(page.client.session.msg("create_subshell_request", {}))
    reply = page.client.get_control_msg(timeout=10)["content"]
    if "subshell_id" not in reply:
        pytest.skip("this ipykernel has no subshells")
    page.subshell = reply["subshell_id"]
    yield page
    message = page.client.session.msg("delete_subshell_request", {"subshell_id": page.subshell})
    page.client.control_channel.send(message)
    page.client.get_control_msg(timeout=10)
    page.subshell = None


def plain(error: dict[str, Any]) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error["traceback"]))


def test_the_button_stops_the_run_of_a_cell_once_and_keeps_its_best_answers(lab: Frontend) -> None:
    lab.start("report = run_pipeline(solves, rows)")
    model = lab.draw()
    assert lab.buttons[model]["disabled"]  # until it was heard that it is drawn
    lab.wait(lambda: not lab.buttons[model]["disabled"])
    assert lab.buttons[model]["description"] == "Stop and keep the best answers"
    lab.wait(lambda: "gap 10 %" in lab.html())
    lab.click(model)
    lab.click(model)
    lab.wait(lambda: lab.idle)

    assert lab.error is None
    assert lab.buttons[model]["disabled"]
    assert "Stopped by the button: 1 stopped with a solution, worst gap 10 %; 3 rows cancelled" in lab.html()
    assert all(VIEW not in data for data in lab.shown.values())
    told = lab.run(
        "print(report.state, report.results()['answer'].tolist(), report.rows_cancelled)\n"
        "import sqlite3\n"
        "with sqlite3.connect('.batchrun/store.db') as store:\n"
        "    print('asked', store.execute('select count(*) from requests').fetchone()[0])"
    )
    assert "cancelled [1] 3" in told
    assert "asked 1" in told


def test_a_run_that_takes_no_time_shows_no_button(page: Frontend) -> None:
    page.run("run_pipeline(double, rows, split=by_rows(2), cluster='inline');")

    assert "4 rows in = 4 solved" in page.html()
    assert not any(VIEW in data for data in page.displays)


def test_nobody_is_offered_a_button_who_runs_the_notebook_as_a_program(page: Frontend) -> None:
    page.run("run_pipeline(double, rows, split=by_rows(2), cluster='inline');", watched=False)

    assert not page.buttons
    [shown] = page.shown.values()
    assert shown["text/plain"].splitlines()[0].startswith("double (")
    assert "4 rows in = 4 solved" in shown["text/plain"]


def test_a_run_in_the_background_is_stopped_by_its_button_in_any_front_end(page: Frontend) -> None:
    page.run("handle = submit_pipeline(solves, rows)")
    model = page.draw()
    page.wait(lambda: "gap 10 %" in page.html() and not page.buttons[model]["disabled"])
    page.click(model)
    page.wait(lambda: "Stopped by the button" in page.html())

    assert "cancelled 1" in page.run("report = handle.wait(); print(report.state, report.rows_solved)")


def test_a_run_is_watched_beside_other_cells_and_stopped_from_there(page: Frontend) -> None:
    page.run("handle = submit_pipeline(solves, rows, progress=False)")
    assert not page.buttons
    page.run("watched = RunHandle.attach(handle.run_id).watch(wait=False)")
    model = page.draw()
    page.wait(lambda: not page.buttons[model]["disabled"])
    page.click(model)
    page.wait(lambda: "Stopped by the button" in page.html())

    assert "cancelled 1" in page.run("report = handle.wait(); print(report.state, report.rows_solved)")


def test_one_interrupt_stops_the_run_and_says_how_to_go_on(page: Frontend) -> None:
    page.start("run_pipeline(solves, rows)")
    page.wait(lambda: "gap 10 %" in page.html() and any(VIEW in data for data in page.displays))
    assert "■ stops the run and keeps what is solved" in page.html()
    page.manager.interrupt_kernel()
    page.wait(lambda: page.idle)

    [state] = page.buttons.values()  # nobody said that it is drawn, so it never promised anything
    assert state["disabled"]
    assert all(said.get("disabled", True) for said in page.said)
    assert all(VIEW not in data and "Button" not in data["text/plain"] for data in page.shown.values())

    assert page.error is not None
    assert page.error["ename"] == "RunInterrupted"
    shown = plain(page.error)
    assert "run_pipeline(solves, rows)" in shown
    assert "open_report(" in shown
    assert re.search(r"resume_run\('solves-\S+', pipeline=\.\.\.\) goes on with it", shown)
    assert "loop.py" not in shown
    assert "cancelled" in page.run("print(open_report().state)")


def test_what_was_asked_wrongly_is_shown_in_the_users_cell_and_the_way_inside_on_request(
    page: Frontend,
) -> None:
    page.run("run_pipeline(double, rows, cluster='inline')")
    assert page.error is not None
    shown = plain(page.error)

    assert "run_pipeline(double, rows, cluster='inline')" in shown
    assert "launch.py" not in shown
    assert re.search(r"\d+ frames? inside batchrun left out; %tb Verbose shows them", shown)
    assert shown.splitlines()[-1].startswith("PipelineError") or "PipelineError:" in shown
    page.run("%tb Verbose")
    assert page.error is not None
    assert "launch.py" in plain(page.error)


def test_an_error_of_the_users_module_comes_first_and_with_its_frames(page: Frontend) -> None:
    page.run(
        "import pathlib, sys\nsys.path.insert(0, '.')\n"
        "pathlib.Path('own_pipes.py').write_text('ratio = 1 / 0')\n"
        "run_pipeline('own_pipes:pipe', rows, cluster='inline')"
    )
    assert page.error is not None
    shown = plain(page.error)

    assert shown.index("ratio = 1 / 0") < shown.index("which led to") < shown.index("-> 4 run_pipeline")
    assert "loading.py" not in shown


def test_the_frames_of_a_stage_come_before_those_of_who_asked_for_success(page: Frontend) -> None:
    page.run(
        "once = Stage(broken, retry=RetryPolicy(attempts=1))\n"
        "run_pipeline(once, rows, split=by_rows(4), cluster='inline').raise_for_state()"
    )
    assert page.error is not None
    shown = plain(page.error)

    assert shown.index("in broken") < shown.index("raise_for_state()") < shown.rindex("RunFailedError")
    assert "no scale holds" in shown[: shown.index("raise_for_state()")]
    assert "worker/leg.py" not in shown


def test_a_defect_of_ours_is_shown_in_full(page: Frontend) -> None:
    page.run(
        "import batchrun.launch as launch\nright, launch.new_run_id = launch.new_run_id, lambda: None\n"
        "try:\n    run_pipeline(double, rows, split=by_rows(2), cluster='inline')\n"
        "finally:\n    launch.new_run_id = right"
    )
    assert page.error is not None
    assert page.error["ename"] == "TypeError"
    assert "launch.py" in plain(page.error)
