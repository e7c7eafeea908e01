"""The map of a run's chunks: one tile a chunk, or one for several neighbours where there are too many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bokeh.models import (
    AllIndices,
    CDSView,
    ColumnDataSource,
    GlyphRenderer,
    HoverTool,
    IndexFilter,
    LinearColorMapper,
    Range1d,
    TapTool,
)
from bokeh.plotting import figure

from batchrun.dashboard import frame
from batchrun.dashboard.board import RunView
from batchrun.dashboard.looks import INK
from batchrun.dashboard.message import RUNNING, WAITING, code_of
from batchrun.outcome import Outcome
from batchrun.resources import format_seconds

__all__ = ["COLORS", "LABELS", "SYMBOLS", "Cells", "ChunkMap", "cells_of"]

LABELS: Final = ("waiting", "running", *(outcome.value.replace("_", " ") for outcome in Outcome))
"""What each code means, for people."""
COLORS: Final = ("#8a94a340", "#a6d0f2", *(outcome.color for outcome in Outcome))
"""The colour of each code; what waits lets a card through, which may be light or dark."""
SYMBOLS: Final = ("", "▸", *(outcome.symbol for outcome in Outcome))
"""The sign of each code, for those who cannot tell the colours apart."""

_MOST_CELLS: Final = 4_000
_SYMBOLS_UP_TO: Final = 250
_NUMBERS_UP_TO: Final = 60
_ROUND: Final = 2
_ROUND_UP_TO: Final = 1_500
_ASPECT: Final = 4.2
_ALL_AT_ONCE_FROM: Final = 500

_MILD_TO_BAD: Final = np.array(
    [
        WAITING,
        RUNNING,
        *map(
            code_of,
            (
                Outcome.SUCCEEDED,
                Outcome.STOPPED_WITH_SOLUTION,
                Outcome.CANCELLED,
                Outcome.WORKER_LOST,
                Outcome.TIMED_OUT,
                Outcome.OUT_OF_MEMORY,
                Outcome.FAILED,
            ),
        ),
    ],
    dtype=np.uint8,
)
_BADNESS: Final = np.argsort(_MILD_TO_BAD).astype(np.uint8)


@dataclass(frozen=True)
class Cells:
    """Tiles of the map as columns, shape (cells,) each."""

    size: int
    """Chunks in a cell; the last cell may have fewer."""
    numbers: npt.NDArray[np.int64]
    """Numbers of the run's chunks in the order of the map, shape (chunks,)."""
    code: npt.NDArray[np.uint8]
    """Condition of the chunk, or the worst one among the chunks of the cell."""
    settled: npt.NDArray[np.int64]
    """How many of the cell's chunks are settled."""
    rows: npt.NDArray[np.int64]
    """Input rows of those."""
    seconds: npt.NDArray[np.float64]
    """Seconds of those together."""

    def __len__(self) -> int:
        return len(self.code)

    @property
    def chunks(self) -> int:
        """Chunks of the run."""
        return len(self.numbers)

    @property
    def alpha(self) -> npt.NDArray[np.float64]:
        """How opaque each cell is: a solved cell fills as its chunks are settled."""
        solved = np.isin(self.code, [code_of(outcome) for outcome in Outcome if outcome.solved])
        share = self.settled / np.minimum(self.size, self.chunks - np.arange(len(self)) * self.size)
        return np.where(solved, 0.3 + 0.7 * share, 1.0)

    def worst(self, number: int, view: RunView) -> int:
        """The number of the chunk that a cell has its colour from; the first one, of several."""
        chunks = self.numbers[number * self.size : (number + 1) * self.size]
        return int(chunks[np.argmax(_BADNESS[view.codes[chunks]])])

    def changed_since(self, before: Cells) -> npt.NDArray[np.int64]:
        """Numbers of the cells that differ from those of *before*, which has as many."""
        return np.flatnonzero((self.code != before.code) | (self.settled != before.settled))


