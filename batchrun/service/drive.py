"""One queued run, driven by a thread of the service."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun.allowance import read_allowance
from batchrun.config import Settings
from batchrun.data.source import Source
from batchrun.data.supply import Supply
from batchrun.definition import Pipeline
from batchrun.displays import displays
from batchrun.errors import BatchrunError, ClusterError, LeaseLostError, RunNotFoundError, StoreError
from batchrun.events import ChunksSettled, Event
from batchrun.opener import Opener
from batchrun.outcome import ErrorRecord, RunState
from batchrun.plan import PlannedChunks, read_plan, rows_to_do
from batchrun.queueing import plan_input
from batchrun.recording import describe_stages, input_record
from batchrun.report import RunReport
from batchrun.resources import check_demands
from batchrun.runner import SharedSlots
from batchrun.selection import Selection, rerun
from batchrun.service.importing import import_elsewhere
from batchrun.session import Session
from batchrun.staging import make_session
from batchrun.store.artifacts import RunFolder
from batchrun.store.driver import driving
from batchrun.store.outage import insist
from batchrun.store.queue import QueuedRun
from batchrun.store.runs import RunStore
from batchrun.store.writer import RunWriter
from batchrun.worker.program import load_pickled_pipeline, pickle_pipeline

if TYPE_CHECKING:
    from batchrun.store.records import RunRecord

__all__ = ["Drive"]

logger = logging.getLogger("batchrun.service")

FRUITLESS = 5
"""So many sessions in a row that lost their service or cluster and settled nothing end a run."""


class Drive(threading.Thread):
    """Drives a run that the service holds to its end, or until it is told to leave it.

    Args:
        run: The run as it stood in the queue.
        writer: What may write it.
        settings: The service's.
        slots: Those of the cluster, which all runs of the service share.
    """

    def __init__(self, run: QueuedRun, writer: RunWriter, settings: Settings, slots: SharedSlots) -> None:
        super().__init__(name=f"batchrun-{run.run_id}", daemon=True)
        self.run_id = run.run_id
        """The run."""
        self.pipeline = run.pipeline
        """The pipeline's name."""
        self._writer = writer
        self._settings = settings
        self._slots = slots
        self._entry = run.entry
        self._session: Session | None = None
        self._leaving = threading.Event()
        self._fruitful = False

    def leave(self) -> None:
        """Let go of the run as it stands; may be called from any thread."""
        self._leaving.set()
        if self._session is not None:
            self._session.leave()

    def check(self) -> None:
        """Let go of the run if another service has taken it over, or somebody removed it."""
        with RunStore(self._settings.store_url) as store:
            try:
                lost = store.find(self.run_id).fence != self._writer.fence
            except RunNotFoundError:
                lost = True
        if lost:
            self.leave()

    def run(self) -> None:
        """What the thread does."""
        patience = self._settings.run.store_timeout
        with RunStore(self._settings.store_url) as store:
            try:
                ended = self._drive(store)
                end = store.queue.ended if ended else store.queue.release
                insist(lambda: end(self._writer), patience)
            except LeaseLostError as error:
                logger.warning("%s", error)
            except (ClusterError, StoreError) as error:
                logger.warning("run %s is put back: %s", self.run_id, error)
                self._put_back(store, error)
            except BaseException as error:
                logger.warning(
                    "run %s failed: %s", self.run_id, error, exc_info=not isinstance(error, BatchrunError)
                )
                record = ErrorRecord.of(error)
                with contextlib.suppress(StoreError, LeaseLostError):
                    insist(lambda: self._fail(store, record), patience)

    def _drive(self, store: RunStore) -> bool:
        """Whether the run has ended."""
        with contextlib.ExitStack() as stack:
            pipe = self._pipeline(store)
            opener = Opener(self._settings, self._settings, pipe, stack)
            record = self._prepared(store, pipe, opener)
            read = insist(lambda: self._read(record.files), self._settings.run.store_timeout)
            if read is None:
                return False
            source, planned = read
            settled = store.settled(self.run_id)
            again = rerun(self.run_id, Selection(chunks=self._entry.only, goes_on=True), planned, settled)
            to_do = rows_to_do(source, planned, settled)
            source.check_unchanged(to_do)
            supply = Supply(source, needed=to_do)
            stack.callback(supply.close)
            executor = opener.executor()
            check_demands(pipe.demands, executor.workers())
            self._session = make_session(
                self.run_id,
                pipe,
                record.params,
                source,
                record.files,
                store,
                self._writer,
                executor,
                self._settings,
                [self._watch, *stack.enter_context(displays(False, executor))],
                read_allowance(self._entry.max_quarantined),
                supply=supply,
                again=again,
                survives=(ClusterError, StoreError),
                shared=self._slots,
                priority=self._entry.priority,
                max_slots=self._entry.max_slots,
            )
            if self._leaving.is_set():
                return False
            with driving(self.run_id):
                return self._session.drive().ended

    def _read(self, files: RunFolder) -> tuple[Source, PlannedChunks] | None:
        """The input of the run and its chunks, as they are written down; None if it is to be left."""
        return None if self._leaving.is_set() else (Source.read(files.source), read_plan(files))

    def _pipeline(self, store: RunStore) -> Pipeline:
        """The pipeline as it was submitted; for a schedule, as it is in its folder now."""
        program = store.queue.program(self.run_id)
        if program is None:
            if self._entry.submission is None:
                raise StoreError(f"the store has no program of run {self.run_id}")
            program = import_elsewhere(self._entry.submission)
        return load_pickled_pipeline(program)

    def _prepared(self, store: RunStore, pipe: Pipeline, opener: Opener) -> RunRecord:
        """The record of the run, once its input is planned."""
        record = store.find(self.run_id)
        asked = self._entry.submission
        if self._entry.prepared or asked is None:
            return record
        files = replace(record.files, take=f"-{self._writer.fence:06d}")
        bound = pipe.bind(asked.params)
        before = asked.input_from
        data = asked.input if before is None else RunReport(self._settings.store_url, before)
        source = plan_input(pipe, data, files, lambda *given: opener.executor().regroup(*given))
        store.queue.prepared(
            self._writer,
            pickle_pipeline(pipe),
            pipeline=pipe.name,
            target=asked.pipeline if ":" in asked.pipeline else None,
            split=str(pipe.split),
            stages=describe_stages(pipe),
            params=bound.record,
            rows_in=source.rows,
            input=input_record(source, files),
        )
        return store.find(self.run_id)

    def _put_back(self, store: RunStore, error: BatchrunError) -> None:
        """Let the run wait again; one that never gets anywhere ends instead."""
        fruitless = 0 if self._fruitful else self._entry.fruitless + 1
        patience = self._settings.run.store_timeout
        with contextlib.suppress(StoreError, LeaseLostError):
            if fruitless >= FRUITLESS:
                insist(lambda: self._fail(store, ErrorRecord.of(error)), patience)
            else:
                insist(lambda: store.queue.release(self._writer, fruitless=fruitless), patience)

    def _fail(self, store: RunStore, error: ErrorRecord) -> None:
        """Record that the run ended by an error outside of its stages."""
        record = store.find(self.run_id)
        if not record.state.ended:
            left = record.rows_in - record.rows_solved - record.rows_quarantined
            self._writer.end(state=RunState.FAILED, ended=time.time(), error=error, rows_cancelled=left)
        store.queue.ended(self._writer)

    def _watch(self, event: Event) -> None:
        self._fruitful = self._fruitful or isinstance(event, ChunksSettled)
