"""The page itself: one Bokeh document for each browser tab, refreshed twice a second at most."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Final

from bokeh.layouts import column, row
from bokeh.models import Div, InlineStyleSheet, NumericInput, Select

from batchrun.dashboard import frame, panels, stories
from batchrun.dashboard.actions import Actions
from batchrun.dashboard.archive import Archive, RunLine, Work, offered
from batchrun.dashboard.board import Board, RunView
from batchrun.dashboard.chunk_map import ChunkMap
from batchrun.dashboard.durations import Durations
from batchrun.dashboard.gaps import Gaps
from batchrun.dashboard.lanes import Lanes
from batchrun.dashboard.opening import WrittenDown, leave_lightly
from batchrun.dashboard.pace import LOOK_EVERY, Pace
from batchrun.dashboard.peaks import Peaks
from batchrun.dashboard.permission import may_act
from batchrun.dashboard.rates import Rates
from batchrun.dashboard.shelf import Shelf, title_of
from batchrun.dashboard.solves import Solve
from batchrun.outcome import RunState

__all__ = ["Page", "open_page"]

_CARD: Final = {
    "background": "var(--br-card)",
    "border": "1px solid var(--br-edge)",
    "border-radius": "8px",
    "padding": "10px 14px",
    "box-sizing": "border-box",
    "align-self": "stretch",
    "height": "auto",
}


def open_page(
    board: Board,
    scheduler: Any,
    extra: dict[str, Any],
    doc: Any,
    *,
    pace: Pace,
    opened: Callable[[Any, Any], object] = lambda doc, callback: None,
) -> None:
    """Fill *doc* with a page that shows *board*, in the frame of Dask's own pages; does so once.

    It may be called in any thread, as *board* is not looked at before a browser asked for the document.
    *extra* holds what the template of that frame needs, *pace* is that of all pages here, and *opened* is
    called with the document and the callback that keeps it up to date.
    """
    if doc.roots:
        return
    request = getattr(doc.session_context, "request", None)
    wanted = _argument(request, "run")
    page = Page(board, pace=pace, acts=may_act(request), wanted=wanted)
    doc.title = "Dask: batchrun"
    doc.add_root(page.root)
    frame.surround(doc, extra, within_dask=scheduler is not None)
    page.follow(doc)
    leave_lightly(doc)
    written = WrittenDown(doc)

    def look() -> None:
        if written.asked and _is_connected(doc):
            page.look()

    opened(doc, doc.add_periodic_callback(look, round(1000 * LOOK_EVERY)))


class Page:
    """What one browser tab shows."""

    def __init__(
        self,
        board: Board,
        clock: Callable[[], float] = time.time,
        archive: Callable[[], Archive | None] = offered,
        *,
        pace: Pace | None = None,
        acts: bool = False,
        wanted: str = "",
    ) -> None:
        """*acts* says whether who looks may stop runs too, *wanted* is the run to begin with."""
        self._clock = clock
        self._pace = Pace() if pace is None else pace
        self._drawn, self._looked = float("-inf"), self._pace.now()
        self._due: deque[Callable[[], object]] = deque()
        self._archive = archive
        self._acts = acts
        self._shelf = Shelf(board, archive)
        self._css = InlineStyleSheet(css=files("batchrun.dashboard").joinpath("page.css").read_text("utf-8"))
        self._map = ChunkMap(self.choose_chunk, self._css)
        self._rates = Rates()
        self._durations, self._gaps = Durations(self._css), Gaps(self._css)
        self._lanes, self._peaks = Lanes(self._css), Peaks(self._css)
        self._headline, self._which, self._outcomes = self._div(), self._div(), self._div()
        self._slots, self._running, self._failures = self._div(), self._div(), self._div()
        self._runs, self._story = self._div(), self._div()
        self._select = Select(
            title="Run to show",
            options=[],
            sizing_mode="stretch_width",
            stylesheets=[self._css],
            margin=(4, 0, 3, 0),
        )
        self._select.on_change("value", self._chosen)
        self._number = NumericInput(
            title="Number of a chunk",
            placeholder="number",
            low=0,
            mode="int",
            width=110,
            stylesheets=[self._css],
            margin=(4, 0, 3, 0),
        )
        self._number.on_change("value", self._typed)
        self._actions = Actions(archive, self._div(), [self._css])
        self._wanted = wanted
        self.chunk: int | None = None
        """The chunk whose story is told; None before somebody chose one."""
        self.run_id = ""
        """The run that is shown; empty if there is none."""
        self._filling = False
        self._empty = self._div(panels.EMPTY)
        self._empty.visible = False
        self._spoken = self._div(
            css_classes=["unseen"], **frame.attributes(role="status", aria_live="polite")
        )
        self._full = self._lay_out()
        self._full.visible = False
        self.root = column(self._spoken, self._empty, self._full, sizing_mode="stretch_width")
        """The Bokeh model of the whole page."""
        self.root.on_change("tags", self._shown)

    def look(self) -> None:
        """Bring the page up to date if it is its turn and somebody sees it; to be called several times a
        second.

        It is drawn part by part: what would hold up the loop for long is drawn at the looks that follow.
        """
        looked, self._looked = self._looked, self._pace.now()
        if frame.HIDDEN in self.root.tags:
            return
        if self._due:
            self._draw_some()
        elif self._pace.is_turn(self._drawn, looked):
            self._begin()

    def update(self) -> None:
        """Bring all of the page up to date with the board and the archive."""
        self._begin()
        while self._due:
            self._draw_some()

    def _shown(self, attribute: str, old: list[str], new: list[str]) -> None:
        """The tab was put behind another one, or is seen again."""
        if frame.HIDDEN not in new:
            self._begin()

    def _begin(self) -> None:
        """Begin to bring the page up to date."""
        self._due = deque([self._plan])
        self._draw_some()

    def _draw_some(self) -> None:
        """Draw what is due, as far as there is time for it now."""
        with self._pace.drawing() as has_time:
            self._due.popleft()()
            while self._due and has_time():
                self._due.popleft()()
        self._drawn = self._pace.now()

    def _plan(self) -> None:
        """See what there is to draw, and what is drawn after what."""
        now, archive = self._clock(), self._archive()
        listed = self._shelf.listed(now)
        run_id = self._selected(listed)
        view = self._shelf.view(run_id, now) if run_id else None
        self._empty.visible, self._full.visible = view is None, view is not None
        if view is None:
            return
        if run_id != self.run_id:
            self.run_id = run_id
            self.choose_chunk(None)
        work = archive.work(run_id) if archive is not None else None
        self._due += [
            partial(self._tell, view, listed, now, archive),
            partial(self._map.update, view),
            partial(self._rates.update, view),
            partial(self._durations.update, view),
            partial(self._draw_work, view, archive, work),
        ]

    def _tell(self, view: RunView, listed: Sequence[RunLine], now: float, archive: Archive | None) -> None:
        """What is said in words."""
        run_id = self.run_id
        why = archive.why(run_id, view.message.state) if archive is not None else None
        self._spoken.text = panels.spoken(view)
        self._headline.text = panels.headline(view, now, why or "")
        self._which.text = panels.which(view, len(listed), self._trouble(archive))
        self._outcomes.text = panels.outcomes(view)
        self._slots.text = panels.slots(view.message)
        self._failures.text = panels.failures(view.message)
        self._running.text = panels.running(view, now)
        self._runs.text = stories.run_list(listed, run_id, now)
        self._list.visible = len(listed) > 1
        self._story.text = stories.story(archive, run_id, self.chunk)
        if self._acts and archive is not None and archive.acts:
            self._actions.update(run_id, RunState(view.message.state))

    def _draw_work(self, view: RunView, archive: Archive | None, work: Work | None) -> None:
        """What solves came to, on which workers, with how much memory."""
        self._gaps.update(view, self._recorded(archive, work), self.chunk)
        self._lanes.update(work.bars if work is not None else None)
        self._workers.visible = self._memory.visible = archive is not None
        if work is not None:
            self._peaks.update(work.attempts, work.asked, work.started)

    def _recorded(self, archive: Archive | None, work: Work | None) -> Sequence[Solve]:
        """What the store has of solves; of the chunk that was chosen, it may be long ago."""
        listed = work.solves if work is not None else ()
        if archive is None or self.chunk is None:
            return listed
        story = archive.story(self.run_id, self.chunk)
        return story.solves if story is not None and story.solves else listed

    def _trouble(self, archive: Archive | None) -> str:
        """Why the store cannot be read; a chunk that is not there says so in its own place."""
        return archive.trouble() if archive is not None and self.chunk is None else ""

    @property
    def _figures(self) -> tuple[Any, ...]:
        owners = (self._map, self._durations, self._gaps, self._lanes, self._peaks)
        return (self._rates.chunks, self._rates.rows, *(owner.figure for owner in owners))

    def follow(self, doc: Any) -> None:
        """Let the page heed the screen, the tab and the keyboard of who has *doc* open."""
        frame.follow_scheme(doc, self._map.inks, self._figures)
        frame.tell_when_hidden(doc, self.root)
        self._map.listen(doc)

    def _selected(self, listed: Sequence[RunLine]) -> str:
        """The run to show: the newest, until somebody chooses another; empty if there is none."""
        if not listed:
            return ""
        options = [(line.run_id, title_of(line)) for line in listed]
        wanted = self._wanted if self._wanted in dict(options) else listed[0].run_id
        self._filling = True
        try:
            if options != self._select.options:
                self._select.options = options
            if self._select.value != wanted:
                self._select.value = wanted
        finally:
            self._filling = False
        return wanted

    def _chosen(self, attribute: str, old: str, new: str) -> None:
        if not self._filling:
            newest = self._shelf.listed(self._clock())[:1]
            self._wanted = "" if newest and newest[0].run_id == new else new
            self._begin()

    def choose_chunk(self, chunk: int | None) -> None:
        """Show what lies behind a chunk."""
        self.chunk = chunk
        if self._number.value != chunk:
            self._number.value = chunk
        self._story.text = stories.story(self._archive(), self.run_id, chunk)

    def _typed(self, attribute: str, old: int | None, new: int | None) -> None:
        if new != self.chunk:
            self.choose_chunk(new)

    def _lay_out(self) -> Any:
        side = {"width": 336}
        self._list = self._card(self._title("Runs"), self._box("Runs", 260, self._runs))
        self._memory = self._card(self._title("Peak memory"), self._peaks.note, self._peaks.figure)
        self._workers = self._card(self._title("Workers"), self._lanes.note, self._lanes.figure)
        lines = (
            row(
                self._card(self._headline),
                self._card(self._title("Run"), self._select, self._which, self._actions.root, **side),
                **_ROW,
            ),
            row(
                self._card(
                    row(self._title("Chunks"), self._map.note, sizing_mode="stretch_width"), self._map.figure
                ),
                self._card(self._outcomes, **side),
                **_ROW,
            ),
            row(
                self._card(self._slots),
                self._card(self._title("Chunks a second"), self._rates.chunks),
                self._card(self._title("Rows a second"), self._rates.rows),
                **_ROW,
            ),
            row(
                self._card(
                    row(self._title("Chunk"), self._number, sizing_mode="stretch_width"),
                    self._box("The chunk", 330, self._story),
                ),
                **_ROW,
            ),
            row(
                self._card(self._title("Seconds of a chunk"), self._durations.note, self._durations.figure),
                self._card(self._title("Best answer and bound"), self._gaps.note, self._gaps.figure),
                self._memory,
                **_ROW,
            ),
            row(
                self._card(self._title("Running"), self._box("Running chunks", 168, self._running)),
                self._card(self._title("Latest failures"), self._box("Latest failures", 168, self._failures)),
                **_ROW,
            ),
            self._workers,
            self._list,
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

    def _box(self, label: str, height: int, text: Div) -> Any:
        """A text that scrolls where it is higher than so many pixels.

        It is what is around the text that scrolls and has the focus, since Bokeh makes the text anew.
        """
        attributes = frame.attributes(role="region", aria_label=label, tabindex="0")
        looks = {"max-height": f"{height}px", "overflow-y": "auto"}
        return column(text, styles=looks, stylesheets=[self._css], sizing_mode="stretch_width", **attributes)

    def _card(self, *children: Any, **size: Any) -> Any:
        size = size or {"sizing_mode": "stretch_width"}
        return column(*children, styles=_CARD, stylesheets=[frame.NARROW], **size)


_ROW: Final = {"sizing_mode": "stretch_width", "spacing": 10, "stylesheets": [frame.NARROW]}


def _is_connected(doc: Any) -> bool:
    """Whether a browser has *doc* open; one that went away may come back for half a minute."""
    session = getattr(doc.session_context, "session", None)
    return session is None or session.connection_count > 0


def _argument(request: Any, name: str) -> str:
    """An argument of the page's address; empty if it has none."""
    values = getattr(request, "arguments", None) or {}
    found = values.get(name) or [b""]
    return found[0].decode("utf-8", "replace") if isinstance(found[0], bytes) else str(found[0])
