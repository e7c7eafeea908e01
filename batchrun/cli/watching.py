"""Showing a run that another process drives, until it ends or Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from batchrun import console
from batchrun.cli.documents import document, write_report
from batchrun.outcome import ExitCode

if TYPE_CHECKING:
    from batchrun.config import Settings

__all__ = ["watch_to_the_end"]


def watch_to_the_end(
    run: str, settings: Settings, *, html: Path | None, excel: Path | None, quiet: bool, as_json: bool
) -> NoReturn:
    """Show a run as it goes on, then how it ended, and leave with its exit code.

    Ctrl-C leaves the run alone, and says how to come back.
    """
    from batchrun.displays import display
    from batchrun.report import RunReport
    from batchrun.watching import Watched, watch_run

    report = RunReport(settings.store_url, run)
    found = Watched.ENDED
    if not report.state.ended:
        try:
            with display(not quiet) as shown:
                found = watch_run(settings.store_url, report.run_id, shown)
        except KeyboardInterrupt:
            found = Watched.LEFT
        report = RunReport(settings.store_url, report.run_id)
    ended = report.state.ended
    written = write_report(report, html, excel, always=True) if ended else {}
    if as_json:
        console.print_json({**document(report), **written})
    elif found is not Watched.LEFT:
        console.print_summary(report, list(written.values()))
    if ended:
        raise typer.Exit(ExitCode.of(report.state))
    if found is Watched.ABANDONED:
        raise typer.Exit(ExitCode.FAILED)
    console.print_note(f"the run goes on; come back with: batchrun watch {report.run_id}")
    raise typer.Exit(ExitCode.INTERRUPTED)
