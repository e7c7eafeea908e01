"""What the scheduler keeps of the runs that it was told of: bounded, columnar, quick to update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from batchrun.dashboard.cells import Cells, ChunkState
from batchrun.dashboard.leases import Leases
from batchrun.dashboard.message import CUT, RUNNING, WAITING, ChunkColumns, Message, unpack_cuts
from batchrun.dashboard.solves import Solves
from batchrun.dashboard.spread import SecondsTally
from batchrun.dashboard.totals import Totals
from batchrun.progress import RunningLine

__all__ = ["Board", "RunView", "Throughput"]

_RUNS = 50
_CHUNKS = 4_000_000
_BINS = 600
_ONE_CUT = np.full(1, CUT, np.uint8)


class Throughput:
    """Chunks and rows settled over the time of a run, in at most 600 bins.

    Bins are a second wide at first; when the run outgrows them, neighbours are merged.
    """

    def __init__(self) -> None:
        self.width = 1.0
        """Seconds of one bin."""
        self._chunks: npt.NDArray[np.float64] = np.zeros(_BINS)
        self._rows: npt.NDArray[np.float64] = np.zeros(_BINS)
        self._used = 0

    @classmethod
    def of(cls, width: float, bins: Iterable[tuple[int, int, int]]) -> Throughput:
        """What is known already: number, chunks and rows of bins that are *width* seconds wide."""
        made = cls()
        made.width = width
        for number, chunks, rows in bins:
            made.add(max(0, number) * width, chunks, rows)
        return made

    def add(self, elapsed: float, chunks: int, rows: int) -> None:
        """Count chunks and rows that were settled *elapsed* seconds after the start."""
        elapsed = max(0.0, elapsed)
        while elapsed >= self.width * _BINS:
            self._merge()
        bin_ = int(elapsed / self.width)
        self._chunks[bin_] += chunks
        self._rows[bin_] += rows
        self._used = max(self._used, bin_ + 1)

    def rates(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Start of each bin in seconds, chunks a second in it, rows a second in it; shape (bins,) each."""
        starts: npt.NDArray[np.float64] = np.arange(self._used, dtype=np.float64) * self.width
        return starts, self._chunks[: self._used] / self.width, self._rows[: self._used] / self.width

    def _merge(self) -> None:
        for counts in (self._chunks, self._rows):
            counts[: _BINS // 2] = counts[0::2] + counts[1::2]
            counts[_BINS // 2 :] = 0
        self._used = (self._used + 1) // 2
        self.width *= 2


class RunView:
    """One session of a run as the page shows it; 13 bytes a chunk, 37 once one was cut.

    What is drawn of all chunks is kept with it and changed as they change, so that of however many
    tabs that show a run none has to go through a million of them.
    """

    def __init__(self, message: Message, now: float, version: int = 0) -> None:
        self.message = message
        """The latest message."""
        self.heard = now
        """When it came, in seconds since the epoch, by the scheduler's clock."""
        self.version = version
        """Grows with every message of the run."""
        self.codes: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        """Condition of each chunk, shape (chunks,)."""
        self.rows: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        """Input rows of each settled chunk, shape (chunks,)."""
        self.seconds: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        """Seconds of each settled chunk, shape (chunks,)."""
        self.throughput = Throughput()
        """What was settled over time."""
        self.running: tuple[RunningLine, ...] = ()
        """Chunks that ran at the time of *running_heard* and had something to show."""
        self.running_heard = now
        """When these came, by the scheduler's clock."""
        self.solves = Solves()
        """What those of them that told of answers knew over time."""
        self.counts: npt.NDArray[np.int64] = np.zeros(CUT + 1, np.int64)
        """How many chunks have each code, shape (codes,)."""
        self._cells: Cells | None = None
        self._spread: SecondsTally | None = None
        self._places: npt.NDArray[np.float64] = np.zeros(0)
        self._widths: npt.NDArray[np.float64] = np.zeros(0)
        self._order: npt.NDArray[np.int64] | None = None
        self._settled = 0, 0
        self._told = False

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """Numbers of the chunks that count, in the order of the input: parts are where the chunk was that was
        cut into them, shape (chunks,)."""
        if self._order is None:
            self._order = np.flatnonzero(self.codes != CUT)
            if len(self._places):
                places = self._laid_out()[0][self._order]
                self._order = self._order[np.argsort(places, kind="stable")]
        return self._order

    @property
    def cells(self) -> Cells:
        """The chunks as tiles of a map; another object once their order has changed."""
        if self._cells is None:
            self._cells = Cells(self.order, self._state, self.version)
        return self._cells

    @property
    def spread(self) -> SecondsTally:
        """How long the settled chunks took."""
        if self._spread is None:
            self._spread = SecondsTally()
            self._spread.count(self.codes, self.seconds)
        return self._spread

    @property
    def _state(self) -> ChunkState:
        return ChunkState(self.codes, self.rows, self.seconds)

    def take(self, message: Message, now: float) -> float:
        """Go on to a newer message of the same session; returns the seconds of chunks that were settled."""
        self.message, self.heard = message, now
        self.version += 1
        self._grow(message.chunks_planned)
        seconds = self._apply(ChunkColumns.unpack(message.changed))
        self._cut(unpack_cuts(message.cuts))
        if message.running is not None:
            self.running, self.running_heard = message.running, now
            self.solves.take(message.running)
        if message.ended:
            self.solves.take(())
            self._wait(np.flatnonzero(self.codes == RUNNING))
        chunks, rows = self._settled
        self._settled = message.settled, message.settled_rows
        if not self._told:
            self.throughput.add(
                message.at - message.started, message.settled - chunks, message.settled_rows - rows
            )
        return seconds

    def know(self, throughput: Throughput, facts: Mapping[str, Any]) -> None:
        """Take from elsewhere what was settled over time, and fields of the message; it stays so until
        another session."""
        self.throughput, self._told = throughput, True
        self.message = Message.from_dict({**self.message.as_dict(), **facts})
        self.version += 1

    def elapsed(self, now: float) -> float:
        """Seconds that this session has taken, up to *now* by the scheduler's clock."""
        message = self.message
        if message.ended:
            return message.seconds
        return max(0.0, message.at - message.started + now - self.heard)

    def seconds_left(self, now: float) -> float | None:
        """About how long the run still takes at the rate so far; None while that is not known."""
        message = self.message
        done = message.settled_rows
        left = message.rows_in - message.rows_before - done
        if message.ended or done <= 0:
            return None
        return max(0, left) * self.elapsed(now) / done

    def _grow(self, chunks: int) -> None:
        more = chunks - len(self.codes)
        if more > 0:
            self.codes = np.append(self.codes, np.zeros(more, np.uint8))
            self.rows = np.append(self.rows, np.zeros(more, np.int64))
            self.seconds = np.append(self.seconds, np.zeros(more, np.float32))
            self.counts[WAITING] += more
            self._order = self._cells = None

    def _cut(self, cuts: Mapping[int, Sequence[int]]) -> None:
        """Give each part its share of the place of the chunk that was cut."""
        if not cuts:
            return
        places, widths = self._laid_out()
        for parent, parts in cuts.items():
            if max(parent, *parts) >= len(self.codes):
                continue
            self._change(one := np.array([parent]), replace(self._state.of(one), codes=_ONE_CUT))
            width = widths[parent] / len(parts)
            widths[list(parts)] = width
            places[list(parts)] = places[parent] + width * np.arange(len(parts))
        self._order = self._cells = None

    def _laid_out(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Where each chunk begins among all and how wide it is, shape (chunks,): by its number unless it is a
        part."""
        fresh = np.arange(len(self._places), len(self.codes), dtype=np.float64)
        self._places = np.append(self._places, fresh)
        self._widths = np.append(self._widths, np.ones(len(fresh)))
        return self._places, self._widths

    def _apply(self, columns: ChunkColumns) -> float:
        known = columns.chunks < len(self.codes)
        now = ChunkState(columns.codes[known], columns.rows[known], columns.seconds[known])
        self._change(columns.chunks[known], now)
        return float(columns.seconds.sum())

    def _wait(self, chunks: npt.NDArray[np.int64]) -> None:
        """No worker has these chunks any more."""
        nothing = np.zeros(len(chunks), np.int64), np.zeros(len(chunks), np.float32)
        self._change(chunks, ChunkState(np.full(len(chunks), WAITING, np.uint8), *nothing))

    def _change(self, chunks: npt.NDArray[np.int64], now: ChunkState) -> None:
        """These chunks, each named once, stand so now."""
        before = self._state.of(chunks)
        codes = len(self.counts)
        if CUT in before.codes or CUT in now.codes:
            self._order = self._cells = None
        self.counts += np.bincount(now.codes, minlength=codes) - np.bincount(before.codes, minlength=codes)
        if self._cells is not None:
            self._cells.change(chunks, before, now, self.version)
        if self._spread is not None:
            self._spread.count(before.codes, before.seconds, -1)
            self._spread.count(now.codes, now.seconds)
        self.codes[chunks], self.rows[chunks], self.seconds[chunks] = now.codes, now.rows, now.seconds


class Board:
    """The runs that the scheduler was told of, the latest 50 of them.

    Older ones that have ended go first, also when all together have more than four million chunks.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._runs: dict[str, RunView] = {}
        self.totals = Totals()
        """What all runs came to, those that were forgotten too."""
        self.leases = Leases()
        """How old the leases of queued runs are."""

    def take(self, values: Mapping[str, Any]) -> None:
        """Take in one message, in the plain values of ``Message.as_dict``."""
        message, now = Message.from_dict(values), self._clock()
        view = self._runs.get(message.run_id)
        before = view.message if view is not None else None
        if view is None or view.message.started != message.started:
            view = self._runs[message.run_id] = RunView(message, now, view.version if view else 0)
            before = None
        seconds = view.take(message, now)
        self.totals.take(before, message, seconds)
        self._forget()

    def get(self, run_id: str) -> RunView | None:
        """The run of that id, if it is known."""
        return self._runs.get(run_id)

    def newest_first(self) -> list[RunView]:
        """All runs, those that began last first."""
        return sorted(self._runs.values(), key=lambda view: view.message.started, reverse=True)

    def _forget(self) -> None:
        chunks = sum(len(view.codes) for view in self._runs.values())
        if len(self._runs) <= _RUNS and chunks <= _CHUNKS:
            return
        order = sorted(
            self.newest_first()[1:], key=lambda view: (not view.message.ended, view.message.started)
        )
        for view in order:
            if len(self._runs) <= _RUNS and chunks <= _CHUNKS:
                return
            chunks -= len(view.codes)
            del self._runs[view.message.run_id]
