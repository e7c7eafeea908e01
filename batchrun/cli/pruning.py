"""The command that removes runs: prune."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchrun import console
from batchrun.cli.options import Cluster, Json, Override, settings_of
from batchrun.cli.program import app
from batchrun.errors import UsageError
from batchrun.outcome import ExitCode, RunState

if TYPE_CHECKING:
    from batchrun.pruning import PrunePlan

__all__ = ["prune"]


@app.command(
    epilog="""\b
Examples:
  batchrun prune --older-than 30d --dry-run
  batchrun prune --keep 20 --pipeline delays --yes
  batchrun prune --max-size 50GB --state failed
  batchrun prune
"""
)
def prune(
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Only runs that ended so long ago.")
    ] = None,
    keep: Annotated[int | None, typer.Option("--keep", metavar="N", min=0, help="Keep the newest N.")] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Only until those that stay take no more than that."),
    ] = None,
    state: Annotated[list[RunState] | None, typer.Option(help="Only runs that stand so.")] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", metavar="NAME", help="Only runs of this pipeline.")
    ] = None,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Write a SQLite store anew, so that the disk has the space.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cluster: Cluster = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Remove whole runs, oldest first: their records and their folders.

    A run goes if all options let it. One that is queued, runs, or is needed by a queued run stays. Without
    any option only what is left over goes: folders of runs that are no longer in the store, or never were.
    """
    from batchrun.pruning import PruneRules, plan_pruning
    from batchrun.resources import parse_bytes, parse_seconds

    rules = PruneRules(
        older_than=None if older_than is None else parse_seconds(older_than),
        keep=keep,
        max_size=None if max_size is None else parse_bytes(max_size),
        states=tuple(state or ()),
        pipeline=pipeline,
    )
    settings = settings_of(cluster, override)
    plan = plan_pruning(settings, rules)
    if not as_json and plan:
        console.print_prune_plan(plan)
    if not as_json and not plan:
        console.print_note("nothing to remove")
    if dry_run:
        if as_json:
            console.print_json(_document(plan))
        return
    if plan and not yes:
        _ask(as_json)
    _remove(settings, plan, vacuum, as_json)


def _remove(settings: Any, plan: PrunePlan, vacuum: bool, as_json: bool) -> None:
    """Do it, and say what came of it."""
    from batchrun.pruning import prune as prune_runs
    from batchrun.resources import format_bytes
    from batchrun.store.runs import RunStore

    done = prune_runs(settings, plan)
    with RunStore(settings.store_url) as store:
        given_back = store.removal.vacuum() if vacuum else 0
        unused = store.removal.unused()
    if as_json:
        result = {**asdict(done), "vacuumed": given_back, "unused": unused}
        console.print_json({**_document(plan), "removed": result})
        return
    for run in done.spared:
        console.print_note(f"run {run} stays: it was put to use meanwhile")
    if plan:
        console.print_note(f"{len(done.runs):,} runs removed, {format_bytes(done.nbytes)} of files free")
    if vacuum:
        console.print_note(f"the store gave {format_bytes(given_back)} back")
    elif unused and done.runs:
        console.print_note(
            f"the store keeps {format_bytes(unused)} for later runs; --vacuum gives them to the disk"
        )


def _ask(as_json: bool) -> None:
    """Ask on a terminal; elsewhere nobody could answer."""
    if as_json or not sys.stdin.isatty():
        raise UsageError("this removes runs for good; add --yes, or --dry-run to see which")
    try:
        sure = typer.confirm("Remove them for good?", err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
    if not sure:
        console.print_note("nothing was removed")
        raise typer.Exit(ExitCode.CANCELLED)


def _document(plan: PrunePlan) -> dict[str, Any]:
    runs = [
        {"run": run.run_id, "state": run.state.value, "ended": run.ended, "bytes": plan.sizes[run.run_id]}
        for run in plan.runs
    ]
    leftovers = [{"folder": one.path, "bytes": one.nbytes} for one in plan.leftovers]
    return {"runs": runs, "leftovers": leftovers, "bytes": plan.nbytes}
