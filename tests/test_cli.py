"""The command line as scripts use it: exit codes, one JSON document, clear messages."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from batchrun.cli import main
from batchrun.cli.cancelling import cancel_run
from batchrun.config import load_settings
from batchrun.errors import UsageError
from batchrun.handle import RunHandle
from batchrun.launch import submit_pipeline
from batchrun.outcome import Attempt, Outcome, RunState
from batchrun.store.driver import driver_name, driving
from batchrun.store.live import LiveState, RunningChunk
from batchrun.store.queue import QueueEntry
from batchrun.store.runs import RunRecord, RunStore
from tests.writing import writer

STORE = "sqlite:///.batchrun/store.db"

COMMANDS = (
    "submit",
    "resume",
    "watch",
    "cancel",
    "requeue",
    "up",
    "down",
    "runs",
    "show",
    "why",
    "logs",
    "report",
    "events",
    "prune",
    "pipelines",
    "schedule",
    "config",
    "doctor",
)


def as_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    line = [sys.executable, "-m", "batchrun", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


MODULE = """\
import time
import pandas as pd
from batchrun import Pipeline, RetryPolicy, Stage, by_rows, pipeline

@pipeline(split=by_rows(4))
def double(chunk: pd.DataFrame, *, factor: int = 2) -> pd.DataFrame:
    '''Twice as much of x.'''
    return chunk.assign(y=chunk["x"] * factor)

@pipeline(split=by_rows(1))
def dawdle(chunk: pd.DataFrame) -> pd.DataFrame:
    time.sleep(0.4)
    return chunk

def picky(chunk: pd.DataFrame) -> pd.DataFrame:
    if 7 in set(chunk["x"]):
        raise ValueError("seven [bold]is[/bold] bad")
    return chunk

once = RetryPolicy(attempts=1)
picky_pipeline = Pipeline("picky", split=by_rows(4), stages=[Stage(picky, retry=once)])
torn = Stage(lambda chunk: chunk.nothing, name="torn", retry=once)
broken = Pipeline("broken", split=by_rows(1), stages=[torn])
gpu = Pipeline("gpu", split=by_rows(4), stages=[Stage(picky, resources={"GPU": 2})])
"""


PIPELINES = ("double", "picky_pipeline", "broken")


@dataclass
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def project(here: Path) -> Path:
    (here / "work.py").write_text(MODULE)
    pd.DataFrame({"x": range(20)}).to_parquet(here / "in.parquet")
    return here


@pytest.fixture
def batchrun(monkeypatch, capsys) -> Iterator[Callable[..., Said]]:
    """The command line, called in this process as the shell would."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> Said:
        sys.modules.pop("work", None)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "argv", ["batchrun", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Said(int(left.value.code or 0), out, err)

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)
    sys.modules.pop("work", None)


@pytest.fixture
def submit(batchrun) -> Callable[..., Said]:
    """A run in this process."""
    return lambda pipeline, *more: batchrun(
        "submit", pipeline, "--input", "in.parquet", "--cluster", "inline", *more
    )


