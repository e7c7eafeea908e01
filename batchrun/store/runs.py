"""The records of runs, in a database: SQLite on one host, any database of SQLAlchemy's between hosts.

One process writes a run at a time, the one that drives it; everybody may read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from batchrun.errors import RunNotFoundError, StoreError, near_miss
from batchrun.outcome import Attempt, ErrorRecord, Outcome, RunState
from batchrun.store import schema

if TYPE_CHECKING:
    import pandas as pd

    from batchrun.data.results import ResultRef

__all__ = ["RunRecord", "RunStore", "SettledChunk"]


@dataclass(frozen=True)
class RunRecord:
    """What the store knows of a run as a whole."""

    run_id: str
    """Its id; begins with the pipeline's name and the time, so that ids sort by age within a pipeline."""
    pipeline: str
    """The pipeline's name."""
    target: str | None
    """``module:name`` of the pipeline; None if another process cannot load it."""
    state: RunState
    """Where it stands."""
    created: float
    """When it was made, in seconds since the epoch."""
    split: str
    """How the input is split, as text."""
    folder: str
    """Where its files are."""
    rows_in: int
    """Rows of the input."""
    started: float | None = None
    """When its latest session began."""
    ended: float | None = None
    """When it ended."""
    heartbeat: float | None = None
    """When its driver was last known to be at work."""
    driver: str | None = None
    """The process that drives it: host, process id, start time of the process."""
    params: dict[str, Any] = field(default_factory=dict)
    """All parameters, as JSON values."""
    settings: list[dict[str, str]] = field(default_factory=list)
    """Effective settings: key, value, source."""
    input: dict[str, Any] = field(default_factory=dict)
    """The input: description, rows, bytes_per_row, fingerprint."""
    stages: list[dict[str, Any]] = field(default_factory=list)
    """Each stage: name, memory, resources, leg."""
    cluster: str = ""
    """What it ran on, in a few words."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that matter."""
    rows_solved: int = 0
    """Rows in chunks with a result."""
    rows_quarantined: int = 0
    """Rows in chunks that were given up."""
    rows_cancelled: int = 0
    """Rows that were not solved because the run stopped; known once it has ended."""
    chunks: int = 0
    """Chunks planned so far."""
    combined: str | None = None
    """The file of the combined result."""
    error: ErrorRecord | None = None
    """The error that ended the run, if one did."""


@dataclass(frozen=True)
class SettledChunk:
    """A chunk that has its outcome."""

    chunk: int
    """Its number."""
    outcome: Outcome
    """How it ended."""
    rows: int
    """Its input rows."""
    rows_out: int
    """Rows of its result."""
    seconds: float
    """Seconds of all its attempts together."""
    result: ResultRef | None = None
    """Where its result lies; None unless it was solved."""


