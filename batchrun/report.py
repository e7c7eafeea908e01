"""What a run leaves behind: its account of every row, its results, its records."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchrun.data import files
from batchrun.data.load import load
from batchrun.data.ordered import read_in_order
from batchrun.data.results import ResultSet
from batchrun.data.table import Stored, to_frame
from batchrun.errors import RunFailedError, RunNotFoundError
from batchrun.exhibits import Exhibits
from batchrun.outcome import ErrorRecord, Outcome, RunState
from batchrun.plan import read_plan
from batchrun.resources import WorkerKind
from batchrun.sizing import Advice, RunUse, advise
from batchrun.store.artifacts import RunFolder
from batchrun.store.event_record import EventKind
from batchrun.store.records import FailureKind, RunCounts, SettledChunks, StageFigures
from batchrun.store.runs import RunRecord, RunStore
from batchrun.store.turns import is_under_way, read_turns
from batchrun.tables import (
    CUT,
    chunk_outcomes,
    chunk_table,
    event_table,
    last_failures,
    log_text,
    quarantined_rows,
)
from batchrun.tracebacks import StageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    import pyarrow.dataset

    from batchrun.data.refs import ResultRefs
    from batchrun.store.live import LiveState
    from batchrun.store.queue import QueueEntry

__all__ = ["RunReport"]


class RunReport:
    """The account of one run, read from its store; it shows itself in a notebook.

    Rows are counted in rows of the input, and **rows in = rows solved + rows quarantined + rows
    cancelled** once the run has ended. While it runs, the rest is still to come.

    Args:
        store_url: The database that the run is recorded in.
        run_id: Its id, the beginning of it, or ``last``.

    Raises RunNotFoundError if the store knows no such run.
    """

    def __init__(self, store_url: str, run_id: str = "last") -> None:
        self._store_url = store_url
        with RunStore(store_url) as store:
            self.record: RunRecord = store.find(run_id)
            self.queue: QueueEntry | None = store.queue.entry(self.record.run_id)
            """How it stands in the queue, or stood there; None if it was never put there."""
            self.driven: bool = is_under_way(self.record, self.queue)
            """Whether a process drives the run; False while it is queued, once it has ended, or if its driver
            was killed."""
            if not self.record.state.ended and not self.driven:
                # It may have ended between the two looks.
                self.record = store.find(self.record.run_id)

    def __repr__(self) -> str:
        return (
            f"<RunReport {self.run_id}: {self.state}, {self.rows_in:,} rows in = {self.rows_solved:,} solved "
            f"+ {self.rows_quarantined:,} quarantined + {self.rows_cancelled:,} cancelled>"
        )

    def _repr_html_(self) -> str:
        from batchrun.notebook import report_html

        return report_html(self)

    # The run as a whole

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self.record.pipeline

    @property
    def target(self) -> str | None:
        """``module:name`` of the pipeline; None if another process cannot load it."""
        return self.record.target

    @property
    def state(self) -> RunState:
        """Where the run stands."""
        return self.record.state

    @property
    def abandoned(self) -> bool:
        """Whether the run has not ended, its driver is gone, and it is not in the queue, where a service
        would go on with it; ``resume_run`` does."""
        return not self.state.ended and not self.driven and self.queue is None

    @property
    def queued(self) -> bool:
        """Whether it is in the queue, and no process drives it now."""
        return not self.state.ended and not self.driven and self.queue is not None

    @property
    def rows_in(self) -> int:
        """Rows of the input."""
        return self.record.rows_in

    @property
    def rows_solved(self) -> int:
        """Rows in chunks that have a result."""
        return self.record.rows_solved

    @property
    def rows_quarantined(self) -> int:
        """Rows set apart because they failed."""
        return self.record.rows_quarantined

    @property
    def rows_cancelled(self) -> int:
        """Rows that were not solved because the run stopped."""
        return self.record.rows_cancelled

    @property
    def created(self) -> float:
        """When the run was made, in seconds since the epoch."""
        return self.record.created

    @property
    def started(self) -> float | None:
        """When its latest session began, in seconds since the epoch."""
        return self.record.started

    @property
    def ended(self) -> float | None:
        """When it ended, in seconds since the epoch; None while it runs."""
        return self.record.ended

    @property
    def seconds(self) -> float:
        """Wall time of its latest session, up to now if it still runs, or to its last sign of life."""
        if self.record.started is None:
            return 0.0
        last = self.record.ended or (time.time() if self.driven else self.record.heartbeat) or 0.0
        return max(0.0, last - self.record.started)

    @property
    def params(self) -> dict[str, Any]:
        """All parameters, defaults included, as JSON values."""
        return self.record.params

    @property
    def settings(self) -> list[dict[str, str]]:
        """Effective settings, each with ``key``, ``value`` and ``source``."""
        return self.record.settings

    @property
    def input(self) -> dict[str, Any]:
        """The input: ``description``, ``rows``, ``bytes_per_row``, ``fingerprint``."""
        return self.record.input

    @property
    def before(self) -> RunReport | None:
        """The report of the run whose results were the input; None if that was another input, or is gone."""
        before = self.record.input.get("results_of")
        try:
            return RunReport(self._store_url, before) if before else None
        except RunNotFoundError:
            return None

    @property
    def split(self) -> str:
        """How the input was split."""
        return self.record.split

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Each stage: ``name``, ``memory`` in bytes, ``resources``, ``leg``."""
        return self.record.stages

    @property
    def cluster(self) -> str:
        """What the run ran on, in a few words."""
        return self.record.cluster

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python and of the packages that matter."""
        return self.record.versions

    @property
    def error(self) -> ErrorRecord | None:
        """The error that ended the run, if one did."""
        return self.record.error

    @property
    def folder(self) -> str:
        """Where the run's files are, a folder or URL."""
        return self.record.folder

    def raise_for_state(self) -> RunReport:
        """This report, if the run succeeded.

        Raises RunFailedError that says what is missing otherwise; its cause is the traceback of the error
        that ended the run, or of the one that most rows failed by.
        """
        if self.state is RunState.SUCCEEDED:
            return self
        trace, reason = self.error.traceback if self.error else "", f": {self.error}" if self.error else ""
        if self.error is None and self.failure_kinds:
            worst = max(self.failure_kinds, key=lambda kind: kind.rows)
            trace, reason = worst.traceback, f"; most failed by {worst.error_type}: {worst.error}"
        raise RunFailedError(
            f"run {self.run_id} is {self.state}: of {self.rows_in:,} rows {self.rows_solved:,} are solved, "
            f"{self.rows_quarantined:,} quarantined, {self.rows_cancelled:,} cancelled{reason}"
        ) from (StageError(trace) if trace else None)

    # Tables

    def results(self) -> pd.DataFrame:
        """The combined result, or the results of all solved chunks in input order."""
        if self.record.combined:
            frame: pd.DataFrame = to_frame(self._combined(), "pandas")
            return frame
        return self._result_set().to_pandas()

    def scan(self) -> pyarrow.dataset.Dataset:
        """The results as a lazy dataset, for results that are larger than memory.

        Chunks that shared a file may be out of order; ``results()`` has them in input order.
        """
        if self.record.combined:
            import pyarrow.dataset

            return pyarrow.dataset.dataset(self._combined())
        return self._result_set().scan()

    def batches(self) -> pyarrow.RecordBatchReader:
        """The results in input order as record batches of one schema, for results larger than memory.

        Chunks are read as the reader gets to them; it has the schema beforehand. Columns and types are
        settled as in ``results()``. A pandas index is a column if it has a name, and is left out if it has
        none.

        Raises ResultError if a column has types that have nothing in common, and StoreError if a file of the
        run is gone.
        """
        if self.record.combined:
            return to_frame(self._combined(), "arrow").to_reader()
        return read_in_order(self._refs)

    @property
    def rows_out(self) -> int:
        """Rows of the results."""
        if self.record.combined:
            return int(self._combined().num_rows)
        return self._result_set().rows

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row an attempt: chunk, stage, attempt, worker, outcome, started (seconds since the epoch),
        seconds, rows_in, rows_out, peak_memory (bytes), error_type, error, traceback, signature, cause
        (missing if it ended by itself), decision and next_step (empty after a success), and objective, bound
        and gap of the last answer that it published."""
        with RunStore(self._store_url) as store:
            return store.attempts(self.run_id)

    @cached_property
    def incumbents(self) -> pd.DataFrame:
        """One row an answer that an attempt published while it ran: chunk, stage, attempt, seconds since the
        attempt began, objective, bound, gap."""
        with RunStore(self._store_url) as store:
            return store.incumbents(self.run_id)

    @property
    def events(self) -> pd.DataFrame:
        """One row a change of state of the run so far, in order: id, at (seconds since the epoch), kind (see
        docs/events.md), chunk (missing if it is of none, or of many) and data (a dictionary)."""
        with RunStore(self._store_url) as store:
            return event_table(store.events.read(run_id=self.run_id))

    @cached_property
    def chunks(self) -> pd.DataFrame:
        """One row a chunk: chunk, start, stop, rows, outcome, rows_out, seconds, attempts, parent (the chunk
        that it is a part of), objective, bound, gap.

        The outcome is ``pending`` until a chunk is settled, and ``cut`` if its parts, which are chunks of
        their own, took its place: its rows count with them.
        """
        with RunStore(self._store_url) as store:
            settled = store.settled(self.run_id)
        return chunk_table(read_plan(self._files), settled, self.attempts, ended=self.state.ended)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """One row a kind of error that chunks were given up for: error_type, error, traceback, stage, chunks
        and rows (how many), first_chunk."""
        import pandas as pd

        names = ["error_type", "error", "traceback", "stage", "chunks", "rows", "first_chunk"]
        rows = [[getattr(kind, name) for name in names] for kind in self.failure_kinds]
        return pd.DataFrame(rows, columns=names)

    @cached_property
    def failure_kinds(self) -> Sequence[FailureKind]:
        """The rows of ``failures`` without a frame; quick."""
        with RunStore(self._store_url) as store:
            return store.failure_kinds(self.run_id)

    @cached_property
    def exhibits(self) -> Exhibits:
        """The figures and tables that the pipeline adds to the report, by title: Bokeh models and frames.

        None unless the pipeline has a ``report`` and the run succeeded, is partial, or was cancelled when it
        had solved some rows.
        """
        shown = self.state in (RunState.SUCCEEDED, RunState.PARTIAL, RunState.CANCELLED)
        return Exhibits.read(self._files.exhibits) if shown else Exhibits()

    @property
    def quarantined(self) -> pd.DataFrame:
        """The rows of chunks that were given up, in input order and with their own index: their values, then
        batchrun_chunk, batchrun_stage, error_type, error_message and traceback."""
        return quarantined_rows(self._last_failures, self._unsolved, self._files)

    # Figures, which take little time however many chunks there are

    @cached_property
    def counts(self) -> RunCounts:
        """How many settled chunks, and how many attempts, there are of each outcome."""
        with RunStore(self._store_url) as store:
            return store.counts(self.run_id)

    @cached_property
    def outcomes(self) -> Mapping[str, int]:
        """How many chunks there are of each outcome that occurs in ``chunks``."""
        counts = self.counts
        return chunk_outcomes(read_plan(self._files), counts.chunks, ended=self.state.ended)

    @cached_property
    def figures(self) -> Sequence[StageFigures]:
        """What each stage that was tried took, over all attempts."""
        with RunStore(self._store_url) as store:
            return store.figures(self.run_id)

    @cached_property
    def workers(self) -> Sequence[WorkerKind]:
        """The workers that its latest session began with, by kind; empty if that was not recorded."""
        return [WorkerKind(**kind) for kind in self._began.get("workers", ())]

    @cached_property
    def sizing(self) -> Sequence[Advice]:
        """What to ask for next time, by what was asked for and what was used; nothing while it runs, or where
        the numbers support nothing."""
        if not self.state.ended:
            return ()
        chunks = sum(self.counts.chunks.values())
        ended_well = self.state in (RunState.SUCCEEDED, RunState.PARTIAL)
        whole = ended_well and not self._began.get("resumed", True)
        return advise(RunUse.of(self.record, self.figures, self.workers, chunks, whole=whole))

    def outcomes_of(self, chunk: int) -> list[str]:
        """The outcome of a chunk, or those of its parts if it was cut, as ``chunks`` has them."""
        plan = read_plan(self._files)
        with RunStore(self._store_url) as store:
            numbers = plan.family(chunk)
            settled = store.settled(self.run_id, chunks=numbers.tolist())
            attempts = store.attempts(self.run_id, chunks=numbers.tolist())
        table = chunk_table(plan, settled, attempts, ended=self.state.ended, numbers=numbers)
        return [outcome for outcome in table["outcome"] if outcome != CUT]

    # How it came about

    @property
    def live(self) -> LiveState | None:
        """What runs and waits at this moment; None unless a process drives the run and has told it."""
        if not self.driven:
            return None
        with RunStore(self._store_url) as store:
            return store.live(self.run_id)

    def logs(self, chunk: int | None = None) -> str:
        """What the attempts of the run, or of one chunk, printed and logged, each below a line that says
        which one it was."""
        with RunStore(self._store_url) as store:
            return log_text(store.logs(self.run_id, chunk))

    def logged(self, most: int) -> Sequence[tuple[int, Outcome]]:
        """Chunks that have a log and did not end well, and how each ended: those without a result first, then
        those that were stopped with a solution; *most* at most."""
        with RunStore(self._store_url) as store:
            return store.logged(self.run_id, most)

    def why(self, chunk: int | None = None) -> str:
        """Why the run, or one chunk of it, stands where it stands, in a sentence or two.

        Raises UsageError if the run has no such chunk.
        """
        from batchrun.why import QueueFacts, RunFacts, explain

        plan = read_plan(self._files)
        with RunStore(self._store_url) as store:
            if chunk is None:
                settled = store.settled(self.run_id, solved=False)
                matters, attempts = settled.chunks, store.attempts(self.run_id, unsolved=True)
            else:
                matters = plan.family(chunk)
                settled = store.settled(self.run_id, chunks=matters.tolist())
                attempts = store.attempts(self.run_id, chunks=matters.tolist())
            longest = store.durations(self.pipeline) if self.driven else {}
            waits = self.queue if self.queued else None
            queue = QueueFacts(waits, read_turns(store)) if waits else None
        facts = RunFacts(
            record=self.record,
            driven=self.driven,
            now=time.time(),
            total=len(plan),
            outcomes=self.outcomes,
            worst_gap=self.counts.worst_gap,
            chunks=chunk_table(plan, settled, attempts, ended=self.state.ended, numbers=matters),
            attempts=attempts,
            live=self.live,
            longest=longest,
            queue=queue,
        )
        return explain(facts, chunk)

    # Files

    def to_html(self, path: str | Path | None = None) -> Path:
        """Write the report as one HTML file that needs nothing else; by default into the run's folder."""
        from batchrun.render.html import write_html

        return write_html(self, self._report_path(path, "html"))

    def to_excel(self, path: str | Path | None = None) -> Path:
        """Write results and records as an Excel workbook; by default into the run's folder."""
        from batchrun.render.excel import write_excel

        return write_excel(self, self._report_path(path, "xlsx"))

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The report as Markdown, for a pull request or a message; written to *path* too if that is given."""
        from batchrun.render.markdown import render_markdown

        text = render_markdown(self)
        if path is not None:
            with files.write_atomically(str(path)) as file:
                file.write(text.encode())
        return text

    # Inside

    @cached_property
    def _began(self) -> Mapping[str, Any]:
        """What was told when its latest session began."""
        with RunStore(self._store_url) as store:
            event = store.events.last(self.run_id, EventKind.RUN_STARTED)
        return event.data if event else {}

    @property
    def _files(self) -> RunFolder:
        return self.record.files

    def _report_path(self, path: str | Path | None, suffix: str) -> Path:
        if path is not None:
            return Path(path)
        default = self._files.report(suffix)
        return Path(default) if files.is_local(default) else Path(f"{self.run_id}.{suffix}")

    def _combined(self) -> Any:
        return load(Stored(str(self.record.combined), rows=-1, nbytes=-1))

    @cached_property
    def _refs(self) -> ResultRefs:
        """Where the results of the chunks lie, in input order: parts have numbers that do not tell it."""
        with RunStore(self._store_url) as store:
            solved = store.settled(self.run_id, solved=True)
        # Read after what is settled, which is planned before: no settled chunk is unknown then.
        starts = read_plan(self._files).starts[solved.chunks]
        refs = solved.results.take(np.argsort(starts, kind="stable"))
        return refs.where(refs.known)

    def _result_set(self) -> ResultSet:
        return ResultSet(range(len(self._refs)), self._refs)

    @cached_property
    def _unsolved(self) -> SettledChunks:
        with RunStore(self._store_url) as store:
            return store.settled(self.run_id, solved=False)

    @cached_property
    def _last_failures(self) -> pd.DataFrame:
        unsolved = self._unsolved
        with RunStore(self._store_url) as store:
            attempts = store.attempts(self.run_id, unsolved=True)
        return last_failures(read_plan(self._files).starts, unsolved, attempts)
