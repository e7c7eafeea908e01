"""The command that tells what changed in the store, and goes on to tell it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchrun import console
from batchrun.cli.completion import complete_run
from batchrun.cli.options import Cluster, Json, Override, settings_of
from batchrun.cli.program import app, leave_output
from batchrun.errors import PipelineError, UsageError, near_miss
from batchrun.outcome import ExitCode, RunState

if TYPE_CHECKING:
    from batchrun.store.event_record import EventRecord
    from batchrun.store.runs import RunStore

__all__ = ["event_document", "event_line", "events", "follow_events", "read_kinds", "read_since"]

POLL_EVERY = 0.5
"""Seconds between two looks at the events."""


@app.command(
    epilog="""\b
Examples:
  batchrun events last
  batchrun events --since 2h --kind run_ended --kind hook_failed
  batchrun events --follow --json | jq -c 'select(.kind == "run_ended")'
"""
)
def events(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run id, the beginning of one, or 'last'; all if left out.",
            autocompletion=complete_run,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run has ended, or until Ctrl-C.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="ID|TIME", help="Only what came after this event, or since 2026-02-11T09:30 or 2h ago."
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Only events of this kind, like run_ended; may be repeated."),
    ] = None,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Tell what happened to runs, in order.

    With --follow --json each event is a JSON document on a line of its own.
    """
    from batchrun.store.runs import RunStore

    after, moment = read_since(since, time.time())
    wanted: dict[str, Any] = {"since": moment, "kinds": read_kinds(kind or ())}
    with RunStore(settings_of(cluster, override).store_url) as store:
        if run is not None:
            wanted["run_id"] = store.find(run).run_id
        if follow:
            write = _as_document if as_json else _as_text
            try:
                follow_events(store, write=write, after=after, **wanted)
            except KeyboardInterrupt:  # the usual end of it, about which there is nothing to say
                raise typer.Exit(ExitCode.INTERRUPTED) from None
            except BrokenPipeError:
                leave_output()
            return
        found = store.events.read(after=after, **wanted)
        if as_json:
            console.print_json({"events": [event_document(event) for event in found]})
        else:
            for event in found:
                _as_text(event)


def follow_events(
    store: RunStore,
    *,
    write: Callable[[EventRecord], object],
    pause: Callable[[float], object] = time.sleep,
    run_id: str | None = None,
    after: int = 0,
    since: float | None = None,
    kinds: Collection[str] = (),
) -> None:
    """Write events as they are committed; those of one run until it has ended or its driver is gone.

    Args:
        store: The store.
        write: Called with each event, in order.
        pause: Called with the seconds to wait before the next look.
        run_id, after, since, kinds: As in EventLog.read.
    """
    while True:
        # What was told before the end is there once the end is.
        over = run_id is not None and _is_over(store, run_id)
        for event in store.events.read(run_id=run_id, after=after, since=since, kinds=kinds):
            write(event)
            after = event.id
        if over:
            return
        pause(POLL_EVERY)


def read_kinds(names: Collection[str]) -> Collection[str]:
    """The kinds of events of these names.

    Raises UsageError if there is no such kind.
    """
    from batchrun.store.event_record import EventKind

    kinds = [kind.value for kind in EventKind]
    for name in names:
        if name not in kinds:
            raise UsageError(
                f"--kind {name!r} is no kind of event.{near_miss(name, kinds)} There are {', '.join(kinds)}"
            )
    return names


def read_since(text: str | None, now: float) -> tuple[int, float | None]:
    """The id and the time that ``--since`` means: after an event, at a time, or so long before *now*.

    Raises UsageError if it is none of these.

    >>> read_since("117", 1000.0), read_since("2min", 1000.0)
    ((117, None), (0, 880.0))
    """
    from batchrun.resources import parse_seconds

    if text is None:
        return 0, None
    if text.isdecimal():
        return int(text), None
    try:
        return 0, datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return 0, now - parse_seconds(text)
    except PipelineError:
        raise UsageError(
            f"--since {text!r} is neither the number of an event nor a time; write it like 117, "
            "2026-02-11T09:30 or 2h"
        ) from None


def event_document(event: EventRecord) -> dict[str, Any]:
    """An event as JSON."""
    fields = asdict(event)
    return {"id": fields.pop("id"), "at": fields.pop("at"), "run": fields.pop("run_id"), **fields}


def event_line(event: EventRecord) -> str:
    """An event as a line for people, without what could steer a terminal.

    >>> from batchrun.store.event_record import EventRecord
    >>> event = EventRecord(7, 0.0, "run_ended", "delays-1", None, {"state": "partial", "rows_in": 9})
    >>> event_line(event).partition("  delays-1  ")[2]
    'run_ended: state partial, rows_in 9'
    """
    from batchrun.cli.following import plain

    when = datetime.fromtimestamp(event.at).isoformat(" ", "seconds")
    chunk = f"chunk {event.chunk}" if event.chunk is not None else ""
    said = ", ".join(filter(None, [chunk, *_parts(event.data)]))
    line = f"{event.id:>7}  {when}  {event.run_id or '-'}  {event.kind}" + (f": {said}" if said else "")
    return " ".join(plain(line).splitlines())


def _parts(data: Mapping[str, Any]) -> Iterator[str]:
    """What an event says, a few words each."""
    for name, value in data.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            continue  # too much for a line; --json has it
        if isinstance(value, dict):
            yield f"{name} {' + '.join(f'{number} {what}' for what, number in value.items())}"
        elif isinstance(value, list):
            yield f"{name} {' '.join(map(str, value))}"
        else:
            yield f"{name} {value}"


def _as_text(event: EventRecord) -> None:
    typer.echo(event_line(event))


def _as_document(event: EventRecord) -> None:
    console.print_json_line(event_document(event))


def _is_over(store: RunStore, run_id: str) -> bool:
    """Whether a run has ended, or began and is driven by nobody."""
    from batchrun.store.driver import is_driven

    record = store.find(run_id)
    return record.state.ended or (record.state is RunState.RUNNING and not is_driven(record))
