"""The command line: ``batchrun``. It observes and asks; what happens is decided elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from batchrun import console
from batchrun.errors import BatchrunError, ClusterUnreachableError, UsageError
from batchrun.outcome import ExitCode, RunState

if TYPE_CHECKING:
    from batchrun.config import Settings
    from batchrun.events import Event
    from batchrun.report import RunReport

__all__ = ["app", "main"]

app = typer.Typer(
    name="batchrun",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run one expensive function over a large table on Dask, and account for every row.",
    epilog="""\b
Examples:
  batchrun pipelines
  batchrun submit pipelines.flights:delays --input flights.parquet
  batchrun show last
  batchrun resume last

\b
Exit codes:
  0 succeeded    1 failed       2 wrong usage or configuration, nothing ran
  3 partial      4 cancelled    5 cluster unreachable    130 interrupted
""",
)

Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        "-c",
        metavar="FILE|ADDRESS|inline",
        help="A cluster.yaml, the address of a Dask scheduler, or 'inline'. [default: nearest cluster.yaml]",
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value of cluster.yaml; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or 'last'.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report as HTML.")]
Excel = Annotated[Path | None, typer.Option("--excel", metavar="FILE", help="Write the report as Excel.")]


@app.command(
    epilog="""\b
Examples:
  batchrun submit pipelines.flights:delays -i flights.parquet -p late_after=30
  batchrun submit mine:plan -i "pits/*.parquet" -c tcp://127.0.0.1:8786 --excel mine.xlsx
  batchrun submit mine:plan -i pits.csv -c inline
"""
)
def submit(
    pipeline: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="The pipeline to run.")],
    data: Annotated[
        str, typer.Option("--input", "-i", metavar="PATH", help="A file, folder, glob or URL of a table.")
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter, as JSON or plain text."),
    ] = None,
    cluster: Cluster = None,
    override: Override = None,
    html: Html = None,
    excel: Excel = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a pipeline over a table.

    It runs in the foreground. Ctrl-C lets the chunks that run end and stops; `batchrun resume` goes on.
    """
    from batchrun.launch import run_pipeline
    from batchrun.loading import load_pipeline

    target = load_pipeline(pipeline)
    settings = _settings(cluster, override)
    params = dict(_parameter(text) for text in param or ())
    watch = _Watch()
    with _stopped_runs_reported(watch, settings, as_json):
        report = run_pipeline(
            target,
            data,
            params=params,
            cluster="inline" if cluster == "inline" else settings,
            settings=settings,
            progress=not quiet,
            observers=[watch],
        )
    _finish(report, html, excel, as_json)


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

    settings = _settings(cluster, override)
    watch = _Watch()
    with _stopped_runs_reported(watch, settings, as_json):
        report = resume_run(
            run,
            cluster="inline" if cluster == "inline" else settings,
            settings=settings,
            progress=not quiet,
            observers=[watch],
        )
    _finish(report, html, excel, as_json)


