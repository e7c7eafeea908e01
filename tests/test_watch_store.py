"""``batchrun watch`` without a run, as people and scripts meet it: on a terminal, in a log, as documents."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchrun.outcome import RunState
from batchrun.store.runs import RunRecord, RunStore

STORE = "sqlite:///.batchrun/store.db"
COMMAND = [sys.executable, "-m", "batchrun", "watch"]
PATIENCE = 60.0
"""Seconds for what takes two."""
CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


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


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24, **environment: str) -> None:
        import pty

        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        self.modes = self._modes()
        known = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=known,
            start_new_session=True,
            preexec_fn=self._control,
        )
        os.close(slave)
        self.said = ""

    def _control(self) -> None:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _modes(self) -> list[Any]:
        import termios

        return termios.tcgetattr(self.master)

    def resize(self, columns: int, lines: int) -> None:
        import termios

        termios.tcsetwinsize(self.master, (lines, columns))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait_for(self, words: str) -> str:
        """Read until that was written; gives the picture that it is in, without codes."""
        begin, until = len(self.said), time.monotonic() + PATIENCE
        while words not in CODES.sub("", self.said[begin:]):
            assert time.monotonic() < until, self.said
            assert self._read(1.0) is not None, self.said
        return CODES.sub("", self.said.rpartition("\x1b[H")[2])

    def leave(self) -> int:
        """Read to the end; gives the exit code."""
        while self._read(PATIENCE):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, seconds: float) -> str | None:
        """What was written meanwhile; None once there is nobody to write."""
        if not select.select([self.master], [], [], seconds)[0]:
            return ""
        try:
            text = os.read(self.master, 2**16).decode(errors="replace")
        except OSError:
            return None
        self.said += text
        return text or None

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    if sys.platform == "win32":
        pytest.skip("there are no pseudo-terminals")
    opened: list[Terminal] = []

    def start(*arguments: str, **how: Any) -> Terminal:
        opened.append(Terminal(*arguments, **how))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def gives_back(terminal: Terminal) -> bool:
    """Whether the terminal is as it was: its own screen, its cursor, its modes."""
    said = terminal.said
    screen = said.rindex("\x1b[?1049l") > said.rindex("\x1b[?1049h")
    return screen and said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


def test_it_is_a_full_screen_that_keys_move_in_and_q_leaves(store, terminal):
    shown = terminal()
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
    wide = shown.wait_for("q leave")
    assert max(len(line) for line in wide.splitlines()) > 80

    modes = shown._modes()
    shown.type("q")
    assert shown.leave() == 0
    assert gives_back(shown)
    assert modes != shown.modes


def test_an_interrupt_leaves_it_with_the_code_of_one_and_the_terminal_as_it_was(store, terminal):
    shown = terminal(NO_COLOR="1")
    shown.wait_for("q leave")
    shown.type("\x03")

    assert shown.leave() == 130
    assert gives_back(shown)
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
