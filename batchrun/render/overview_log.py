"""A store in the lines of a log that is no terminal: what changed, and now and then how far runs are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.progress import describe_share
from batchrun.render.account import count, law
from batchrun.render.wording import describe_left, describe_slot, one_line

if TYPE_CHECKING:
    from batchrun.overview import Failure, Overview, RunStanding

__all__ = ["OverviewLog"]

PROGRESS_EVERY = 10.0
"""Seconds between two lines about how far a run is."""
WAITING_EVERY = 60.0
"""The same for one that waits, whose reason may count seconds."""
SLOTS_EVERY = 60.0
"""Seconds between two lines about the slots of a service."""

MOST = 2_000
"""Characters of a line."""


class OverviewLog:
    """Chooses what a log says of a store, without control codes.

    A run that begins, waits, stops or ends, and a cause that has not been seen, has its line at once. The
    first look tells of the runs that have not ended, and of what failed by then.
    """

    def __init__(self) -> None:
        self._runs: dict[str, tuple[str, float, str]] = {}
        self._failures: set[tuple[str, str, str, str]] = set()
        self._slots: dict[str, tuple[float, str]] = {}
        self._first = True

    def news(self, overview: Overview) -> list[str]:
        """The lines that are due."""
        lines = [line for run in overview.runs for line in self._of_run(run, overview.at)]
        lines += [line for line in map(self._of_failure, overview.failures) if line]
        for place in overview.places:
            said = "; ".join(map(describe_slot, place.slots))
            at, before = self._slots.get(place.name, (float("-inf"), ""))
            if said and said != before and overview.at - at >= SLOTS_EVERY:
                self._slots[place.name] = overview.at, said
                lines.append(
                    f"{place.name} on {one_line(place.host, 80)}: {count(place.workers, 'worker')}, {said}"
                )
        if self._first and not lines:
            newest = f"; the newest one is {_line(overview.runs[0])}" if overview.runs else ""
            lines.append(f"nothing is under way in {one_line(overview.place)}{newest}")
        self._first = False
        return [one_line(line, MOST) for line in lines]

    def _of_run(self, run: RunStanding, now: float) -> list[str]:
        run_id, standing = run.record.run_id, _standing(run)
        before, at, said = self._runs.get(run_id, ("", float("-inf"), ""))
        line = _line(run)
        every = PROGRESS_EVERY if run.driven else WAITING_EVERY
        due = standing != before or (not run.record.state.ended and line != said and now - at >= every)
        if not due:
            return []
        self._runs[run_id] = standing, now, line
        return [] if self._first and run.record.state.ended else [f"run {line}"]

    def _of_failure(self, failure: Failure) -> str:
        key = (failure.run_id, failure.stage, failure.error_type, failure.error)
        if key in self._failures:
            return ""
        self._failures.add(key)
        said = one_line(f"{failure.error_type}: {failure.error}" if failure.error else failure.error_type)
        chunks = (
            f"{count(failure.chunks, 'chunk')} at {one_line(failure.stage, 40)}: " if failure.chunks else ""
        )
        return f"run {failure.run_id} failed: {chunks}{said}"


def _standing(run: RunStanding) -> str:
    """What is told at once when it is another one."""
    if run.abandoned:
        return "stopped"
    stopping = run.live is not None and run.live.stopping
    return "stopping" if stopping else f"{run.state.value} {run.record.started}"


def _line(run: RunStanding) -> str:
    record = run.record
    if record.state.ended:
        rows = law(record.rows_in, record.rows_solved, record.rows_quarantined, record.rows_cancelled)
        return f"{record.run_id}: {record.state.value}, {rows}"
    word = "stopped" if run.abandoned else run.state.value
    settled = f"{run.settled:,} of {count(record.rows_in, 'row')}" if record.rows_in else ""
    left = describe_left(run.seconds_left) if run.driven and run.seconds_left is not None else ""
    share = describe_share(run.share) if run.driven else ""
    return ", ".join(filter(None, [f"{record.run_id}: {word}", share, settled, left, one_line(run.why, 400)]))
