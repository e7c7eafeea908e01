"""Options that several commands have, and what they mean."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchrun.cli.completion import complete_run
from batchrun.errors import BatchrunError, UsageError

if TYPE_CHECKING:
    from batchrun.config import Settings

__all__ = [
    "Chunk",
    "Cluster",
    "Excel",
    "Html",
    "Json",
    "Override",
    "Quiet",
    "Run",
    "parameter",
    "settings_of",
    "time_of",
]

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
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run id, the beginning of one, or 'last'.", autocompletion=complete_run
    ),
]
Chunk = Annotated[
    int | None, typer.Argument(metavar="CHUNK", help="The number of a chunk; the whole run if left out.")
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the report as HTML.")]
Excel = Annotated[Path | None, typer.Option("--excel", metavar="FILE", help="Write the report as Excel.")]


def settings_of(cluster: str | None, override: list[str] | None) -> Settings:
    """The settings that go with ``--cluster`` and ``--set``."""
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


def time_of(text: str | None) -> float | None:
    """A time to begin, in seconds since the epoch: a date and time here, or how long from now.

    >>> time_of("1970-01-02T00:00:00+00:00")
    86400.0
    """
    from datetime import datetime

    from batchrun.resources import parse_seconds

    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return time.time() + parse_seconds(text)
    except BatchrunError:
        raise UsageError(
            f"{text!r} is no time; write one like 2026-03-01T22:00, or how long from now, like 2h"
        ) from None


def parameter(text: str) -> tuple[str, Any]:
    """A parameter as JSON, or as the text that it is."""
    name, value = _pair(text, "--param")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