@pytest.mark.usefixtures("project")
class TestSubmit:
    def test_runs_a_pipeline_of_the_current_folder_and_prints_one_document(self, project, submit):
        said = submit("work:double", "-p", "factor=3", "--json", "--excel", "out.xlsx")

        assert said.code == 0
        document = said.document
        assert document["state"] == "succeeded"
        assert document["params"] == {"factor": 3}
        counted = ("rows_in", "rows_solved", "rows_quarantined", "rows_cancelled")
        assert [document[key] for key in counted] == [20, 20, 0, 0]
        assert Path(document["folder"]).is_dir()
        assert Path(document["report"]).read_text(encoding="utf-8").startswith("<!")
        assert (project / "out.xlsx").stat().st_size > 1000

    def test_says_in_words_how_it_ended(self, submit):
        said = submit("work:picky_pipeline")

        assert said.code == 3
        assert "20 rows in = 19 solved + 1 quarantined + 0 cancelled" in said.out
        assert "seven [bold]is[/bold] bad" in said.out
        assert "\x1b[" not in said.out + said.err

    def test_with_a_hook_that_fails_prints_one_document_and_ends_as_the_run_did(self, project, submit):
        (project / "cluster.yaml").write_text("hooks: {command: [no-such-program-here]}\n")

        said = submit("work:picky_pipeline", "--json", "--quiet")

        assert said.code == 3
        assert said.document["state"] == "partial"
        with RunStore(STORE) as store:
            [failed] = store.events.read(kinds=["hook_failed"])
        assert failed.run_id == said.document["run"]
        assert failed.data["error"].startswith("it cannot be started")

    def test_of_a_broken_pipeline_fails_and_shows_the_error(self, submit):
        said = submit("work:broken", "--quiet")

        assert said.code == 1
        assert "AttributeError" in said.out
        assert said.err == ""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["work:duble"], "Did you mean `double`"),
            (["wrok:double"], "Did you mean `work`"),
            (["work:double", "-p", "factr=3"], "Did you mean `factor`"),
            (["work:double", "-p", "factor=high"], "factor"),
            (["work:double", "-p", "factor"], "name=value"),
            (["work:double", "--set", "stroe=x"], "Did you mean `store`"),
            (["work:double", "--input", "nothing.parquet"], "nothing.parquet"),
            (["work:double", "--colour"], "--colour"),
        ],
    )
    def test_with_a_mistake_says_so_once_and_runs_nothing(self, project, arguments, said, submit):
        answer = submit(*arguments)

        assert answer.code == 2
        assert said in " ".join(answer.err.split())
        assert answer.out == ""
        assert "Traceback" not in answer.err
        assert not list(project.glob(".batchrun/runs/*"))

    def test_with_a_mistake_is_a_document_too_if_asked(self, submit):
        said = submit("work:duble", "--json")

        assert said.code == 2
        assert said.document["kind"] == "PipelineNotFoundError"
        assert "double" in said.document["error"]

    def test_to_a_scheduler_that_does_not_answer_has_a_code_of_its_own(self, batchrun):
        said = batchrun(
            "submit",
            "work:double",
            "--input",
            "in.parquet",
            "--cluster",
            "tcp://127.0.0.1:9",
            "--set",
            "timeout=1s",
        )

        assert said.code == 5
        assert "tcp://127.0.0.1:9" in said.err

    @pytest.mark.cluster
    def test_with_a_demand_that_no_worker_meets_names_it_and_what_there_is(self, project, batchrun):
        (project / "cluster.yaml").write_text(
            "workers: {small: {count: 1, memory: 512MiB}}\ndashboard: off\n"
        )

        said = batchrun("submit", "work:gpu", "--input", "in.parquet")

        assert said.code == 2
        told = " ".join(said.err.split())
        assert "GPU: 2" in told
        assert "512 MiB" in told
        assert not list(project.glob(".batchrun/runs/*"))


