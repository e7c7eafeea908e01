"""Several short chunks through one leg in one task.

A chunk of a pack is called, recorded and judged as it would be alone. What is shared is what costs more than
a short stage: the way to the worker and back, reading rows, and turning frames into tables and back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from batchrun.data.load import load, load_frame, write_table
from batchrun.data.table import Inline, Slice, Stored, TableRef, encode
from batchrun.outcome import ErrorRecord, SolvedAttempts
from batchrun.resources import Demand
from batchrun.status import TaskStatus
from batchrun.worker.ledger import Ledger
from batchrun.worker.leg import StageEnd, load_steps, run_leg
from batchrun.worker.merge import cut, merge
from batchrun.worker.program import Step, load_program
from batchrun.worker.reporter import Reporter
from batchrun.worker.running import Ticket, running
from batchrun.worker.task import Task, TaskResult
from batchrun.worker.thread import ThreadHost

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Member", "Pack", "PackResult", "Piece", "run_pack"]

LONGEST = 0.5
"""Seconds after which no further chunk of a pack begins; the rest goes back to the runner."""


class Member(NamedTuple):
    """One chunk of a pack: a tuple, since there is one for each try of each short chunk."""

    chunk: int
    """The chunk's number."""
    attempt: int
    """Which try of the leg, from 1."""
    rows: int
    """Input rows of the chunk."""
    input: int
    """Which input of the pack holds its frame."""
    first_row: int | None = None
    """The number of its first row there; None where all of the input is its frame."""


@dataclass(frozen=True)
class Pack:
    """One try of several chunks at one leg, one after the other."""

    key: str
    """Unlike that of any other task of any run."""
    run_id: str
    """The run."""
    leg: int
    """Which leg of the program."""
    members: tuple[Member, ...]
    """The chunks, in the order in which they are called."""
    inputs: tuple[TableRef, ...]
    """Where their frames are; several chunks can share one."""
    demand: Demand
    """What the task takes from its worker beside a thread."""
    store_to: str | None = None
    """Where a large result is written; None if the worker shares no files with the runner."""
    inline_limit: int = 2**20
    """Results of up to so many bytes travel inline."""

    def task(self, position: int) -> Task:
        """The task of one member, as if it ran alone."""
        member = self.members[position]
        store_to = self.store_to.replace(".arrow", f"-{member.chunk}.arrow") if self.store_to else None
        return Task(
            key=self.key,
            run_id=self.run_id,
            chunk=member.chunk,
            leg=self.leg,
            attempt=member.attempt,
            rows=member.rows,
            input=self.inputs[member.input],
            demand=self.demand,
            store_to=store_to,
            inline_limit=self.inline_limit,
        )


@dataclass(frozen=True)
class Piece:
    """Results of several chunks of a pack, one below the other."""

    positions: tuple[int, ...]
    """The positions of the chunks among the solved ones of the pack, in the order of their rows."""
    output: Inline | Stored
    """The table; its range labels run through, or begin anew with each chunk."""


@dataclass(frozen=True)
class PackResult:
    """What came of a pack."""

    key: str
    """The pack's key."""
    worker: str
    """The name of the worker."""
    solved: tuple[SolvedAttempts, ...] = ()
    """Of each stage of the leg, the attempts of the chunks that went through all of it and had nothing to
    tell; the same chunks in each."""
    pieces: tuple[Piece, ...] = ()
    """Their results."""
    others: tuple[TaskResult, ...] = ()
    """All other chunks that were tried, each as if it had run alone."""
    left: tuple[int, ...] = ()
    """Numbers of the chunks that were not tried."""
    apart: bool = False
    """Whether those that are left must be tried each by itself, because what they share cannot be read."""

    @property
    def seconds(self) -> float:
        """Of all chunks that were tried together."""
        plain = sum(float(attempts.seconds.sum()) for attempts in self.solved)
        return plain + sum(attempt.seconds for result in self.others for attempt in result.attempts)


def run_pack(
    program: bytes,
    pack: Pack,
    *,
    worker: str,
    report: Callable[[TaskStatus], None] | None = None,
) -> PackResult:
    """Run the chunks of a pack one after the other, in this thread; never raises because of what a stage did.

    Chunks that have not begun are left when the pack takes long, is recalled or is asked to stop.
    """
    with running(pack.key) as ticket:
        steps = load_steps(lambda: load_program(program), pack.leg)
        if isinstance(steps, StageEnd):
            ledger = Ledger(pack.task(0), worker)
            ledger.add(steps)
            left = tuple(member.chunk for member in pack.members[1:])
            return PackResult(pack.key, worker, others=(ledger.result(),), left=left)
        last = pack.leg == len(load_program(program).legs) - 1
        return _Ride(pack, steps, worker, Reporter(report), ticket, last=last).run()


