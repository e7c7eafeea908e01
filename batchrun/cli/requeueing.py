"""The command that runs again what failed: requeue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from batchrun import console
from batchrun.cli.completion import complete_run
from batchrun.cli.documents import document
from batchrun.cli.driving import Watch, finish, stopped_runs_reported
from batchrun.cli.options import Cluster, Excel, Html, Json, Override, Quiet, settings_of
from batchrun.cli.program import app
from batchrun.errors import BatchrunError, ClusterUnreachableError, UsageError
from batchrun.outcome import ExitCode

if TYPE_CHECKING:
    from batchrun.config import Settings
    from batchrun.report import RunReport
    from batchrun.store.records import RunRecord

__all__ = ["requeue"]

BY_SEVERITY = (ExitCode.SUCCEEDED, ExitCode.PARTIAL, ExitCode.CANCELLED, ExitCode.FAILED)


@app.command(
    epilog="""\b
Examples:
  batchrun requeue last
  batchrun requeue last --quarantined
  batchrun requeue delays-20260211 --chunk 7 --chunk 12
  batchrun requeue --all-failed --dry-run
"""
)
def requeue(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run id, the beginning of one, or 'last'.",
            show_default="last",
            autocompletion=complete_run,
        ),
    ] = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="All chunks without a result, given up or never tried: the default."),
    ] = False,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Only chunks that were given up.")
    ] = False,
    chunk: Annotated[
        list[int] | None,
        typer.Option("--chunk", metavar="N", help="Only this chunk; may be repeated."),
    ] = None,
    all_failed: Annotated[
        bool, typer.Option("--all-failed", help="All runs that failed or are partial, one after the other.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --all-failed: only say which runs those are.")
    ] = False,
    cluster: Cluster = None,
    override: Override = None,
    html: Html = None,
    excel: Excel = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run chunks again that ended without a result, into the same report.

    What was not asked for stays as it is recorded, and the attempts of before are kept.
    """
    if sum((failed, quarantined, bool(chunk))) > 1:
        raise UsageError("--failed, --quarantined and --chunk exclude each other; choose one")
    if all_failed and (run or quarantined or chunk or html or excel):
        raise UsageError("--all-failed is about whole runs, all of them; name no run, chunks or report files")
    if dry_run and not all_failed:
        raise UsageError("--dry-run goes with --all-failed; `batchrun show RUN` tells about one run")
    settings = settings_of(cluster, override)
    options: dict[str, Any] = {
        "cluster": "inline" if cluster == "inline" else settings,
        "settings": settings,
        "progress": not quiet,
    }
    if all_failed:
        _requeue_all(settings, options, dry_run, as_json)
    from batchrun.requeue import requeue_run

    watch = Watch()
    with stopped_runs_reported(watch, settings, as_json):
        report = requeue_run(
            run or "last", quarantined=quarantined, chunks=chunk or (), observers=[watch], **options
        )
    if not report.state.ended:
        _say_queued(report, as_json)
    finish(report, html, excel, as_json)


def _say_queued(report: RunReport, as_json: bool) -> NoReturn:
    """Say that a service has to do with the run from here."""
    if as_json:
        console.print_json(document(report))
    else:
        console.print_note(f"run {report.run_id} is in the queue again; batchrun watch {report.run_id}")
    raise typer.Exit(ExitCode.SUCCEEDED)


def _requeue_all(settings: Settings, options: dict[str, Any], dry_run: bool, as_json: bool) -> NoReturn:
    """Run again what failed of every run, and leave with the worst exit code."""
    from batchrun.requeue import failed_runs
    from batchrun.store.run_document import record_document

    codes, documents = [ExitCode.SUCCEEDED], []
    for found in failed_runs(settings=settings):
        record, code, error = (found, codes[0], None) if dry_run else _again(found, options)
        codes.append(code)
        if as_json:
            documents.append({**record_document(record), "error": error})
        else:
            typer.echo(_line(record, error))
    if as_json:
        console.print_json({"runs": documents})
    elif len(codes) == 1:
        console.print_note("no run has failed")
    raise typer.Exit(max(codes, key=BY_SEVERITY.index))


def _again(record: RunRecord, options: dict[str, Any]) -> tuple[RunRecord, ExitCode, str | None]:
    """One run of many: an error of it does not keep the others from having their turn."""
    from batchrun.requeue import requeue_run

    try:
        report = requeue_run(record.run_id, **options)
    except ClusterUnreachableError:
        raise  # which it would be for the others too
    except BatchrunError as error:
        return record, ExitCode.FAILED, str(error)
    return report.record, ExitCode.of(report.state), str(report.error) if report.error else None


def _line(record: RunRecord, error: str | None) -> str:
    rows = f"{record.rows_solved:,} of {record.rows_in:,} rows solved"
    return f"{record.run_id}: {record.state.value}, {rows}{f' ({error})' if error else ''}"
