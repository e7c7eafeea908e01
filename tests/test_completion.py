"""What the shell offers when Tab is pressed: names of the store, quickly, and never a word of trouble."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrun.outcome import RunState
from batchrun.schedule import Schedule
from batchrun.store.names import read_names
from batchrun.store.runs import RunRecord, RunStore
from batchrun.submission import Submission

STORE = "sqlite:///.batchrun/store.db"
HEAVY = {"alembic", "bokeh", "dask", "distributed", "numpy", "pandas", "pyarrow", "rich", "sqlalchemy"}
SHELLS = {
    "bash": lambda words: {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)},
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": " ".join(words)},
    "fish": lambda words: {
        "_TYPER_COMPLETE_ARGS": " ".join(words),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
    },
}


def fill(url: str) -> None:
    """Three runs and two schedules."""
    with RunStore(url) as store:
        for age, (run_id, target) in enumerate(
            [("delays-2", "work:delays"), ("mine-1", None), ("delays-1", "work:delays"), ("x$(rm)", "a:b`c`")]
        ):
            at = time.time() - age
            store.create(RunRecord(run_id, "p", target, RunState.SUCCEEDED, at, "by_rows(4)", "", 4, fence=1))
        for name in ("nightly", "monthly"):
            asked = Submission("work:delays", "/", "in.parquet", {})
            store.schedules.add(Schedule.parse(name, "0 2 * * *", asked, now=time.time()))


@pytest.fixture
def offered(here: Path, monkeypatch, capsys) -> Callable[..., list[str]]:
    """What is offered after these words, the last of which is not finished."""
    from batchrun.cli import main

    def complete(*words: str, shell: str = "bash") -> list[str]:
        for name, value in SHELLS[shell](["batchrun", *words]).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("_BATCHRUN_COMPLETE", f"complete_{shell}")
        monkeypatch.setattr(sys, "argv", ["batchrun"])
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main()
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return complete


def test_runs_are_offered_newest_first_to_whatever_takes_one(offered):
    fill(STORE)
    assert offered("show", "") == ["delays-2", "mine-1", "delays-1", "last"]
    for words in (["watch", "d"], ["why", "d"], ["logs", "d"], ["compare", "last", "d"], ["events", "d"]):
        assert offered(*words) == ["delays-2", "delays-1"], words
    for words in (["requeue", "d"], ["cancel", "d"], ["report", "d"], ["resume", "d"]):
        assert offered(*words) == ["delays-2", "delays-1"], words
    assert offered("submit", "work:x", "--after", "m") == ["mine-1"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_offered_them_too(offered, shell):
    fill(STORE)
    assert "mine-1" in "\n".join(offered("show", "mi", shell=shell))


def test_schedules_are_offered(offered):
    fill(STORE)
    assert offered("schedule", "pause", "") == ["monthly", "nightly"]
    assert offered("schedule", "run-now", "n") == ["nightly"]


def test_pipelines_are_offered_that_were_run_or_are_written_in_the_folder_and_nothing_is_imported(
    offered, here
):
    fill(STORE)
    (here / "pipelines").mkdir()
    (here / "pipelines" / "pits.py").write_text(
        "raise SystemExit('imported')\n"
        "import batchrun\nfrom batchrun import Pipeline, pipeline\n"
        "@pipeline(split=1)\ndef solve(chunk): ...\n"
        "@batchrun.pipeline\ndef score(chunk): ...\n"
        "def helper(chunk): ...\n"
        "mine = Pipeline('mine')\n"
    )
    (here / "pipelines" / "torn.py").write_text("def (")

    assert offered("submit", "") == [
        "work:delays",
        "pipelines.pits:solve",
        "pipelines.pits:score",
        "pipelines.pits:mine",
    ]


def test_where_there_is_no_store_nothing_is_said_and_none_is_made(offered, here):
    (here / ".batchrun").mkdir()
    assert offered("show", "") == ["last"]
    assert [path.name for path in here.rglob("*")] == [".batchrun"]


@pytest.mark.parametrize(
    "text", ["store: [", "store: nonsense://x", "store: 'postgresql://127.0.0.1:1/none'", "kind: wrong"]
)
def test_a_store_that_cannot_be_read_is_no_trouble(offered, here, text):
    (here / "cluster.yaml").write_text(text)
    assert offered("show", "") == ["last"]


def test_a_file_that_is_no_database_is_no_trouble(offered, here):
    (here / ".batchrun").mkdir()
    (here / ".batchrun" / "store.db").write_bytes(b"no database" * 999)
    assert offered("show", "") == ["last"]


def test_names_are_read_from_any_store(store_url: str):
    fill(store_url)
    assert read_names(store_url, "run", "d") == ["delays-2", "delays-1"]
    assert read_names(store_url, "schedule") == ["monthly", "nightly"]
    assert read_names(store_url, "pipeline") == ["work:delays", "a:b`c`"]


def test_it_imports_nothing_that_takes_long(here):
    fill(STORE)
    code = (
        "import os, sys\n"
        "os.environ.update(COMP_WORDS='batchrun show d', COMP_CWORD='2')\n"
        "os.environ['_BATCHRUN_COMPLETE'] = 'complete_bash'\n"
        "sys.argv = ['batchrun']\n"
        "from batchrun.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    *names, modules = said.stdout.splitlines()
    assert names == ["delays-2", "delays-1"]
    assert not set(modules.split()) & HEAVY


def test_the_script_for_a_shell_calls_the_program_by_its_name(here):
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "batchrun", "--show-completion", "zsh"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert said.stdout.startswith("#compdef batchrun\n")
    assert "_BATCHRUN_COMPLETE=complete_zsh" in said.stdout
    assert said.stderr == ""
