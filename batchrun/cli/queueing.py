"""Submitting to the queue of a service, and following the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from batchrun import console
from batchrun.cli.documents import document
from batchrun.errors import UsageError
from batchrun.outcome import ExitCode
from batchrun.queueing import QueueOptions

if TYPE_CHECKING:
    from batchrun.chain import Chain
    from batchrun.config import Settings
    from batchrun.definition import Pipeline

__all__ = ["Asked", "is_for_queue", "queue_and_follow"]


@dataclass(frozen=True)
class Asked:
    """How a run was asked to be run."""

    detach: bool
    """Whether to return as soon as it is queued."""
    foreground: bool
    """Whether it must run here."""
    options: QueueOptions
    """How it stands in the queue."""

    @property
    def wants_queue(self) -> bool:
        """Whether it says something that only a queue can do."""
        return self.detach or self.options != QueueOptions(max_slots=self.options.max_slots)


def is_for_queue(asked: Asked, settings: Settings) -> bool:
    """Whether a run goes to the queue; tells people if it does not.

    Raises UsageError if it cannot be run as it was asked to be.
    """
    from batchrun.store.runs import RunStore
    from batchrun.store.turns import live_services

    if asked.foreground:
        if asked.wants_queue:
            raise UsageError(
                "a run in the foreground is not queued: leave out --foreground, or -c inline, or the options "
                "of the queue"
            )
        return False
    with RunStore(settings.store_url) as store:
        up = bool(live_services(store))
    if not up and asked.wants_queue:
        console.print_note("no service is up; the run waits until one is: batchrun up --detach")
    elif not up:
        console.print_note("no service is up, so it runs here; Ctrl-C stops it")
    return up or asked.wants_queue


def queue_and_follow(
    asked: Asked,
    pipeline: Pipeline | Chain,
    data: str | None,
    settings: Settings,
    params: Mapping[str, Any],
    max_quarantined: str | None,
    *,
    quiet: bool,
    as_json: bool,
    html: Path | None,
    excel: Path | None,
) -> NoReturn:
    """Queue a run; unless it is detached, show it until it ends, and leave with its exit code."""
    from batchrun.queueing import queue_runs

    run_id = queue_runs(
        pipeline,
        data,
        settings=settings,
        params=params,
        max_quarantined=max_quarantined,
        options=asked.options,
    )
    if asked.detach:
        if as_json:
            from batchrun.report import RunReport

            console.print_json(document(RunReport(settings.store_url, run_id)))
        else:
            typer.echo(run_id)
        raise typer.Exit(ExitCode.SUCCEEDED)
    from batchrun.cli.watching import watch_to_the_end

    console.print_note(f"{run_id} is queued; Ctrl-C detaches, `batchrun watch {run_id}` comes back")
    watch_to_the_end(run_id, settings, html=html, excel=excel, quiet=quiet, as_json=as_json)
