"""How the figures of the page look: quiet axes, no tools, and the fonts and greys of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from bokeh.models import AdaptiveTicker, CustomJSTickFormatter, Div, HoverTool, InlineStyleSheet
from bokeh.plotting import figure

from batchrun.dashboard import frame

__all__ = [
    "FONT",
    "INK",
    "NEUTRAL",
    "QUIET",
    "elapsed_axis",
    "hover",
    "ink_on",
    "note",
    "plain_figure",
    "quietly",
]

FONT: Final = "Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif"
"""The font of all texts."""
INK: Final = "#75818e"
"""The colour of texts and of lines that matter; it can be read on light and on dark, as all here can."""
QUIET: Final = "#75818e"
"""The colour of texts on axes, where Bokeh takes none from the page's CSS."""
NEUTRAL: Final = "#a9b8c9"
"""The colour of bars that mean nothing by it."""

_GRID: Final = "#8a94a330"
_LEAST_CONTRAST: Final = 4.5
"""Of small text with what it stands on, by the Web Content Accessibility Guidelines."""

_ELAPSED: Final = """
const s = Math.round(tick), two = (n) => String(n).padStart(2, "0")
const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60
return h ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`
"""


def plain_figure(height: int, label: str, **settings: Any) -> Any:
    """A Bokeh figure *height* pixels high and as wide as there is room.

    *label* says what it shows, for who cannot see it; *settings* are Bokeh's own.
    """
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        outline_line_color=None,
        background_fill_color=None,
        border_fill_color=None,
        **frame.attributes(role="img", aria_label=label),
        **settings,
    )
    axes = plot.axis
    axes.axis_line_color = axes.minor_tick_line_color = axes.major_tick_line_color = None
    axes.major_label_text_color = QUIET
    axes.major_label_text_font = FONT
    plot.xgrid.visible = False
    plot.ygrid.grid_line_color = _GRID
    plot.yaxis.ticker.desired_num_ticks = 3
    return plot


def elapsed_axis(plot: Any) -> None:
    """Let the lower axis of *plot*, which is in seconds, read ``m:ss`` or ``h:mm:ss``."""
    plot.xaxis.ticker = AdaptiveTicker(base=60, mantissas=[1, 2, 5, 10, 15, 30], min_interval=1)
    plot.xaxis.formatter = CustomJSTickFormatter(code=_ELAPSED)


def hover(plot: Any, renderer: Any, facts: Sequence[tuple[str, str]], **settings: Any) -> None:
    """Let the marks of *renderer* say *facts*: names, each with the column of its text.

    Pairs, not HTML: in these, what users wrote stays text.
    """
    tooltips = [(name, f"@{{{column}}}") for name, column in facts]
    plot.add_tools(HoverTool(renderers=[renderer], tooltips=tooltips, **settings))


def ink_on(color: str) -> str:
    """White, or else black: what can be read on a colour, ``#rrggbb``, as small text has to be."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if 1.05 / (luminance + 0.05) >= _LEAST_CONTRAST else "#000000"


def note(css: InlineStyleSheet | None, **looks: Any) -> Div:
    """A line of HTML beside a figure, in the styles of the page."""
    return Div(
        sizing_mode="stretch_width",
        stylesheets=[css] if css is not None else [],
        disable_math=True,
        margin=(0, 0, 0, 0),
        **looks,
    )


def quietly(text: str) -> str:
    """HTML for a note that says *text* in passing, which is escaped; nothing if it is empty."""
    return f'<div class="b num"><span class="quiet">{escape(text)}</span></div>' if text else ""
