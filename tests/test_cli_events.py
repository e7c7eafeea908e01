"""``batchrun events``: for people, for scripts, and as a stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from batchrun.cli.events import event_line, follow_events, read_kinds, read_since
from batchrun.errors import UsageError
from batchrun.outcome import RunState
from batchrun.store.driver import driver_name, driving
from batchrun.store.event_record import EventRecord
from batchrun.store.records import RunRecord
from batchrun.store.runs import RunStore

ROOT = Path(__file__).parent.parent
RUN = RunRecord("delays-1", "delays", None, RunState.QUEUED, 1.0, "by_rows(3)", "/runs", 100, fence=1)


@pytest.fixture
def store(here) -> Iterator[RunStore]:
    """A store with one run that has ended and one that is queued."""
    with RunStore("sqlite:///.batchrun/store.db") as store:
        driver = store.create(RUN)
        driver.reopen(state=RunState.RUNNING)
        driver.end(state=RunState.SUCCEEDED, rows_solved=100)
        store.create(replace(RUN, run_id="delays-2", created=2.0))
        yield store


def command(*arguments: str, **options) -> subprocess.Popen[str]:
    code = "from batchrun.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "events", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


def lines(*arguments: str) -> list[str]:
    with command(*arguments) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out.splitlines()


@pytest.mark.usefixtures("store")
def test_all_events_are_lines_and_those_of_one_run_a_document():
    told = lines()
    assert [line.split()[4].rstrip(":") for line in told] == [
        "run_queued",
        "run_taken",
        "run_started",
        "run_ended",
        "run_queued",
        "run_taken",
    ]
    assert told[3].endswith(
        "state succeeded, rows_in 100, rows_solved 100, rows_quarantined 0, rows_cancelled 0"
    )

    chosen = ["delays-1", "--kind", "run_ended", "--kind", "run_started", "--json"]
    found = json.loads("\n".join(lines(*chosen)))["events"]
    assert [(event["run"], event["kind"]) for event in found] == [
        ("delays-1", "run_started"),
        ("delays-1", "run_ended"),
    ]
    assert found[1]["data"]["state"] == "succeeded"


@pytest.mark.usefixtures("store")
def test_a_run_that_has_ended_is_followed_to_its_end_a_document_a_line():
    told = [json.loads(line) for line in lines("delays-1", "--follow", "--json", "--since", "2")]

    assert [(event["id"], event["kind"]) for event in told] == [(3, "run_started"), (4, "run_ended")]


@pytest.mark.usefixtures("store")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no Ctrl-C for one process alone")
def test_a_stream_of_the_whole_store_ends_with_ctrl_c_and_nothing_but_events():
    with command("--follow", "--json") as process:
        told = [json.loads(process.stdout.readline()) for _ in range(6)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert told[-1]["run"] == "delays-2"
    assert (process.returncode, out, err) == (130, "", "")


def test_a_stream_whose_reader_went_away_ends_without_a_word(store):
    with command("--follow") as process:
        process.stdout.readline()
        process.stdout.close()
        store.request_cancel("delays-2")
        process.wait(60)
        assert process.stderr.read() == ""
        assert process.returncode == 0


def test_what_is_committed_while_it_is_followed_is_told_once_and_in_order(store):
    told: list[str] = []
    driver = store.take_over("delays-2")
    steps = iter(
        [
            lambda: driver.reopen(state=RunState.RUNNING, driver=driver_name()),
            lambda: None,
            lambda: driver.end(state=RunState.FAILED),
        ]
    )

    with driving("delays-2"):
        follow_events(
            store,
            run_id="delays-2",
            kinds=["run_started", "run_ended"],
            write=lambda event: told.append(event.kind),
            pause=lambda _: next(steps)(),
        )

    assert told == ["run_started", "run_ended"]


def test_what_could_steer_a_terminal_is_left_out_of_the_line_of_an_event():
    event = EventRecord(7, 0.0, "chunk_failed", "delays-1", 3, {"error": "\x1b[31mred\x1b[0m\nand\rmore"})

    assert event_line(event).partition("chunk_failed: ")[2] == "chunk 3, error red and more"


def test_since_is_an_event_a_time_or_so_long_ago():
    assert read_since("117", 1000.0) == (117, None)
    assert read_since("1970-01-01T00:15:00+00:00", 1e9) == (0, 900.0)
    assert read_since("1h", 10_000.0) == (0, 6400.0)
    with pytest.raises(UsageError, match="neither the number of an event nor a time"):
        read_since("yesterday", 0.0)


def test_a_kind_that_there_is_not_is_wrong_usage_with_what_may_be_meant():
    assert read_kinds(["run_ended", "chunk_cut"]) == ["run_ended", "chunk_cut"]
    with pytest.raises(UsageError, match="Did you mean `run_ended`"):
        read_kinds(["run_end"])
