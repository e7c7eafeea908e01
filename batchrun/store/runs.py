"""The records of runs, in a database: SQLite on one host, PostgreSQL between hosts.

One process writes a run at a time, the one that drives it; everybody may read, and may ask that process to
cancel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.errors import RunNotFoundError, near_miss
from batchrun.outcome import Outcome, RunState
from batchrun.store import attempts as attempts_of
from batchrun.store import chunks as chunks_of
from batchrun.store import failures as failures_of
from batchrun.store import history, live, requests, rows, schema
from batchrun.store.database import Database
from batchrun.store.deliveries import Deliveries
from batchrun.store.event_record import EventKind
from batchrun.store.eventlog import EventLog, tell
from batchrun.store.live import LiveState
from batchrun.store.news import RunNews
from batchrun.store.queue import RunQueue
from batchrun.store.records import (
    ChunkLog,
    FailureKind,
    RunCounts,
    RunFailures,
    RunRecord,
    SettledChunk,
    SettledChunks,
    StageFigures,
)
from batchrun.store.removal import RunRemoval
from batchrun.store.services import Services
from batchrun.store.writer import RunWriter, take_over, tell_end

if TYPE_CHECKING:
    import pandas as pd

    from batchrun.forecast import DurationHistory
    from batchrun.store.schedules import Schedules

__all__ = ["ChunkLog", "RunRecord", "RunStore", "SettledChunk"]

_OF_THIS_ID = sa.select(schema.runs).where(schema.runs.c.run_id == sa.bindparam("run_id"))
"""Built once, as it is asked most."""


class RunStore:
    """Runs in a database.

    Args:
        url: A SQLAlchemy URL; ``sqlite:///path`` makes the file and its folder when needed.

    Raises StoreError if the database cannot be opened, or is of a newer batchrun.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._begin = self._database.begin

    @cached_property
    def queue(self) -> RunQueue:
        """The runs that services drive."""
        return RunQueue(self._database)

    @cached_property
    def services(self) -> Services:
        """Those services."""
        return Services(self._database)

    @cached_property
    def schedules(self) -> Schedules:
        """Runs that are made again and again."""
        from batchrun.store.schedules import Schedules

        return Schedules(self._database)

    @property
    def place(self) -> str:
        """Its address, without a password."""
        return self._database.url.render_as_string(hide_password=True)

    def version(self) -> int | None:
        """A number that changes with each commit of others, as ``Database.version`` gives it."""
        return self._database.version()

    @cached_property
    def events(self) -> EventLog:
        """Every change of state, in order."""
        return EventLog(self._database)

    @cached_property
    def deliveries(self) -> Deliveries:
        """What became of the hooks."""
        return Deliveries(self._database)

    @cached_property
    def removal(self) -> RunRemoval:
        """What removes runs that nobody needs any more."""
        return RunRemoval(self._database)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing: only the driver of a run does this, with the writer that it gets here.

    def create(self, record: RunRecord) -> RunWriter:
        """Record a new run; what is returned may write it."""
        from batchrun.store.driver import driver_name

        with self._database.write() as connection:
            connection.execute(schema.runs.insert().values(**rows.run_row(record)))
            run = record.run_id
            tell(connection, EventKind.RUN_QUEUED, run=run, pipeline=record.pipeline, rows_in=record.rows_in)
            tell(connection, EventKind.RUN_TAKEN, run=run, process=driver_name())
        return RunWriter(self._database, run, record.fence)

    def take_over(self, run_id: str) -> RunWriter:
        """Begin to drive a run: what is returned may write it, and whoever wrote it before may not."""
        from batchrun.store.driver import driver_name

        with self._database.write() as connection:
            tell(connection, EventKind.RUN_TAKEN, run=run_id, process=driver_name())
            return RunWriter(self._database, run_id, take_over(connection, run_id))

    def end_abandoned(self, record: RunRecord, **changes: Any) -> bool:
        """Change fields of a run that nothing drives, unless somebody began to drive it since *record* was
        read; says whether it did."""
        runs = schema.runs
        untouched = sa.and_(
            runs.c.run_id == record.run_id,
            runs.c.state == record.state.value,
            runs.c.fence == record.fence,
            runs.c.heartbeat.is_not_distinct_from(record.heartbeat),
        )
        with self._database.write() as connection:
            done = connection.execute(runs.update().where(untouched).values(**changes))
            if done.rowcount:
                live.clear(connection, record.run_id)
                tell_end(connection, record.run_id)
            return bool(done.rowcount)

    # Asking: everybody may.

    def request_cancel(self, run_id: str, *, chunk: int | None = None, keep_best: bool = False) -> None:
        """Ask the driver of a run to stop it, or one chunk of it.

        Args:
            run_id: The run's whole id.
            chunk: The chunk's number; None for the run.
            keep_best: Whether the best answer so far counts as the result of a solve that is stopped.
        """
        with self._database.write() as connection:
            requests.ask(connection, run_id, chunk=chunk, keep_best=keep_best)
            tell(connection, EventKind.CANCEL_ASKED, run=run_id, chunk=chunk, keep_best=keep_best)

    # Reading.

    def find(self, text: str) -> RunRecord:
        """The run whose id is *text* or begins with it; ``last`` is the newest one.

        Raises RunNotFoundError if there is none, or more than one.
        """
        if text == "last":
            newest = self.list(limit=1)
            if not newest:
                raise RunNotFoundError("there is no run yet; start one with `batchrun submit`")
            return newest[0]
        with self._begin() as connection:
            table = schema.runs
            exact = connection.execute(_OF_THIS_ID, {"run_id": text}).one_or_none()
            if exact is not None:
                return rows.run_from_row(exact)
            # Only ids are read, which lie close together in their index, and then the one run.
            begins = sa.select(table.c.run_id).where(table.c.run_id.startswith(text, autoescape=True))
            found = connection.execute(begins.limit(2)).scalars().all()
            if len(found) == 1:
                one = sa.select(table).where(table.c.run_id == found[0])
                return rows.run_from_row(connection.execute(one).one())
            if found:
                raise RunNotFoundError(f"more than one run begins with {text!r}; give more of its id")
            known = connection.execute(
                sa.select(table.c.run_id).order_by(table.c.created.desc()).limit(1000)
            ).scalars()
            raise RunNotFoundError(
                f"the store has no run {text!r}.{near_miss(text, known)} `batchrun runs` lists them"
            )

    def list(self, *, limit: int | None = 100, states: Collection[RunState] = ()) -> list[RunRecord]:
        """Runs, newest first; all or those that stand at one of *states*, at most *limit* of them."""
        table = schema.runs
        query = sa.select(table).order_by(table.c.created.desc()).limit(limit)
        if states:
            # What is narrow is found by an index, before anything wide is read and put in order.
            these = sa.select(table.c.number).where(table.c.state.in_([state.value for state in states]))
            query = query.where(
                table.c.number.in_(these.order_by(table.c.created.desc()).limit(limit).scalar_subquery())
            )
        with self._begin() as connection:
            return [rows.run_from_row(row) for row in connection.execute(query)]

    def news(self, run_id: str) -> RunNews:
        """Reads what is new in a run, whose whole id is *run_id*, each time it is asked."""
        return RunNews(self._database, run_id)

    def settled(
        self, run_id: str, *, solved: bool | None = None, chunks: Sequence[int] | None = None
    ) -> SettledChunks:
        """Settled chunks of a run, by number.

        Args:
            run_id: The run's whole id.
            solved: Only those that have a result, or only those that have none.
            chunks: Only those of these numbers.
        """
        with self._begin() as connection:
            return chunks_of.settled(connection, run_id, solved, chunks)

    def counts(self, run_id: str) -> RunCounts:
        """How many chunks and attempts of a run ended how; quick, however many there are."""
        with self._begin() as connection:
            chunks = chunks_of.count(connection, schema.chunks, run_id)
            stopped = Outcome.STOPPED_WITH_SOLUTION in chunks  # else none is looked for among a million
            return RunCounts(
                chunks,
                chunks_of.count(connection, schema.attempts, run_id),
                chunks_of.worst_gap(connection, run_id) if stopped else None,
            )

    def failures(self, run_ids: Sequence[str]) -> Mapping[str, RunFailures]:
        """What the chunks of those runs failed for; runs without a chunk that was given up are left out."""
        with self._begin() as connection:
            return failures_of.failures(connection, run_ids)

    def failure_kinds(self, run_id: str) -> Sequence[FailureKind]:
        """What the chunks of a run were given up for, the commonest first."""
        with self._begin() as connection:
            return failures_of.kinds(connection, run_id)

    def logged(self, run_id: str, most: int) -> Sequence[tuple[int, Outcome]]:
        """Chunks of a run that have a log and did not end well, and how each ended: those without a result
        first, then those that were stopped with a solution; *most* at most."""
        with self._begin() as connection:
            return failures_of.logged(connection, run_id, most)

    def throughput(self, run_id: str, since: float, width: float) -> Sequence[tuple[int, int, int]]:
        """What a session of a run settled over time.

        Args:
            run_id: The run's whole id.
            since: When the session began, in seconds since the epoch.
            width: Seconds of a bin.

        Returns the number of each bin that is not empty, the chunks whose last attempt ended in it, and their
        input rows.
        """
        with self._begin() as connection:
            return attempts_of.throughput(connection, run_id, since, width)

    def figures(self, run_id: str) -> Sequence[StageFigures]:
        """What each stage that was tried took, in the order of their first attempts."""
        with self._begin() as connection:
            return attempts_of.figures(connection, run_id)

    def attempts(
        self,
        run_id: str,
        *,
        chunks: Sequence[int] | None = None,
        unsolved: bool = False,
        latest: int | None = None,
    ) -> pd.DataFrame:
        """One row an attempt, in the order in which they were recorded.

        Beside the fields of an attempt it has error_type, error, traceback and signature of its error, and
        objective, bound and gap of its last incumbent. ``cause`` is missing and ``decision`` and
        ``next_step`` are empty where there is none.

        Args:
            run_id: The run's whole id.
            chunks: Only those of these chunks, a few.
            unsolved: Only those without a result.
            latest: Only so many, those that were recorded last.
        """
        with self._begin() as connection:
            return attempts_of.frame(connection, run_id, chunks, unsolved, latest)

    def incumbents(self, run_id: str, chunk: int | None = None) -> pd.DataFrame:
        """One row an answer that an attempt of a run, or of one chunk, published: chunk, stage, attempt,
        seconds since the attempt began, objective, bound, gap. By chunk, then by time."""
        with self._begin() as connection:
            return attempts_of.incumbents(connection, run_id, chunk)

    def logs(self, run_id: str, chunk: int | None = None) -> Sequence[ChunkLog]:
        """What attempts of a run, or of one chunk, printed and logged; those that still run are among them.

        By chunk, then by time.
        """
        table = schema.logs
        query = sa.select(table).where(schema.of_run(table, run_id)).order_by(table.c.id)
        if chunk is not None:
            query = query.where(table.c.chunk == chunk)
        with self._begin() as connection:
            # The state comes first: an attempt that ends in between is left out otherwise.
            state = live.read(connection, run_id)
            found = [
                ChunkLog(row.chunk, row.stage, row.attempt, row.text) for row in connection.execute(query)
            ]
        known = {(log.chunk, log.stage, log.attempt) for log in found}
        for running in state.running if state else ():
            wanted = running.log and chunk in (None, running.chunk)
            if wanted and (running.chunk, running.stage, running.attempt) not in known:
                found.append(ChunkLog(running.chunk, running.stage, running.attempt, running.log, live=True))
        return sorted(found, key=lambda log: log.chunk)

    def live(self, run_id: str) -> LiveState | None:
        """How a run is doing at this moment, as its driver told last.

        None if it told nothing yet or has ended. The state of a driver that was killed stays until the run is
        resumed: compare its time.
        """
        with self._begin() as connection:
            return live.read(connection, run_id)

    def tries(self, run_id: str) -> dict[tuple[int, str], int]:
        """How often each chunk that has no result was tried at each stage so far."""
        with self._begin() as connection:
            return attempts_of.tries(connection, run_id)

    def peaks(self, pipeline: str, stage: str, limit: int = 2000) -> Sequence[tuple[int, int]]:
        """How much memory a stage took, in all runs of the pipeline of that name.

        Rows given and most bytes used of each attempt that had all the memory it needed or ran out of it,
        newest first, at most *limit*.
        """
        with self._begin() as connection:
            return history.peaks(connection, pipeline, stage, limit)

    def history(self, pipeline: str, limit: int = 50_000) -> Mapping[str, DurationHistory]:
        """How long the stages of a pipeline of that name took, in its newest runs.

        By stage, its solved attempts with the keys and the rows of their chunks, newest first. Once *limit*
        of all stages together are found, older runs do not count; of a run with more, it is those of every
        so many-th chunk. Where runs were short, fewer are read than *limit*.
        """
        with self._begin() as connection:
            return history.history(connection, pipeline, limit)

    def durations(self, pipeline: str, limit: int = 10_000) -> Mapping[str, tuple[int, float, float]]:
        """How long the stages of a pipeline of that name took, in its newest runs.

        By stage, how many solved attempts were seen, and the median and the longest of their seconds; stages
        of which none was seen are left out. *limit* is as in history.
        """
        with self._begin() as connection:
            return history.durations(connection, pipeline, limit)
