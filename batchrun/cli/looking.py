"""Commands that look at runs: runs, show, why, logs, report, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchrun import console
from batchrun.cli.completion import complete_run
from batchrun.cli.documents import document, failure_document, full_document, write_report
from batchrun.cli.options import Chunk, Cluster, Excel, Html, Json, Override, Run, settings_of
from batchrun.cli.program import app
from batchrun.errors import UsageError
from batchrun.outcome import FAILED_STATES, RunState

if TYPE_CHECKING:
    from batchrun.report import RunReport

__all__ = ["compare", "logs", "report", "runs", "show", "why"]


@app.command()
def runs(
    state: Annotated[RunState | None, typer.Option(help="Only runs that stand so.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only runs that failed or are partial, and for what.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """List runs: first those of the queue by their turns, then the newest.

    With --failed those that ended failed or partial, how many of their chunks were given up, and for which
    error most of them.
    """
    if failed and state:
        raise UsageError("--failed and --state exclude each other; choose one")
    from batchrun.store.run_document import record_document
    from batchrun.store.runs import RunStore
    from batchrun.store.turns import is_under_way, read_turns

    with RunStore(settings_of(cluster, override).store_url) as store:
        found = store.list(limit=limit, states=FAILED_STATES if failed else [state] if state else [])
        entries = {run.run_id: run.entry for run in store.queue.under_way()}
        failures = store.failures([record.run_id for record in found]) if failed else {}
        turns = {run_id: turn for turn, run_id in enumerate(read_turns(store).order)} if entries else {}
    found.sort(key=lambda record: turns.get(record.run_id, len(turns)))
    if as_json:
        listed = [record_document(record, entries.get(record.run_id)) for record in found]
        if failed:
            listed = [
                {**one, **failure_document(record, failures.get(record.run_id))}
                for one, record in zip(listed, found, strict=True)
            ]
        console.print_json({"runs": listed})
        return
    if failed:
        console.print_failed_runs(found, failures)
        return
    going = {one.run_id for one in found if is_under_way(one, entries.get(one.run_id))}
    idle = {one.run_id for one in found if not one.state.ended} - going
    hosts = {one.run_id: (one.driver or "").partition("/")[0] for one in found if one.run_id in going}
    console.print_runs(found, idle - entries.keys(), idle & entries.keys(), hosts)


@app.command()
def show(
    run: Run = "last", cluster: Cluster = None, override: Override = None, as_json: Json = False
) -> None:
    """Show what is known of a run."""
    report = _report_of(run, cluster, override)
    if as_json:
        console.print_json(full_document(report))
    else:
        console.print_details(report)


@app.command(
    epilog="""\b
Examples:
  batchrun why
  batchrun why last 23
"""
)
def why(
    run: Run = "last",
    chunk: Chunk = None,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Say why a run, or a chunk of it, stands as it does.

    What it waits for and who has that, how it is doing, or how it ended and what led to it.
    """
    found = _report_of(run, cluster, override)
    sentence = found.why(chunk)
    if as_json:
        console.print_json({"run": found.run_id, "chunk": chunk, "why": sentence})
    else:
        typer.echo(sentence)


@app.command(
    epilog="""\b
Examples:
  batchrun logs last 23
  batchrun logs last --follow
"""
)
def logs(
    run: Run = "last",
    chunk: Chunk = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the chunk or the run has ended.")
    ] = False,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Print what the chunks of a run printed and logged.

    A line before each attempt says which one it is.
    """
    from batchrun.cli.following import LogTail, follow_logs
    from batchrun.store.runs import RunStore

    if follow and as_json:
        raise UsageError("--follow does not end in one JSON document; leave --follow or --json out")
    with RunStore(settings_of(cluster, override).store_url) as store:
        record = store.find(run)
        if follow:
            follow_logs(store, record.run_id, chunk, write=lambda text: typer.echo(text, nl=False))
            if _report_of(record.run_id, cluster, override).abandoned:
                console.print_note(f"nothing drives the run; go on with: batchrun resume {record.run_id}")
            return
        found = store.logs(record.run_id, chunk)
    if as_json:
        console.print_json({"run": record.run_id, "logs": [asdict(log) for log in found]})
    elif text := LogTail().news(found):
        typer.echo(text.rstrip())
    else:
        console.print_note(f"{'the run' if chunk is None else f'chunk {chunk}'} has no log")


@app.command()
def report(
    run: Run = "last",
    html: Html = None,
    excel: Excel = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the report as Markdown, and write nothing.")
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open the HTML report in a browser.")] = False,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run.

    It goes into the run's folder as HTML unless told otherwise. Where there is no browser, --open says so.
    """
    found = _report_of(run, cluster, override)
    if markdown:
        if html is not None or excel is not None or open_it or as_json:
            raise UsageError("--markdown prints the report and writes no file; use it alone")
        typer.echo(found.to_markdown(), nl=False)
        return
    written = write_report(found, html, excel, always=excel is None or open_it)
    if as_json:
        console.print_json({**document(found), **written})
    else:
        for path in written.values():
            typer.echo(path)
    if open_it:
        _open_in_browser(Path(written["report"]).absolute())


@app.command(
    epilog="""\b
Examples:
  batchrun compare last delays-20261130-093012-4f2a81c6
  batchrun compare delays-20261130-093012 delays-20261201-093011 --all
"""
)
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run: its id, the beginning of it, or last.", autocompletion=complete_run
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(metavar="RUN", help="The run to compare it with.", autocompletion=complete_run),
    ],
    everything: Annotated[bool, typer.Option("--all", help="Show what is alike, too.")] = False,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Compare two runs: what was asked for, what came of it, how long it took, and the results row by row."""
    from batchrun.comparison import compare as compare_reports

    found = compare_reports(*(_report_of(run, cluster, override) for run in (first, second)))
    if as_json:
        console.print_json(asdict(found))
    else:
        console.print_comparison(found, everything=everything)


def _open_in_browser(page: Path) -> None:
    """Show a file in the browser of this machine; say so if it has none, for the file is there anyway."""
    import webbrowser

    if not webbrowser.open(page.as_uri()):
        console.print_note(f"there is no browser here; open {page} in one")


def _report_of(run: str, cluster: str | None, override: list[str] | None) -> RunReport:
    from batchrun.report import RunReport

    return RunReport(settings_of(cluster, override).store_url, run)
