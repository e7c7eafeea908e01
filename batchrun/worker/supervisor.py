"""Drives an isolated task: in one child, or in several where the rest of a leg goes on with the best answer
of a stage that was killed."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from batchrun.data.files import is_local, local_path
from batchrun.data.load import write_table
from batchrun.data.table import Inline, Stored, TableRef, decode
from batchrun.outcome import ErrorRecord, Outcome
from batchrun.status import TaskStatus
from batchrun.worker.children import pool
from batchrun.worker.ledger import Ledger
from batchrun.worker.leg import StageEnd
from batchrun.worker.reporter import Reporter
from batchrun.worker.running import Ticket
from batchrun.worker.sitting import Continue, Over, Sitting, Unstarted
from batchrun.worker.task import Task, TaskResult
from batchrun.worker.thread import cancelled

__all__ = ["supervise"]

TRIES = 2
"""How many children may fail to begin with a task before the attempt counts as failed."""


def supervise(
    program: bytes,
    task: Task,
    *,
    worker: str,
    report: Callable[[TaskStatus], None] | None,
    ticket: Ticket,
) -> TaskResult:
    """Run the stages of an isolated task's leg in child processes; see `run_task`."""
    result = _drive(program, task, worker, report, ticket)
    if result.attempts[-1].outcome is not Outcome.SUCCEEDED:
        _clear_away(task, result)
    return result


def _drive(
    program: bytes,
    task: Task,
    worker: str,
    report: Callable[[TaskStatus], None] | None,
    ticket: Ticket,
) -> TaskResult:
    ledger, reporter = Ledger(task, worker), Reporter(report)
    source: TableRef = task.input
    start, failures, fresh = 0, 0, True
    while True:
        if ticket.stop is not None and not (start and ticket.stop.keep_best):
            ledger.add(cancelled(task.limits[start].stage, "a stop was asked for before it began"))
            return ledger.result(fresh=fresh)
        ending = _try_child(program, replace(task, input=source), start, worker, ledger, reporter, ticket)
        if isinstance(ending, Unstarted):
            failures += 1
            if failures < TRIES:
                continue
            stage = task.limits[start].stage
            stopped = cancelled(stage, "a stop was asked for before it began")
            ledger.add(stopped if ticket.stop is not None else _unstarted(stage, ending), log=ending.log)
            return ledger.result(fresh=ending.fresh)
        fresh = ending.fresh
        if isinstance(ending, Over):
            return ledger.result(ending.output, rows_out=ending.rows_out, emptied=ending.emptied, fresh=fresh)
        if ending.start == len(task.limits):
            return _with_solution(ending, task, ledger)
        start, source, failures = ending.start, Inline(ending.frame), 0


def _try_child(
    program: bytes,
    task: Task,
    start: int,
    worker: str,
    ledger: Ledger,
    reporter: Reporter,
    ticket: Ticket,
) -> Over | Continue | Unstarted:
    try:
        child = pool().take(program, fresh=task.fresh)
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
        record = ErrorRecord.of(error)
        return Unstarted(replace(record, message=f"no process could be started: {record.message}"))
    return Sitting(child, program, task, start, worker, ledger, reporter, ticket).run()


def _unstarted(stage: str, ending: Unstarted) -> StageEnd:
    ended = cancelled(stage, "")
    return replace(ended, outcome=Outcome.FAILED, cause=ending.cause, error=ending.record)


def _clear_away(task: Task, result: TaskResult) -> None:
    """Remove what a child wrote of its result before it was killed."""
    if task.store_to is None or not is_local(task.store_to):
        return
    kept = result.output.path if isinstance(result.output, Stored) else None
    path = Path(local_path(task.store_to))
    with contextlib.suppress(OSError):
        for part in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            part.unlink(missing_ok=True)
        if kept != task.store_to:
            path.unlink(missing_ok=True)


def _with_solution(ending: Continue, task: Task, ledger: Ledger) -> TaskResult:
    """The result of a leg whose last stage was stopped: its best answer, on the way that all results take."""
    table = decode(ending.frame)
    output: Inline | Stored = Inline(ending.frame)
    if task.store_to is not None and len(ending.frame) > task.inline_limit:
        try:
            output = write_table(table, f"{task.store_to}.incumbent.arrow")
        except Exception as error:
            ledger.fail_last(ErrorRecord.of(error))
            return ledger.result(fresh=ending.fresh)
    return ledger.result(output, rows_out=table.num_rows, fresh=ending.fresh)
