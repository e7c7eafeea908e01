"""What solves have told of their answers, kept so that it can be drawn, and bounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from batchrun.outcome import relative_gap
from batchrun.progress import RunningLine

__all__ = ["MOST_POINTS", "MOST_SOLVES", "Known", "Solve", "Solves", "of_chunk", "together", "widest"]

MOST_SOLVES = 12
"""Solves whose history is kept."""
MOST_POINTS = 200
"""Points in the history of one."""


@dataclass(frozen=True)
class Known:
    """What a solve knew from some time on."""

    seconds: float
    """When it was told, in seconds since the stage began."""
    objective: float | None
    """The value of the best answer; None before there is one."""
    bound: float | None
    """The proven limit of what any answer can reach; None before there is one."""


class Solve:
    """One try of one stage of a chunk that tells of its answers."""

    def __init__(self, line: RunningLine) -> None:
        self.line = line
        """How the chunk stood when it was last told of."""
        self.runs = True
        """Whether it was among the chunks that ran when these were last told of."""
        self.history: list[Known] = []
        """What it knew over time, once it was told of; each point holds until the next."""
        self._apart = 0.0

    @classmethod
    def recorded(
        cls, line: RunningLine, answers: Iterable[Sequence[float | None]], *, runs: bool
    ) -> Solve | None:
        """A try that somebody wrote down; None if it told no answer.

        *line* says how it stands or ended, *answers* are seconds, objective and bound of each, in order.
        """
        made = cls(line)
        for seconds, objective, bound in answers:
            made.take(replace(line, seconds=seconds or 0.0, objective=objective, bound=bound))
        made.line, made.runs = line, runs
        return made if made.history else None

    def since(self, earlier: Solve) -> Solve:
        """The same with what *earlier* knew before this began to listen."""
        made = Solve(self.line)
        made.runs = self.runs
        before = [point for point in earlier.history if point.seconds < self.history[0].seconds]
        made.history = [*before, *self.history]
        return made

    @property
    def gap(self) -> float | None:
        """How far the latest answer can be from the best one there is; None if that is not known."""
        last = self.history[-1]
        return relative_gap(last.objective, last.bound)

    def goes_on_with(self, line: RunningLine) -> bool:
        """Whether *line* tells of the same try, so that its clock did not go back."""
        # The clocks of a worker and of the runner, which the seconds are made from, may be a little apart.
        return line.stage == self.line.stage and line.seconds > self.line.seconds - 1.0

    def take(self, line: RunningLine) -> None:
        """Go on to a newer line of the same try."""
        self.line = line
        before = self.history[-1] if self.history else Known(0.0, None, None)
        objective, bound = _finite(line.objective), _finite(line.bound)
        now = Known(
            max(line.seconds, before.seconds),
            before.objective if objective is None else objective,
            before.bound if bound is None else bound,
        )
        if (now.objective, now.bound) != (before.objective, before.bound):
            self._put(now)
        if len(self.history) > MOST_POINTS:
            self._thin_out()

    def _put(self, point: Known) -> None:
        """Append *point*; the last one of a slice of time stands for the slice."""
        last = self.history[-1].seconds if self.history else None
        if last is not None and self._apart and last // self._apart == point.seconds // self._apart:
            self.history.pop()
        self.history.append(point)

    def _thin_out(self) -> None:
        points, self.history = self.history, []
        self._apart = points[-1].seconds / (MOST_POINTS // 2)
        for point in points:
            self._put(point)


class Solves:
    """The histories of the latest solves of one session, 12 at most; those that run stay."""

    def __init__(self) -> None:
        self._solves: dict[tuple[int, str], Solve] = {}
        """By chunk and worker, since a chunk may run twice; those that were heard of last are last."""

    def take(self, running: Iterable[RunningLine]) -> None:
        """Take in all chunks that run now; those that told no answer are passed over."""
        lines = {(line.chunk, line.worker): line for line in running if _finite(line.objective) is not None}
        for key, solve in self._solves.items():
            solve.runs = key in lines
        for key, line in lines.items():
            before = self._solves.pop(key, None)
            solve = before if before is not None and before.goes_on_with(line) else Solve(line)
            if len(self._solves) < MOST_SOLVES or self._dropped_one():
                self._solves[key] = solve
                solve.take(line)

    def latest_first(self) -> Sequence[Solve]:
        """All that are kept, those first that were heard of last."""
        return list(reversed(self._solves.values()))

    def __len__(self) -> int:
        return len(self._solves)

    def _dropped_one(self) -> bool:
        """Make room for another solve, if one of them does not run any more."""
        ended = next((key for key, solve in self._solves.items() if not solve.runs), None)
        if ended is not None:
            del self._solves[ended]
        return ended is not None


def together(heard: Solves, recorded: Sequence[Solve] = ()) -> Sequence[Solve]:
    """What a page heard of solves and what the store has of them, latest first, each try once.

    Of one that runs, the page has heard the latest, and the store may know how it began. One that ended is
    recorded as a whole.
    """
    known = {_key(solve): solve for solve in reversed(recorded)}
    for solve in reversed(heard.latest_first()):
        before = known.pop(_key(solve), None)
        if before is None or (solve.runs and not before.runs):
            known[_key(solve)] = solve
        else:
            known[_key(solve)] = solve.since(before) if solve.runs else before
    return list(reversed(known.values()))


def of_chunk(solves: Sequence[Solve], chunk: int) -> Solve | None:
    """The solve of *chunk*: one that runs, or else the latest; None if there is none."""
    mine = [solve for solve in solves if solve.line.chunk == chunk]
    return max(mine, key=lambda solve: solve.runs, default=None)


def widest(solves: Sequence[Solve]) -> Solve | None:
    """The solve with the largest gap of those that run, or of all if none does; None if there is none."""
    running = [solve for solve in solves if solve.runs]
    return max(running or solves, key=lambda solve: -1.0 if solve.gap is None else solve.gap, default=None)


def _key(solve: Solve) -> tuple[int, str, str]:
    return solve.line.chunk, solve.line.stage, solve.line.worker


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
