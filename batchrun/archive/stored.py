"""The runs of a store, as the dashboard's page asks for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd  # here, since Bokeh's thread trips over a pandas that another one is just importing

from batchrun.archive.answers import recorded_solves
from batchrun.archive.errands import Errands
from batchrun.archive.following import Follower
from batchrun.dashboard.archive import AttemptLine, ChunkStory, RunLine, Work
from batchrun.dashboard.lanes import LaneBars
from batchrun.errors import BatchrunError
from batchrun.handle import RunHandle
from batchrun.outcome import Outcome
from batchrun.overview import RunStanding, list_runs
from batchrun.queueing import put_back
from batchrun.render.excerpts import shorten
from batchrun.report import RunReport
from batchrun.store.runs import RunStore

if TYPE_CHECKING:
    from batchrun.dashboard.board import RunView

__all__ = ["StoreArchive"]

LISTED = 50
"""Runs that have ended, in the list."""
LIST_EVERY = 2.0
"""Seconds between two looks at the list."""
WHY_EVERY = 1.0
"""Seconds between two questions why a run stands as it does, at least."""
WORK_EVERY = 2.0
"""Seconds between two looks at what workers did, at least."""
ATTEMPTS = 3_000
"""Attempts that are drawn, those that were recorded last."""
STORY_EVERY = 1.0
"""Seconds between two looks at a chunk, at least."""
LOG = 8 * 2**10
"""Characters of a chunk's log."""
TRACEBACK = 4 * 2**10
"""Characters of a traceback."""


class StoreArchive:
    """Answers from a store, which is read in threads while pages ask.

    Args:
        store_url: The database.
        acts: Whether runs may be stopped and queued again through it.
    """

    def __init__(self, store_url: str, *, acts: bool = True) -> None:
        self._store_url = store_url
        self.acts = acts
        """Whether ``cancel`` and ``requeue`` may be used."""
        with RunStore(store_url) as store:
            self.place = store.place
            """Where the store is, without passwords."""
        self._trouble = self._said = ""
        self._errands = Errands("batchrun-archive", failed=self._failed)
        self._lock = threading.Lock()
        self._followed: dict[str, Follower] = {}

    def close(self) -> None:
        """Follow no run any more, and answer no question."""
        with self._lock:
            followed = list(self._followed.values())
        for follower in followed:
            follower.stop()
        self._errands.close()

    # Answers

    def runs(self) -> tuple[RunLine, ...] | None:
        """The newest runs and all that are under way, newest first."""
        return self._errands.latest("runs", self._list, every=LIST_EVERY)

    def view(self, run_id: str) -> RunView | None:
        """A run as the page draws it: first as it stands, then as it goes on."""
        with self._lock:
            follower = self._followed.get(run_id)
            if follower is None or follower.left:
                follower = self._followed[run_id] = Follower(self._store_url, run_id, self._failed)
        return follower.view()

    def why(self, run_id: str, state: str) -> str | None:
        """Why a run stands as it does; what was so in another state is no answer."""
        question = ("why", run_id, state)
        return self._errands.latest(
            question, lambda: RunReport(self._store_url, run_id).why(), every=WHY_EVERY
        )

    def story(self, run_id: str, chunk: int) -> ChunkStory | None:
        """What lies behind one chunk."""
        question = ("chunk", run_id, chunk)
        return self._errands.latest(question, lambda: self._story(run_id, chunk), every=STORY_EVERY)

    def work(self, run_id: str) -> Work | None:
        """What workers did for a run, in its latest attempts."""
        return self._errands.latest(("work", run_id), lambda: self._work(run_id), every=WORK_EVERY)

    def trouble(self) -> str:
        """Why the store cannot be read now; empty if it can."""
        return self._trouble

    # Actions

    def cancel(self, run_id: str, *, keep_best: bool) -> None:
        """Ask for a run to be stopped; what is solved is kept."""

        def act() -> str:
            RunHandle(run_id, self._store_url).cancel(keep_best=keep_best)
            kept = ", the best answers are kept" if keep_best else ""
            return f"{run_id} was asked to stop{kept}."

        self._act(act)

    def requeue(self, run_id: str) -> None:
        """Put what has no result into the queue once more."""

        def act() -> str:
            if put_back(run_id, self._store_url) is None:
                return (
                    f"{run_id} cannot be queued: it never was, or no service is up to take it. Run "
                    f"`batchrun requeue {run_id}`."
                )
            return f"{run_id} is queued again, for what has no result."

        self._act(act)

    def said(self) -> str:
        """What came of the latest action."""
        return self._said

    def _act(self, act: Any) -> None:
        def done() -> None:
            try:
                self._said = act()
            except BatchrunError as error:
                self._said = str(error)

        self._said = ""
        self._errands.do(done)

    # In threads

    def _failed(self, error: Exception | None) -> None:
        self._trouble = "" if error is None else str(error) or type(error).__name__

    def _list(self) -> tuple[RunLine, ...]:
        with RunStore(self._store_url) as store:
            lines = [_line(run) for run in list_runs(store, LISTED)]
        return tuple(sorted(lines, key=lambda line: line.created, reverse=True))

    def _work(self, run_id: str) -> Work:
        with RunStore(self._store_url) as store:
            record = store.find(run_id)
            attempts = store.attempts(run_id, latest=ATTEMPTS)
            solves = recorded_solves(store, run_id, attempts)
        asked = {str(stage["name"]): int(stage.get("memory") or 0) for stage in record.stages}
        bars = LaneBars.of(attempts, record.started)
        asked = {stage: size for stage, size in asked.items() if size}
        return Work(bars, attempts, asked, record.started, solves)

    def _story(self, run_id: str, chunk: int) -> ChunkStory:
        report = RunReport(self._store_url, run_id)
        with RunStore(self._store_url) as store:
            attempts = store.attempts(run_id, chunks=[chunk])
            solves = recorded_solves(store, run_id, attempts, chunk)
        lines = tuple(map(_attempt, attempts.to_dict("records")))
        log = shorten(report.logs(chunk).rstrip(), LOG)
        return ChunkStory(chunk, report.why(chunk), lines, log, solves)


def _line(run: RunStanding) -> RunLine:
    record, slots = run.record, (run.live.chunks if run.live else 0) if run.driven else None
    names = ("run_id", "pipeline", "state", "created", "started", "ended", "rows_in", "rows_solved")
    known = {name: getattr(record, name) for name in (*names, "rows_quarantined", "rows_cancelled")}
    return RunLine(**known, slots=slots)


def _attempt(row: Mapping[Any, Any]) -> AttemptLine:
    said = ": ".join(_text(row[name]) for name in ("error_type", "error") if _text(row[name]))
    peak = row["peak_memory"]
    return AttemptLine(
        stage=row["stage"],
        attempt=int(row["attempt"]),
        worker=_text(row["worker"]),
        outcome=Outcome(row["outcome"]),
        seconds=float(row["seconds"]),
        peak_memory=None if pd.isna(peak) else int(peak),
        next_step=_text(row["next_step"]),
        error=said,
        traceback=shorten(_text(row["traceback"]), TRACEBACK),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
