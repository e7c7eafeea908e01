"""Commands that drive a run, watch one or stop one: submit, resume, watch, cancel."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from batchrun import console
from batchrun.cli.completion import complete_pipeline, complete_run
from batchrun.cli.documents import document, write_report
from batchrun.cli.options import (
    Chunk,
    Cluster,
    Excel,
    Html,
    Json,
    Override,
    Quiet,
    Run,
    parameter,
    settings_of,
    time_of,
)
from batchrun.cli.program import app
from batchrun.cli.queue_options import (
    After,
    Detach,
    Foreground,
    InputFrom,
    Lock,
    MaxSlots,
    NotBefore,
    Priority,
    Unique,
)
from batchrun.errors import BatchrunError, UsageError
from batchrun.outcome import ExitCode

if TYPE_CHECKING:
    from batchrun.config import Settings
    from batchrun.events import Event
    from batchrun.report import RunReport

__all__ = ["Watch", "cancel", "finish", "resume", "stopped_runs_reported", "submit", "watch"]


@app.command(
    epilog="""\b
Examples:
  batchrun submit pipelines.flights:delays -i flights.parquet -p late_after=30
  batchrun submit mine:plan -i "pits/*.parquet" -c tcp://127.0.0.1:8786 --excel mine.xlsx
  batchrun submit mine:plan -i pits.csv -c inline --max-quarantined 5%
"""
)
def submit(
    pipeline: Annotated[
        str,
        typer.Argument(metavar="MODULE:NAME", help="The pipeline to run.", autocompletion=complete_pipeline),
    ],
    data: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="PATH", help="A file, folder, glob or URL of a table."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter, as JSON or plain text."),
    ] = None,
    cluster: Cluster = None,
    override: Override = None,
    max_quarantined: Annotated[
        str | None,
        typer.Option(
            "--max-quarantined", metavar="N|P%", help="End the run early once more rows are quarantined."
        ),
    ] = None,
    detach: Detach = False,
    foreground: Foreground = False,
    priority: Priority = 0,
    max_slots: MaxSlots = None,
    lock: Lock = None,
    after: After = None,
    input_from: InputFrom = None,
    not_before: NotBefore = None,
    unique: Unique = False,
    html: Html = None,
    excel: Excel = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a pipeline over a table.

    With a service up (`batchrun up`) the run is queued, and shown until it ends: Ctrl-C detaches. Without one
    it runs in the foreground: Ctrl-C lets the chunks that run end and stops; `batchrun resume` goes on.
    """
    from batchrun.cli.queueing import Asked, is_for_queue, queue_and_follow
    from batchrun.loading import load_runnable
    from batchrun.queueing import QueueOptions

    target = load_runnable(pipeline)
    settings = settings_of(cluster, override)
    params = dict(parameter(text) for text in param or ())
    options = QueueOptions(
        priority=priority,
        max_slots=max_slots,
        lock=lock,
        after=tuple(after or ()),
        input_from=input_from,
        not_before=time_of(not_before),
        unique=unique,
    )
    asked = Asked(detach=detach, foreground=foreground or cluster == "inline", options=options)
    if is_for_queue(asked, settings):
        queue_and_follow(
            asked,
            target,
            data,
            settings,
            params,
            max_quarantined,
            quiet=quiet,
            as_json=as_json,
            html=html,
            excel=excel,
        )
    if data is None:
        raise UsageError("a run needs an input; give one with --input")
    from batchrun.launch import run_pipeline

    allowance: dict[str, Any] = {} if max_quarantined is None else {"max_quarantined": max_quarantined}
    watch = Watch()
    with stopped_runs_reported(watch, settings, as_json):
        report = run_pipeline(
            target,
            data,
            params=params,
            cluster="inline" if cluster == "inline" else settings,
            settings=settings,
            progress=not quiet,
            observers=[watch],
            max_slots=max_slots,
            **allowance,
        )
    finish(report, html, excel, as_json)


