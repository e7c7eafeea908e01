"""How the sentences say numbers, shares, times and what users and errors said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from batchrun.outcome import relative_gap

__all__ = ["account", "answer", "clip", "count", "listing", "number", "percent", "quote"]

MOST_TEXT = 240
"""Characters of an error or message that a sentence quotes."""


def count(amount: int, noun: str) -> str:
    """So many of something.

    >>> count(1, "row"), count(1200, "row"), count(3, "try")
    ('1 row', '1,200 rows', '3 tries')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{amount:,} {noun if amount == 1 else plural}"


def account(rows: int, fates: Mapping[str, int]) -> str:
    """What became of rows.

    >>> account(120, {"solved": 108, "quarantined": 12, "cancelled": 0}), account(1, {"solved": 1})
    ('of 120 rows 108 are solved and 12 quarantined', 'of 1 row 1 is solved')
    """
    told = [(amount, fate) for fate, amount in fates.items() if amount] or [(0, next(iter(fates)))]
    (amount, fate), *others = told
    first = f"{amount:,} {'is' if amount == 1 else 'are'} {fate}"
    return f"of {count(rows, 'row')} {listing([first, *(f'{more:,} {other}' for more, other in others)])}"


def listing(items: Sequence[object]) -> str:
    """Things one after the other.

    >>> listing([1]), listing([1, 2]), listing([1, 2, 3])
    ('1', '1 and 2', '1, 2 and 3')
    """
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def percent(share: float) -> str:
    """A share of one in per cent, two digits of it.

    >>> percent(0.0412), percent(0.4), percent(0.00004), percent(37)
    ('4.1 %', '40 %', '0.004 %', '3,700 %')
    """
    amount = 100 * share
    return f"{amount:,.0f} %" if amount >= 99.5 else f"{amount:.2g} %"


def number(value: float) -> str:
    """A value of the user's.

    >>> number(1234.0), number(0.25)
    ('1,234', '0.25')
    """
    return f"{value:,.10g}"


def answer(objective: float | None, bound: float | None) -> str:
    """An objective with what is known of how good it is; empty if there is none.

    >>> answer(1000.0, 930.0), answer(5.0, None), answer(None, 930.0)
    ('objective 1,000, bound 930, gap 7 %', 'objective 5', '')
    """
    if objective is None:
        return ""
    parts = [f"objective {number(objective)}"]
    if bound is not None:
        parts.append(f"bound {number(bound)}")
    gap = relative_gap(objective, bound)
    if gap is not None and math.isfinite(gap):
        parts.append(f"gap {percent(gap)}")
    return ", ".join(parts)


def clip(text: str) -> str:
    """What a user or an error said, on one line and without a full stop, so that it fits a sentence.

    >>> clip("no such pit.\\n  pits: 1, 2")
    'no such pit'
    """
    lines = text.strip().splitlines()
    line = "".join(letter for letter in lines[0] if letter.isprintable()).strip() if lines else ""
    if len(line) > MOST_TEXT:
        return line[: MOST_TEXT - 1].rstrip() + "…"
    return line.removesuffix(".") if not line.endswith("..") else line


def quote(text: str) -> str:
    """Words of the user's, marked as such.

    >>> quote("step 4")
    '“step 4”'
    """
    return f"“{clip(text)}”"
