"""The program: its help, its exit codes, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import NoReturn

import typer

from batchrun import console
from batchrun.errors import BatchrunError, ClusterUnreachableError, UsageError
from batchrun.outcome import ExitCode

__all__ = ["app", "leave_output", "main"]

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
  batchrun why last 23
  batchrun resume last

\b
Exit codes:
  0 succeeded    1 failed       2 wrong usage or configuration, nothing ran
  3 partial      4 cancelled    5 cluster unreachable    130 interrupted
""",
)


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with contextlib.suppress(ValueError, AttributeError):
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a code page may lack what users and errors say
    if "--json" in sys.argv:
        with console.documents_apart():
            code = _run(as_json=True)
    else:
        code = _run(as_json=False)
    sys.exit(int(code))


def _run(*, as_json: bool) -> ExitCode:
    try:
        # By its name also as `python -m batchrun`: scripts for the shell call it so.
        return app(prog_name="batchrun", standalone_mode=False) or ExitCode.SUCCEEDED
    except BatchrunError as error:
        return _say(error, _code_of(error), as_json)
    except KeyboardInterrupt as error:
        return _say(error, ExitCode.INTERRUPTED, as_json)
    except BrokenPipeError:
        leave_output()
        return ExitCode.SUCCEEDED
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own errors are about usage
            raise
        return _say(error, ExitCode.USAGE, as_json)


def leave_output() -> None:
    """Write to standard output no more, since nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
