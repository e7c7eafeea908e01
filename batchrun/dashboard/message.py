"""What a run tells its page: one message several times a second, in values that msgpack can carry.

Totals in a message are absolute, so that one that is lost does no harm; only the chunks are told as
changes, in columns that are compressed, because a run may have a million of them.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from batchrun.outcome import Outcome, RunState
from batchrun.progress import RunningLine

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "CUT",
    "RUNNING",
    "TOPIC",
    "WAITING",
    "ChunkColumns",
    "FailureLine",
    "Message",
    "code_of",
    "pack_cuts",
    "unpack_cuts",
]

TOPIC: Final = "batchrun"
"""The topic of Dask's event log that carries the messages."""

WAITING: Final = 0
"""The code of a chunk that waits for a slot, for its next stage or for its next try."""
RUNNING: Final = 1
"""The code of a chunk that a worker has."""

CUT: Final = len(Outcome) + 2
"""The code of a chunk that was cut into parts, which take its place."""

_CODES: Final = {outcome: number for number, outcome in enumerate(Outcome, start=2)}


def code_of(outcome: Outcome) -> int:
    """The code of a chunk that was settled with *outcome*."""
    return _CODES[outcome]


@dataclass(frozen=True)
class ChunkColumns:
    """Changed chunks as columns of equal length."""

    chunks: npt.NDArray[np.int64]
    """Chunk numbers, shape (changes,)."""
    codes: npt.NDArray[np.uint8]
    """WAITING, RUNNING, CUT or the code of an outcome."""
    rows: npt.NDArray[np.int64]
    """Input rows of each; 0 unless it is settled."""
    seconds: npt.NDArray[np.float32]
    """Seconds of all its attempts, to within half a percent; 0 unless it is settled."""

    def pack(self) -> dict[str, bytes]:
        """The changes as bytes by column, a few for each chunk where neighbours are alike."""
        import numpy as np

        # The upper half of a float has its exponent and seven bits of the rest; the lower is mostly noise.
        seconds = (self.seconds.astype("<f4").view("<u4") + 0x8000) >> 16
        columns = {
            "chunks": np.diff(self.chunks, prepend=0).astype("<i8"),
            "codes": self.codes.astype("u1"),
            "rows": self.rows.astype("<i8"),
            "seconds": seconds.astype("<u2"),
        }
        return {name: zlib.compress(column.tobytes(), 1) for name, column in columns.items()}

    @classmethod
    def unpack(cls, packed: Mapping[str, bytes]) -> ChunkColumns:
        """The columns that ``pack`` made."""
        import numpy as np

        def column(name: str, kind: str) -> npt.NDArray[Any]:
            return np.frombuffer(zlib.decompress(packed[name]) if packed else b"", kind)

        seconds = (column("seconds", "<u2").astype("<u4") << 16).view("<f4")
        return cls(np.cumsum(column("chunks", "<i8")), column("codes", "u1"), column("rows", "<i8"), seconds)


def pack_cuts(cuts: Mapping[int, tuple[int, ...]]) -> dict[str, bytes]:
    """Chunks that were cut, each with the numbers of its parts, as bytes by column: a line for each part."""
    import numpy as np

    parents = [chunk for chunk, parts in cuts.items() for _ in parts]
    parts = [part for parts in cuts.values() for part in parts]
    return {"parents": np.array(parents, "<i8").tobytes(), "parts": np.array(parts, "<i8").tobytes()}


def unpack_cuts(packed: Mapping[str, bytes]) -> dict[int, list[int]]:
    """The cuts that ``pack_cuts`` packed, in their order."""
    import numpy as np

    cuts: dict[int, list[int]] = {}
    parents, parts = (np.frombuffer(packed.get(name, b""), "<i8").tolist() for name in ("parents", "parts"))
    for parent, part in zip(parents, parts, strict=True):
        cuts.setdefault(parent, []).append(part)
    return cuts


