"""One chunk through one leg of stages: what an executor runs on a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchrun.data.load import load
from batchrun.data.table import Inline, Slice, Stored, TableRef, encode
from batchrun.outcome import Attempt, ErrorRecord
from batchrun.resources import Demand
from batchrun.status import TaskStatus

__all__ = ["Limits", "Task", "TaskResult", "run_task", "ship"]


@dataclass(frozen=True)
class Limits:
    """What an isolated stage may take, beside the memory of its task's demand."""

    stage: str
    """The stage's name."""
    timeout: float | None = None
    """Seconds after which it is killed."""
    stop_after: float | None = None
    """Seconds after which it is asked to stop."""


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
    limits: tuple[Limits, ...] = ()
    """The limits of each stage of an isolated leg, in order; empty for a leg that runs in the worker."""
    grace: float = 5.0
    """Seconds that a stage has to return after its ``stop_after`` before it is killed."""
    chunks_per_child: int = 100
    """So many tasks at most run in one child process before it is replaced."""
    fresh: bool = False
    """Whether it must have a child process in which nothing ran before."""
    then: Slice | None = None
    """What the worker may read while the task runs, because the next one will most likely want it."""

    @property
    def isolated(self) -> bool:
        """Whether the task runs in a child process of its worker."""
        return bool(self.limits)


@dataclass(frozen=True)
class TaskResult:
    """What came of a task."""

    key: str
    """The task's key."""
    worker: str
    """The name of the worker."""
    attempts: tuple[Attempt, ...]
    """One record for each stage that was tried, in order; only the last one can have failed. None if the task
    was recalled before it began."""
    output: Inline | Stored | None
    """The frame that the last stage gave; None if a stage failed."""
    rows_out: int = 0
    """Rows of that frame."""
    ended: bool = False
    """Whether a stage gave None: the chunk has no rows left, and the stages after it are not called."""
    fresh: bool = True
    """Whether nothing ran before in the process that the last stage ran in."""

    @property
    def error(self) -> ErrorRecord | None:
        """What went wrong, if anything."""
        return self.attempts[-1].error if self.attempts else None


def run_task(
    program: bytes,
    task: Task,
    *,
    worker: str,
    report: Callable[[TaskStatus], None] | None = None,
    in_process: bool = False,
) -> TaskResult:
    """Run the stages of the task's leg, one after the other.

    Never raises because of what a stage did: an error, ``sys.exit`` included, ends the leg with a failed
    attempt that holds the record of it. So does the death of a child process.

    Args:
        program: The pickled program of the run.
        task: What to run. An isolated task runs in a child process, any other in this thread.
        worker: The name of this worker.
        report: Is told how the task is doing, from any thread, twice a second at most.
        in_process: Run an isolated task in this thread too. Its limits are then told by ``should_stop``
            only, and its memory is not measured.
    """
    from batchrun.worker.running import running

    with running(task.key) as ticket:
        if not ticket.begin_next():
            return TaskResult(task.key, worker, (), None)
        if task.isolated and not in_process:
            from batchrun.worker.supervisor import supervise

            return supervise(program, task, worker=worker, report=report, ticket=ticket)
        from batchrun.worker.thread import run_in_thread

        return run_in_thread(program, task, worker=worker, report=report, ticket=ticket)


def ship(ref: TableRef) -> TableRef:
    """A slice or stored table turned into one that can be read anywhere, for workers without our files."""
    return Inline(encode(load(ref))) if isinstance(ref, (Slice, Stored)) else ref