@pytest.mark.usefixtures("project")
class TestLooking:
    def test_at_runs_and_at_one_of_them(self, batchrun, submit):
        first = submit("work:double", "--json").document["run"]
        submit("work:picky_pipeline", "--json")

        listed = batchrun("runs", "--json").document["runs"]
        assert [run["state"] for run in listed] == ["partial", "succeeded"]
        assert batchrun("runs", "--json", "--state", "partial").document["runs"] == listed[:1]
        shown = batchrun("show", first, "--json")
        assert shown.code == 0
        assert shown.document["run"] == first
        assert batchrun("show", first).out.count("20 rows in") == 1
        assert "picky" in batchrun("runs").out

    def test_at_a_run_whose_driver_is_gone_says_so_and_how_to_go_on(self, batchrun, submit):
        run = submit("work:picky_pipeline", "--json").document
        assert run["driven"] is False
        with RunStore("sqlite:///.batchrun/store.db") as store:
            left = {"state": RunState.RUNNING, "ended": None, "driver": "elsewhere/1/1.0", "heartbeat": 0.0}
            writer(store, run["run"]).update(**left)

        assert [found["driven"] for found in batchrun("runs", "--json").document["runs"]] == [False]
        listed = batchrun("runs").out
        assert "stopped" in listed
        assert f"batchrun resume {run['run']}" in listed
        assert batchrun("show", "--json").document["driven"] is False
        shown = " ".join(batchrun("show").out.split())
        assert f"recorded as running, but its driver is gone: batchrun resume {run['run']}" in shown

    def test_at_a_run_that_is_not_there_is_wrong_usage(self, batchrun):
        said = batchrun("show", "nothing")

        assert said.code == 2
        assert "nothing" in said.err

    def test_at_the_report_writes_it(self, project, batchrun, submit):
        submit("work:double", "--json")

        said = batchrun("report", "last", "--html", "r.html", "--excel", "r.xlsx")

        assert said.code == 0
        assert said.out.split() == ["r.html", "r.xlsx"]
        assert (project / "r.html").exists()

    def test_at_the_report_opens_it_in_the_browser_that_is_there(self, project, submit):
        submit("work:double", "--json")
        browser = project / "browser"
        browser.write_text(f'#!/bin/sh\necho "$1" > {project}/opened\n')
        browser.chmod(0o700)

        said = as_a_process("report", "last", "--open", BROWSER=str(browser))

        page = Path(said.stdout.strip())
        assert said.returncode == 0
        assert (project / "opened").read_text().strip() == page.absolute().as_uri()
        assert page.read_text(encoding="utf-8").startswith("<!")

    def test_at_the_report_says_so_where_there_is_no_browser(self, project, submit):
        submit("work:double", "--json")

        said = as_a_process("report", "last", "--excel", "r.xlsx", "--open", BROWSER="", DISPLAY="", PATH="")

        html, excel = said.stdout.split()
        assert said.returncode == 0
        assert Path(html).exists()
        assert excel == "r.xlsx"
        assert f"no browser here; open {html}" in " ".join(said.stderr.split())

    def test_at_pipelines_lists_them_with_what_they_are_for(self, batchrun):
        said = batchrun("pipelines", "work", "--json")

        found = {row["pipeline"]: row for row in said.document["pipelines"]}
        assert set(found) == {"work:double", "work:dawdle", "work:picky_pipeline", "work:broken", "work:gpu"}
        assert found["work:double"]["doc"] == "Twice as much of x."
        assert found["work:double"]["split"] == "by_rows(4)"

    def test_at_the_settings_shows_where_each_comes_from(self, project, batchrun):
        (project / "cluster.yaml").write_text("kind: local\nworkers:\n  a: {count: 1}\n")

        said = batchrun("config", "--json", "--set", "run.flush_every=2s")

        sources = {s["key"]: (s["value"], s["source"]) for s in said.document["settings"]}
        assert sources["workers.a.count"] == (1, "cluster.yaml:3")
        assert sources["run.flush_every"][1] == "flag"
        assert sources["run.flush_bytes"][1] == "default"

    def test_at_the_schema_prints_it(self, batchrun):
        assert "$schema" in batchrun("config", "--schema").document

    def test_at_help_names_every_command(self, batchrun):
        said = batchrun("--help")

        assert said.code == 0
        for command in COMMANDS:
            assert command in said.out

    def test_at_the_health_of_the_installation(self, batchrun):
        said = batchrun("doctor", "--json")

        assert {check["ok"] for check in said.document["checks"]} <= {True, None, False}
        assert said.code in (0, 1)


def abandon(run: str) -> None:
    """Leave a run as a driver that was killed leaves it."""
    with RunStore(STORE) as store:
        left = {"state": RunState.RUNNING, "ended": None, "driver": "elsewhere/1/1.0", "heartbeat": 0.0}
        writer(store, run).update(**left, rows_quarantined=0)


@pytest.fixture
def going_on(project, monkeypatch) -> Iterator[RunHandle]:
    """A run that takes eight seconds, driven by a thread of this process."""
    monkeypatch.syspath_prepend(project)
    handle = submit_pipeline("work:dawdle", "in.parquet", cluster="inline", progress=False)
    yield handle
    with contextlib.suppress(UsageError):
        handle.cancel()
    handle.wait(60)


