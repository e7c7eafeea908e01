"""Commands about runs that are made again and again: schedule add, list, pause, resume, remove, run-now."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchrun import console
from batchrun.cli.completion import complete_pipeline, complete_schedule
from batchrun.cli.options import Cluster, Json, Override, parameter, settings_of
from batchrun.cli.program import app
from batchrun.cli.queue_options import Lock, MaxSlots, Priority

if TYPE_CHECKING:
    from batchrun.schedule import Schedule
    from batchrun.store.runs import RunStore
    from batchrun.submission import Submission

__all__ = ["schedule"]

schedule = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make runs again and again, at times of the clock.\n\nA service makes and drives them: batchrun up.",
)
app.add_typer(schedule, name="schedule")

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The name of a schedule.", autocompletion=complete_schedule),
]
Missed = Annotated[
    str,
    typer.Option(
        metavar="once|skip", help="What becomes of times at which no service was there: one run, or none."
    ),
]
Overlap = Annotated[
    str,
    typer.Option(
        metavar="skip|queue|allow", help="While the run before goes on: no run, one that waits, or both."
    ),
]


@schedule.command(
    epilog="""\b
Examples:
  batchrun schedule add nightly "0 2 * * 1-5" pipelines.flights:delays -i flights.parquet
  batchrun schedule add hourly "15 * * * *" mine:plan -i "pits/*.parquet" --overlap queue
  batchrun schedule add monthly "0 6 L * *" mine:plan -i pits.csv --timezone Europe/Berlin
"""
)
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    cron: Annotated[
        str,
        typer.Argument(metavar="CRON", help="When: minute, hour, day of the month, month, day of the week."),
    ],
    pipeline: Annotated[
        str,
        typer.Argument(metavar="MODULE:NAME", help="The pipeline to run.", autocompletion=complete_pipeline),
    ],
    data: Annotated[
        str, typer.Option("--input", "-i", metavar="PATH", help="A file, folder, glob or URL of a table.")
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter, as JSON or plain text."),
    ] = None,
    timezone: Annotated[
        str, typer.Option(metavar="ZONE", help="The time zone of CRON, like Europe/Berlin.")
    ] = "UTC",
    missed: Missed = "once",
    overlap: Overlap = "skip",
    priority: Priority = 0,
    lock: Lock = None,
    max_slots: MaxSlots = None,
    max_quarantined: Annotated[
        str | None,
        typer.Option(
            "--max-quarantined", metavar="N|P%", help="End a run early once more rows are quarantined."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a schedule of that name.")
    ] = False,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Add a schedule.

    Its pipeline is imported from the current folder, now and whenever it fires.
    """
    from batchrun.schedule import Schedule

    submission = _asked(
        pipeline,
        data,
        param,
        priority=priority,
        lock=lock,
        max_slots=max_slots,
        max_quarantined=max_quarantined,
    )
    with _store(cluster, override) as store:
        new = Schedule.parse(
            name,
            cron,
            submission,
            now=store.services.now(),
            timezone=timezone,
            missed=missed,
            overlap=overlap,
        )
        store.schedules.add(new, replace=replace)
        _note_if_nobody_serves(store)
    _tell(new, as_json)


@schedule.command("list")
def list_all(cluster: Cluster = None, override: Override = None, as_json: Json = False) -> None:
    """List schedules, and when they fire next."""
    with _store(cluster, override) as store:
        found = store.schedules.list()
    if as_json:
        console.print_json({"schedules": [_document(one) for one in found]})
    else:
        console.print_schedules(found)


@schedule.command()
def pause(name: Name, cluster: Cluster = None, override: Override = None, as_json: Json = False) -> None:
    """Keep a schedule from firing.

    Its runs go on.
    """
    with _store(cluster, override) as store:
        _tell(store.schedules.pause(name), as_json)


@schedule.command()
def resume(name: Name, cluster: Cluster = None, override: Override = None, as_json: Json = False) -> None:
    """Let a paused schedule fire again.

    What it would have fired while it was paused is not made up for.
    """
    with _store(cluster, override) as store:
        _tell(store.schedules.resume(name, store.services.now()), as_json)


@schedule.command()
def remove(name: Name, cluster: Cluster = None, override: Override = None, as_json: Json = False) -> None:
    """Remove a schedule.

    Its runs stay.
    """
    with _store(cluster, override) as store:
        gone = store.schedules.remove(name)
    if as_json:
        console.print_json({**_document(gone), "removed": True})
    else:
        typer.echo(f"schedule {name} is removed; its runs stay")


@schedule.command("run-now")
def run_now(name: Name, cluster: Cluster = None, override: Override = None, as_json: Json = False) -> None:
    """Queue a run of a schedule at once.

    Also while it is paused. The times at which it fires stay as they are.
    """
    from batchrun.recording import unplanned_record
    from batchrun.service import schedules

    settings = settings_of(cluster, override)
    with _store(cluster, override) as store:
        now = store.services.now()
        run_id = schedules.run_now(store, name, now, lambda asked: unplanned_record(asked, settings, now))
        _note_if_nobody_serves(store)
    if as_json:
        console.print_json({"schedule": name, "run": run_id, "state": "queued"})
    else:
        typer.echo(run_id)


def _asked(pipeline: str, data: str, param: list[str] | None, **options: Any) -> Submission:
    """What is to run, checked as far as that is possible before it does."""
    from batchrun.allowance import read_allowance
    from batchrun.data.files import resolve
    from batchrun.errors import UsageError
    from batchrun.loading import load_pipeline
    from batchrun.submission import Submission

    loaded = load_pipeline(pipeline)
    params = dict(parameter(text) for text in param or ())
    loaded.bind(params)
    read_allowance(options["max_quarantined"])
    if options["max_slots"] is not None and options["max_slots"] < 1:
        raise UsageError(f"max_slots={options['max_slots']} would never run anything; use 1 or more")
    if len(options["lock"] or "") > 200:
        raise UsageError("the name of a lock has more than 200 characters; give it a shorter one")
    target = pipeline if ":" in pipeline else loaded.target or pipeline
    return Submission(target, os.getcwd(), resolve(data), params, **options)


def _store(cluster: str | None, override: list[str] | None) -> RunStore:
    from batchrun.store.runs import RunStore

    return RunStore(settings_of(cluster, override).store_url)


def _note_if_nobody_serves(store: RunStore) -> None:
    from batchrun.store.turns import live_services

    if not live_services(store):
        console.print_note("no service is up; its runs wait until one is: batchrun up --detach")


def _document(one: Schedule) -> dict[str, Any]:
    """A schedule as JSON."""
    values = asdict(one)
    return {"schedule": values.pop("name"), **values}


def _tell(one: Schedule, as_json: bool) -> None:
    """Say how a schedule stands after it was changed."""
    from batchrun.render.schedules import next_firing

    if as_json:
        console.print_json(_document(one))
    else:
        typer.echo(f"schedule {one.name}: {next_firing(one)}")
