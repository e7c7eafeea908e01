"""Horizontal bars as SVG, legible on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, ROW, BAR = 760, 250, 30, 16
"""Pixels: of the whole, of the names, of a bar with its gap, of the bar."""


@dataclass(frozen=True)
class Bar:
    """One bar."""

    name: str
    """What stands before it."""
    value: float
    """Its length."""
    low: float
    """Where its whisker begins."""
    high: float
    """Where its whisker ends."""
    text: str
    """What stands behind it."""
    ours: bool = False
    """Whether it is drawn in the colour of batchrun."""


def draw_bars(title: str, bars: Sequence[Bar]) -> str:
    """A picture of the bars; the axis is logarithmic where the longest is fifty times the shortest."""
    values = [bar.value for bar in bars if bar.value > 0]
    logarithmic = bool(values) and max(values) > 50 * min(values)
    most = max((bar.high for bar in bars), default=1.0) or 1.0
    least = min(values, default=1.0) / 2
    room = WIDTH - LABELS - 130

    def place(value: float) -> float:
        if not logarithmic:
            return room * value / most
        return room * max(0.0, math.log(max(value, least) / least)) / math.log(most / least)

    height = 40 + ROW * len(bars)
    heading = f"{title}, logarithmic" if logarithmic else title
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(heading)}">',
        "<style>text{font:13px system-ui,sans-serif;fill:#1f2933}.v{fill:#52606d}.o{fill:#2a6f97}"
        ".p{fill:#a9b8c6}.w{stroke:#52606d}@media(prefers-color-scheme:dark)"
        "{text{fill:#e4e7eb}.v{fill:#9aa5b1}.o{fill:#61a5c2}.p{fill:#616e7c}.w{stroke:#cbd2d9}}</style>",
        f'<text class="v" x="{LABELS}" y="20">{escape(heading)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = 34 + number * ROW
        middle, base = top + BAR / 2, top + BAR - 3
        end = LABELS + place(max(bar.value, bar.high)) + 8
        lines += [
            f'<text x="{LABELS - 10}" y="{base:.1f}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect class="{"o" if bar.ours else "p"}" x="{LABELS}" y="{top}" '
            f'width="{max(1.0, place(bar.value)):.1f}" height="{BAR}" rx="2"/>',
            f'<line class="w" x1="{LABELS + place(bar.low):.1f}" x2="{LABELS + place(bar.high):.1f}" '
            f'y1="{middle:.1f}" y2="{middle:.1f}"/>',
            f'<text class="v" x="{end:.1f}" y="{base:.1f}">{escape(bar.text)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
