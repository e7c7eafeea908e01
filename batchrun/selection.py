"""Which chunks of a run that has ended are to run again, and what that leaves as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from batchrun.errors import UsageError
from batchrun.outcome import Outcome
from batchrun.plan import PlannedChunks
from batchrun.store.records import SettledChunks

if TYPE_CHECKING:
    from batchrun.outcome import Integers

__all__ = ["EVERYTHING", "Rerun", "Selection", "rerun"]


@dataclass(frozen=True)
class Selection:
    """What was asked to run again: all that has no result, or some of it.

    >>> Selection.of(chunks=[7, 3, 7]).chunks, Selection().everything
    ((3, 7), True)
    """

    quarantined: bool = False
    """Only the chunks that were given up."""
    chunks: tuple[int, ...] | None = None
    """Only these chunks, by number; of one that was cut its parts."""
    goes_on: bool = False
    """Whether an earlier session may have solved some of these chunks; those are left out then."""

    @classmethod
    def of(cls, *, quarantined: bool = False, chunks: Sequence[int] = ()) -> Selection:
        """What a user asks for. Raises UsageError if that is two things at once."""
        if quarantined and len(chunks):
            raise UsageError(
                "ask for the quarantined chunks or for chunks by number, not for both; a chunk that is "
                "quarantined has a number too"
            )
        return cls(quarantined, tuple(sorted({int(chunk) for chunk in chunks})) or None)

    @property
    def everything(self) -> bool:
        """Whether it is all that has no result, which is what a resume does."""
        return not self.quarantined and self.chunks is None


EVERYTHING = Selection()
"""All chunks that have no result."""


@dataclass(frozen=True)
class Rerun:
    """What a session of a run takes up again, and what it finds and leaves."""

    kept: SettledChunks
    """Chunks that have their outcome and keep it."""
    unreached: SettledChunks
    """Those of them of which that is not recorded yet: no session reached them, and this one will not."""
    chunks: Integers | None
    """The chunks that run again; None for all that are not kept, those that are yet to be cut included."""

    @property
    def whole(self) -> bool:
        """Whether all rows without a result run again."""
        return self.chunks is None

    def rows_kept(self, plan: PlannedChunks, rows_in: int) -> dict[str, int]:
        """How many rows keep their outcome, by column of the run's record."""
        kept = self.kept
        solved, given_up = int(kept.rows[kept.solved].sum()), int(kept.rows[kept.given_up].sum())
        cancelled = int(kept.rows.sum()) - solved - given_up
        if not self.whole:
            cancelled += rows_in - plan.rows
        return {"rows_solved": solved, "rows_quarantined": given_up, "rows_cancelled": cancelled}


def rerun(run_id: str, selection: Selection, plan: PlannedChunks, settled: SettledChunks) -> Rerun:
    """What runs again of the run, and what stays.

    Args:
        run_id: The run, for messages.
        selection: What was asked for.
        plan: The chunks of the run.
        settled: Those that have an outcome.

    Raises UsageError if a chunk that was asked for does not exist or has a result, or none is quarantined.
    """
    if selection.everything:
        return Rerun(settled.where(settled.solved), SettledChunks.empty(), None)
    if selection.quarantined:
        again = settled.chunks[settled.given_up]
        if not len(again):
            raise UsageError(f"no chunk of run {run_id} is quarantined; nothing to do again")
    else:
        solved = settled.chunks[settled.solved]
        asked = [_unsolved(run_id, chunk, plan, solved, selection) for chunk in selection.chunks or ()]
        again = np.unique(np.concatenate([*asked, np.zeros(0, np.int64)]))
    silent = ~plan.is_cut
    silent[settled.chunks] = silent[again] = False
    unreached = _cancelled(np.flatnonzero(silent), plan)
    kept = settled.where(~np.isin(settled.chunks, again))
    return Rerun(SettledChunks.joined([kept, unreached]), unreached, again)


def _unsolved(
    run_id: str, chunk: int, plan: PlannedChunks, solved: Integers, selection: Selection
) -> Integers:
    """What runs again of one chunk that was asked for: itself, or parts of it."""
    numbers = plan.family(chunk)
    if not len(numbers):
        last = len(plan) - 1
        has = f"its chunks are 0 to {last}" if last >= 0 else "none of its input is cut yet"
        raise UsageError(f"run {run_id} has no chunk {chunk}; {has}")
    standing = numbers[~plan.is_cut[numbers]]
    left = standing[~np.isin(standing, solved)]
    if not len(left) and not selection.goes_on:
        is_solved = "is solved" if len(numbers) == 1 else "was cut, and all its parts are solved"
        raise UsageError(f"chunk {chunk} {is_solved}; nothing to do again")
    return left


def _cancelled(chunks: Integers, plan: PlannedChunks) -> SettledChunks:
    """These chunks as cancelled ones."""
    nothing = np.zeros(len(chunks), np.int64)
    rows = plan.stops[chunks] - plan.starts[chunks]
    settled = SettledChunks.succeeded(chunks, rows, nothing, nothing.astype(np.float64))
    return replace(settled, outcomes=(Outcome.CANCELLED,) * len(chunks))
