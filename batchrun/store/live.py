"""How a run is doing at this moment, told by its driver to every process that may want to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import sqlalchemy as sa

from batchrun.events import SlotUse
from batchrun.store import schema
from batchrun.store.rows import finite, storable

__all__ = ["DelayedChunk", "LiveState", "LiveWorker", "RunningChunk", "WaitingChunks"]

LOG_BYTES = 2**16
"""The most that is told of the log of one running chunk: its end."""
LOGS_BYTES = 2**20
"""The most that is told of all logs together, so that many running chunks do not make each look dear."""


@dataclass(frozen=True)
class RunningChunk:
    """A chunk that runs on a worker."""

    chunk: int
    """Its number."""
    stage: str
    """The stage that it is at."""
    attempt: int
    """Which try of the chunk at this stage it is, from 1."""
    worker: str
    """The worker's name."""
    started: float
    """When the stage began, in seconds since the epoch."""
    rows: int
    """Its input rows."""
    share: float | None = None
    """How much of the work is done, from 0 to 1; None if the stage did not say."""
    message: str = ""
    """What the stage said last about its progress."""
    memory: int | None = None
    """Bytes that it uses; None where that is not measured."""
    peak_memory: int | None = None
    """The most so far, in bytes."""
    objective: float | None = None
    """The value of its best answer so far."""
    bound: float | None = None
    """The proven limit of what any answer can reach."""
    log: str = ""
    """What it printed and logged so far; the end of it if that is much."""
    answers: tuple[Sequence[float | None], ...] = ()
    """Seconds since its stage began, objective and bound of some of the answers that it told, in order."""


@dataclass(frozen=True)
class DelayedChunk:
    """A chunk that waits for the time of its next try."""

    chunk: int
    """Its number."""
    stage: str
    """The stage that it failed at."""
    until: float
    """When it may be tried again, in seconds since the epoch."""
    reason: str
    """Why it has to be, as a sentence without a full stop."""


@dataclass(frozen=True)
class WaitingChunks:
    """Chunks that wait for a slot of one kind."""

    stage: str
    """The first stage that they wait for."""
    demand: str
    """What a slot must have, as text."""
    memory: int
    """Bytes of memory that it must have; 0 for none in particular."""
    tags: dict[str, float]
    """Resource tags that it must have, and how much of each."""
    chunks: int
    """How many wait."""
    kept_for: tuple[str, ...] = ()
    """Later stages for which workers that are free are kept."""


@dataclass(frozen=True)
class LiveWorker:
    """A worker of the run."""

    name: str
    """Its name."""
    threads: int
    """How many tasks it runs at once."""
    memory: int
    """Bytes of memory that it has for them together."""
    tags: dict[str, float]
    """Its resource tags, and how much of each."""
    host: str = ""
    """The machine that it runs on; empty if that is not known."""


@dataclass(frozen=True)
class LiveState:
    """All that happens in a run at one moment."""

    at: float
    """When, in seconds since the epoch."""
    running: tuple[RunningChunk, ...] = ()
    """What runs."""
    delayed: tuple[DelayedChunk, ...] = ()
    """What waits for the time of its next try."""
    waiting: tuple[WaitingChunks, ...] = ()
    """What waits for a slot."""
    workers: tuple[LiveWorker, ...] = ()
    """The live workers."""
    stopping: bool = False
    """Whether the run comes to an end because somebody asked for it."""
    slots: tuple[SlotUse, ...] = ()
    """Supply and demand of each kind of slot."""
    chunks_planned: int = 0
    """Chunks planned so far, those that were cut left out."""
    rows_planned: int = 0
    """Rows of the input in them."""

    @property
    def chunks(self) -> int:
        """How many chunks run; one that was started a second time counts once."""
        return len({chunk.chunk for chunk in self.running})

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values; long logs lose their beginning."""
        most = min(LOG_BYTES, LOGS_BYTES // max(1, len(self.running)))
        running = tuple(
            replace(
                chunk,
                share=finite(chunk.share),
                objective=finite(chunk.objective),
                bound=finite(chunk.bound),
                message=storable(chunk.message),
                log=_end_of(storable(chunk.log), most),
                answers=tuple(tuple(map(finite, answer)) for answer in chunk.answers),
            )
            for chunk in self.running
        )
        delayed = tuple(replace(chunk, reason=storable(chunk.reason)) for chunk in self.delayed)
        return asdict(replace(self, running=running, delayed=delayed))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LiveState:
        """The state that ``to_json`` wrote; what a later version of batchrun adds to it is left out."""
        return cls(
            at=values["at"],
            running=_all_of(RunningChunk, values["running"]),
            delayed=_all_of(DelayedChunk, values["delayed"]),
            waiting=_all_of(WaitingChunks, values["waiting"]),
            workers=_all_of(LiveWorker, values["workers"]),
            stopping=values["stopping"],
            slots=_all_of(SlotUse, values.get("slots", ())),
            chunks_planned=values.get("chunks_planned", 0),
            rows_planned=values.get("rows_planned", 0),
        )


_REPLACE = schema.live.update().where(schema.of_run(schema.live, sa.bindparam("run_id")))
"""Built once, as drivers save it all the time."""
_CLEAR = schema.live.delete().where(schema.of_run(schema.live, sa.bindparam("run_id")))


def save(connection: sa.Connection, run_id: str, state: LiveState) -> None:
    """Put *state* in the place of the one before."""
    values = {"at": state.at, "state": state.to_json()}
    if not connection.execute(_REPLACE, {"run_id": run_id, **values}).rowcount:
        connection.execute(schema.live.insert().values(run=schema.number_of(run_id), **values))


def read(connection: sa.Connection, run_id: str) -> LiveState | None:
    """The latest state; None if the run has ended or did not tell one yet."""
    found = connection.execute(
        sa.select(schema.live.c.state).where(schema.of_run(schema.live, run_id))
    ).scalar()
    return None if found is None else LiveState.from_json(found)


def clear(connection: sa.Connection, run_id: str) -> None:
    """Forget the state."""
    connection.execute(_CLEAR, {"run_id": run_id})


_Part = TypeVar("_Part", RunningChunk, DelayedChunk, WaitingChunks, LiveWorker, SlotUse)


def _all_of(kind: type[_Part], listed: Iterable[Mapping[str, Any]]) -> tuple[_Part, ...]:
    names = {item.name for item in fields(kind)}
    return tuple(
        kind(**{name: _frozen(value) for name, value in values.items() if name in names}) for values in listed
    )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _end_of(text: str, most: int) -> str:
    """The last whole lines of a text, in at most so many bytes."""
    data = text.encode()
    if len(data) <= most:
        return text
    end = data[len(data) - most :].decode(errors="ignore")
    first, _, rest = end.partition("\n")
    return rest or first