@pytest.mark.usefixtures("project")
class TestWhy:
    def test_of_a_run_and_of_a_chunk_is_one_sentence(self, batchrun, submit):
        run = submit("work:picky_pipeline", "--json").document["run"]

        of_run, of_chunk = batchrun("why"), batchrun("why", run, "0")

        assert of_run.code == of_chunk.code == 0
        assert of_run.out.count("\n") == of_chunk.out.count("\n") == 1
        assert "of 20 rows 19 are solved and 1 quarantined" in of_run.out
        assert "1 chunk was given up at `picky`: ValueError: seven [bold]is[/bold] bad" in of_run.out
        assert of_chunk.out.startswith("chunk 0 (4 rows) succeeded in ")

    def test_is_a_document_if_asked_and_part_of_that_of_show(self, batchrun, submit):
        run = submit("work:double", "--json").document["run"]

        document = batchrun("why", "last", "4", "--json").document

        assert document["run"] == run
        assert document["chunk"] == 4
        assert document["why"].startswith("chunk 4 (4 rows) succeeded in ")
        shown = batchrun("show", "--json").document
        assert shown["why"] == batchrun("why", "--json").document["why"]
        assert shown["running"] == []

    def test_of_a_chunk_that_is_not_there_names_those_that_are(self, batchrun, submit):
        submit("work:double", "--json")

        said = batchrun("why", "last", "99")

        assert said.code == 2
        assert "its chunks are 0 to 4" in said.err


@pytest.mark.usefixtures("project")
class TestLogs:
    @pytest.fixture
    def run(self, submit) -> str:
        """A run of which chunks 1 and 3 have said something."""
        run: str = submit("work:double", "--json").document["run"]
        with RunStore(STORE) as store:
            for chunk in (3, 1):
                said = Attempt(
                    chunk, "double", 9, "w", Outcome.SUCCEEDED, 0.0, 1.0, log=f"node {chunk}\x1b[2J\n"
                )
                writer(store, run).commit([said], [])
        return run

    def test_are_printed_below_a_line_that_says_whose_they_are(self, batchrun, run):
        said = batchrun("logs", run)

        assert said.code == 0
        assert said.out == (
            "== chunk 1, stage double, attempt 9 ==\nnode 1\n\n== chunk 3, stage double, attempt 9 "
            "==\nnode 3\n"
        )
        assert batchrun("logs", run, "3").out == "== chunk 3, stage double, attempt 9 ==\nnode 3\n"

    def test_survive_a_terminal_that_cannot_show_them(self, run):
        with RunStore(STORE) as store:
            said = Attempt(0, "double", 9, "w", Outcome.SUCCEEDED, 0.0, 1.0, log="1 → 2\n")
            writer(store, run).commit([said], [])

        done = subprocess.run(
            [sys.executable, "-m", "batchrun", "logs", run, "0"],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "cp1252"},
            timeout=120,
        )

        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.split() == b"== chunk 0, stage double, attempt 9 == 1 ? 2".split()

    def test_are_a_document_if_asked(self, batchrun, run):
        document = batchrun("logs", run, "3", "--json").document

        said = {"chunk": 3, "stage": "double", "attempt": 9, "text": "node 3\x1b[2J\n", "live": False}
        assert document == {"run": run, "logs": [said]}

    def test_that_are_followed_end_with_the_run(self, batchrun, run):
        assert batchrun("logs", run, "--follow").out == batchrun("logs", run).out
        assert batchrun("logs", run, "-f", "--json").code == 2

    def test_that_are_followed_say_that_nothing_drives_the_run(self, batchrun, run):
        abandon(run)

        said = batchrun("logs", run, "--follow")

        assert said.code == 0
        assert f"batchrun resume {run}" in said.err

    def test_of_which_there_are_none_are_said_to_be_none(self, batchrun, run):
        said = batchrun("logs", run, "2")

        assert (said.code, said.out) == (0, "")
        assert "chunk 2 has no log" in said.err