@app.command()
def resume(
    run: Run = "last",
    cluster: Cluster = None,
    override: Override = None,
    html: Html = None,
    excel: Excel = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Go on with a run that did not solve all rows.

    Chunks that are solved are not computed again, whether the run was stopped, killed, or failed in part.
    """
    from batchrun.launch import resume_run

    settings = settings_of(cluster, override)
    watch = Watch()
    with stopped_runs_reported(watch, settings, as_json):
        report = resume_run(
            run,
            cluster="inline" if cluster == "inline" else settings,
            settings=settings,
            progress=not quiet,
            observers=[watch],
        )
    finish(report, html, excel, as_json)


@app.command(
    epilog="""\b
Examples:
  batchrun watch
  batchrun watch last
  batchrun watch last --quiet --json
  batchrun watch --once

\b
Exit codes:
  those of the run once it has ended    1 nothing drives it    130 Ctrl-C, and the run goes on
  without a run: 0 left with q, or --once    130 Ctrl-C
"""
)
def watch(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run id, the beginning of one, or 'last'; all runs if left out.",
            autocompletion=complete_run,
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Without a run: print the view one time, and end.")
    ] = False,
    cluster: Cluster = None,
    override: Override = None,
    html: Html = None,
    excel: Excel = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show how a run goes on, whichever process drives it and wherever; or all runs, slots and failures.

    A run is shown until it has ended; while it is queued, what it waits for. Without a run it is a full
    screen until q or Ctrl-C; where standard output is no terminal a line whenever something changed, with
    --json a document on a line of its own. Leaving ends the watching, not the runs.
    """
    if run is None:
        if html is not None or excel is not None or quiet:
            raise UsageError("--html, --excel and --quiet are for one run; name it, or say last")
        from batchrun.cli.overlooking import watch_store

        watch_store(settings_of(cluster, override).store_url, once=once, as_json=as_json)
        return
    if once:
        raise UsageError(f"--once is for all runs; one is shown once by: batchrun show {run}")
    from batchrun.cli.watching import watch_to_the_end

    watch_to_the_end(
        run, settings_of(cluster, override), html=html, excel=excel, quiet=quiet, as_json=as_json
    )


@app.command(
    epilog="""\b
Examples:
  batchrun cancel last
  batchrun cancel last 23 --keep-best

\b
Exit codes:
  0 cancelled    1 not cancelled: it ended before, or still goes on
"""
)
def cancel(
    run: Run = "last",
    chunk: Chunk = None,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="Keep the best answers so far of solves that are stopped.")
    ] = False,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Stop a run, or one chunk of it, wherever it is driven.

    What is solved is kept; `batchrun resume` goes on with the rest. Waits up to 10 s for it to be done.
    """
    from batchrun.cli.cancelling import cancel_run

    done = cancel_run(run, settings_of(cluster, override), chunk=chunk, keep_best=keep_best)
    if as_json:
        console.print_json(
            {
                "run": done.run_id,
                "chunk": chunk,
                "cancelled": done.cancelled,
                "state": done.state,
                "message": done.message,
            }
        )
    else:
        typer.echo(done.message)
    raise typer.Exit(ExitCode.SUCCEEDED if done.cancelled else ExitCode.FAILED)


class Watch:
    """Remembers which run goes on."""

    run_id: str | None = None

    def __call__(self, event: Event) -> None:
        self.run_id = event.run_id


@contextlib.contextmanager
def stopped_runs_reported(watch: Watch, settings: Settings, as_json: bool) -> Any:
    """After Ctrl-C, say where the run stands and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if watch.run_id is not None:
            from batchrun.report import RunReport

            report = RunReport(settings.store_url, watch.run_id)
            if as_json:
                console.print_json(document(report))
            else:
                console.print_summary(report)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        raise
    except BatchrunError:
        if watch.run_id is not None:
            console.print_note(f"what was solved is kept; go on with: batchrun resume {watch.run_id}")
        raise


def finish(report: RunReport, html: Path | None, excel: Path | None, as_json: bool) -> NoReturn:
    """Write the report files, say how the run ended, and leave with its exit code."""
    written = write_report(report, html, excel, always=True)
    if as_json:
        console.print_json({**document(report), **written})
    else:
        console.print_summary(report, list(written.values()))
    raise typer.Exit(ExitCode.of(report.state))