class RunStore:
    """Runs in a database.

    Args:
        url: A SQLAlchemy URL; ``sqlite:///path`` makes the file and its folder when needed.

    Raises StoreError if the database cannot be opened, or is of a newer batchrun.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        with _translated(self.url):
            if self.url.get_backend_name() == "sqlite" and self.url.database not in (None, "", ":memory:"):
                Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            self._engine = sa.create_engine(self.url)
            if self.url.get_backend_name() == "sqlite":
                sa.event.listen(self._engine, "connect", _prepare_sqlite)
            self._migrate()

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing: only the driver of a run does this.

    def create(self, record: RunRecord) -> None:
        """Record a new run."""
        with self._begin() as connection:
            connection.execute(schema.runs.insert().values(**_to_row(record)))

    def update(self, run_id: str, **changes: Any) -> None:
        """Change fields of a run; names are those of RunRecord."""
        if "error" in changes and changes["error"] is not None:
            changes["error"] = asdict(changes["error"])
        with self._begin() as connection:
            connection.execute(schema.runs.update().where(schema.runs.c.run_id == run_id).values(**changes))

    def reopen(self, run_id: str, **changes: Any) -> None:
        """Begin a session: chunks without a result are no longer settled, and fields of the run change.

        Their attempts stay on record.
        """
        table = schema.chunks
        solved = [outcome.value for outcome in Outcome if outcome.solved]
        with self._begin() as connection:
            connection.execute(table.delete().where(table.c.run_id == run_id, table.c.outcome.not_in(solved)))
            connection.execute(schema.runs.update().where(schema.runs.c.run_id == run_id).values(**changes))

    def commit(
        self, run_id: str, attempts: Sequence[Attempt], settled: Sequence[SettledChunk], **changes: Any
    ) -> None:
        """Record attempts and settled chunks, and change fields of the run, in one transaction."""
        with self._begin() as connection:
            if attempts:
                connection.execute(
                    schema.attempts.insert(), [_attempt_row(run_id, attempt) for attempt in attempts]
                )
            if settled:
                numbers = [chunk.chunk for chunk in settled]
                connection.execute(
                    schema.chunks.delete().where(
                        schema.chunks.c.run_id == run_id, schema.chunks.c.chunk == sa.bindparam("b_chunk")
                    ),
                    [{"b_chunk": number} for number in numbers],
                )
                connection.execute(schema.chunks.insert(), [_chunk_row(run_id, chunk) for chunk in settled])
            if changes:
                connection.execute(
                    schema.runs.update().where(schema.runs.c.run_id == run_id).values(**changes)
                )

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
            rows = connection.execute(
                sa.select(table).where(table.c.run_id.startswith(text, autoescape=True)).limit(3)
            ).all()
            exact = [row for row in rows if row.run_id == text]
            if len(exact or rows) == 1:
                return _from_row((exact or rows)[0])
            if rows:
                raise RunNotFoundError(f"more than one run begins with {text!r}; give more of its id")
            known = connection.execute(
                sa.select(table.c.run_id).order_by(table.c.created.desc()).limit(1000)
            ).scalars()
            raise RunNotFoundError(
                f"the store has no run {text!r}.{near_miss(text, known)} `batchrun runs` lists them"
            )

    def list(self, *, limit: int = 100, state: RunState | None = None) -> list[RunRecord]:
        """Runs, newest first."""
        table = schema.runs
        query = sa.select(table).order_by(table.c.created.desc()).limit(limit)
        if state is not None:
            query = query.where(table.c.state == state.value)
        with self._begin() as connection:
            return [_from_row(row) for row in connection.execute(query)]

    def settled(self, run_id: str) -> Sequence[SettledChunk]:
        """All settled chunks of a run, by number."""
        from batchrun.data.results import ResultRef

        table = schema.chunks
        query = sa.select(table).where(table.c.run_id == run_id).order_by(table.c.chunk)
        with self._begin() as connection:
            return [
                SettledChunk(
                    row.chunk,
                    Outcome(row.outcome),
                    row.rows,
                    row.rows_out,
                    row.seconds,
                    ResultRef(row.path, row.first_batch, row.batches, row.rows_out, row.nbytes)
                    if row.path is not None
                    else None,
                )
                for row in connection.execute(query)
            ]

    def attempts(self, run_id: str) -> pd.DataFrame:
        """One row an attempt, in the order in which they were recorded."""
        import pandas as pd

        table = schema.attempts
        columns = [column for column in table.c if column.name not in ("id", "run_id")]
        query = sa.select(*columns).where(table.c.run_id == run_id).order_by(table.c.id)
        with self._begin() as connection:
            rows = connection.execute(query).all()
        frame = pd.DataFrame(rows, columns=[column.name for column in columns])
        texts = [column.name for column in columns if isinstance(column.type, sa.String)]
        return frame.astype({**dict.fromkeys(texts, "str"), "peak_memory": "Int64"})

    def last_tries(self, run_id: str) -> dict[tuple[int, str], int]:
        """How often each chunk was tried at each stage so far."""
        table = schema.attempts
        query = (
            sa.select(table.c.chunk, table.c.stage, sa.func.max(table.c.attempt))
            .where(table.c.run_id == run_id)
            .group_by(table.c.chunk, table.c.stage)
        )
        with self._begin() as connection:
            return {(chunk, stage): tries for chunk, stage, tries in connection.execute(query)}

    # Inside.

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with _translated(self.url), self._engine.begin() as connection:
            yield connection

    def _migrate(self) -> None:
        """Bring the tables up to date; quick, and without Alembic, where they already are."""
        with self._engine.connect() as connection:
            inspector = sa.inspect(connection)
            found = None
            if inspector.has_table("alembic_version"):
                found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if found == schema.REVISION:
            return
        if found is not None and found > schema.REVISION:
            raise StoreError(
                f"the store at {self.url.render_as_string()} was written by a newer batchrun (its schema is "
                f"{found}, this one knows {schema.REVISION}); upgrade batchrun"
            )
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option(
            "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
        )
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Let readers and the writer work side by side, and wait for each other instead of failing."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 30000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


@contextmanager
def _translated(url: sa.URL) -> Iterator[None]:
    """Say what a database error means for the user."""
    place = url.render_as_string(hide_password=True)
    try:
        yield
    except OSError as error:
        raise StoreError(f"the store at {place} cannot be opened: {error}") from error
    except sa.exc.NoSuchModuleError as error:
        raise StoreError(f"{place} is not a database that SQLAlchemy knows: {error}") from error
    except sa.exc.ArgumentError as error:
        raise StoreError(f"the store's address cannot be read: {error}") from error
    except sa.exc.DBAPIError as error:
        reason = str(error.orig)
        advice = "is the folder there, and may you write to it?"
        if re.search("full|disk I/O", reason):
            advice = "free some disk space, then `batchrun resume` goes on where it stopped"
        elif re.search("read-?only", reason):
            advice = "it can be read only; give `store:` in cluster.yaml a folder that you may write to"
        elif re.search("not a database|malformed", reason):
            advice = "the file is not one of batchrun's; name another with `store:` in cluster.yaml"
        raise StoreError(f"the store at {place} failed: {reason}; {advice}") from error


def _to_row(record: RunRecord) -> dict[str, Any]:
    row = {item.name: getattr(record, item.name) for item in fields(record)}
    row["state"] = record.state.value
    row["error"] = asdict(record.error) if record.error else None
    json.dumps(row["params"])
    return row


def _from_row(row: Any) -> RunRecord:
    values = dict(row._mapping)
    error = values.pop("error")
    record = RunRecord(**{**values, "state": RunState(values["state"])})
    if error:
        record = replace(record, error=ErrorRecord(**{**error, "classes": tuple(error["classes"])}))
    return record


def _attempt_row(run_id: str, attempt: Attempt) -> dict[str, Any]:
    error = attempt.error
    return {
        "run_id": run_id,
        "chunk": attempt.chunk,
        "stage": attempt.stage,
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "outcome": attempt.outcome.value,
        "started": attempt.started,
        "seconds": attempt.seconds,
        "rows_in": attempt.rows_in,
        "rows_out": attempt.rows_out,
        "peak_memory": attempt.peak_memory,
        "error_type": error.type if error else None,
        "error": error.message if error else None,
        "traceback": error.traceback if error else None,
        "signature": error.signature if error else None,
    }


def _chunk_row(run_id: str, chunk: SettledChunk) -> dict[str, Any]:
    result = chunk.result
    return {
        "run_id": run_id,
        "chunk": chunk.chunk,
        "outcome": chunk.outcome.value,
        "rows": chunk.rows,
        "rows_out": chunk.rows_out,
        "seconds": chunk.seconds,
        "path": result.path if result else None,
        "first_batch": result.first_batch if result else None,
        "batches": result.batches if result else None,
        "nbytes": result.nbytes if result else None,
    }
