"""The stages of a leg, called one after the other; the same in a thread and in a child process.

Nothing that a stage does leaves this module as an exception: errors become records here, because an
exception may not survive the way back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from batchrun.context import ChunkContext, Listener
from batchrun.data.load import load_frame, write_table
from batchrun.data.table import Inline, Stored, encode, to_frame, to_table
from batchrun.errors import ResultError
from batchrun.outcome import Cause, ErrorRecord, Outcome

if TYPE_CHECKING:
    from batchrun.worker.program import Program, Step
    from batchrun.worker.task import Task

__all__ = ["Host", "StageEnd", "load_steps", "run_leg"]


HandOver = Callable[[Any, str], tuple["Inline | Stored | None", int]]
"""Takes what the last stage of a leg returned, and its name; says where the result is, and its rows."""


@dataclass(frozen=True)
class StageEnd:
    """How one call of a stage ended, as seen from where it ran."""

    stage: str
    """The stage's name."""
    outcome: Outcome
    """How it ended."""
    started: float
    """When it began, in seconds since the epoch."""
    seconds: float
    """How long it took, reading its input and encoding its result included."""
    rows_in: int = 0
    """Rows of the frame that it was given."""
    rows_out: int = 0
    """Rows of the frame that it gave back."""
    error: ErrorRecord | None = None
    """What went wrong, if anything."""
    cause: Cause | None = None
    """Why it did not end by itself."""
    output: Inline | Stored | None = None
    """The result of the leg, if it is over and went well."""
    over: bool = True
    """Whether no other stage of the leg follows."""
    emptied: bool = False
    """Whether it gave None: the chunk has no rows left."""


class Host(Protocol):
    """Where a leg runs: hears of each stage, and decides whether the next one begins."""

    def may_begin(self, position: int) -> bool:
        """Whether the stage at *position* of the leg may begin."""
        ...

    def begin(self, position: int) -> Listener:
        """The stage begins: who hears what it says."""
        ...

    def loaded(self, rows: int) -> None:
        """The stage's frame is there."""
        ...

    def left(self) -> None:
        """The user's function came back, with a frame or with an error."""
        ...

    def stop_seen(self) -> Cause | None:
        """Why the stage was asked to stop, if it knows of it."""
        ...

    def end(self, ended: StageEnd) -> None:
        """The stage ended."""
        ...


def load_steps(load_program: Callable[[], Program], leg: int) -> tuple[Step, ...] | StageEnd:
    """The steps of a leg, or how loading them failed."""
    started, clock = time.time(), time.perf_counter()
    try:
        return load_program().legs[leg]
    except (Exception, SystemExit) as error:
        error.add_note(
            "The pipeline's code could not be loaded; is what it imports installed on the workers?"
        )
        return StageEnd(
            "(load)",
            Outcome.FAILED,
            started,
            time.perf_counter() - clock,
            error=ErrorRecord.of(error),
            cause=Cause.ERROR,
        )


def run_leg(
    steps: Sequence[Step],
    task: Task,
    host: Host,
    *,
    worker: str,
    start: int = 0,
    frame: Any = None,
    encode: Callable[[Any], Any] = encode,
    hand_over: HandOver | None = None,
    caught: tuple[type[BaseException], ...] = (Exception, SystemExit),
) -> None:
    """Call the steps of a leg.

    Args:
        steps: All steps of the leg.
        task: What they are run for.
        host: Hears of each of them.
        worker: The name of the worker.
        start: The number of the step to begin with.
        frame: What it is called with; None for the task's input.
        encode: Makes bytes, or a view of some, of a result that is to travel.
        hand_over: Takes what the last step returned, in place of storing it or making it travel.
        caught: What a step may raise without harm to the caller.
    """
    for position in range(start, len(steps)):
        if not host.may_begin(position):
            return
        call = _Call(steps, position, task, worker, hand_over or partial(_hand_over, task, encode))
        try:
            given, frame = frame, None
            frame = call.run(host, given)
        except caught as error:
            memory = isinstance(error, MemoryError)
            outcome = Outcome.OUT_OF_MEMORY if memory else Outcome.FAILED
            cause = Cause.MEMORY if memory else Cause.ERROR
            record = ErrorRecord.of(error)
            del error
            host.end(call.ended(outcome, cause=cause, error=record))
            return
        seen = host.stop_seen()
        outcome = Outcome.STOPPED_WITH_SOLUTION if seen else Outcome.SUCCEEDED
        host.end(call.ended(outcome, cause=seen))
        if call.over:
            return


class _Call:
    """One call of one stage."""

    def __init__(
        self,
        steps: Sequence[Step],
        position: int,
        task: Task,
        worker: str,
        hand_over: HandOver,
    ) -> None:
        self._step = steps[position]
        self._following = steps[position + 1] if position + 1 < len(steps) else None
        self._position = position
        self._task = task
        self._worker = worker
        self._hand_over = hand_over
        self._rows_in = self._rows_out = 0
        self._output: Inline | Stored | None = None
        self.over = False
        self._emptied = False
        self._started, self._clock = time.time(), time.perf_counter()

    def run(self, host: Host, given: Any) -> Any:
        """Call the user's function with *given*, or with the task's input; gives the next stage's frame."""
        step = self._step
        listener = host.begin(self._position)
        frame = load_frame(self._task.input, step.kind) if given is None else given
        self._rows_in = len(frame)
        host.loaded(self._rows_in)
        if step.columns is not None:
            frame = _project(step, frame)
        arguments = dict(step.arguments)
        if step.context:
            arguments[step.context] = self._context(listener)
        try:
            frame = step.function(frame, **arguments)
        finally:
            host.left()
        self._emptied = frame is None
        if self._following is None or frame is None:
            self._output, self._rows_out = self._hand_over(frame, step.name)
            self.over = True
            return None
        frame = _as_kind(frame, step, self._following)
        self._rows_out = len(frame)
        return frame

    def ended(
        self, outcome: Outcome, *, cause: Cause | None = None, error: ErrorRecord | None = None
    ) -> StageEnd:
        """The record of the call."""
        return StageEnd(
            stage=self._step.name,
            outcome=outcome,
            started=self._started,
            seconds=time.perf_counter() - self._clock,
            rows_in=self._rows_in,
            rows_out=self._rows_out if outcome.solved else 0,
            error=error,
            cause=cause,
            output=self._output if outcome.solved else None,
            over=self.over or not outcome.solved,
            emptied=self._emptied and outcome.solved,
        )

    def _context(self, listener: Listener) -> ChunkContext:
        return ChunkContext(
            run_id=self._task.run_id,
            chunk=self._task.chunk,
            stage=self._step.name,
            attempt=self._task.attempt,
            rows=self._task.rows,
            worker=self._worker,
            memory=self._task.demand.memory or self._step.memory,
            listener=listener,
        )


def _hand_over(
    task: Task, encode: Callable[[Any], Any], frame: Any, stage: str
) -> tuple[Inline | Stored, int]:
    """Give a small table back inline; write a large one where the runner will find it."""
    table = to_table(frame, owner=f"stage `{stage}`")
    if task.store_to is None or table.nbytes <= task.inline_limit:
        return Inline(encode(table)), table.num_rows
    return write_table(table, task.store_to), table.num_rows


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
