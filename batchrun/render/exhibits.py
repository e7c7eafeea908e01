"""The figures and tables of a pipeline as parts of the page.

A figure looks as its pipeline made it; what was left at Bokeh's defaults is made to read on light and dark,
and to be as wide as the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.render.grid import Grid, grid_of
from batchrun.render.timeline import INK, embedded

if TYPE_CHECKING:
    from markupsafe import Markup

    from batchrun.exhibits import Exhibits

__all__ = ["ShownExhibit", "ShownExhibits", "adapt", "shown_exhibits"]

ROWS = 100
"""Rows of a table that the page shows."""
TEXTS = (
    "text_color",
    "label_text_color",
    "title_text_color",
    "axis_label_text_color",
    "major_label_text_color",
)
LINES = ("axis_line_color", "major_tick_line_color")


@dataclass(frozen=True)
class ShownExhibit:
    """One figure or table of the page."""

    title: str
    """What stands above it."""
    table: Grid | None
    """The table; None for a figure."""
    body: Markup | None
    """The place of the figure; None for a table."""


@dataclass(frozen=True)
class ShownExhibits:
    """All of them, and what draws the figures."""

    shown: Sequence[ShownExhibit]
    """In the order of the pipeline."""
    library: Markup
    """What of Bokeh the figures need, for the head of the page; empty without a figure."""
    script: Markup
    """What draws the figures; empty without one."""


def shown_exhibits(exhibits: Exhibits) -> ShownExhibits | None:
    """The exhibits for the page; None if there are none."""
    if not exhibits.entries:
        return None
    from markupsafe import Markup

    figures = {entry.title: entry.content for entry in exhibits.entries if entry.table is None}
    for figure in figures.values():
        adapt(figure)
    script, bodies = embedded(list(figures.values())) if figures else ("", ())
    places = dict(zip(figures, bodies, strict=True))
    shown = [
        ShownExhibit(entry.title, None, Markup(places[entry.title]))  # noqa: S704  Bokeh escapes what it embeds
        if entry.table is None
        else ShownExhibit(entry.title, grid_of(entry.table.slice(0, ROWS), entry.table.num_rows, "row"), None)
        for entry in exhibits.entries
    ]
    library = _library(list(figures.values())) if figures else ""
    return ShownExhibits(shown, Markup(library), Markup(script))  # noqa: S704  the library is Bokeh's own


def _library(figures: Sequence[Any]) -> str:
    """The parts of Bokeh's own scripts that the figures need."""
    from bokeh.embed.bundle import bundle_for_objs_and_resources
    from bokeh.resources import Resources

    return "".join(bundle_for_objs_and_resources(figures, Resources(mode="inline", minified=True)))


def adapt(figure: Any) -> None:
    """Make what the pipeline left as it was read on white and on black, and as wide as its place."""
    from bokeh.models import Axis, ColorBar, Grid, LayoutDOM, Legend, Plot, TextAnnotation

    if isinstance(figure, LayoutDOM):
        _suggest(figure, sizing_mode="stretch_width")
    for model in figure.references():
        if isinstance(model, Plot):
            _suggest(model, background_fill_color=None, border_fill_color=None, outline_line_color=None)
            _suggest(model.toolbar, logo=None, autohide=True)
        elif isinstance(model, Axis):
            _suggest(model, **dict.fromkeys((*TEXTS[-2:], *LINES), INK), minor_tick_line_color=None)
            _suggest(model, axis_line_alpha=0.4, axis_label_text_font_style="normal")
        elif isinstance(model, Grid):
            _suggest(model, grid_line_color=INK, grid_line_alpha=0.18)
        elif isinstance(model, Legend):
            _suggest(model, label_text_color=INK, title_text_color=INK, background_fill_color=None)
            _suggest(model, border_line_color=None)
        elif isinstance(model, ColorBar):
            _suggest(model, major_label_text_color=INK, title_text_color=INK, background_fill_color=None)
        elif isinstance(model, TextAnnotation):
            _suggest(model, text_color=INK)


def _suggest(model: Any, **values: Any) -> None:
    """Set properties that still have their default value."""
    given = model.properties_with_values(include_defaults=False)
    for name, value in values.items():
        if name not in given:
            setattr(model, name, value)
