"""How a run stands in the queue, as options of the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from batchrun.cli.completion import complete_run

__all__ = [
    "After",
    "Detach",
    "Foreground",
    "InputFrom",
    "Lock",
    "MaxSlots",
    "NotBefore",
    "Priority",
    "Unique",
]

Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Queue the run, print its id and return at once.")
]
Foreground = Annotated[
    bool, typer.Option("--foreground", help="Run here, though a service is up.", show_default=False)
]
Priority = Annotated[
    int,
    typer.Option(
        "--priority", metavar="N", help="Higher goes first; each step is twice the slots, or an hour's wait."
    ),
]
MaxSlots = Annotated[
    int | None, typer.Option("--max-slots", metavar="N", help="The most tasks on the workers at once.")
]
Lock = Annotated[
    str | None, typer.Option("--lock", metavar="NAME", help="Of runs with the same lock, one at a time.")
]
After = Annotated[
    list[str] | None,
    typer.Option(
        "--after",
        metavar="RUN",
        help="Begin when that run has ended well; may be repeated.",
        autocompletion=complete_run,
    ),
]
InputFrom = Annotated[
    str | None,
    typer.Option(
        "--input-from",
        metavar="RUN",
        help="Take the results of that run as input.",
        autocompletion=complete_run,
    ),
]
NotBefore = Annotated[
    str | None, typer.Option("--not-before", metavar="TIME", help="Begin then, like 2026-03-01T22:00, or 2h.")
]
Unique = Annotated[
    bool,
    typer.Option("--unique", help="Answer with the run of the same pipeline, parameters and input, if any."),
]
