"""A run in the background: started here, or driven by another process, and steered by way of the store."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from batchrun.displays import display
from batchrun.errors import UsageError
from batchrun.events import Event, Observer
from batchrun.opener import settings_of
from batchrun.outcome import RunState
from batchrun.plan import read_plan
from batchrun.report import RunReport
from batchrun.store.runs import RunRecord, RunStore
from batchrun.store.turns import is_under_way
from batchrun.watching import watch_run

__all__ = ["BackgroundDrive", "RunHandle"]

POLL_EVERY = 0.25
"""Seconds between two looks at a run that another process drives."""


class RunHandle:
    """A run that goes on elsewhere, in a thread of this process, in another one, or in the queue; it shows
    itself in a notebook as the report's card does.

    Made by submit_pipeline, or by ``RunHandle.attach``.
    """

    def __init__(self, run_id: str, store_url: str, drive: BackgroundDrive | None = None) -> None:
        self._run_id = run_id
        self._store_url = store_url
        self._drive = drive

    @classmethod
    def attach(cls, run_id: str = "last", cluster: Any = None) -> Self:
        """A handle of a run that is in the store, whoever drives it.

        Args:
            run_id: The run, or the beginning of its id, or ``last``.
            cluster: What the run was given as *cluster*: the store goes with it.

        Raises RunNotFoundError if there is no such run.
        """
        store_url = settings_of(cluster).store_url
        with RunStore(store_url) as store:
            return cls(store.find(run_id).run_id, store_url)

    def __repr__(self) -> str:
        return f"<RunHandle {self.run_id}: {'done' if self.done else self._going()}>"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    @property
    def run_id(self) -> str:
        """The run's id; of pipelines that follow each other in this process, that of the one that runs."""
        return (self._drive and self._drive.run_id) or self._run_id

    @property
    def report(self) -> RunReport:
        """The account of the run as it stands now."""
        return RunReport(self._store_url, self.run_id)

    @property
    def state(self) -> RunState:
        """Where the run stands."""
        return self._record().state

    @property
    def done(self) -> bool:
        """Whether nothing more will happen to the run by itself: it has ended, or nothing drives it and it is
        not in the queue."""
        if self._drive is not None:
            return self._drive.over
        report = self.report
        return report.state.ended or report.abandoned

    def wait(self, timeout: float | None = None) -> RunReport:
        """Wait until the run is done. Ctrl-C ends the waiting, not the run.

        Args:
            timeout: The longest to wait, in seconds; None waits for as long as it takes.

        Returns:
            The report. A run of another process whose driver was killed is done too: its report is
            ``abandoned``.

        Raises TimeoutError if the run is not done by then, and the error of a run that ended by one.
        """
        if self._drive is not None:
            over = self._drive.wait(timeout)
        else:
            until = None if timeout is None else time.monotonic() + timeout
            while not (over := self.done) and (until is None or time.monotonic() < until):
                time.sleep(POLL_EVERY if until is None else min(POLL_EVERY, timeout or 0.0))
        if not over:
            raise TimeoutError(
                f"run {self.run_id} is not done after {timeout:g} s; wait again, or stop it with cancel()"
            )
        return self.report

    def watch(
        self, *, progress: bool = True, observers: Sequence[Observer] = (), wait: bool = True
    ) -> RunReport:
        """Show how the run goes on until it is done, as run_pipeline shows a run of its own; while it is
        queued, what it waits for.

        Ctrl-C, or an interrupt of a notebook's kernel, ends the watching and not the run; it may be watched
        again. The button below the display of a notebook stops the run and keeps its best answers.

        Args:
            progress: Whether to show a live display, in a notebook or terminal.
            observers: Called with each event of the run, as far as the store knows it; see ``events``.
            wait: False returns at once, and the run is shown by a thread: in a notebook, other cells can be
                run meanwhile, and the button is heard in every front end that has one.

        Returns:
            The report, of a run that still goes on if the watching was interrupted, or goes on elsewhere.

        Raises StoreError if the store could not be reached for a minute.
        """
        if wait:
            with contextlib.suppress(KeyboardInterrupt):
                self._follow(progress, observers, "■ ends the watching only")
        else:
            context = contextvars.copy_context()
            threading.Thread(
                target=context.run,
                args=(self._follow, progress, observers, ""),
                name="batchrun-watch",
                daemon=True,
            ).start()
        return self.report

    def cancel(self, chunk: int | None = None, *, keep_best: bool = False) -> None:
        """Ask for the run, or one chunk of it, to be stopped, and return at once.

        What is solved is kept. A run that nothing drives any more, or that is queued, is recorded as
        cancelled here and now.
        Resuming the run goes on with what was cancelled.

        Args:
            chunk: The chunk's number; None for the whole run.
            keep_best: Whether the incumbent of a solve that is stopped counts as its result.

        Raises UsageError if the run or the chunk has ended, or there is no such chunk.
        """
        with RunStore(self._store_url) as store:
            record = store.find(self.run_id)
            if record.state.ended:
                raise UsageError(
                    f"run {self.run_id} has ended ({record.state}); there is nothing left to cancel"
                )
            entry = store.queue.entry(self.run_id)
            driven = is_under_way(record, entry)
            if chunk is not None and not driven and entry is not None:
                raise UsageError(
                    f"run {self.run_id} is queued, so chunk {chunk} does not run; cancel the run, or wait "
                    "until it goes on"
                )
            if chunk is not None and not driven:
                raise UsageError(
                    f"nothing drives run {self.run_id}, so chunk {chunk} does not run; cancel the run, or "
                    f"go on with it: batchrun resume {self.run_id}"
                )
            if chunk is not None:
                self._check_chunk(store, record, chunk)
            if driven:
                store.request_cancel(self.run_id, chunk=chunk, keep_best=keep_best)
            else:
                _record_cancelled(store, record)

    def why(self, chunk: int | None = None) -> str:
        """Why the run, or one chunk of it, stands where it stands, in a sentence."""
        return self.report.why(chunk)

    def logs(self, chunk: int | None = None) -> str:
        """What the attempts of the run, or of one chunk, printed and logged so far."""
        return self.report.logs(chunk)

    def _follow(self, progress: bool, observers: Sequence[Observer], interrupt: str) -> None:
        with display(progress, stop=self._stop, interrupt=interrupt) as shown:
            watch_run(self._store_url, self.run_id, [*observers, *shown])

    def _stop(self, run_id: str) -> None:
        RunHandle(run_id, self._store_url).cancel(keep_best=True)

    def _going(self) -> str:
        return "queued" if self.report.queued else "going on"

    def _record(self) -> RunRecord:
        with RunStore(self._store_url) as store:
            return store.find(self.run_id)

    def _check_chunk(self, store: RunStore, record: RunRecord, chunk: int) -> None:
        total = len(read_plan(record.files))
        if not 0 <= chunk < total:
            known = f"its chunks are 0 to {total - 1:,} so far" if total else "none was cut so far"
            raise UsageError(f"run {self.run_id} has no chunk {chunk}; {known}")
        settled = store.settled(self.run_id, chunks=[chunk])
        if len(settled):
            [outcome] = settled.outcomes
            raise UsageError(f"chunk {chunk} has ended ({outcome}); there is nothing left to cancel")


