"""``batchrun schedule`` as scripts and people use it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from batchrun.store.driver import driver_name
from batchrun.store.runs import RunStore
from batchrun.store.services import ServiceRecord
from tests.test_cli import STORE, batchrun, project  # noqa: F401

NIGHTLY = ("schedule", "add", "nightly", "0 2 * * 1-5", "work:double", "--input", "in.parquet")


@pytest.fixture
def command(project: Path, batchrun):  # noqa: F811
    return batchrun


def test_a_schedule_is_added_with_all_that_its_runs_need(command):
    said = command(
        *NIGHTLY,
        *("-p", "factor=3", "--timezone", "Europe/Berlin", "--missed", "skip", "--overlap", "queue"),
        *("--priority", "-2", "--lock", "gpu", "--max-slots", "4", "--max-quarantined", "5%", "--json"),
    )

    assert said.code == 0
    told = said.document
    assert (told["schedule"], told["cron"], told["timezone"]) == ("nightly", "0 2 * * 1-5", "Europe/Berlin")
    assert (told["missed"], told["overlap"], told["paused"]) == ("skip", "queue", False)
    asked = told["submission"]
    assert (asked["pipeline"], asked["folder"]) == ("work:double", os.getcwd())
    assert (asked["input"], asked["params"]) == (os.path.abspath("in.parquet"), {"factor": 3})
    assert (asked["priority"], asked["lock"], asked["max_slots"]) == (-2, "gpu", 4)
    assert asked["max_quarantined"] == "5%"
    assert told["next_fire"] > told["created"]
    assert command("schedule", "list", "--json").document == {"schedules": [told]}


def test_a_person_is_told_when_it_fires_next(command):
    said = command(*NIGHTLY, "--timezone", "Europe/Berlin")

    assert re.fullmatch(
        r"schedule nightly: fires next at \w{3} \d{4}-\d\d-\d\d 02:00 CES?T", said.out.strip()
    )
    listed = " ".join(command("schedule", "list").out.split())
    assert "nightly" in listed
    assert "none yet" in listed


def test_whoever_adds_one_is_told_if_no_service_is_up(command):
    assert "batchrun up" in command(*NIGHTLY).err

    with RunStore(STORE) as store:
        now = store.services.now()
        store.services.add(ServiceRecord("s1", driver_name(), now, now, lease=60.0))
    assert "batchrun up" not in command("schedule", "run-now", "nightly").err


def test_without_any_schedule_the_list_says_how_to_add_one(command):
    assert "batchrun schedule add" in command("schedule", "list").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("0 25 * * *", "work:double"), "'25' is no hour"),
        (("0 0 30 2 *", "work:double"), "never fires"),
        (("@daily", "work:dubble"), "Did you mean `double`?"),
        (("@daily", "work:double", "-p", "faktor=3"), "Did you mean `factor`?"),
        (("@daily", "work:double", "-p", "factor=x"), "factor"),
        (("@daily", "work:double", "--timezone", "Europe/Berlim"), "Did you mean `Europe/Berlin`?"),
        (("@daily", "work:double", "--max-quarantined", "some"), "max_quarantined='some'"),
        (("@daily", "work:double", "--max-slots", "0"), "max_slots=0"),
        (("@daily", "work:double", "--overlap", "qeue"), "Did you mean `queue`?"),
        (("@daily", "work:double", "--missed", "twice"), "missed cannot be 'twice'; it is once or skip"),
        (("@daily", "work:double", "--lock", "x" * 201), "lock"),
    ],
)
def test_what_cannot_run_is_refused_and_nothing_is_added(command, arguments, told):
    said = command("schedule", "add", "nightly", *arguments, "--input", "in.parquet", "--json")

    assert said.code == 2
    assert told in said.document["error"]
    assert command("schedule", "list", "--json").document == {"schedules": []}


def test_a_name_that_is_taken_needs_replace(command):
    command(*NIGHTLY)

    assert command(*NIGHTLY, "-p", "factor=5").code == 2
    assert command(*NIGHTLY, "-p", "factor=5", "--replace").code == 0

    [one] = command("schedule", "list", "--json").document["schedules"]
    assert one["submission"]["params"] == {"factor": 5}


def test_pause_and_resume_say_how_it_stands(command):
    command(*NIGHTLY)

    assert "is paused" in command("schedule", "pause", "nightly").out
    assert "paused" in command("schedule", "list").out
    resumed = command("schedule", "resume", "nightly", "--json").document
    assert not resumed["paused"]
    assert resumed["next_fire"] > resumed["created"]


def test_run_now_queues_a_run_that_is_not_planned_yet(command):
    command(*NIGHTLY, "-p", "factor=3")

    told = command("schedule", "run-now", "nightly", "--json").document

    assert (told["schedule"], told["state"]) == ("nightly", "queued")
    with RunStore(STORE) as store:
        run, entry = store.find(told["run"]), store.queue.entry(told["run"])
    assert (run.pipeline, run.rows_in, run.params) == ("double", 0, {"factor": 3})
    assert (entry.schedule, entry.prepared) == ("nightly", False)
    assert os.path.dirname(run.folder) == os.path.abspath(".batchrun/runs")
    again = command("schedule", "run-now", "nightly")
    assert again.code == 2
    assert told["run"] in again.err


def test_remove_forgets_it_and_keeps_its_runs(command):
    command(*NIGHTLY)
    run = command("schedule", "run-now", "nightly").out.strip()

    assert command("schedule", "remove", "nightly", "--json").document["removed"] is True

    assert command("schedule", "list", "--json").document == {"schedules": []}
    assert [one["run"] for one in command("runs", "--json").document["runs"]] == [run]


@pytest.mark.parametrize("name", ["pause", "resume", "remove", "run-now"])
def test_a_schedule_that_is_unknown_is_told_with_its_near_miss(command, name):
    command(*NIGHTLY)

    said = command("schedule", name, "nigthly", "--json")

    assert said.code == 2
    assert "Did you mean `nightly`?" in said.document["error"]


def test_help_names_every_command(command):
    said = command("schedule", "--help")

    for name in ("add", "list", "pause", "resume", "remove", "run-now"):
        assert name in said.out
