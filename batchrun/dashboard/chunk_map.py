"""The map of a run's chunks: a tile for each cell, what it says, and a cursor for the keyboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bokeh.events import DocumentReady
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    CustomJSHover,
    GlyphRenderer,
    HoverTool,
    InlineStyleSheet,
    LinearColorMapper,
    Range1d,
    TapTool,
)
from bokeh.plotting import figure

from batchrun.dashboard import frame
from batchrun.dashboard.board import RunView
from batchrun.dashboard.cells import Cells
from batchrun.dashboard.looks import INK, ink_on, note
from batchrun.outcome import Outcome

__all__ = ["COLORS", "INKS", "LABELS", "LABELS_AT_THE_END", "SYMBOLS", "ChunkMap"]

LABELS: Final = ("waiting", "running", *(outcome.value.replace("_", " ") for outcome in Outcome))
"""What each code means, for people."""
LABELS_AT_THE_END: Final = ("not run", *LABELS[1:])
"""The same of a run that has ended: what it did not come to waits for nothing."""
COLORS: Final = ("#8a94a340", "#a6d0f2", *(outcome.color for outcome in Outcome))
"""The colour of each code; what waits lets a card through, which may be light or dark."""
INKS: Final = ("#45566a", "#45566a", *(ink_on(outcome.color) for outcome in Outcome))
"""The colour of signs on each of these."""
SYMBOLS: Final = ("", "▸", *(outcome.symbol for outcome in Outcome))
"""The sign of each code, for those who cannot tell the colours apart."""

_SYMBOLS_UP_TO: Final = 250
_NUMBERS_UP_TO: Final = 60
_NUMBERS_FROM: Final = 44
"""Pixels of a tile that has room for its number beside its sign."""
_ROUND: Final = 2
_ROUND_UP_TO: Final = 1_500
_ASPECT: Final = 4.2
"""Of the figure, as long as no browser has said how wide it is."""
_ONE_BY_ONE_UP_TO: Final = 16
"""Tiles that are patched by themselves; of more, all from the first to the last are sent, as arrays."""
_CHANGING: Final = ("code", "alpha", "settled", "rows", "seconds")

_SAID: Final = """
const {first, last, code, settled, rows, seconds} = source.data, at = special_vars.index
const many = (number) => number.toLocaleString("en"), alone = first[at] == last[at]
const time = (s) => {
  const ms = 1000 * s
  if (Math.round(ms) < 1000) return `${ms < 10 ? Number(ms.toPrecision(2)) : Math.round(ms)} ms`
  if (Math.round(10 * s) < 600) return `${s.toFixed(1)} s`
  const whole = Math.round(s), minutes = Math.floor(Math.round(s / 60) % 60)
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`
  return `${Math.floor(Math.round(s / 60) / 60)} h${minutes ? ` ${minutes} min` : ""}`
}
if (format == "name") return alone ? `chunk ${first[at]}` : `chunks ${many(first[at])} to ${many(last[at])}`
const label = labels[code[at]]
if (format == "condition") return alone ? label : `${many(settled[at])} settled, worst: ${label}`
return settled[at] ? `${many(rows[at])} rows in ${time(seconds[at])}` : "not settled"
"""
"""What a tile says of itself: its *format* is name, condition or facts."""


class ChunkMap:
    """The figure, and what the browser has of it; only tiles that changed are sent."""

    def __init__(
        self, choose: Callable[[int], object] = lambda chunk: None, css: InlineStyleSheet | None = None
    ) -> None:
        """*choose* is called with the number of a chunk that somebody clicks, or opens with the keyboard."""
        self._choose = choose
        self._source = ColumnDataSource(_columns(None, 1), name="batchrun-chunks")
        self._source.selected.on_change("indices", self._clicked)
        self._cursor = ColumnDataSource({"x": [], "y": []}, name="batchrun-cursor")
        self._view: RunView | None = None
        self._cells: Cells | None = None
        self._across = 1
        self._aspect = _ASPECT
        self._version = -1
        self.note = note(css, **frame.attributes(role="status", aria_live="polite"))
        """What the tile below the cursor says; empty while there is no cursor."""
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
            min_border=1,  # in the first row of pixels Bokeh leaves traces of what it drew before
            margin=(0, 0, 0, 0),
            **frame.attributes(
                role="application",
                tabindex="0",
                aria_label="Map of the chunks. Arrow keys go from tile to tile, Enter tells of a chunk; the "
                "table tells how many there are",
            ),
        )
        """The Bokeh figure."""
        self.inks = _mapper(INKS, name="batchrun-inks")
        """The colour of texts on tiles of each code."""
        self.figure.axis.visible = False
        self.figure.grid.visible = False
        self.figure.on_change("inner_width", self._resized)
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
        self.figure.rect(
            "x", "y", width=1, height=1, source=self._cursor, fill_color=None, line_color=INK, line_width=3
        )
        self._tiles.selection_glyph = self._tiles.glyph.clone()
        self._tiles.selection_glyph.update(line_color=INK, line_width=3)
        self._tiles.nonselection_glyph = None
        self._said = CustomJSHover(args={"source": self._source, "labels": list(LABELS)}, code=_SAID)
        tooltips = (
            "<div style='font: 13px Helvetica, Arial, sans-serif'>"
            "<b>@code{name} · @code{condition}</b><br>@code{facts}</div>"
        )
        self.figure.add_tools(
            HoverTool(renderers=[self._tiles], tooltips=tooltips, formatters={"@code": self._said}),
            TapTool(renderers=[self._tiles]),
        )

    def _text(self, x: str, y: str, **looks: Any) -> GlyphRenderer:
        texts = self.figure.text(x, y, source=self._source, visible=False, **looks)
        texts.nonselection_glyph = None  # a tile that is not chosen looks as ever
        return texts

    def listen(self, doc: Any) -> None:
        """Let the keyboard move a cursor over the map, in tabs that show *doc*."""
        code = files("batchrun.dashboard").joinpath("cursor.js").read_text("utf-8")
        known = {
            "figure": self.figure,
            "source": self._source,
            "cursor": self._cursor,
            "said": self._said,
            "note": self.note,
        }
        doc.js_on_event(DocumentReady, CustomJS(args=known, code=code))

    def update(self, view: RunView) -> None:
        """Show *view*, which may be another run than before."""
        labels = list(LABELS_AT_THE_END if view.message.ended else LABELS)
        if self._said.args["labels"] != labels:
            self._said.args = {"source": self._source, "labels": labels}
        cells = view.cells
        if (cells, view.version) == (self._cells, self._version):
            return
        if self._view is None or view.message.run_id != self._view.message.run_id:
            self._source.selected.indices = []
        before, self._cells, self._view = self._cells, cells, view
        since, self._version = self._version, view.version
        if cells is not before:
            self._lay_out(cells)
            return
        changed = cells.changed_since(since)
        if not len(changed):
            return
        fresh = _condition(cells)
        if len(changed) <= _ONE_BY_ONE_UP_TO:
            some = {name: values[changed] for name, values in fresh.items()}
            patches: dict[str, Any] = {
                name: list(zip(changed.tolist(), values.tolist(), strict=True))
                for name, values in some.items()
            }
        else:
            part = slice(int(changed[0]), int(changed[-1]) + 1)
            patches = {name: [(part, values[part])] for name, values in fresh.items()}
        if len(cells) <= _SYMBOLS_UP_TO:
            patches["symbol"] = [
                (at, SYMBOLS[code])
                for at, code in zip(changed.tolist(), fresh["code"][changed].tolist(), strict=True)
            ]
        self._source.patch(patches)

    def _clicked(self, attribute: str, old: list[int], new: list[int]) -> None:
        if new and self._cells is not None and self._view is not None and new[0] < len(self._cells):
            self._choose(self._cells.worst(new[0], self._view.codes))

    def _resized(self, attribute: str, old: int, new: int) -> None:
        """A browser tells how wide the figure is, and tiles are to be about square."""
        self._aspect = max(1, new) / self.figure.height
        if self._cells is not None and _across(len(self._cells), self._aspect) != self._across:
            self._lay_out(self._cells)

    def _lay_out(self, cells: Cells) -> None:
        across = self._across = _across(len(cells), self._aspect)
        self._cursor.data = {"x": [], "y": []}
        self.note.text = ""
        self.figure.x_range.end = across
        self.figure.y_range.start = max(1, math.ceil(len(cells) / across))
        self._tiles.glyph.border_radius = _ROUND if len(cells) <= _ROUND_UP_TO else 0
        # A browser draws texts one by one, empty ones too.
        self._symbols.visible = len(cells) <= _SYMBOLS_UP_TO
        wide = self._aspect * self.figure.height >= across * _NUMBERS_FROM
        self._numbers.visible = len(cells) <= _NUMBERS_UP_TO and wide
        self._source.data = _columns(cells, across)


def _mapper(colors: Sequence[str], **named: str) -> LinearColorMapper:
    return LinearColorMapper(palette=list(colors), low=-0.5, high=len(colors) - 0.5, **named)


def _across(count: int, aspect: float) -> int:
    """How many tiles to a line make *count* tiles fill the figure, nearly square and with few gaps.

    *aspect* is how many times as wide as high the figure is.
    """

    def fault(across: int) -> float:
        lines = math.ceil(count / across)
        return abs(math.log(aspect * lines / across)) + (across * lines - count) / count

    guess = max(1, round(math.sqrt(count * aspect)))
    tried = range(max(1, guess // 2), min(2 * guess, max(1, count)) + 1)
    return min(tried, key=fault) if count else 1


def _columns(cells: Cells | None, across: int) -> dict[str, Any]:
    """All columns of the data source, for *across* cells in a line; numbers, as texts take long to send."""
    if cells is None:
        return {
            name: [] for name in ("x", "y", "left", "top", "number", "first", "last", "symbol", *_CHANGING)
        }
    number = np.arange(len(cells))
    left, top = number % across, number // across
    blank = [""] * len(cells)
    condition = _condition(cells)
    return {
        "x": left + 0.5,
        "y": top + 0.5,
        "left": left + 0.04,
        "top": top + 0.05,
        "number": list(map(str, cells.numbers.tolist())) if len(cells) <= _NUMBERS_UP_TO else blank,
        "first": cells.first,
        "last": cells.last,
        "symbol": [SYMBOLS[code] for code in condition["code"].tolist()]
        if len(cells) <= _SYMBOLS_UP_TO
        else blank,
        **condition,
    }


def _condition(cells: Cells) -> dict[str, npt.NDArray[Any]]:
    """The columns that change while the run goes on, in kinds that a browser has arrays of."""
    return {
        "code": cells.code,
        "alpha": cells.alpha.astype(np.float32),
        "settled": cells.settled.astype(np.int32),
        "rows": cells.rows.astype(np.float64),
        "seconds": cells.seconds.astype(np.float32),
    }