def cells_of(view: RunView, most: int = _MOST_CELLS) -> Cells:
    """The chunks of a run as *most* cells at most, each of as many neighbours as that takes.

    Parts of a chunk that was cut stand in its place.
    """
    order, codes, rows, seconds = view.order, view.codes, view.rows, view.seconds
    if len(order) < len(codes):  # else they stand as they are numbered, and a million need not be copied
        codes, rows, seconds = codes[order], rows[order], seconds[order]
    size = max(1, math.ceil(len(order) / most))
    firsts = np.arange(0, len(order), size)
    if not len(firsts):
        return _NO_CELLS
    return Cells(
        size,
        order,
        _MILD_TO_BAD[np.maximum.reduceat(_BADNESS[codes], firsts)],
        np.add.reduceat(codes > RUNNING, firsts, dtype=np.int64),
        np.add.reduceat(rows, firsts),
        np.add.reduceat(seconds, firsts, dtype=np.float64),
    )


class ChunkMap:
    """The figure, and what the browser has of it; only tiles that changed are sent."""

    def __init__(self, choose: Callable[[int], object] = lambda chunk: None) -> None:
        """*choose* is called with the number of a chunk that somebody clicks."""
        self._choose = choose
        self._source = ColumnDataSource(_columns(_NO_CELLS, 1), name="batchrun-chunks")
        self._source.selected.on_change("indices", self._clicked)
        self._view: RunView | None = None
        self._cells: Cells | None = None
        self._run_id = ""
        self._version = -1
        self.figure = figure(
            height=226,
            sizing_mode="stretch_width",
            x_range=Range1d(0, 1),
            y_range=Range1d(1, 0),
            toolbar_location=None,
            tools="",
            outline_line_color=None,
            background_fill_color=None,
            border_fill_color=None,
            min_border=0,
            margin=(0, 0, 0, 0),
            **frame.attributes(role="img", aria_label="Map of the chunks; the table tells how many"),
        )
        """The Bokeh figure."""
        self.inks = _mapper(("#45566a", "#45566a", *("#ffffff" for _ in Outcome)), name="batchrun-inks")
        """The colour of texts on tiles of each code."""
        self.figure.axis.visible = False
        self.figure.grid.visible = False
        self._draw()

    def _draw(self) -> None:
        self._tiles = self.figure.rect(
            "x",
            "y",
            width=0.92,
            height=0.9,
            source=self._source,
            fill_color={"field": "code", "transform": _mapper(COLORS)},
            fill_alpha="alpha",
            line_color=None,
            border_radius=_ROUND,
        )
        ink = {"field": "code", "transform": self.inks}
        middle = {"text_align": "center", "text_baseline": "middle", "text_color": ink}
        self._symbols = self._text("x", "y", text="symbol", text_font_size="14px", **middle)
        number = {"text_color": ink, "text_font_size": "10px", "text_baseline": "top"}
        self._numbers = self._text("left", "top", text="number", x_offset=5, y_offset=4, **number)
        tooltips = (
            "<div style='font: 13px Helvetica, Arial, sans-serif'><b>@name · @condition</b><br>@facts</div>"
        )
        self._tiles.selection_glyph = self._tiles.glyph.clone()
        self._tiles.selection_glyph.update(line_color=INK, line_width=3)
        self._tiles.nonselection_glyph = None
        self.figure.add_tools(
            HoverTool(renderers=[self._tiles], tooltips=tooltips), TapTool(renderers=[self._tiles])
        )

    def _text(self, x: str, y: str, **looks: Any) -> GlyphRenderer:
        view = CDSView(filter=IndexFilter([]))
        texts = self.figure.text(x, y, source=self._source, view=view, **looks)
        texts.nonselection_glyph = None  # a tile that is not chosen looks as ever
        return texts

    def update(self, view: RunView) -> None:
        """Show *view*, which may be another run than before."""
        message = view.message
        if (message.run_id, view.version) == (self._run_id, self._version):
            return
        if message.run_id != self._run_id:
            self._source.selected.indices = []
        cells, before, self._view = cells_of(view), self._cells, view
        self._cells, self._run_id, self._version = cells, message.run_id, view.version
        if before is None or before.numbers is not cells.numbers:
            self._lay_out(cells)
            return
        changed = cells.changed_since(before)
        if len(changed) >= _ALL_AT_ONCE_FROM:
            every = _condition(cells, np.arange(len(cells)))
            self._source.patch({name: [(slice(len(cells)), values)] for name, values in every.items()})
        elif len(changed):
            fresh = _condition(cells, changed)
            self._source.patch(
                {name: list(zip(changed.tolist(), values, strict=True)) for name, values in fresh.items()}
            )

    def _clicked(self, attribute: str, old: list[int], new: list[int]) -> None:
        if new and self._cells is not None and self._view is not None and new[0] < len(self._cells):
            self._choose(self._cells.worst(new[0], self._view))

    def _lay_out(self, cells: Cells) -> None:
        across = _across(len(cells))
        self.figure.x_range.end = across
        self.figure.y_range.start = max(1, math.ceil(len(cells) / across))
        self._tiles.glyph.border_radius = _ROUND if len(cells) <= _ROUND_UP_TO else 0
        # A browser draws texts one by one, empty ones too.
        for texts, most in ((self._symbols, _SYMBOLS_UP_TO), (self._numbers, _NUMBERS_UP_TO)):
            texts.view.filter = AllIndices() if len(cells) <= most else IndexFilter([])
        self._source.data = _columns(cells, across)


