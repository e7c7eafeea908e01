"""The frame of what a notebook shows, and the parts that all of it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from batchrun.outcome import Outcome

if TYPE_CHECKING:
    from batchrun.events import RunEnded
    from batchrun.report import RunReport

__all__ = ["FAILED", "MUTED", "bar", "card", "clip", "line", "link", "rows_bar", "table"]

CARD = (
    "font-family:system-ui,sans-serif;font-size:13px;line-height:1.5;max-width:760px;padding:12px 16px;"
    "overflow-x:auto;border:1px solid rgba(128,128,128,.35);border-radius:8px;border-left:4px solid {color};"
    "font-variant-numeric:tabular-nums"
)
MUTED = "opacity:.65"
FAILED = f"color:{Outcome.FAILED.color}"
CELL = "text-align:{side};padding:2px 14px 2px 0;border:0;background:none;vertical-align:top"
ONE_LINE = ";max-width:340px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
# Notebooks lay tables out by fixed widths unless told otherwise, and then the columns overlap.
TABLE = "margin:6px 0;table-layout:auto;border-collapse:collapse;border:0;font-size:inherit;color:inherit"


def card(color: str, lines: Iterable[str]) -> str:
    """Lines of HTML in a frame with an edge of that colour."""
    return f"<div style='{CARD.format(color=color)}'>{''.join(lines)}</div>"


def line(text: str, style: str = "") -> str:
    """A text as a line of its own, escaped; nothing of an empty one."""
    styled = f" style='{style}'" if style else ""
    return f"<div{styled}>{escape(text)}</div>" if text else ""


def bar(parts: Iterable[tuple[float, str]]) -> str:
    """A bar of shares from 0 to 1, each with its colour."""
    pieces = "".join(
        f"<div style='width:{100 * share:.2f}%;background:{color}'></div>"
        for share, color in parts
        if share > 0
    )
    return (
        "<div style='display:flex;height:6px;border-radius:3px;overflow:hidden;margin:8px 0;"
        f"background:rgba(128,128,128,.25)'>{pieces}</div>"
    )


def rows_bar(ended: RunEnded | RunReport) -> str:
    """The rows of a run by what became of them."""
    rows = max(ended.rows_in, 1)
    return bar(
        [
            (ended.rows_solved / rows, Outcome.SUCCEEDED.color),
            (ended.rows_quarantined / rows, Outcome.FAILED.color),
            (ended.rows_cancelled / rows, Outcome.CANCELLED.color),
        ]
    )


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Sequence[bool] = (),
    *,
    one_line: bool = False,
) -> str:
    """A table of texts, which are escaped; columns of numbers stand to the right. One that is wide can be
    scrolled; with *one_line* each row is a line, and long texts are cut."""
    cell = CELL + (ONE_LINE if one_line else "")
    sides = ["right" if right else "left" for right in numeric] or ["left"] * len(header)
    head = "".join(
        f"<th style='{CELL.format(side=side)};font-weight:600;white-space:nowrap'>{escape(name)}</th>"
        for name, side in zip(header, sides, strict=True)
    )
    body = "".join(
        "<tr style='background:none'>"
        + "".join(
            f"<td style='{cell.format(side=side)}'>{escape(text)}</td>"
            for text, side in zip(row, sides, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    top = f"<tr style='background:none'>{head}</tr>" if any(header) else ""
    return f"<div style='overflow-x:auto'><table style='{TABLE}'>{top}{body}</table></div>"


def link(address: str, text: str) -> str:
    """A link, if the address is that of a web page."""
    if not address.startswith(("http://", "https://")):
        return escape(address)
    return f"<a href='{escape(address)}' target='_blank' rel='noopener'>{escape(text)}</a>"


def clip(text: str, most: int = 300) -> str:
    """A text on one line of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
