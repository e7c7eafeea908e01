"""Values as the tables hold them, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from batchrun.outcome import ErrorRecord, RunState
from batchrun.store.records import RunRecord

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["finite", "plain_rows", "run_from_row", "run_row", "storable"]


def finite(number: float | None) -> float | None:
    """The number as JSON and every database hold it; one that is infinite or none at all is not known.

    >>> finite(2), finite(float("-inf")), finite(None)
    (2.0, None, None)
    """
    return float(number) if number is not None and math.isfinite(number) else None


def storable(text: str) -> str:
    r"""The text without what a database refuses: zero bytes and halves of surrogate pairs.

    >>> storable("5 \N{EURO SIGN}"), storable("a\0b \udc80")
    ('5 €', 'a\ufffdb ?')
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def plain_rows(found: sa.CursorResult[Any], at_a_time: int) -> Iterator[Sequence[tuple[Any, ...]]]:
    """What a query of numbers and texts found, as the driver gives it, so many rows at a time.

    A million Row objects take longer to make than the rows to be read.
    """
    with found:
        while rows := found.cursor.fetchmany(at_a_time):
            yield rows


def run_row(record: RunRecord) -> dict[str, Any]:
    """The row of a run."""
    row = {item.name: getattr(record, item.name) for item in fields(record)}
    row["state"] = record.state.value
    row["error"] = asdict(record.error) if record.error else None
    json.dumps(row["params"])
    return row


def run_from_row(row: Any) -> RunRecord:
    """The run that a row records."""
    values = dict(row._mapping)
    error = values.pop("error")
    del values["number"]
    record = RunRecord(**{**values, "state": RunState(values["state"])})
    if error:
        record = replace(record, error=ErrorRecord(**{**error, "classes": tuple(error["classes"])}))
    return record
