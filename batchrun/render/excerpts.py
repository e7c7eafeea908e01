"""What stages printed and logged in the chunks that did not end well, short enough for a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.outcome import Outcome

if TYPE_CHECKING:
    from batchrun.report import RunReport

__all__ = ["Excerpt", "excerpts", "shorten"]

MOST_CHUNKS = 20
"""Chunks whose logs the page has."""
MOST_CHARACTERS = 8 * 2**10
"""Characters of the log of one chunk."""


@dataclass(frozen=True)
class Excerpt:
    """The log of one chunk."""

    chunk: int
    """The chunk."""
    outcome: Outcome
    """How it ended."""
    text: str
    """Its log, the middle left out if it is long."""


def excerpts(report: RunReport) -> list[Excerpt]:
    """The logs of the chunks that failed, then of those that were stopped with a solution."""
    return [
        Excerpt(chunk, outcome, shorten(report.logs(chunk).rstrip(), MOST_CHARACTERS))
        for chunk, outcome in report.logged(MOST_CHUNKS)
    ]


def shorten(text: str, most: int) -> str:
    """The head and, three times as long, the tail of a text of more than *most* characters.

    >>> shorten("abcdefgh" * 2, 8)
    'ab\\n… 8 characters left out …\\ncdefgh'
    """
    if len(text) <= most:
        return text
    head = most // 4
    tail = most - head
    return f"{text[:head]}\n… {len(text) - most:,} characters left out …\n{text[-tail:]}"