@app.command()
def runs(
    state: Annotated[RunState | None, typer.Option(help="Only runs that stand so.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    from batchrun.store.driver import is_driven
    from batchrun.store.runs import RunStore

    with RunStore(_settings(cluster, override).store_url) as store:
        found = store.list(limit=limit, state=state)
    if as_json:
        console.print_json({"runs": [_record_document(record) for record in found]})
    else:
        console.print_runs(
            found, {record.run_id for record in found if not record.state.ended and not is_driven(record)}
        )


@app.command()
def show(
    run: Run = "last", cluster: Cluster = None, override: Override = None, as_json: Json = False
) -> None:
    """Show what is known of a run."""
    report = _report(run, cluster, override)
    if as_json:
        console.print_json(_document(report))
    else:
        console.print_details(report)


@app.command()
def report(
    run: Run = "last",
    html: Html = None,
    excel: Excel = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the HTML report in a browser.")] = False,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run.

    It goes into the run's folder as HTML unless told otherwise.
    """
    found = _report(run, cluster, override)
    written = _write(found, html, excel, always=excel is None)
    if as_json:
        console.print_json({**_document(found), **written})
    else:
        for path in written.values():
            typer.echo(path)
    if open_it and written.get("report"):
        typer.launch(Path(written["report"]).absolute().as_uri())


@app.command()
def pipelines(
    modules: Annotated[
        list[str] | None, typer.Argument(metavar="[MODULE]...", help="Modules or packages to look in.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List pipelines that can be submitted.

    Without a module, those of the package `pipelines` in the current folder.
    """
    from batchrun.loading import describe_pipelines

    found, broken = describe_pipelines(modules or ["pipelines"])
    if as_json:
        keys = ("pipeline", "split", "stages", "doc")
        console.print_json(
            {"pipelines": [dict(zip(keys, row, strict=True)) for row in found], "broken": broken}
        )
        return
    console.print_pipelines(found)
    for module, reason in broken.items():
        console.print_note(f"{module} is left out: {reason}")


@app.command()
def config(
    cluster: Cluster = None,
    override: Override = None,
    schema: Annotated[bool, typer.Option(help="Print the JSON schema of cluster.yaml instead.")] = False,
    as_json: Json = False,
) -> None:
    """Show every setting and where it comes from."""
    from batchrun.config import json_schema

    if schema:
        console.print_json(json_schema())
        return
    entries = _settings(cluster, override).entries()
    if as_json:
        console.print_json(
            {"settings": [{"key": e.key, "value": e.value, "source": e.source} for e in entries]}
        )
    else:
        console.print_settings((entry.key, entry.value, entry.source) for entry in entries)


@app.command()
def doctor(cluster: Cluster = None, override: Override = None, as_json: Json = False) -> None:
    """Check that a run would find what it needs.

    Looks at versions, the cluster and its tags, the store and the disk; starts nothing.
    """
    from batchrun.doctor import diagnose

    checks = diagnose(_settings(cluster, override))
    if as_json:
        console.print_json(
            {"checks": [{"name": c.name, "ok": c.ok, "detail": c.detail, "advice": c.advice} for c in checks]}
        )
    else:
        console.print_checks(checks)
    if any(check.ok is False for check in checks):
        raise typer.Exit(ExitCode.FAILED)


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with contextlib.suppress(ValueError, AttributeError):
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    as_json = "--json" in sys.argv
    try:
        code = app(standalone_mode=False) or ExitCode.SUCCEEDED
    except BatchrunError as error:
        code = _say(error, _code_of(error), as_json)
    except KeyboardInterrupt as error:
        code = _say(error, ExitCode.INTERRUPTED, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.SUCCEEDED
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own errors are about usage
            raise
        code = _say(error, ExitCode.USAGE, as_json)
    sys.exit(int(code))


class _Watch:
    """Remembers which run goes on."""

    run_id: str | None = None

    def __call__(self, event: Event) -> None:
        self.run_id = event.run_id


@contextlib.contextmanager
def _stopped_runs_reported(watch: _Watch, settings: Settings, as_json: bool) -> Any:
    """After Ctrl-C, say where the run stands and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if watch.run_id is not None:
            from batchrun.report import RunReport

            report = RunReport(settings.store_url, watch.run_id)
            if as_json:
                console.print_json(_document(report))
            else:
                console.print_summary(report)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        raise
    except BatchrunError:
        if watch.run_id is not None:
            console.print_note(f"what was solved is kept; go on with: batchrun resume {watch.run_id}")
        raise


def _finish(report: RunReport, html: Path | None, excel: Path | None, as_json: bool) -> NoReturn:
    """Write the report files, say how the run ended, and leave with its exit code."""
    written = _write(report, html, excel, always=True)
    if as_json:
        console.print_json({**_document(report), **written})
    else:
        console.print_summary(report, list(written.values()))
    raise typer.Exit(ExitCode.of(report.state))


def _write(report: RunReport, html: Path | None, excel: Path | None, *, always: bool) -> dict[str, str]:
    written = {}
    if html is not None or always:
        written["report"] = str(report.to_html(html))
    if excel is not None:
        written["excel"] = str(report.to_excel(excel))
    return written


def _document(report: RunReport) -> dict[str, Any]:
    """A run as JSON."""
    html = Path(report.folder, "report.html")
    return {
        **_record_document(report.record),
        "report": str(html) if html.exists() else None,
        "cluster": report.cluster,
        "seconds": report.seconds,
        "params": report.params,
        "input": report.input,
        "split": report.split,
        "stages": report.stages,
        "attempts": len(report.attempts),
        "failures": report.failures.drop(columns="traceback").to_dict("records"),
        "error": str(report.error) if report.error else None,
    }


def _record_document(record: Any) -> dict[str, Any]:
    from batchrun.store.driver import is_driven

    keys = ("pipeline", "rows_in", "rows_solved", "rows_quarantined", "rows_cancelled", "chunks", "folder")
    times = ("created", "started", "ended")
    return {
        "run": record.run_id,
        "state": record.state.value,
        "driven": is_driven(record),
        **{key: getattr(record, key) for key in (*keys, *times)},
    }


def _report(run: str, cluster: str | None, override: list[str] | None) -> RunReport:
    from batchrun.report import RunReport

    return RunReport(_settings(cluster, override).store_url, run)


def _settings(cluster: str | None, override: list[str] | None) -> Settings:
    from batchrun.config import load_settings, settings_for_address

    overrides = dict(_pair(text, "--set") for text in override or ())
    if cluster is not None and "://" in cluster:
        return settings_for_address(cluster, overrides=overrides)
    return load_settings(None if cluster == "inline" else cluster, overrides)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} {text!r} is not of the form name=value")
    return name.strip(), value


def _parameter(text: str) -> tuple[str, Any]:
    """A parameter as JSON, or as the text that it is."""
    name, value = _pair(text, "--param")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _code_of(error: BatchrunError) -> ExitCode:
    if isinstance(error, ClusterUnreachableError):
        return ExitCode.UNREACHABLE
    return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED


def _say(error: BaseException, code: ExitCode, as_json: bool) -> ExitCode:
    """Tell the user what went wrong."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message or ("interrupted" if code is ExitCode.INTERRUPTED else type(error).__name__)
    if as_json:
        console.print_json({"error": message, "kind": type(error).__name__, "exit_code": int(code)})
    console.print_error(message)
    return code
