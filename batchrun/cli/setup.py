"""Commands about what there is to run and what it runs on: pipelines, config, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from batchrun import console
from batchrun.cli.options import Cluster, Json, Override, settings_of
from batchrun.cli.program import app
from batchrun.outcome import ExitCode

__all__ = ["config", "doctor", "pipelines"]


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
    entries = settings_of(cluster, override).entries()
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

    checks = diagnose(settings_of(cluster, override))
    if as_json:
        console.print_json(
            {"checks": [{"name": c.name, "ok": c.ok, "detail": c.detail, "advice": c.advice} for c in checks]}
        )
    else:
        console.print_checks(checks)
    if any(check.ok is False for check in checks):
        raise typer.Exit(ExitCode.FAILED)