class _Ride:
    """One run of one pack."""

    def __init__(
        self,
        pack: Pack,
        steps: tuple[Step, ...],
        worker: str,
        reporter: Reporter,
        ticket: Ticket,
        *,
        last: bool,
    ) -> None:
        self._pack = pack
        self._steps = steps
        self._worker = worker
        self._reporter = reporter
        self._ticket = ticket
        self._last = last
        self._plain: list[int] = []
        self._ends: list[list[StageEnd]] = []
        self._frames: list[Any] = []
        self._others: dict[int, TaskResult] = {}

    def run(self) -> PackResult:
        """Call the stages for one chunk after the other, and put their results together."""
        pack, began = self._pack, time.perf_counter()
        chunks = [member.chunk for member in pack.members]
        try:
            frames = list(self._inputs())
        except Exception:
            # One bad block would be held against all of them.
            return PackResult(pack.key, self._worker, left=tuple(chunks), apart=True)
        ready = time.perf_counter()
        reading, tried = ready - began, 0
        while tried < len(chunks) and self._ticket.begin_next():
            self._member(tried, frames[tried])
            frames[tried] = None
            tried += 1
            if time.perf_counter() - ready > LONGEST:
                break
        merging = time.perf_counter()
        pieces = self._pieces()
        merging = time.perf_counter() - merging
        return PackResult(
            pack.key,
            self._worker,
            tuple(self._columns(reading / max(1, tried), merging / max(1, tried))),
            pieces,
            tuple(self._others[position] for position in sorted(self._others)),
            tuple(chunks[tried:]),
        )

    def _inputs(self) -> Iterator[Any]:
        """The frame of each member, in order; rows that several share are read and converted once."""
        kind = self._steps[0].kind
        shared: dict[int, list[int]] = {}
        for position, member in enumerate(self._pack.members):
            shared.setdefault(member.input, []).append(position)
        frames: list[Any] = [None] * len(self._pack.members)
        for number, positions in shared.items():
            members = [self._pack.members[position] for position in positions]
            ref = self._pack.inputs[number]
            all_of_it = len(members) == 1 and isinstance(ref, Slice) and ref.rows == members[0].rows
            if members[0].first_row is None or all_of_it:
                frames[positions[0]] = load_frame(ref, kind)
                continue
            places = [(member.first_row or 0, member.rows) for member in members]
            whole = load_frame(ref, kind) if kind == "polars" else load(ref)
            for position, frame in zip(positions, cut(whole, places, kind), strict=True):
                frames[position] = frame
        yield from frames

    def _member(self, position: int, frame: Any) -> None:
        """Run the leg for one chunk."""
        task = self._pack.task(position)
        ledger = Ledger(task, self._worker)
        host = ThreadHost(task, self._steps, ledger, self._reporter, self._ticket)
        kept: list[Any] = []

        def keep(result: Any, stage: str) -> tuple[None, int]:
            kept.append(result)
            return None, 0 if result is None else len(result)

        hand_over = keep if self._last else None
        run_leg(self._steps, task, host, worker=self._worker, frame=frame, hand_over=hand_over)
        if ledger.plain and (kept or host.last.output is not None) and not host.last.emptied:
            self._plain.append(position)
            self._ends.append(ledger.ends)
            self._frames.append(kept[0] if kept else host.last.output)
        else:
            self._others[position] = self._alone(task, ledger, host, kept)

    def _alone(self, task: Task, ledger: Ledger, host: ThreadHost, kept: list[Any]) -> TaskResult:
        """The result of a chunk with something to tell."""
        output = host.last.output
        if kept and host.last.outcome.solved:
            try:
                [(_, table)] = merge(kept, owner=f"stage `{host.last.stage}`")
            except Exception as error:
                ledger.fail_last(ErrorRecord.of(error))
                return ledger.result()
            output = self._store(table, task.store_to)
        return ledger.result(output, rows_out=host.last.rows_out, emptied=host.last.emptied)

    def _pieces(self) -> tuple[Piece, ...]:
        """The results of the plain chunks; a chunk whose result is no table is no longer one of them."""
        if not self._last:
            return tuple(Piece((n,), output) for n, output in enumerate(self._frames))
        owner = f"stage `{self._steps[-1].name}`"
        try:
            merged = merge(self._frames, owner=owner)
        except Exception:
            self._sort_out(owner)
            merged = merge(self._frames, owner=owner)
        path = self._pack.store_to
        return tuple(
            Piece(tuple(positions), self._store(table, path and path.replace(".arrow", f"-p{n}.arrow")))
            for n, (positions, table) in enumerate(merged)
        )

    def _sort_out(self, owner: str) -> None:
        """Find the results that cannot be stored, and fail their chunks."""
        good = []
        for n, (position, frame) in enumerate(zip(self._plain, self._frames, strict=True)):
            try:
                merge([frame], owner=owner)
                good.append(n)
            except Exception as error:
                ledger = Ledger(self._pack.task(position), self._worker)
                for end in self._ends[n]:
                    ledger.add(end)
                ledger.fail_last(ErrorRecord.of(error))
                self._others[position] = ledger.result()
        self._plain = [self._plain[n] for n in good]
        self._ends = [self._ends[n] for n in good]
        self._frames = [self._frames[n] for n in good]

    def _store(self, table: pa.Table, path: str | None) -> Inline | Stored:
        if path is None or table.nbytes <= self._pack.inline_limit:
            return Inline(encode(table))
        return write_table(table, path)

    def _columns(self, reading: float, merging: float) -> Iterator[SolvedAttempts]:
        """The attempts of the plain chunks, stage by stage, with their shares of what they had in common."""
        import numpy as np

        if not self._plain:
            return
        members = [self._pack.members[position] for position in self._plain]
        chunks = np.array([member.chunk for member in members], np.int64)
        attempts = np.array([member.attempt for member in members], np.int64)
        for number, step in enumerate(self._steps):
            ends = [ends[number] for ends in self._ends]
            seconds = np.array([end.seconds for end in ends])
            seconds += reading * (number == 0) + merging * (number == len(self._steps) - 1)
            yield SolvedAttempts(
                step.name,
                self._worker,
                chunks,
                attempts,
                np.array([end.started for end in ends]),
                seconds,
                np.array([end.rows_in for end in ends], np.int64),
                np.array([end.rows_out for end in ends], np.int64),
            )
