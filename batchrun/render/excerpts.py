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
MOST_LOOKS = 60
"""Chunks that are looked at for a log, at most: not every stage says something."""


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
    found: list[Excerpt] = []
    for chunk, outcome in _interesting(report)[:MOST_LOOKS]:
        text = report.logs(chunk)
        if text.strip():
            found.append(Excerpt(chunk, outcome, shorten(text.rstrip(), MOST_CHARACTERS)))
        if len(found) == MOST_CHUNKS:
            break
    return found


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


def _interesting(report: RunReport) -> list[tuple[int, Outcome]]:
    known = {outcome.value: outcome for outcome in Outcome}
    plain = (Outcome.SUCCEEDED, Outcome.CANCELLED)
    chunks = [
        (int(chunk), known[name])
        for chunk, name in zip(report.chunks["chunk"], report.chunks["outcome"].astype(str), strict=True)
        if name in known and known[name] not in plain
    ]
    return sorted(chunks, key=lambda item: item[1].solved)
