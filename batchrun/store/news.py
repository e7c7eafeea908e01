"""What was committed to a run since the last look, for those who follow it from another process."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.errors import RunNotFoundError
from batchrun.outcome import Attempt, Cause, ErrorRecord, Incumbent, Outcome, SolvedAttempts
from batchrun.store import live, rows, schema
from batchrun.store.records import RunRecord, SettledChunks

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchrun.store.database import Database
    from batchrun.store.live import LiveState

__all__ = ["Committed", "Look", "RunNews", "Standing"]

AT_A_TIME = 20_000
"""Attempts that are read at a time, and chunks."""
AT_ONCE = 1_000
"""Rows that are Python objects at a time: few, so that they are gone before garbage is collected."""
MOST_NAMED = 500
"""Attempts that a query names one by one."""

_OF_CHUNK = ("outcome", "rows", "rows_out", "seconds", "objective", "bound")
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


@dataclass(frozen=True)
class Look:
    """How a run stands."""

    record: RunRecord
    """Its record."""
    live: LiveState | None
    """What its driver told since the last look; None if that is nothing."""


@dataclass(frozen=True)
class Committed:
    """Attempts, and the chunks that have their outcomes by them."""

    attempts: Sequence[Attempt]
    """Those of which there is something to tell, without logs."""
    solved: Sequence[SolvedAttempts]
    """The others."""
    settled: SettledChunks
    """Chunks of these attempts that are settled by now; some of them may have been told before."""


@dataclass(frozen=True)
class Standing:
    """The chunks of a run that are settled when somebody begins to look."""

    earlier: tuple[int, int]
    """How many of them earlier sessions of the run settled, and the rows in them."""
    parts: Iterable[tuple[SettledChunks, SettledChunks]]
    """All of them, some at a time: those of earlier sessions, and those of this one."""


class RunNews:
    """Reads what is new in a run, in time that grows with what is new, not with the run.

    One process writes a run at a time, one transaction after the other, so within a run the ids of attempts
    are in the order of their commits. Between runs they are not: another run may have committed a higher id
    before.

    Raises RunNotFoundError, here and in every method, if the store has no such run.
    """

    def __init__(self, database: Database, run_id: str) -> None:
        self._database = database
        self._run_id = run_id
        self._run = -1
        self._live_at = float("-inf")
        self._position = 0
        """Attempts of the run up to this id are told."""
        self._top = 0
        """The highest id of all attempts at the last look."""
        self._read_to = 0
        """The same when attempts were read last: those of the run that are under way up to there are
        committed before the run changes again."""
        self._version: tuple[Any, ...] = ()
        """What every commit of the run changes, as it was at the last look."""
        self._read_version: tuple[Any, ...] | None = None
        """The same when attempts were read last; None if none were read yet."""

    def look(self) -> Look:
        """How the run stands; a few primary keys are all that is read."""
        runs, told = schema.runs, schema.live
        with self._database.begin() as connection:
            # The ids come first: what is not committed by then is seen as a change of the run later.
            top = connection.execute(sa.select(sa.func.max(schema.attempts.c.id))).scalar()
            row = connection.execute(sa.select(runs).where(runs.c.run_id == self._run_id)).one_or_none()
            if row is None:
                raise RunNotFoundError(f"the store has no run {self._run_id}; somebody may have removed it")
            self._run = row.number
            newer = sa.select(told.c.at).where(told.c.run == self._run, told.c.at > self._live_at)
            at = connection.execute(newer).scalar()
            state = None if at is None else live.read(connection, self._run_id)
        self._top = top or 0
        self._version = (row.heartbeat, row.state, row.chunks, row.rows_solved, row.rows_quarantined)
        self._live_at = self._live_at if at is None else at
        return Look(rows.run_from_row(row), state)

    def standing(self, record: RunRecord) -> Standing:
        """The chunks that are settled so far; to be called after ``look``, and to be read to its end.

        What is committed later is told by ``committed``.
        """
        import numpy as np

        attempts = schema.attempts
        mine = attempts.c.run == self._run
        if record.fence <= 1 or record.started is None:
            return Standing((0, 0), self._parts(mine, None))
        with self._database.begin() as connection:
            query = sa.select(attempts.c.chunk).where(mine, attempts.c.started >= record.started).distinct()
            now = np.array(connection.execute(query).scalars().all(), np.int64)
        parts = list(self._parts(mine, now))
        earlier = [part for part, _ in parts]
        return Standing((sum(map(len, earlier)), sum(int(part.rows.sum()) for part in earlier)), parts)

    def _parts(
        self, mine: sa.ColumnElement[bool], now: npt.NDArray[Any] | None
    ) -> Iterator[tuple[SettledChunks, SettledChunks]]:
        """The settled chunks, apart those that have no attempt of this session; all have if *now* is None,
        which holds the chunks that do."""
        import numpy as np

        table = schema.chunks
        query = sa.select(table.c.chunk, *(table.c[name] for name in _OF_CHUNK)).where(
            table.c.run == self._run
        )
        with self._database.begin() as connection:
            last = connection.execute(sa.select(sa.func.max(schema.attempts.c.id)).where(mine)).scalar()
            found = connection.execute(query.order_by(table.c.chunk))
            listed = (_chunks(part) for part in rows.plain_rows(found, AT_ONCE))
            while few := list(itertools.islice(listed, AT_A_TIME // AT_ONCE)):
                settled = SettledChunks.joined(few)
                fresh = np.ones(len(settled), bool) if now is None else np.isin(settled.chunks, now)
                yield settled.where(~fresh), settled.where(fresh)
        self._position = self._read_to = last or 0
        self._read_version = None

    def committed(self) -> Iterator[Committed]:
        """What was committed between the last call and the last look, or after it, in parts."""
        if self._version == self._read_version:
            return
        while True:
            with self._database.begin() as connection:
                found = connection.execute(_newer(self._run, self._position)).all()
                told = _told(connection, found)
            if found:
                self._position = found[-1].id
                yield told
            if len(found) < AT_A_TIME:
                break
        self._position = max(self._position, self._read_to)
        self._read_to, self._read_version = self._top, self._version


def _chunks(found: Sequence[Any]) -> SettledChunks:
    """Rows of number, outcome, rows, rows_out, seconds, objective and bound as columns."""
    import numpy as np

    from batchrun.data.refs import ResultRefs

    if not found:
        return SettledChunks.empty()
    numbers, outcomes, given, out, seconds, objectives, bounds = zip(*found, strict=True)
    return SettledChunks(
        np.array(numbers, np.int64),
        tuple(map(_OUTCOMES.__getitem__, outcomes)),
        np.array(given, np.int64),
        np.array(out, np.int64),
        np.array(seconds, np.float64),
        ResultRefs.nowhere(len(found)),
        np.array(objectives, np.float64),
        np.array(bounds, np.float64),
    )


def _newer(run: int, position: int) -> sa.Select[Any]:
    """The attempts of a run after an id, each with its chunk if that is settled."""
    table, chunks = schema.attempts, schema.chunks
    told = ("id", "chunk", "stage", "attempt", "worker", "outcome", "started", "seconds", "rows_in")
    columns = [table.c[name] for name in (*told, "rows_out", "peak_memory")]
    return (
        sa.select(*columns, *(chunks.c[name].label(f"chunk_{name}") for name in _OF_CHUNK))
        .outerjoin(chunks, sa.and_(chunks.c.run == table.c.run, chunks.c.chunk == table.c.chunk))
        # As a sum, so that no database walks an index of the whole run instead of the few newest ids.
        .where(table.c.run + 0 == run, table.c.id > position)
        .order_by(table.c.id)
        .limit(AT_A_TIME)
    )


def _told(connection: sa.Connection, found: Sequence[Any]) -> Committed:
    unsolved = [row.id for row in found if row.outcome != Outcome.SUCCEEDED.value]
    stories = _stories(connection, unsolved)
    attempts: list[Attempt] = []
    plain: dict[tuple[str, str], list[Any]] = {}
    for row in found:
        if row.id in stories or row.peak_memory is not None:
            attempts.append(_attempt(row, stories.get(row.id)))
        else:
            plain.setdefault((row.stage, row.worker), []).append(row)
    settled = [
        (row.chunk, *row[-len(_OF_CHUNK) :])
        for row in {row.chunk: row for row in found}.values()
        if row.chunk_outcome is not None
    ]
    solved = [_columns(stage, worker, group) for (stage, worker), group in plain.items()]
    return Committed(attempts, solved, _chunks(settled))


def _stories(connection: sa.Connection, ids: Sequence[int]) -> dict[int, Any]:
    """What else there is to tell of attempts that gave no result, or not the whole one."""
    table = schema.attempts
    told = ("error_type", "error", "traceback", "signature", "cause", "decision", "next_step")
    query = sa.select(table.c.id, *(table.c[name] for name in (*told, "objective", "bound")))
    stories = {}
    for first in range(0, len(ids), MOST_NAMED):
        these = query.where(table.c.id.in_(list(ids[first : first + MOST_NAMED])))
        stories.update({row.id: row for row in connection.execute(these)})
    return stories


def _attempt(row: Any, story: Any | None) -> Attempt:
    error: ErrorRecord | None = None
    incumbents: tuple[Incumbent, ...] = ()
    if story is not None and story.error_type is not None:
        error = ErrorRecord(
            story.error_type, story.error or "", story.traceback or "", signature=story.signature or ""
        )
    if story is not None and story.objective is not None:
        incumbents = (Incumbent(row.seconds, story.objective, story.bound),)
    return Attempt(
        row.chunk,
        row.stage,
        row.attempt,
        row.worker,
        Outcome(row.outcome),
        row.started,
        row.seconds,
        row.rows_in,
        row.rows_out,
        row.peak_memory,
        error,
        Cause(story.cause) if story is not None and story.cause else None,
        (story.decision or "") if story is not None else "",
        (story.next_step or "") if story is not None else "",
        incumbents=incumbents,
    )


def _columns(stage: str, worker: str, group: Sequence[Any]) -> SolvedAttempts:
    import numpy as np

    def column(name: str, kind: type) -> Any:
        return np.array([getattr(row, name) for row in group], kind)

    return SolvedAttempts(
        stage,
        worker,
        column("chunk", np.int64),
        column("attempt", np.int64),
        column("started", np.float64),
        column("seconds", np.float64),
        column("rows_in", np.int64),
        column("rows_out", np.int64),
    )
