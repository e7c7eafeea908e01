"""Writing a run: by the one process that drives it, as long as no other has taken the run over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.errors import LeaseLostError, RunNotFoundError
from batchrun.outcome import Attempt, Outcome, RunState, SolvedAttempts
from batchrun.store import commit, live, requests, schema, telling
from batchrun.store.event_record import EventKind, News
from batchrun.store.eventlog import tell
from batchrun.store.live import LiveState
from batchrun.store.requests import CancelRequest

if TYPE_CHECKING:
    from batchrun.resources import WorkerKind
    from batchrun.store.database import Database
    from batchrun.store.records import SettledChunks

__all__ = ["RunWriter", "take_over", "tell_end"]


_STANDING = [schema.runs.c[name] for name in ("number", "fence", "state", "chunks", *telling.ROWS)]
"""What is asked of a run's record before it is written."""
_STANDS = sa.select(*_STANDING).where(schema.runs.c.run_id == sa.bindparam("run_id")).with_for_update()
"""The question; built once, since every transaction begins with it."""
_CHANGE = schema.runs.update().where(schema.runs.c.number == sa.bindparam("this_run"))
"""Changes the columns that it is given values for."""


class RunWriter:
    """The right to write one run.

    Each process that begins to drive a run gets a number one higher than the last one, the run's fence.
    A writer with an older one is refused, in the transaction in which it would have written, so a process
    that was stopped for an hour and then goes on can change nothing. (M. Kleppmann, How to do distributed
    locking, 2016, calls such numbers fencing tokens.)

    Every method raises LeaseLostError once another process has taken the run over.
    """

    def __init__(self, database: Database, run_id: str, fence: int) -> None:
        self._database = database
        self.run_id = run_id
        """The run's whole id."""
        self.fence = fence
        """The number that this writer was given."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[tuple[sa.Connection, int]]:
        """A connection that may write the run until the end of the context, and the run's number."""
        with self._turn() as (connection, run):
            yield connection, run.number

    @contextlib.contextmanager
    def _turn(self) -> Iterator[tuple[sa.Connection, sa.Row[Any]]]:
        """The same with what the record says of how the run stands."""
        with self._database.write() as connection:
            yield connection, self._check(connection)

    def update(self, **changes: Any) -> None:
        """Change fields of the run; names are those of RunRecord."""
        with self.transaction() as (connection, run):
            _update(connection, run, changes)

    def reopen(
        self,
        again: Sequence[int] | None = None,
        settled: SettledChunks | None = None,
        *,
        workers: Sequence[WorkerKind] | None = None,
        **changes: Any,
    ) -> None:
        """Begin a session: chunks that run again are no longer settled, and fields of the run change.

        Their attempts and logs stay on record. What an earlier session left behind, its live state and
        requests that it did not see, is forgotten; of a run that begins for the first time they are kept.

        Args:
            again: The numbers of the chunks that run again; None for all without a result.
            settled: Chunks that have their outcome from now on.
            workers: The workers that the session begins with; None if nobody needs to know.
            changes: Fields of the run, by the names of RunRecord.
        """
        chunks = schema.chunks
        solved = [outcome.value for outcome in Outcome if outcome.solved]
        with self._turn() as (connection, before):
            run, resumed = before.number, before.state != RunState.QUEUED.value
            if resumed:
                requests.discard(connection, self.run_id)
            live.clear(connection, self.run_id)
            these = chunks.delete().where(chunks.c.run == run)
            if again is None:
                connection.execute(these.where(chunks.c.outcome.not_in(solved)))
            elif again:
                one = these.where(chunks.c.chunk == sa.bindparam("number"))
                connection.execute(one, [{"number": number} for number in again])
            if settled is not None:
                commit.upsert_chunks(connection, run, settled)
            _update(connection, run, changes)
            tell(
                connection,
                EventKind.RUN_STARTED,
                run=run,
                resumed=resumed,
                cluster=changes.get("cluster", ""),
                workers=None if workers is None else [asdict(kind) for kind in workers],
            )

    def commit(
        self,
        attempts: Sequence[Attempt],
        settled: SettledChunks,
        solved: Sequence[SolvedAttempts] = (),
        news: Sequence[News] = (),
        **changes: Any,
    ) -> None:
        """Record attempts with their logs and settled chunks, and change fields of the run, in one
        transaction; events tell of it.

        Args:
            attempts: Attempts one by one.
            settled: Chunks that have their outcome; each replaces what was recorded of it before.
            solved: Attempts as columns, of which there is nothing to tell.
            news: What else happened to the run since the last commit.
            changes: Fields of the run, by the names of RunRecord.
        """
        with self._turn() as (connection, before):
            run, planned = before.number, changes.get("chunks", before.chunks)
            commit.insert_attempts(connection, run, attempts)
            commit.insert_logs(connection, run, attempts)
            for columns in solved:
                commit.insert_solved(connection, run, columns)
            commit.upsert_chunks(connection, run, settled)
            more = planned if planned != before.chunks else None
            for one in telling.news_of_commit(attempts, settled, more, news):
                tell(connection, one.kind, run=run, chunk=one.chunk, **one.data)
            _update(connection, run, changes)

    def take_requests(self) -> Sequence[CancelRequest]:
        """Requests to cancel that were not given before, oldest first."""
        with self._database.begin() as connection:
            if not requests.are_there(connection, self.run_id):
                return []
        with self.transaction() as (connection, run):
            taken = requests.take(connection, self.run_id)
            for one in taken:
                tell(connection, EventKind.CANCEL_TAKEN, run=run, chunk=one.chunk, keep_best=one.keep_best)
            return taken

    def save_live(self, state: LiveState) -> None:
        """Tell how the run is doing, in place of what was told before."""
        with self.transaction() as (connection, _):
            live.save(connection, self.run_id, state)

    def end(self, **changes: Any) -> None:
        """Change fields of the run at its end, and forget how it was doing."""
        with self._turn() as (connection, before):
            _update(connection, before.number, changes)
            live.clear(connection, self.run_id)
            if not RunState(before.state).ended:  # else the store had it, and only the answer was lost
                told = telling.end_of({**before._mapping, **changes})
                tell(connection, EventKind.RUN_ENDED, run=before.number, **told)

    def _check(self, connection: sa.Connection) -> sa.Row[Any]:
        """How the run stands; nobody else can take the run over until the transaction ends."""
        row = connection.execute(_STANDS, {"run_id": self.run_id}).one_or_none()
        if row is None:
            raise RunNotFoundError(f"run {self.run_id} is no longer in the store; somebody removed it")
        if row.fence != self.fence:
            raise LeaseLostError(
                f"run {self.run_id} was taken over by another process, since this one was silent for too "
                "long; it goes on there, and nothing more is written from here"
            )
        return row


def take_over(connection: sa.Connection, run_id: str) -> int:
    """Let nobody who has written the run so far write it any more; returns the new fence."""
    runs = schema.runs
    changed = runs.update().where(runs.c.run_id == run_id).values(fence=runs.c.fence + 1)
    connection.execute(changed)
    fence: int = connection.execute(sa.select(runs.c.fence).where(runs.c.run_id == run_id)).scalar_one()
    return fence


def _update(connection: sa.Connection, run: int, changes: dict[str, Any]) -> None:
    if changes.get("error") is not None:
        changes = {**changes, "error": asdict(changes["error"])}
    if changes:
        connection.execute(_CHANGE, {**changes, "this_run": run})


def tell_end(connection: sa.Connection, run_id: str) -> None:
    """Tell how a run ended, by what its record says."""
    runs = schema.runs
    row = connection.execute(sa.select(*_STANDING, runs.c.error).where(runs.c.run_id == run_id)).one()
    tell(connection, EventKind.RUN_ENDED, run=row.number, **telling.end_of({**row._mapping}))
