"""``batchrun watch`` without a run, as people and scripts meet it: on a terminal, in a log, as documents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchrun.outcome import RunState
from batchrun.store.runs import RunRecord, RunStore
from tests.terminal import terminal

__all__ = ["terminal"]

STORE = "sqlite:///.batchrun/store.db"
COMMAND = [sys.executable, "-m", "batchrun", "watch"]
PATIENCE = 60.0
"""Seconds for what takes two."""


@pytest.fixture
def store(here: Path) -> Iterator[RunStore]:
    """The store of the current folder, with a run that ended and one that nothing drives."""
    with RunStore(STORE) as store:
        store.create(record("done-1", RunState.SUCCEEDED, rows_solved=40, ended=time.time()))
        store.create(record("lost-1", RunState.RUNNING, driver="elsewhere/1/1.0", heartbeat=0.0))
        yield store


def record(run_id: str, state: RunState, **fields: object) -> RunRecord:
    at = time.time()
    known = {"created": at, "started": at, "rows_in": 40, "split": "by_rows(4)", "folder": "", "fence": 1}
    return RunRecord(run_id, run_id.partition("-")[0], None, state, **{**known, **fields})


@pytest.fixture
def batchrun(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """The command line, called in this process as the shell would."""
    from batchrun.cli import main

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["batchrun", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capsys.readouterr()

    return call


# On a terminal


def test_it_is_a_full_screen_that_keys_move_in_and_q_leaves(store, terminal):
    shown = terminal(*COMMAND)
    picture = shown.wait_for("q leave")
    assert ">" in picture
    assert "◦ stopped   lost-1" in picture
    assert "batchrun resume lost-1" in picture
    assert len(picture.rstrip("\r\n").splitlines()) <= 24

    store.create(record("new-1", RunState.FAILED, created=time.time() + 5))
    shown.wait_for("✗ failed    new-1")
    shown.type("\x1b[B\r")
    shown.wait_for("About the run")
    shown.type("\x1b")
    shown.wait_for("choose")
    shown.resize(120, 30)
    # A picture that was on its way then is as narrow as those before.
    pictures = (shown.wait_for("q leave") for _ in range(20))
    assert any(max(map(len, picture.splitlines())) > 80 for picture in pictures)

    modes = shown.modes_now()
    shown.type("q")
    assert shown.leave() == 0
    assert shown.given_back
    assert modes != shown.modes  # so that there was something to give back


def test_an_interrupt_leaves_it_with_the_code_of_one_and_the_terminal_as_it_was(store, terminal):
    shown = terminal(*COMMAND, NO_COLOR="1")
    shown.wait_for("q leave")
    shown.type("\x03")

    assert shown.leave() == 130
    assert shown.given_back
    assert "38;" not in shown.said
    assert "Traceback" not in shown.said


# Elsewhere


def test_a_log_gets_plain_lines_also_where_colours_are_forced(store):
    environment = {**os.environ, "FORCE_COLOR": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    watching = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert watching.stdout is not None
    first = watching.stdout.readline().decode()
    store.create(record("new-1", RunState.FAILED))
    second = watching.stdout.readline().decode()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=PATIENCE)

    assert first.startswith("run lost-1: stopped, 0 of 40 rows, nothing drives it")
    assert (
        second == "run new-1: failed, 40 rows in = 0 solved + 0 quarantined + 0 cancelled + 40 not settled\n"
    )
    assert "\x1b" not in first + second + out.decode() + err.decode()
    assert watching.returncode == 130


def test_documents_are_a_line_each_and_only_when_something_changed(store):
    watching = subprocess.Popen([*COMMAND, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    store.create(record("new-1", RunState.FAILED))
    second = json.loads(watching.stdout.readline())
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=PATIENCE)

    assert [run["run"] for run in first["runs"]] == ["lost-1", "done-1"]
    assert [run["run"] for run in second["runs"]] == ["lost-1", "new-1", "done-1"]
    assert first["runs"][0]["why"] == "nothing drives it; go on with: batchrun resume lost-1"
    assert (out, err, watching.returncode) == (b"", b"", 130)


def test_once_prints_it_and_ends(store, batchrun):
    code, out, err = batchrun("watch", "--once")
    assert (code, err) == (0, "")
    assert "◦ stopped   lost-1" in out
    assert "✓ succeeded done-1" in out
    assert "\x1b" not in out

    code, out, err = batchrun("watch", "--once", "--json")
    assert (code, err) == (0, "")
    assert {"at", "store", "runs", "slots", "failures"} == json.loads(out).keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--quiet"], "--quiet are for one run; name it, or say last"),
        (["--html", "x.html"], "are for one run"),
        (["last", "--once"], "batchrun show last"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(store, batchrun, arguments, said):
    code, out, err = batchrun("watch", *arguments)
    assert (code, out) == (2, "")
    assert said in err