_NO_CELLS: Final = Cells(
    1,
    np.zeros(0, np.int64),
    np.zeros(0, np.uint8),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.float64),
)


def _mapper(colors: Sequence[str], **named: str) -> LinearColorMapper:
    return LinearColorMapper(palette=list(colors), low=-0.5, high=len(colors) - 0.5, **named)


def _across(count: int) -> int:
    """How many tiles to a line make *count* tiles fill the figure, nearly square and with few gaps."""

    def fault(across: int) -> float:
        lines = math.ceil(count / across)
        return abs(math.log(_ASPECT * lines / across)) + (across * lines - count) / count

    guess = max(1, round(math.sqrt(count * _ASPECT)))
    tried = range(max(1, guess // 2), min(2 * guess, max(1, count)) + 1)
    return min(tried, key=fault) if count else 1


def _columns(cells: Cells, across: int) -> dict[str, Any]:
    """All columns of the data source, for *across* cells in a line."""
    number = np.arange(len(cells))
    left, top = number % across, number // across
    blank = [""] * len(cells)
    return {
        "x": left + 0.5,
        "y": top + 0.5,
        "left": left + 0.04,
        "top": top + 0.05,
        "number": list(map(str, cells.numbers.tolist())) if len(cells) <= _NUMBERS_UP_TO else blank,
        "name": [_name(cells, number) for number in range(len(cells))],
        "symbol": blank,
        **_condition(cells, number),
    }


def _condition(cells: Cells, numbers: npt.NDArray[np.int64]) -> dict[str, Any]:
    """The columns that change while the run goes on, of the cells of these *numbers*."""
    codes = cells.code[numbers].tolist()
    columns: dict[str, Any] = {
        "code": cells.code[numbers],
        "alpha": cells.alpha[numbers],
        "condition": [_told(cells, at, code) for at, code in zip(numbers.tolist(), codes, strict=True)],
        "facts": [_facts(cells, number) for number in numbers.tolist()],
    }
    if len(cells) <= _SYMBOLS_UP_TO:
        columns["symbol"] = [SYMBOLS[code] for code in codes]
    return columns


def _name(cells: Cells, number: int) -> str:
    if cells.size == 1:
        return f"chunk {cells.numbers[number]}"
    first = number * cells.size
    last = min(first + cells.size, cells.chunks) - 1
    return f"chunks {cells.numbers[first]:,} to {cells.numbers[last]:,}"


def _told(cells: Cells, number: int, code: int) -> str:
    if cells.size == 1:
        return LABELS[code]
    return f"{cells.settled[number]:,} settled, worst: {LABELS[code]}"


def _facts(cells: Cells, number: int) -> str:
    if not cells.settled[number]:
        return "not settled yet"
    return f"{cells.rows[number]:,} rows in {format_seconds(float(cells.seconds[number]))}"
