"""What the figures of the page have in common: a line of text above each, and no plot of nothing."""

from __future__ import annotations

from typing import Any

from bokeh.models import InlineStyleSheet, Range1d

from batchrun.dashboard.looks import note, plain_figure, quietly

__all__ = ["Chart"]


class Chart:
    """A figure and its note.

    Args:
        css: The page's style sheet.
        height: Of the figure, in pixels.
        label: What the figure shows, for who cannot see it.
        settings: Bokeh's own, for the figure.
    """

    def __init__(self, css: InlineStyleSheet | None, height: int, label: str, **settings: Any) -> None:
        self.note = note(css)
        """What belongs above the figure: what it shows, what it leaves out, or that there is nothing."""
        settings = {"x_range": Range1d(0, 1), "y_range": Range1d(0, 1), **settings}
        self.figure = plain_figure(height, label, visible=False, **settings)
        """The Bokeh figure; hidden while there is nothing to show."""

    def hide(self, why: str) -> None:
        """There is nothing to show, and this says why."""
        self.figure.visible = False
        self.note.text = quietly(why)

    def show(self, html: str) -> None:
        """There is something to show, with this above it."""
        self.figure.visible = True
        self.note.text = html
