"""Solves that were stopped with the best answer that they had: which, why, and how good it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.outcome import Cause, Outcome, relative_gap
from batchrun.progress import describe_gap
from batchrun.render.account import count
from batchrun.render.grid import Grid, show
from batchrun.resources import format_seconds

if TYPE_CHECKING:
    from batchrun.report import RunReport

__all__ = ["StoppedSolve", "answers_grid", "stopped_solves"]

MOST_ROWS = 50
"""Stopped solves that the table lists."""
REASONS = {
    Cause.DEADLINE: "its stop_after was over",
    Cause.TIMEOUT: "its timeout was over",
    Cause.MEMORY: "it passed its memory",
    Cause.CANCEL: "somebody asked for it",
}
"""Why a solve was stopped, in words."""


@dataclass(frozen=True)
class StoppedSolve:
    """A stage of a chunk that was stopped and whose best answer counts."""

    chunk: int
    """The chunk."""
    stage: str
    """The stage."""
    attempt: int
    """Which try it was."""
    reason: str
    """Why it was stopped, in words; empty if that is not known."""
    seconds: float
    """How long it took."""
    objective: float | None
    """The value of its answer; None if the stage told none."""
    bound: float | None
    """The proven limit of what any answer can reach; None if the stage told none."""

    @property
    def gap(self) -> float | None:
        """How far the answer can be from the best one there is."""
        return relative_gap(self.objective, self.bound)


def stopped_solves(report: RunReport) -> list[StoppedSolve]:
    """The stopped solves whose answers are part of the result, the hardest first: those of the largest gap,
    then those without one."""
    outcome, chunks = Outcome.STOPPED_WITH_SOLUTION.value, report.chunks
    kept = chunks.loc[chunks["outcome"] == outcome, "chunk"]
    attempts = report.attempts
    attempts = attempts[(attempts["outcome"] == outcome) & attempts["chunk"].isin(kept)]
    attempts = attempts.drop_duplicates(["chunk", "stage"], keep="last")
    solves = [
        StoppedSolve(
            int(row["chunk"]),
            str(row["stage"]),
            int(row["attempt"]),
            _reason(row["cause"]),
            float(row["seconds"]),
            _number(row["objective"]),
            _number(row["bound"]),
        )
        for row in attempts.to_dict("records")
    ]
    return sorted(solves, key=lambda solve: (-1.0 if solve.gap is None else solve.gap, solve.seconds))[::-1]


def answers_grid(solves: Sequence[StoppedSolve]) -> Grid:
    """The stopped solves as a table."""
    rows = [
        (
            f"{solve.chunk:,}",
            show(solve.stage),
            solve.reason or "not recorded",
            format_seconds(solve.seconds),
            show(solve.objective),
            show(solve.bound),
            "" if solve.gap is None else describe_gap(solve.gap),
        )
        for solve in solves[:MOST_ROWS]
    ]
    note = f"{len(rows)} of {count(len(solves), 'stopped solve')}" if len(solves) > len(rows) else ""
    header = ("chunk", "stage", "stopped because", "took", "objective", "bound", "gap")
    return Grid(header, rows, (True, False, False, True, True, True, True), note)


def _reason(cause: object) -> str:
    return next((words for known, words in REASONS.items() if known.value == cause), "")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
