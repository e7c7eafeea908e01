"""Removes runs that nobody needs any more: their rows of the store, and their folders."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchrun.data import files
from batchrun.data.shared_memory import MemoryFolder, folder_of
from batchrun.errors import UsageError
from batchrun.outcome import RunState
from batchrun.store.records import StoredRun
from batchrun.store.runs import RunStore

if TYPE_CHECKING:
    from batchrun.config import Settings

__all__ = ["Leftover", "PrunePlan", "PruneRules", "Pruned", "choose", "plan_pruning", "prune"]

REMOVED = ".removed"
"""The end of the name of a file beside the folder of a run, which says that the run is being removed."""
RUN_FOLDER = re.compile(r"[A-Za-z0-9_.-]+-\d{8}-\d{6}-[0-9a-f]{4,8}")
"""What the name of the folder of a run looks like."""
UNTOUCHED = 3600.0
"""Seconds after the last change in a folder that no run names, from when on it counts as left over."""


@dataclass(frozen=True)
class PruneRules:
    """Which runs that have ended may go. Every rule must let a run go; without any rule none goes."""

    older_than: float | None = None
    """Seconds since it ended, at least."""
    keep: int | None = None
    """So many of the newest stay."""
    max_size: int | None = None
    """Bytes that the runs may take together: the oldest go until they do."""
    states: Collection[RunState] = ()
    """Only runs that stand so, which no other rule counts; empty for all."""
    pipeline: str | None = None
    """Only runs of the pipeline of that name, in the same way."""

    def __post_init__(self) -> None:
        if under_way := [state.value for state in self.states if not state.ended]:
            raise UsageError(f"a run that is {under_way[0]} is never removed; cancel it first")
        if self.keep is not None and self.keep < 0:
            raise UsageError(f"keep={self.keep} makes no sense; use 0 or more")

    def covers(self, run: StoredRun) -> bool:
        """Whether the rules are about a run at all."""
        return (not self.states or run.state in self.states) and self.pipeline in (None, run.pipeline)

    @property
    def empty(self) -> bool:
        """Whether there is no rule."""
        return self == PruneRules()


def choose(
    runs: Sequence[StoredRun], rules: PruneRules, now: float, size: Callable[[StoredRun], int]
) -> list[StoredRun]:
    """The runs that go, oldest first.

    Args:
        runs: All runs, oldest first.
        rules: Which of them may go.
        now: Seconds since the epoch.
        size: Bytes that a run takes; called only where it matters.
    """
    if rules.empty:
        return []
    covered = [run for run in runs if rules.covers(run)]
    may_go = covered[: max(0, len(covered) - (rules.keep or 0))]
    chosen = [
        run
        for run in may_go
        if not run.kept_because and (rules.older_than is None or now - run.since >= rules.older_than)
    ]
    if rules.max_size is None:
        return chosen
    left, gone = sum(map(size, covered)), []
    for run in chosen:
        if left <= rules.max_size:
            break
        left -= size(run)
        gone.append(run)
    return gone


@dataclass(frozen=True)
class Leftover:
    """A folder that no run of the store names."""

    path: str
    """The folder."""
    nbytes: int
    """What it takes."""
    marker: str | None
    """The file that says that its run was removed; None if its run was never recorded."""


@dataclass(frozen=True)
class PrunePlan:
    """What would go."""

    runs: list[StoredRun]
    """The runs, oldest first."""
    sizes: dict[str, int]
    """Bytes of the folder of each, by run id."""
    leftovers: list[Leftover]
    """What an earlier removal, or a run that never began, has left."""

    @property
    def nbytes(self) -> int:
        """Bytes of files in all."""
        return sum(self.sizes.values()) + sum(leftover.nbytes for leftover in self.leftovers)

    def __bool__(self) -> bool:
        return bool(self.runs or self.leftovers)


@dataclass
class Pruned:
    """What went."""

    runs: list[str] = field(default_factory=list)
    """The ids of the runs, oldest first."""
    spared: list[str] = field(default_factory=list)
    """Those that were put to use since they were chosen, and stay."""
    nbytes: int = 0
    """Bytes of files that are free now."""
    programs: int = 0
    """Programs of queued runs that went because no run has them any more."""


def plan_pruning(settings: Settings, rules: PruneRules) -> PrunePlan:
    """What would go of the store of *settings*; nothing is changed."""
    known: dict[str, int] = {}

    def size(run: StoredRun) -> int:
        if run.run_id not in known:
            known[run.run_id] = files.measure(run.folder)[0] if _is_own(run) else 0
        return known[run.run_id]

    with RunStore(settings.store_url) as store:
        runs = choose(store.removal.runs(), rules, time.time(), size)
        leftovers = _leftovers(store, settings.artifact_root)
    return PrunePlan(runs, {run.run_id: size(run) for run in runs}, leftovers)


def prune(settings: Settings, plan: PrunePlan, told: Callable[[str], None] = lambda _: None) -> Pruned:
    """Remove what was planned, the rows of each run first, then its folder.

    A file beside the folder says what is going on, so that after a crash the next call can finish it. Runs
    that were put to use meanwhile stay. *told* is called with the id of each run that is gone.

    Raises StoreError if a folder cannot be removed; what is left of it goes another time.
    """
    done = Pruned()
    with RunStore(settings.store_url) as store:
        for run in plan.runs:
            marker = run.folder + REMOVED
            if _is_own(run):
                files.write_bytes(marker, b"")
            if not store.removal.remove(run.run_id):
                files.remove(marker)
                done.spared.append(run.run_id)
                continue
            if _is_own(run):
                _remove_folder(run.folder, marker)
            done.runs.append(run.run_id)
            done.nbytes += plan.sizes[run.run_id]
            told(run.run_id)
        for leftover in plan.leftovers:
            if not store.removal.known([_name(leftover.path)]):
                _remove_folder(leftover.path, leftover.marker)
                done.nbytes += leftover.nbytes
        done.programs = store.removal.remove_programs()
    return done


def _leftovers(store: RunStore, root: str) -> list[Leftover]:
    """Folders below the artifact root whose runs are not in the store.

    Those of runs that were removed have a marker. Others must look like the folder of a run that was never
    recorded: no chunk of its input was planned, and nothing has changed in it for an hour. So the runs of
    another store with the same root are safe.
    """
    names = files.names(root)
    marked = {name.removesuffix(REMOVED) for name in names if name.endswith(REMOVED)}
    folders = {name for name in names if RUN_FOLDER.fullmatch(name) and not name.endswith(REMOVED)}
    found = []
    for name in sorted((folders | marked) - store.removal.known(folders | marked)):
        path = files.join(root, name)
        nbytes, changed = files.measure(path)
        if name in marked:
            found.append(Leftover(path, nbytes, path + REMOVED))
        elif time.time() - changed > UNTOUCHED and "plan" not in files.names(path):
            found.append(Leftover(path, nbytes, None))
    return found


def _remove_folder(path: str, marker: str | None) -> None:
    files.remove_folder(path)
    MemoryFolder(folder_of(_name(path))).remove()
    if marker is not None:
        files.remove(marker)


def _is_own(run: StoredRun) -> bool:
    """Whether its folder is one that batchrun made for it, and so holds nothing else."""
    return _name(run.folder) == run.run_id


def _name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
