"""A run as it is recorded, with all that can happen to a solve: made by hand, so that nothing has to run.

Forty chunks of five rows. Chunk 12 passes its memory and is cut until one row is left, which is set apart;
chunk 22 passes its timeout without an answer; every fifth chunk is stopped with its best answer so far.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from batchrun import RunReport
from batchrun.data.load import write_table
from batchrun.data.table import Inline, encode
from batchrun.outcome import Attempt, Cause, ErrorRecord, Incumbent, Outcome, RunState
from batchrun.store.artifacts import RunFolder
from batchrun.store.driver import driver_name, driving
from batchrun.store.live import LiveState
from batchrun.store.recorder import Recorder
from batchrun.store.records import RunRecord, SettledChunk
from batchrun.store.runs import RunStore
from tests.writing import writer

CHUNKS, ROWS = 40, 5
STOPPED = range(0, CHUNKS, 5)
TIMED_OUT = 22
CUT = {12: (40, 41), 41: (42, 43)}
BAD = 43
BEGIN = 1_790_000_000.0
MEMORY = 2 * 2**30


def stopped_run(folder: Path, *, mark: str = "", live: LiveState | None = None) -> RunReport:
    """The report of the run, recorded in *folder*; *mark* goes into all that a user names.

    With *live* the run still goes on, driven by this process.
    """
    url = f"sqlite:///{(folder / 'store.db').as_posix()}"
    files = RunFolder((folder / "runs" / "r1").as_posix())
    with RunStore(url) as store:
        store.create(_record(files, mark))
        _plan(files)
        recorder = Recorder(writer(store, "r1"), files, "s1")
        for chunk in range(CHUNKS):
            if chunk not in CUT:
                _settle(recorder, chunk, mark)
        _cut(recorder, mark)
        recorder.flush(chunks=CHUNKS + 4)
        writer(store, "r1").update(rows_cancelled=0, **_state(live))
        if live is not None:
            writer(store, "r1").save_live(live)
    with driving("r1") if live else nullcontext():
        return RunReport(url, "r1")


def history(chunk: int) -> tuple[Incumbent, ...]:
    """What a stopped solve published: ever better answers, and a bound that comes to meet them. The one of
    chunk 5 knows no bound."""
    steps = np.arange(14)
    objective = 900.0 + 20 * chunk + 500 * np.exp(-steps / 3)
    bound = (880.0 + 12 * chunk) * (1 - 0.3 * np.exp(-steps / 4))
    return tuple(
        Incumbent(
            3.0 * step + 0.5, float(objective[step]), float(bound[step]) if chunk != 5 and step > 1 else None
        )
        for step in steps
    )


def _state(live: LiveState | None) -> dict[str, object]:
    if live is None:
        return {"state": RunState.PARTIAL.value, "ended": BEGIN + 900.0}
    return {"state": RunState.RUNNING.value, "driver": driver_name(), "heartbeat": time.time()}


def _record(files: RunFolder, mark: str) -> RunRecord:
    stages = [
        {"name": f"clean{mark}", "memory": 0, "resources": {}, "leg": 0},
        {"name": f"solve{mark}", "memory": MEMORY, "resources": {"HIGHMEM": 1}, "leg": 1},
    ]
    return RunRecord(
        run_id="r1",
        pipeline=f"job_shop{mark}",
        target="pipelines.job_shop:schedules",
        state=RunState.RUNNING,
        created=BEGIN,
        started=BEGIN,
        split=f"by_rows({ROWS})",
        folder=files.path,
        rows_in=CHUNKS * ROWS,
        stages=stages,
        cluster="local cluster: 2 standard, 1 highmem",
        input={"description": "jobs.parquet", "rows": CHUNKS * ROWS, "bytes_per_row": 90},
        versions={"python": "3.11"},
    )


def _plan(files: RunFolder) -> None:
    starts = np.arange(0, CHUNKS * ROWS, ROWS)
    write_table(pa.table({"start": starts, "stop": starts + ROWS}), files.plan(0))
    for wave, (chunk, first, middle, last) in enumerate([(12, 60, 62, 65), (41, 62, 64, 65)], start=1):
        parts = {"start": [first, middle], "stop": [middle, last], "parent": [chunk, chunk]}
        write_table(pa.table(parts), files.plan(wave))


def _attempt(chunk: int, stage: str, outcome: Outcome, seconds: float, **more: object) -> Attempt:
    worker = "highmem-0" if stage.startswith("solve") else f"standard-{chunk % 2}"
    started = BEGIN + 20.0 * chunk + (5.0 if worker == "highmem-0" else 0.0)
    return Attempt(chunk, stage, 1, worker, outcome, started, seconds, rows_in=ROWS, rows_out=ROWS, **more)  # type: ignore[arg-type]


def _settle(recorder: Recorder, chunk: int, mark: str) -> None:
    recorder.attempt(_attempt(chunk, f"clean{mark}", Outcome.SUCCEEDED, 0.8))
    solve, peak = f"solve{mark}", int((0.4 + 0.02 * chunk) * 2**30)
    result = Inline(encode(pa.table({"row": range(chunk * ROWS, chunk * ROWS + ROWS)})))
    if chunk in STOPPED:
        told = history(chunk)
        causes = (Cause.DEADLINE, Cause.TIMEOUT, Cause.MEMORY, Cause.CANCEL)
        recorder.attempt(
            _attempt(
                chunk,
                solve,
                Outcome.STOPPED_WITH_SOLUTION,
                45.0 + chunk,
                peak_memory=peak,
                cause=causes[chunk // 5 % 4],
                incumbents=told,
                log=f"solving chunk {chunk}{mark}\nstopped\n",
            )
        )
        best = told[-1]
        settled = SettledChunk(
            chunk, Outcome.STOPPED_WITH_SOLUTION, ROWS, ROWS, 46.0, objective=best.objective, bound=best.bound
        )
        recorder.solved(settled, result, f"k{chunk}")
    elif chunk == TIMED_OUT:
        error = ErrorRecord("TimedOut", "the stage passed its timeout of 2 min", signature="TimedOut")
        recorder.attempt(
            _attempt(
                chunk,
                solve,
                Outcome.TIMED_OUT,
                120.0,
                peak_memory=peak,
                error=error,
                cause=Cause.TIMEOUT,
                decision="quarantine",
                next_step="its rows are set apart: it would not end in time",
                log="\n".join(f"step {step}: no answer yet{mark}" for step in range(2_000)),
            )
        )
        rows = pa.table({"row": range(chunk * ROWS, chunk * ROWS + ROWS)})
        recorder.given_up(SettledChunk(chunk, Outcome.TIMED_OUT, ROWS, 0, 120.0), rows)
    else:
        recorder.attempt(
            _attempt(chunk, solve, Outcome.SUCCEEDED, 4.0 + 3 * math.sin(chunk), peak_memory=peak)
        )
        recorder.solved(SettledChunk(chunk, Outcome.SUCCEEDED, ROWS, ROWS, 5.0), result, f"k{chunk}")


def _cut(recorder: Recorder, mark: str) -> None:
    memory = ErrorRecord("OutOfMemory", f"the stage used 2.3 GiB, its memory is 2 GiB{mark}", signature="m")
    solve = f"solve{mark}"
    for chunk in CUT:
        recorder.attempt(
            _attempt(
                chunk,
                solve,
                Outcome.OUT_OF_MEMORY,
                30.0,
                peak_memory=int(2.3 * 2**30),
                error=memory,
                cause=Cause.MEMORY,
                decision="cut",
                next_step="cut in two halves, which are tried by themselves",
            )
        )
    for chunk, first, rows in ((40, 60, 2), (42, 62, 2)):
        recorder.attempt(_attempt(chunk, solve, Outcome.SUCCEEDED, 6.0, peak_memory=2**30))
        result = Inline(encode(pa.table({"row": range(first, first + rows)})))
        recorder.solved(SettledChunk(chunk, Outcome.SUCCEEDED, rows, rows, 6.0), result, f"k{chunk}")
    trace = f'Traceback (most recent call last):\n  File "solve.py", line 7{mark}\nValueError: no date\n'
    error = ErrorRecord("ValueError", f"no date{mark}", trace, signature="v")
    recorder.attempt(
        _attempt(
            BAD,
            solve,
            Outcome.FAILED,
            2.0,
            error=error,
            cause=Cause.ERROR,
            decision="quarantine",
            next_step="its rows are set apart",
            log=f"reading row 64{mark}\n",
        )
    )
    bad = pa.Table.from_pandas(pd.DataFrame({"row": [64], f"note{mark}": ["x"]}), preserve_index=False)
    recorder.given_up(SettledChunk(BAD, Outcome.FAILED, 1, 0, 2.0), bad)