def asked(run_id: str, **fields: Any) -> RunRecord:
    """A run of which nothing has happened yet."""
    known = {
        "state": RunState.QUEUED,
        "created": time.time(),
        "split": "by_rows(4)",
        "folder": "",
        "rows_in": 20,
    }
    return RunRecord(run_id, "double", "work:double", **{**known, **fields})


def queue(run_id: str, **entry: Any) -> None:
    """Put a run of which nothing is planned into the queue."""
    with RunStore(STORE) as store:
        store.queue.submit(asked(run_id), QueueEntry(**{"queued": time.time(), "prepared": False, **entry}))


@pytest.mark.usefixtures("project")
class TestWatch:
    def test_of_a_run_that_has_ended_says_how_and_has_its_exit_code(self, batchrun, submit):
        run = submit("work:picky_pipeline", "--json").document["run"]

        said = batchrun("watch", run)

        assert said.code == 3
        assert "20 rows in = 19 solved + 1 quarantined + 0 cancelled" in said.out
        document = batchrun("watch", run, "--json").document
        assert (document["run"], document["state"]) == (run, "partial")

    def test_goes_on_until_the_run_has_ended(self, batchrun, going_on):
        threading.Timer(1.0, going_on.cancel).start()

        said = batchrun("watch", going_on.run_id, "--json")

        assert (said.code, said.document["state"]) == (4, "cancelled")
        assert f"run {going_on.run_id}: cancelled after " in said.err

    def test_quiet_says_nothing_but_how_it_ended(self, batchrun, going_on):
        threading.Timer(0.5, going_on.cancel).start()

        said = batchrun("watch", going_on.run_id, "--quiet")

        assert said.err == ""
        assert "Cancelled after" in said.out

    def test_that_is_interrupted_leaves_the_run_alone(self):
        fields = {"state": RunState.RUNNING, "driver": driver_name(), "started": time.time()}
        with RunStore(STORE) as store:
            store.create(asked("r1", **fields))
        watching = subprocess.Popen(
            [sys.executable, "-m", "batchrun", "watch", "r1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stderr is not None
        said = watching.stderr.readline()
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=60)

        assert watching.returncode == 130
        assert said.startswith("run r1: ")
        assert "come back with: batchrun watch r1" in err
        assert out == ""
        with RunStore(STORE) as store:
            assert store.find("r1").state is RunState.RUNNING

    def test_of_a_run_that_nothing_drives_says_how_to_go_on(self, batchrun, submit):
        run = submit("work:picky_pipeline", "--json").document["run"]
        abandon(run)

        said = batchrun("watch", run)

        assert said.code == 1
        assert f"`batchrun resume {run}` goes on" in said.err
        assert "its driver is gone" in said.out

    def test_of_a_run_that_is_not_there_is_wrong_usage(self, batchrun):
        assert batchrun("watch", "nothing").code == 2


@pytest.mark.usefixtures("project")
class TestTheQueue:
    def test_is_what_queued_runs_are_said_to_wait_in(self, batchrun):
        queue("first")
        queue("second", priority=-2, lock="gurobi", after=("first",), max_slots=3)

        listed = {run["run"]: run for run in batchrun("runs", "--json").document["runs"]}

        assert {run["state"] for run in listed.values()} == {"queued"}
        assert listed["second"]["driven"] is False
        found = listed["second"]["queue"]
        assert (found["priority"], found["lock"], found["after"]) == (-2, "gurobi", ["first"])
        assert (found["max_slots"], found["service"]) == (3, None)
        shown = batchrun("runs").out
        assert "queued" in shown
        assert "driver is gone" not in shown
        assert "driven on" not in shown

    def test_is_listed_first_in_the_order_of_turns(self, batchrun):
        queue("last", after=("going",))
        queue("first", priority=5)
        queue("second")
        with RunStore(STORE) as store:
            store.create(asked("going", state=RunState.RUNNING, driver=driver_name()))

        with driving("going"):
            shown = batchrun("runs").out
            listed = batchrun("runs", "--json").document["runs"]

        assert [run["run"] for run in listed] == ["first", "second", "last", "going"]
        assert [run["driven"] for run in listed] == [False, False, False, True]
        lines = shown.splitlines()[2:]
        assert [line.split()[0] for line in lines] == ["first", "second", "last", "going"]
        assert lines[-1].split()[-1] == driver_name().partition("/")[0][:16]

    def test_is_where_why_finds_the_reason(self, batchrun):
        queue("first")
        queue("second", after=("first",))

        assert " and waits for a service; no service is up" in batchrun("why", "first").out
        assert " and waits for run first to end; no service is up" in batchrun("why", "second").out

    def test_is_shown_with_a_run(self, batchrun):
        queue("first", priority=3, lock="gurobi", not_before=time.time() + 3600, max_slots=2)

        said = batchrun("show", "first").out

        for name in ("queued", "priority", "lock", "not before", "max slots"):
            assert name in said
        assert "batchrun why first" in said
        assert "batchrun resume" not in said

    def test_gives_up_a_run_that_is_cancelled(self, batchrun):
        queue("first")

        said = batchrun("cancel", "first")

        assert said.code == 0
        assert "it was in the queue, and will not be taken from there" in said.out
        with RunStore(STORE) as store:
            assert store.find("first").state is RunState.CANCELLED
            assert not store.queue.anything_free()


@pytest.mark.usefixtures("project")
class TestCancel:
    def test_can_be_decided_on_by_what_show_says_of_running_chunks(self, batchrun, going_on):
        deadline = time.monotonic() + 30
        while not (running := batchrun("show", going_on.run_id, "--json").document["running"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)

        assert running[0]["stage"] == "dawdle"
        assert running[0]["worker"]
        assert running[0]["rows"] == 1
        assert "log" not in running[0]

    def test_of_a_run_that_goes_on_waits_until_it_has_stopped(self, batchrun, going_on):
        said = batchrun("cancel", going_on.run_id, "--json")

        assert said.code == 0
        document = said.document
        assert (document["run"], document["cancelled"], document["state"]) == (
            going_on.run_id,
            True,
            "cancelled",
        )
        assert "was cancelled after" in document["message"]
        report = going_on.wait(60)
        assert report.rows_solved + report.rows_cancelled == 20

    def test_of_a_chunk_lets_the_others_go_on(self, batchrun, going_on):
        said = batchrun("cancel", "last", "19")

        assert said.code == 0
        assert said.out.startswith("chunk 19 (1 row) was ")
        report = going_on.wait(60)
        assert (report.rows_solved, report.rows_cancelled) == (19, 1)

    def test_of_a_run_that_nothing_drives_records_it_and_resume_goes_on(self, batchrun, submit):
        run = submit("work:picky_pipeline", "--json").document["run"]
        abandon(run)

        said = batchrun("cancel")

        assert said.code == 0
        assert "nothing drives the run, so it is recorded as cancelled from here" in said.out
        assert f"`batchrun resume {run}` goes on" in said.out
        shown = batchrun("show", "--json").document
        assert shown["state"] == "cancelled"
        assert (shown["rows_solved"], shown["rows_cancelled"]) == (19, 1)
        assert batchrun("resume", "last", "--cluster", "inline").code == 3

    def test_of_a_run_that_has_ended_is_wrong_usage(self, batchrun, submit):
        submit("work:double", "--json")

        said = batchrun("cancel", "last", "--keep-best")

        assert said.code == 2
        assert "has ended (succeeded)" in said.err

    def test_that_is_not_done_in_time_says_what_is_still_going_on(self, project, submit):
        run = submit("work:double", "--json").document["run"]
        with RunStore(STORE) as store, driving(run):
            writer(store, run).update(state=RunState.RUNNING, ended=None, driver=driver_name())
            writer(store, run).save_live(
                LiveState(0.0, running=(RunningChunk(3, "double", 1, "w-0", 0.0, 4),))
            )

            done = cancel_run(run, load_settings(), chunk=None, keep_best=True, patience=0.0)

            assert not done.cancelled
            assert done.message.startswith("asked, but not done after 0 s; the request stands: run ")
            assert [request.keep_best for request in writer(store, run).take_requests()] == [True]


def mend(project: Path) -> None:
    """From now on seven is a number like any other."""
    (project / "work.py").write_text(MODULE.replace("if 7 in", "if 70 in"))


@pytest.mark.usefixtures("project")
class TestRequeue:
    def test_of_a_chunk_runs_it_again_and_leaves_the_rest(self, project, batchrun, submit):
        run = submit("work:picky_pipeline", "--json").document
        mend(project)

        again = batchrun("requeue", "last", "--quarantined", "-c", "inline", "--json")

        assert again.code == 0
        assert again.document["run"] == run["run"]
        assert again.document["rows_solved"] == 20
        assert again.document["attempts"] == run["attempts"] + 1

    def test_of_a_chunk_that_is_solved_says_so_and_runs_nothing(self, batchrun, submit):
        run = submit("work:picky_pipeline", "--json").document

        again = batchrun("requeue", "last", "--chunk", "0", "-c", "inline", "--json")

        assert again.code == 2
        assert again.document["error"] == "chunk 0 is solved; nothing to do again"
        assert batchrun("show", "--json").document["ended"] == run["ended"]

    def test_of_two_things_at_once_is_refused(self, batchrun, submit):
        submit("work:picky_pipeline", "--json")

        for arguments in (
            ["last", "--failed", "--quarantined"],
            ["last", "--quarantined", "--chunk", "1"],
            ["last", "--all-failed"],
            ["--all-failed", "--chunk", "1"],
            ["last", "--dry-run"],
        ):
            assert batchrun("requeue", *arguments).code == 2, arguments

    def test_of_all_that_failed_prints_a_line_each_and_leaves_with_the_worst_code(
        self, project, batchrun, submit
    ):
        runs = [submit(f"work:{name}", "--json").document["run"] for name in PIPELINES]
        listed = batchrun("requeue", "--all-failed", "--dry-run", "-c", "inline")
        assert listed.code == 0
        assert [line.split(":")[0] for line in listed.out.splitlines()] == runs[1:]
        mend(project)

        again = batchrun("requeue", "--all-failed", "-c", "inline", "-q")

        assert again.code == 1
        mended, broken = again.out.splitlines()
        assert mended == f"{runs[1]}: succeeded, 20 of 20 rows solved"
        assert broken.startswith(f"{runs[2]}: failed, 0 of 20 rows solved (AttributeError")
        left = batchrun("requeue", "--all-failed", "--dry-run", "-c", "inline", "--json").document["runs"]
        assert [run["run"] for run in left] == runs[2:]

    def test_of_a_run_that_cannot_go_on_does_not_keep_the_others_from_it(self, project, batchrun, submit):
        runs = [submit("work:picky_pipeline", "--json").document["run"] for _ in range(2)]
        mend(project)
        Path(batchrun("show", runs[0], "--json").document["folder"], "source.arrow").unlink()

        again = batchrun("requeue", "--all-failed", "-c", "inline", "-q", "--json")

        assert again.code == 1
        first, second = again.document["runs"]
        assert "source.arrow" in first["error"]
        assert (second["run"], second["state"], second["error"]) == (runs[1], "succeeded", None)


@pytest.mark.usefixtures("project")
class TestFailedRuns:
    def test_are_listed_with_their_commonest_error(self, batchrun, submit):
        runs = [submit(f"work:{name}", "--json").document["run"] for name in PIPELINES]

        said = batchrun("runs", "--failed", "--json").document["runs"]

        assert [run["run"] for run in said] == runs[:0:-1]
        assert [run["chunks_failed"] for run in said] == [3, 1]
        assert said[1]["error"] == "ValueError: seven [bold]is[/bold] bad"
        assert "AttributeError" in said[0]["error"]
        shown = batchrun("runs", "--failed").out
        assert "1 of 1" in shown
        assert "seven [bold]is[/bold] bad" in " ".join(shown.split())

    def test_are_none_at_first(self, batchrun, submit):
        submit("work:double")

        assert batchrun("runs", "--failed").out == "No run has failed.\n"
        assert batchrun("runs", "--failed", "--state", "failed").code == 2


@pytest.mark.usefixtures("project")
class TestPrune:
    def test_says_what_would_go_and_does_it_only_if_told(self, batchrun, submit):
        runs = [submit("work:double", "--json").document["run"] for _ in range(3)]

        shown = batchrun("prune", "--keep", "1", "--dry-run")
        refused = batchrun("prune", "--keep", "1")
        done = batchrun("prune", "--keep", "1", "--yes", "--vacuum", "--json")

        assert [run in shown.out for run in runs] == [True, True, False]
        assert "2 runs, " in shown.out
        assert (refused.code, "--yes" in refused.err) == (2, True)
        assert done.document["removed"]["runs"] == runs[:2]
        assert done.document["removed"]["nbytes"] == done.document["bytes"] > 0
        assert [run["run"] for run in batchrun("runs", "--json").document["runs"]] == runs[2:]

    def test_asks_on_a_terminal(self, batchrun, submit, monkeypatch):
        submit("work:double")
        answers = iter([False, True])
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("batchrun.cli.pruning.typer.confirm", lambda *_, **__: next(answers))

        assert batchrun("prune", "--keep", "0").code == 4
        assert len(batchrun("runs", "--json").document["runs"]) == 1
        assert batchrun("prune", "--keep", "0").code == 0
        assert batchrun("runs", "--json").document["runs"] == []

    def test_without_a_rule_removes_no_run(self, batchrun, submit):
        submit("work:double")

        assert batchrun("prune", "--yes").err == "nothing to remove\n"
        assert batchrun("prune", "--state", "running", "--yes").code == 2
        assert batchrun("prune", "--older-than", "soon", "--yes").code == 2
        assert batchrun("prune", "--older-than", "30d", "--yes", "--json").document["runs"] == []


@pytest.mark.usefixtures("project")
def test_a_run_ends_early_once_too_many_rows_are_quarantined(submit):
    said = submit("work:picky_pipeline", "--max-quarantined", "0", "--json")

    assert said.code == 1
    assert "max_quarantined" in said.document["error"]
    assert submit("work:picky_pipeline", "--max-quarantined", "50%", "--json").code == 3


@pytest.mark.usefixtures("project")
def test_a_run_may_have_few_slots_but_not_none(submit):
    assert submit("work:picky_pipeline", "--max-slots", "1", "--json").code == 3
    assert submit("work:picky_pipeline", "--max-slots", "0", "--json").code == 2


@pytest.mark.usefixtures("project")
def test_resume_goes_on_in_another_process(project, batchrun, submit):
    submit("work:picky_pipeline", "--json")
    (project / "work.py").write_text(MODULE.replace("if 7 in", "if 700 in"))

    said = batchrun("resume", "last", "--cluster", "inline", "--json")

    assert said.code == 0
    assert said.document["rows_solved"] == 20
    again = batchrun("resume", "last", "--cluster", "inline", "--json")
    assert again.document["attempts"] == said.document["attempts"]


@pytest.mark.usefixtures("project")
def test_resume_refuses_a_run_whose_input_changed(project, batchrun, submit):
    submit("work:picky_pipeline", "--json")
    pd.DataFrame({"x": range(99)}).to_parquet(project / "in.parquet")

    said = batchrun("resume", "last", "--cluster", "inline")

    assert said.code == 2
    assert "in.parquet" in said.err


@pytest.mark.usefixtures("project")
def test_it_is_a_program_with_an_exit_code_and_works_without_colours_in_a_pipe():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "batchrun",
            "submit",
            "work:picky_pipeline",
            "-i",
            "in.parquet",
            "-c",
            "inline",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
    )

    assert done.returncode == 3
    assert "19 solved + 1 quarantined" in done.stdout
    assert "\x1b[" not in done.stdout + done.stderr
