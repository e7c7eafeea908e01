"""A run of many chunks as it is recorded: one attempt each, every so many-th failed in its own words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from batchrun import RunReport
from batchrun.data.load import write_table
from batchrun.data.table import Inline, encode
from batchrun.outcome import Attempt, Cause, ErrorRecord, Outcome, RunState, SolvedAttempts
from batchrun.store.artifacts import RunFolder
from batchrun.store.recorder import Recorder
from batchrun.store.records import RunRecord, SettledChunk, SettledChunks
from batchrun.store.runs import RunStore
from tests.writing import writer

__all__ = ["large_run"]

ROWS = 10
"""Rows of a chunk."""
PACK = 1_000
"""Chunks of a pack."""
WORKERS = 8
BEGIN = 1_790_000_000.0


def large_run(folder: Path, chunks: int, *, failed_every: int = 25) -> RunReport:
    """The report of the run, recorded in *folder*; each failure has a message and a traceback of its own, and
    a log."""
    url = f"sqlite:///{(folder / 'store.db').as_posix()}"
    files = RunFolder((folder / "runs" / "r1").as_posix())
    failed = np.arange(0, chunks, failed_every)
    with RunStore(url) as store:
        store.create(_record(files, chunks))
        starts = np.arange(chunks) * ROWS
        write_table(pa.table({"start": starts, "stop": starts + ROWS}), files.plan(0))
        recorder = Recorder(writer(store, "r1"), files, "s1")
        for first in range(0, chunks, PACK):
            numbers = np.arange(first, min(first + PACK, chunks))
            _pack(recorder, np.setdiff1d(numbers, failed), first // PACK)
        for chunk in failed.tolist():
            _fail(recorder, chunk)
        recorder.flush(chunks=chunks)
        state, ended = RunState.PARTIAL.value, BEGIN + 3600.0
        writer(store, "r1").update(state=state, rows_cancelled=0, ended=ended)
    return RunReport(url, "r1")


def _record(files: RunFolder, chunks: int) -> RunRecord:
    return RunRecord(
        run_id="r1",
        pipeline="scores",
        target="pipelines.scores:scores",
        state=RunState.RUNNING,
        created=BEGIN,
        started=BEGIN,
        split=f"by_rows({ROWS})",
        folder=files.path,
        rows_in=chunks * ROWS,
        stages=[{"name": "score", "memory": 0, "resources": {}, "leg": 0}],
        cluster="local cluster: 8 standard",
        settings=[{"key": f"run.setting_{n}", "value": "some value", "source": "default"} for n in range(30)],
        input={"description": "customers.parquet", "rows": chunks * ROWS, "bytes_per_row": 90},
        versions={"python": "3.11"},
    )


def _pack(recorder: Recorder, numbers: np.ndarray, pack: int) -> None:
    """Chunks that went well, one after the other on one worker."""
    one, seconds = np.ones(len(numbers), np.int64), 0.01 + 0.02 * (numbers * 7919 % 1000) / 1000
    started = BEGIN + 35.0 * (pack // WORKERS) + np.cumsum(seconds) - seconds
    worker = f"standard-{pack % WORKERS}"
    recorder.attempts(SolvedAttempts("score", worker, numbers, one, started, seconds, ROWS * one, ROWS * one))
    scores = {"customer": np.repeat(numbers, ROWS), "score": np.full(ROWS * len(numbers), 0.5)}
    result = Inline(encode(pa.table(scores)))
    recorder.solved_together(
        SettledChunks.succeeded(numbers, ROWS * one, ROWS * one, seconds), result, f"k{pack}"
    )


def _fail(recorder: Recorder, chunk: int) -> None:
    trace = "".join(f'  File "scores.py", line {line}, in score\n' for line in range(40))
    message = f"customer {chunk} has no date"
    error = ErrorRecord(
        "ValueError",
        message,
        f"Traceback (most recent call last):\n{trace}ValueError: {message}\n",
        signature=f"ValueError at scores.py:{chunk}",
    )
    recorder.attempt(
        Attempt(
            chunk,
            "score",
            1,
            f"standard-{chunk // PACK % WORKERS}",
            Outcome.FAILED,
            BEGIN + 35.0 * (chunk // PACK // WORKERS) + 30.0 + chunk % PACK * 0.004,
            0.004,
            ROWS,
            error=error,
            cause=Cause.ERROR,
            decision="quarantine",
            next_step="its rows are set apart",
            log=f"reading customer {chunk}\n" * 2_000,
        )
    )
    rows = pa.table({"customer": np.full(ROWS, chunk), "note": ["a rather long note of a customer"] * ROWS})
    recorder.given_up(SettledChunk(chunk, Outcome.FAILED, ROWS, 0, 0.004), rows)
