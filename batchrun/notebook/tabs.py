"""Tabs without a script: folds of which one is open at a time, side by side where the page lets us style it.

A front end that does not trust a notebook, or a site such as GitHub, takes the style away: then they are
folds, one below the other. On paper all are open.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Tab", "tabs"]

FOLD = "margin:2px 0;border:0"
SUMMARY = "cursor:pointer;padding:2px 0;font-weight:600"
STYLE = """
@supports selector(::details-content) {
.batchrun-tabs{display:flex;flex-wrap:wrap;gap:0 18px;margin-top:8px}
.batchrun-tabs::after{content:"";order:1;width:100%;border-top:1px solid rgba(128,128,128,.35)}
.batchrun-tabs>details{display:contents}
.batchrun-tabs>details>summary{list-style:none;display:block;opacity:.65;border-bottom:2px solid transparent}
.batchrun-tabs>details>summary::-webkit-details-marker{display:none}
.batchrun-tabs>details>summary:hover{opacity:1}
.batchrun-tabs>details[open]>summary{opacity:1;border-color:currentColor;pointer-events:none}
.batchrun-tabs>details::details-content{order:2;width:100%;min-width:0;padding-top:8px}
.batchrun-tabs>details:not([open])::details-content{display:none}
}
@media print{
.batchrun-tabs{display:block}
.batchrun-tabs>details{display:block}
.batchrun-tabs>details::details-content{display:block!important;content-visibility:visible!important}
}
"""


@dataclass(frozen=True)
class Tab:
    """One of several things of which one is shown."""

    title: str
    """Its name, a word or two."""
    html: str
    """What it holds; a tab with nothing is left out."""


def tabs(shown: Sequence[Tab]) -> str:
    """The tabs as HTML, the first one open."""
    group = f"batchrun-{secrets.token_hex(6)}"  # a page may have several reports, or one twice
    folds = "".join(
        f"<details name='{group}' style='{FOLD}'{'' if number else ' open'}>"
        f"<summary style='{SUMMARY}'>{escape(tab.title)}</summary><div>{tab.html}</div></details>"
        for number, tab in enumerate(tab for tab in shown if tab.html)
    )
    return f"<style>{STYLE}</style><div class='batchrun-tabs'>{folds}</div>"
