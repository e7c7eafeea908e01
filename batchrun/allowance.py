"""How many bad rows a run may have before it is given up."""

from __future__ import annotations

import math

from batchrun.errors import PipelineError

__all__ = ["read_allowance", "rows_allowed"]


def read_allowance(value: object) -> int | float | None:
    """A number of rows, as an int, or a share of them, as a float from 0 to 1; None for no limit.

    Raises PipelineError for anything else.

    >>> read_allowance(100), read_allowance("5%"), read_allowance(0.05), read_allowance("100")
    (100, 0.05, 0.05, 100)
    """
    given = value
    if isinstance(value, str):
        text = value.strip()
        try:
            value = float(text[:-1]) / 100 if text.endswith("%") else int(text)
        except ValueError:
            value = False
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    raise PipelineError(
        f"max_quarantined={given!r} is neither a number of rows, like 100, nor a share, like '5%'"
    )


def rows_allowed(allowance: int | float | None, rows: int) -> int | None:
    """The most rows of *rows* that may be quarantined; None for no limit.

    >>> rows_allowed(0.05, 1000), rows_allowed(7, 1000), rows_allowed(None, 1000)
    (50, 7, None)
    """
    return math.floor(allowance * rows) if isinstance(allowance, float) else allowance
