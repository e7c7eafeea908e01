"""One chunk through one leg of stages: what an executor runs on a worker.

Nothing that a stage does leaves this module as an exception: errors become records here, because an
exception may not survive the way back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from batchrun.context import ChunkContext
from batchrun.data.load import load, write_table
from batchrun.data.table import Inline, Slice, Stored, TableRef, encode, to_frame, to_table
from batchrun.errors import ResultError
from batchrun.outcome import Attempt, ErrorRecord, Outcome
from batchrun.resources import Demand
from batchrun.worker.program import Step, load_program

__all__ = ["Task", "TaskResult", "run_task", "ship"]


@dataclass(frozen=True)
class Task:
    """One try of one chunk at one leg."""

    key: str
    """Unlike that of any other try of any run."""
    run_id: str
    """The run."""
    chunk: int
    """The chunk's number in input order."""
    leg: int
    """Which leg of the program."""
    attempt: int
    """Which try of this leg, from 1."""
    rows: int
    """Input rows of the chunk."""
    input: TableRef
    """Where the frame for the first stage of the leg is."""
    demand: Demand
    """What the task takes from its worker beside a thread."""
    store_to: str | None = None
    """Where a large result is written; None if the worker shares no files with the runner."""
    inline_limit: int = 2**20
    """Results of up to so many bytes travel inline."""


@dataclass(frozen=True)
class TaskResult:
    """What came of a task."""

    key: str
    """The task's key."""
    worker: str
    """The name of the worker."""
    attempts: tuple[Attempt, ...]
    """One record for each stage that was tried, in order; only the last one can have failed."""
    output: Inline | Stored | None
    """The frame that the last stage gave; None if a stage failed."""
    rows_out: int = 0
    """Rows of that frame."""
    ended: bool = False
    """Whether a stage gave None: the chunk has no rows left, and the stages after it are not called."""

    @property
    def error(self) -> ErrorRecord | None:
        """What went wrong, if anything."""
        return self.attempts[-1].error if self.attempts else None


def run_task(program: bytes, task: Task, *, worker: str) -> TaskResult:
    """Run the stages of the task's leg, one after the other, in this thread.

    Never raises because of what a stage did: an error, ``sys.exit`` included, ends the leg with a failed
    attempt that holds the record of it.
    """
    log = _AttemptLog(task, worker)
    try:
        steps = load_program(program).legs[task.leg]
    except Exception as error:
        error.add_note(
            "The pipeline's code could not be loaded; is what it imports installed on the workers?"
        )
        return log.failed("(load)", 0, error)
    output: Inline | Stored | None = None
    frame: Any = None
    rows = 0
    for position, step in enumerate(steps):
        first, last = position == 0, position == len(steps) - 1
        log.begin()
        try:
            if first:
                frame = to_frame(load(task.input), step.kind)
            rows = len(frame)
            frame = _call(step, frame, task, worker)
            if last or frame is None:
                table = to_table(frame, owner=f"stage `{step.name}`")
                output, rows_out = _hand_over(table, task), table.num_rows
            else:
                frame = _as_kind(frame, step, steps[position + 1])
                rows_out = len(frame)
        except (Exception, SystemExit) as error:
            return log.failed(step.name, rows, error)
        log.succeeded(step.name, rows, rows_out)
        if output is not None:
            break
    return TaskResult(task.key, worker, log.attempts, output, rows_out, ended=frame is None)


def _call(step: Step, frame: Any, task: Task, worker: str) -> Any:
    """Call the user's function."""
    if step.columns is not None:
        frame = _project(step, frame)
    arguments = dict(step.arguments)
    if step.context:
        arguments[step.context] = ChunkContext(
            run_id=task.run_id,
            chunk=task.chunk,
            stage=step.name,
            attempt=task.attempt,
            rows=task.rows,
            worker=worker,
            memory=step.memory,
        )
    return step.function(frame, **arguments)


def _project(step: Step, frame: Any) -> Any:
    """The columns of *frame* that the step declared."""
    have = list(frame.column_names if step.kind == "arrow" else frame.columns)
    missing = [column for column in step.columns or () if column not in have]
    if missing:
        raise ResultError(
            f"stage `{step.name}` declares the column {missing[0]!r}, which the frame before it lacks; "
            f"it has {', '.join(map(repr, have))}"
        )
    columns = list(step.columns or ())
    return frame.select(columns) if step.kind in ("arrow", "polars") else frame[columns]


def _as_kind(frame: Any, step: Step, following: Step) -> Any:
    """Hand a frame on in memory, through Arrow only where the next stage wants another kind."""
    kinds = {"pandas": "pandas", "polars": "polars", "pyarrow": "arrow"}
    kind = kinds.get(type(frame).__module__.partition(".")[0])
    if kind == following.kind and type(frame).__name__ in ("DataFrame", "Table"):
        return frame
    return to_frame(to_table(frame, owner=f"stage `{step.name}`"), following.kind)


def _hand_over(table: Any, task: Task) -> Inline | Stored:
    """Give a small table back inline; write a large one where the runner will find it."""
    if task.store_to is None or table.nbytes <= task.inline_limit:
        return Inline(encode(table))
    return write_table(table, task.store_to)


class _AttemptLog:
    """Collects the attempts of one task."""

    def __init__(self, task: Task, worker: str) -> None:
        self._task = task
        self._worker = worker
        self._attempts: list[Attempt] = []
        self.begin()

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(self._attempts)

    def begin(self) -> None:
        """A stage begins now."""
        self._started = time.time()
        self._clock = time.perf_counter()

    def succeeded(self, stage: str, rows_in: int, rows_out: int) -> None:
        """The stage that began last gave its result."""
        self._add(stage, Outcome.SUCCEEDED, rows_in, rows_out, None)

    def failed(self, stage: str, rows_in: int, error: BaseException) -> TaskResult:
        """The stage that began last raised *error*."""
        self._add(stage, Outcome.FAILED, rows_in, 0, ErrorRecord.of(error))
        return TaskResult(self._task.key, self._worker, self.attempts, None)

    def _add(
        self, stage: str, outcome: Outcome, rows_in: int, rows_out: int, error: ErrorRecord | None
    ) -> None:
        self._attempts.append(
            Attempt(
                chunk=self._task.chunk,
                stage=stage,
                attempt=self._task.attempt,
                worker=self._worker,
                outcome=outcome,
                started=self._started,
                seconds=time.perf_counter() - self._clock,
                rows_in=rows_in,
                rows_out=rows_out,
                error=error,
            )
        )


def ship(ref: TableRef) -> TableRef:
    """A slice or stored table turned into one that can be read anywhere, for workers without our files."""
    return Inline(encode(load(ref))) if isinstance(ref, (Slice, Stored)) else ref
