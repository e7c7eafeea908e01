"""The page itself: one Bokeh document for each browser tab, refreshed twice a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

from bokeh.core.properties import without_property_validation
from bokeh.layouts import column, row
from bokeh.models import Div, InlineStyleSheet, Select

from batchrun.dashboard import frame, panels
from batchrun.dashboard.board import Board, RunView
from batchrun.dashboard.chunk_map import ChunkMap
from batchrun.dashboard.rates import Rates

__all__ = ["Page", "open_page"]

_REFRESH_MS: Final = 500
_CARD: Final = {
    "background": "var(--br-card)",
    "border": "1px solid var(--br-edge)",
    "border-radius": "8px",
    "padding": "10px 14px",
    "box-sizing": "border-box",
    "align-self": "stretch",
    "height": "auto",
}


def open_page(board: Board, scheduler: Any, extra: dict[str, Any], doc: Any) -> None:
    """Fill *doc* with a page that shows *board*, in the frame of Dask's own pages.

    *extra* holds what the template of that frame needs.
    """
    page = Page(board)
    doc.title = "Dask: batchrun"
    doc.add_root(page.root)
    frame.surround(doc, extra)
    page.follow_scheme(doc)
    page.update()
    doc.add_periodic_callback(without_property_validation(page.update), _REFRESH_MS)


class Page:
    """What one browser tab shows."""

    def __init__(self, board: Board, clock: Callable[[], float] = time.time) -> None:
        self._board = board
        self._clock = clock
        self._css = InlineStyleSheet(css=files("batchrun.dashboard").joinpath("page.css").read_text("utf-8"))
        self._map = ChunkMap()
        self._rates = Rates()
        self._headline, self._which, self._outcomes = self._div(), self._div(), self._div()
        self._slots, self._failures, self._running = self._div(), self._div(), self._div()
        self._select = Select(
            title="Run to show",
            options=[],
            sizing_mode="stretch_width",
            stylesheets=[self._css],
            margin=(4, 0, 3, 0),
        )
        self._select.on_change("value", self._chosen)
        self._follows = True
        self._filling = False
        self._empty = self._div(panels.EMPTY)
        self._spoken = self._div(
            css_classes=["unseen"], **frame.attributes(role="status", aria_live="polite")
        )
        self._full = self._lay_out()
        self._full.visible = False
        self.root = column(self._spoken, self._empty, self._full, sizing_mode="stretch_width")
        """The Bokeh model of the whole page."""

    def update(self) -> None:
        """Bring the page up to date with the board."""
        view = self._selected()
        if view is None:
            return
        now = self._clock()
        self._empty.visible, self._full.visible = False, True
        self._spoken.text = panels.spoken(view)
        self._headline.text = panels.headline(view, now)
        self._which.text = panels.which(view, len(self._select.options))
        self._outcomes.text = panels.outcomes(view)
        self._slots.text = panels.slots(view.message)
        self._failures.text = panels.failures(view.message)
        self._running.text = panels.running(view, now)
        self._map.update(view)
        self._rates.update(view)

    def follow_scheme(self, doc: Any) -> None:
        """Let the figures be light or dark as the screen of *doc* is."""
        frame.follow_scheme(doc, self._map.inks, (self._map.figure, self._rates.chunks, self._rates.rows))

    def _selected(self) -> RunView | None:
        """The run to show: the newest, until somebody chooses another."""
        views = self._board.newest_first()
        if not views:
            return None
        options = [(view.message.run_id, _option(view)) for view in views]
        view = views[0] if self._follows else self._board.get(self._select.value) or views[0]
        self._filling = True
        try:
            if options != self._select.options:
                self._select.options = options
            if self._select.value != view.message.run_id:
                self._select.value = view.message.run_id
        finally:
            self._filling = False
        return view

    def _chosen(self, attribute: str, old: str, new: str) -> None:
        if not self._filling:
            views = self._board.newest_first()
            self._follows = bool(views) and new == views[0].message.run_id
            self.update()

    def _lay_out(self) -> Any:
        side = {"width": 336}
        lines = (
            row(
                self._card(self._headline),
                self._card(self._title("Run"), self._select, self._which, **side),
                **_ROW,
            ),
            row(
                self._card(self._title("Chunks"), self._map.figure),
                self._card(self._outcomes, **side),
                **_ROW,
            ),
            row(
                self._card(self._slots),
                self._card(self._title("Chunks a second"), self._rates.chunks),
                self._card(self._title("Rows a second"), self._rates.rows),
                **_ROW,
            ),
            row(self._card(self._running), self._card(self._failures), **_ROW),
        )
        return column(*lines, sizing_mode="stretch_width", spacing=10, margin=(10, 0, 10, 0))

    def _title(self, text: str) -> Div:
        return self._div(f'<div class="b"><h2>{text}</h2></div>')

    def _div(self, text: str = "", **looks: Any) -> Div:
        return Div(
            text=text,
            sizing_mode="stretch_width",
            stylesheets=[self._css],
            disable_math=True,
            margin=(0, 0, 0, 0),
            **looks,
        )

    def _card(self, *children: Any, **size: Any) -> Any:
        size = size or {"sizing_mode": "stretch_width"}
        return column(*children, styles=_CARD, stylesheets=[frame.NARROW], **size)


_ROW: Final = {"sizing_mode": "stretch_width", "spacing": 10, "stylesheets": [frame.NARROW]}


def _option(view: RunView) -> str:
    message = view.message
    named = message.run_id.startswith(message.pipeline)  # the ids that batchrun makes begin so
    return f"{message.state} · {message.run_id if named else f'{message.pipeline} · {message.run_id}'}"