@dataclass(frozen=True)
class FailureLine:
    """Attempts that failed alike."""

    type: str
    """The class of the error."""
    message: str
    """What the last of them said, clipped."""
    stage: str
    """The stage that failed."""
    outcome: str
    """How the attempts ended."""
    attempts: int
    """How many attempts failed so."""
    chunks: tuple[int, ...]
    """Some of the chunks, latest first."""


@dataclass(frozen=True)
class Message:
    """How one run stands, and which chunks changed since the message before."""

    run_id: str
    """The run."""
    at: float
    """When it was written, in seconds since the epoch, by the runner's clock; all times here are."""
    pipeline: str = ""
    """The pipeline's name."""
    cluster: str = ""
    """What the run goes on, in a few words."""
    state: str = RunState.RUNNING.value
    """The state of the run."""
    started: float = 0.0
    """When this session of the run began."""
    rows_in: int = 0
    """Rows of the input."""
    chunks_planned: int = 0
    """Chunks planned so far; those that were cut and their parts count too, so that it is one more than the
    highest number."""
    rows_planned: int = 0
    """Rows in them."""
    chunks_before: int = 0
    """Of these, chunks that an earlier session had settled."""
    rows_before: int = 0
    """Rows in the chunks that an earlier session had settled."""
    chunks: Mapping[str, int] = field(default_factory=dict)
    """Chunks that this session settled, by outcome."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Input rows in them, by outcome."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """Attempts of this session, by outcome."""
    workers: int = 0
    """Live workers."""
    slots: tuple[tuple[str, float, float, float], ...] = ()
    """Tag, capacity, use and waiting demand of each kind of slot, ``MEMORY`` in bytes."""
    failures: tuple[FailureLine, ...] = ()
    """The latest kinds of failure, latest first."""
    rows_ended: tuple[int, int, int] | None = None
    """Rows solved, quarantined and cancelled, once the run has ended."""
    seconds: float = 0.0
    """Wall time of this session, once the run has ended."""
    error: str = ""
    """The error that ended the run, if one did."""
    changed: Mapping[str, bytes] = field(default_factory=dict)
    """Chunks that changed; see ChunkColumns."""
    cuts: Mapping[str, bytes] = field(default_factory=dict)
    """Chunks that were cut; see pack_cuts."""
    running: tuple[RunningLine, ...] | None = None
    """Running chunks that have something to show; None if they are as they were told before."""

    def as_dict(self) -> dict[str, object]:
        """The message in plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Message:
        """The message that ``as_dict`` gave; fields that this version does not know are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        kept["slots"] = tuple(tuple(slot) for slot in kept.get("slots", ()))
        kept["failures"] = tuple(
            FailureLine(**{**line, "chunks": tuple(line["chunks"])}) for line in kept.get("failures", ())
        )
        if kept.get("running") is not None:
            kept["running"] = tuple(RunningLine(**line) for line in kept["running"])
        if kept.get("rows_ended") is not None:
            kept["rows_ended"] = tuple(kept["rows_ended"])
        return cls(**kept)

    @property
    def ended(self) -> bool:
        """Whether the run has its final state."""
        return RunState(self.state).ended

    @property
    def settled(self) -> int:
        """Chunks that this session settled."""
        return sum(self.chunks.values())

    @property
    def settled_rows(self) -> int:
        """Input rows of the chunks that this session settled."""
        return sum(self.rows.values())

    @property
    def fates(self) -> tuple[int, int, int]:
        """Input rows solved, quarantined and cancelled: in this session, or in all once the run has ended."""
        if self.rows_ended is not None:
            return self.rows_ended
        solved = sum(self.rows.get(outcome.value, 0) for outcome in Outcome if outcome.solved)
        cancelled = self.rows.get(Outcome.CANCELLED.value, 0)
        return solved, self.settled_rows - solved - cancelled, cancelled
