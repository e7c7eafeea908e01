"""What the chunks of runs failed for, in a few words and quickly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from batchrun.outcome import Outcome
from batchrun.store import schema
from batchrun.store.attempts import SOLVED
from batchrun.store.records import FailureKind, RunFailures

__all__ = ["failures", "kinds", "logged"]

_GIVEN_UP = [outcome.value for outcome in Outcome if not outcome.solved and outcome is not Outcome.CANCELLED]


def failures(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, RunFailures]:
    """Chunks that were given up, and their commonest error, of those runs that have any.

    The attempts that did not succeed are few and have an index of their own; what succeeded is not read.
    """
    attempts, runs = schema.attempts, schema.runs
    numbers = sa.select(runs.c.number).where(runs.c.run_id.in_(list(run_ids)))
    names = dict(
        connection.execute(sa.select(runs.c.number, runs.c.run_id).where(runs.c.number.in_(numbers))).all()
    )
    last = _last_of_given_up(list(names)).subquery()
    query = (
        sa.select(
            attempts.c.run,
            sa.func.count().label("chunks"),
            sa.func.min(attempts.c.error_type).label("kind"),
            sa.func.min(attempts.c.error).label("message"),
            sa.func.min(attempts.c.outcome).label("outcome"),
        )
        .join(last, last.c.id == attempts.c.id)
        .group_by(attempts.c.run, attempts.c.signature)
    )
    kinds: dict[int, list[sa.Row[Any]]] = {}
    for row in connection.execute(query):
        kinds.setdefault(row.run, []).append(row)
    return {names[run]: _summed(rows) for run, rows in kinds.items()}


def kinds(connection: sa.Connection, run_id: str) -> tuple[FailureKind, ...]:
    """What the chunks of a run were given up for, the commonest first; tracebacks are read of one of each."""
    attempts, chunks = schema.attempts, schema.chunks
    number = schema.number_of(run_id)
    last = (
        sa.select(attempts.c.chunk, sa.func.max(attempts.c.id).label("id"))
        .where(
            attempts.c.run == number,
            attempts.c.outcome != schema.succeeded,
            attempts.c.outcome.not_in(SOLVED),
        )
        .group_by(attempts.c.chunk)
        .subquery()
    )
    given_up = (
        sa.select(chunks.c.chunk, chunks.c.rows, chunks.c.outcome, last.c.id, attempts.c.signature)
        .select_from(
            chunks.outerjoin(last, last.c.chunk == chunks.c.chunk).outerjoin(
                attempts, attempts.c.id == last.c.id
            )
        )
        .where(chunks.c.run == number, chunks.c.outcome.in_(_GIVEN_UP))
        .subquery()
    )
    signature = sa.func.coalesce(given_up.c.signature, given_up.c.outcome)
    alike = (
        sa.select(
            sa.func.min(given_up.c.chunk).label("chunk"),
            sa.func.count().label("chunks"),
            sa.func.sum(given_up.c.rows).label("rows"),
            signature.label("alike"),
        )
        .group_by(signature)
        .subquery()
    )
    told = (attempts.c.error_type, attempts.c.error, attempts.c.traceback, attempts.c.stage)
    query = (
        sa.select(alike, given_up.c.outcome, *told)
        .select_from(
            alike.join(given_up, given_up.c.chunk == alike.c.chunk).outerjoin(
                attempts, attempts.c.id == given_up.c.id
            )
        )
        .order_by(alike.c.chunks.desc(), alike.c.chunk)
    )
    return tuple(map(_kind, connection.execute(query)))


def logged(connection: sa.Connection, run_id: str, most: int) -> list[tuple[int, Outcome]]:
    """Chunks that have a log and did not end well, and how their last attempt with one ended.

    Those without a result come first, also if the run ended before they were given up, then those that were
    stopped with a solution; *most* at most.
    """
    attempts, chunks, logs = schema.attempts, schema.chunks, schema.logs
    number = schema.number_of(run_id)
    told = sa.and_(
        logs.c.run == attempts.c.run,
        logs.c.chunk == attempts.c.chunk,
        logs.c.stage == attempts.c.stage,
        logs.c.attempt == attempts.c.attempt,
    )
    settled = sa.and_(chunks.c.run == attempts.c.run, chunks.c.chunk == attempts.c.chunk)
    last = (
        sa.select(sa.func.max(attempts.c.id).label("id"))
        .select_from(attempts.join(logs, told).outerjoin(chunks, settled))
        .where(
            attempts.c.run == number,
            attempts.c.outcome != schema.succeeded,
            attempts.c.outcome != Outcome.CANCELLED.value,
            sa.func.coalesce(chunks.c.outcome, "") != Outcome.SUCCEEDED.value,
        )
        .group_by(attempts.c.chunk)
        .subquery()
    )
    stopped = sa.case((attempts.c.outcome.in_(SOLVED), 1), else_=0)
    query = (
        sa.select(attempts.c.chunk, attempts.c.outcome)
        .join(last, last.c.id == attempts.c.id)
        .order_by(stopped, attempts.c.chunk)
        .limit(most)
    )
    return [(chunk, Outcome(outcome)) for chunk, outcome in connection.execute(query)]


def _kind(row: sa.Row[Any]) -> FailureKind:
    outcome = Outcome(row.outcome)
    return FailureKind(
        row.error_type or outcome.value,
        row.error or outcome.description,
        row.traceback or "",
        row.stage,
        outcome,
        row.chunks,
        int(row.rows),
        row.chunk,
        row.alike,
    )


def _last_of_given_up(numbers: Sequence[int]) -> sa.Select[Any]:
    """The last attempt without a result of each chunk that was given up."""
    attempts, chunks = schema.attempts, schema.chunks
    same = sa.and_(chunks.c.run == attempts.c.run, chunks.c.chunk == attempts.c.chunk)
    return (
        sa.select(sa.func.max(attempts.c.id).label("id"))
        .join(chunks, same)
        .where(
            attempts.c.run.in_(list(numbers)),
            attempts.c.outcome != schema.succeeded,
            attempts.c.outcome.not_in(SOLVED),
            chunks.c.outcome.in_(_GIVEN_UP),
        )
        .group_by(attempts.c.run, attempts.c.chunk)
    )


def _summed(rows: Sequence[sa.Row[Any]]) -> RunFailures:
    """What the kinds of error of one run come to."""
    most = max(rows, key=lambda row: row.chunks)
    name = most.kind or most.outcome
    error = f"{name}: {most.message}" if most.message else name
    return RunFailures(sum(row.chunks for row in rows), error, most.chunks)