class BackgroundDrive:
    """The thread of this process that drives a run."""

    def __init__(self, run: Callable[[Observer], RunReport]) -> None:
        self._run = run
        self._begun = threading.Event()
        self.run_id: str | None = None
        """The run that it drives, or drove last; None before the first."""
        self._error: BaseException | None = None
        # What is current here, such as a Dask client or the cell of a notebook, is so in the thread.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._drive,), name="batchrun-run", daemon=True
        )

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def begin(self) -> str:
        """Start the run; returns its id once it has begun."""
        self._thread.start()
        self._begun.wait()
        if self.run_id is None:
            self._thread.join()
            raise self._error or RuntimeError("the run ended before it began")
        return self.run_id

    def wait(self, timeout: float | None) -> bool:
        """Whether the run was over in time; raises its error."""
        self._thread.join(timeout)
        if self.over and self._error is not None:
            raise self._error
        return self.over

    def _watch(self, event: Event) -> None:
        if self.run_id != event.run_id:
            self.run_id = event.run_id
            self._begun.set()

    def _drive(self) -> None:
        try:
            self._run(self._watch)
        except KeyboardInterrupt as stopped:
            # A run that was stopped has ended in order; its report tells.
            self._error = stopped if self.run_id is None else None
        except BaseException as error:
            self._error = error
        finally:
            self._begun.set()


def _record_cancelled(store: RunStore, record: RunRecord) -> None:
    """Record a run that nothing drives as cancelled, since when its driver was last at work, if it was one.

    Raises UsageError if somebody has gone on with it meanwhile.
    """
    left = record.rows_in - record.rows_solved - record.rows_quarantined
    begun = record.state is not RunState.QUEUED
    ended = (record.heartbeat if begun else None) or time.time()
    if not store.end_abandoned(record, state=RunState.CANCELLED, ended=ended, rows_cancelled=left):
        raise UsageError(f"run {record.run_id} has just been resumed; cancel it again if that is meant")
