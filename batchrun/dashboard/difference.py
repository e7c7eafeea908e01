"""What a browser has of a data source and what it should have: only where they differ is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["send_difference"]


def send_difference(source: Any, columns: Mapping[str, Any]) -> None:
    """Bring a ColumnDataSource to *columns*, lists or arrays of equal length, with as little as that takes.

    Rows that changed are patched and rows behind the old ones are streamed. Where rows went away, or most
    values changed, all of them are sent.
    """
    fresh = {
        name: values.tolist() if isinstance(values, np.ndarray) else list(values)
        for name, values in columns.items()
    }
    before = source.data
    had, has = _rows(before), _rows(fresh)
    if before.keys() != fresh.keys() or has < had:
        source.data = fresh
        return
    patches = {name: patch for name in fresh if (patch := _changed(before[name], fresh[name]))}
    if 2 * sum(map(len, patches.values())) > had * len(fresh):
        source.data = fresh
        return
    if patches:
        source.patch(patches)
    if has > had:
        source.stream({name: values[had:] for name, values in fresh.items()})


def _rows(columns: Mapping[str, Sequence[Any]]) -> int:
    return len(next(iter(columns.values()), ()))


def _changed(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[int, Any]]:
    """Index and value of what differs in the rows that both have; a missing number is like another."""
    return [
        (index, new)
        for index, (old, new) in enumerate(zip(before, after, strict=False))
        if old != new and not (old != old and new != new)  # noqa: PLR0124  only NaN differs from itself
    ]
