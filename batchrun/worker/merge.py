"""The frames of several chunks, made of one table and into one: to convert costs more than a short stage."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from batchrun.data.table import Labels, labels_of, to_frame, to_table, with_each_labels, with_labels

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from batchrun.signature import FrameKind

__all__ = ["cut", "merge"]

SPARSE = 2
"""A table with so many times the rows that are wanted is made smaller before it is converted."""


def cut(table: Any, places: Sequence[tuple[int, int]], kind: FrameKind) -> list[Any]:
    """A frame for each place of a table: first row, rows. Each is what the rows alone would be.

    *table* is an Arrow table, or a polars frame where *kind* is ``"polars"``.
    """
    import pandas as pd

    if kind == "polars":
        return [table.slice(first, rows) for first, rows in places]
    labels = labels_of(table.schema)
    starts = [first for first, _ in places]
    if sum(rows for _, rows in places) * SPARSE < table.num_rows:
        table = _kept(table, places)
        starts = list(itertools.accumulate((rows for _, rows in places), initial=0))[:-1]
    else:
        labels = None  # the whole frame has them
    whole = to_frame(table, kind)
    if kind == "arrow":
        return [whole.slice(start, rows) for start, (_, rows) in zip(starts, places, strict=True)]
    frames = [whole.iloc[start : start + rows] for start, (_, rows) in zip(starts, places, strict=True)]
    if labels is not None:
        for frame, (first, rows) in zip(frames, places, strict=True):
            own = labels.after(first)
            frame.index = pd.RangeIndex(own.start, own.start + rows * own.step, own.step, name=own.name)
    return frames


def merge(frames: Sequence[Any], *, owner: str) -> list[tuple[list[int], pa.Table]]:
    """Results of chunks as tables, as few as there can be: the positions of the results in each, one below
    the other, and the table.

    Results that would not be alike as tables of their own are not put into one. Raises ResultError, as
    ``to_table`` does, if one of them is no table.
    """
    tables: list[tuple[list[int], pa.Table]] = []
    for positions in _alike(frames):
        if len(positions) == 1:
            tables.append((positions, to_table(frames[positions[0]], owner=owner)))
            continue
        try:
            tables += _joined(frames, positions, owner)
        except Exception:
            # Columns of Python objects can be alike and still make no common column.
            tables += [([position], to_table(frames[position], owner=owner)) for position in positions]
    return tables


def _kept(table: pa.Table, places: Sequence[tuple[int, int]]) -> pa.Table:
    """The rows of some places only, without labels."""
    import pyarrow as pa

    plain = with_labels(table, None)
    return pa.concat_tables([plain.slice(first, rows) for first, rows in places]).combine_chunks()


def _alike(frames: Sequence[Any]) -> list[list[int]]:
    """The positions of frames that are of one make."""
    groups: dict[Any, list[int]] = {}
    makes = _Makes()
    for position, frame in enumerate(frames):
        groups.setdefault(makes.of(frame, position), []).append(position)
    return list(groups.values())


class _Makes:
    """Tells makes of frames: their kind, columns and types."""

    def __init__(self) -> None:
        self._columns: list[Any] = []

    def of(self, frame: Any, position: int) -> Any:
        """Equal for frames of one make; unlike any other for what cannot be joined."""
        package = type(frame).__module__.partition(".")[0]
        name = type(frame).__name__
        if package == "pandas" and name == "DataFrame" and frame.columns.size and not frame.attrs:
            index = frame.index
            return (self._number(frame.columns), _types(frame), type(index), tuple(index.names)) + (
                () if type(index).__name__ == "RangeIndex" else (str(index.dtype),)
            )
        if package == "polars" and name == "DataFrame" and frame.width:
            return "polars", tuple(frame.schema.items())
        if package == "pyarrow" and name == "Table" and frame.num_columns:
            return "arrow", frame.schema, bytes(frame.schema.serialize())
        return position

    def _number(self, columns: pd.Index) -> int:
        """Which of the indexes of columns that were seen it is; most frames share one."""
        for number, seen in enumerate(self._columns):
            if columns is seen or (columns.equals(seen) and columns.names == seen.names):
                return number
        self._columns.append(columns)
        return len(self._columns) - 1


def _types(frame: pd.DataFrame) -> tuple[Any, ...]:
    """The types of the columns. ``dtypes`` makes a Series of them, which takes as long as a short stage."""
    try:
        return tuple(frame._mgr.get_dtypes())
    except AttributeError:
        return tuple(frame.dtypes)


def _joined(frames: Sequence[Any], positions: list[int], owner: str) -> Iterator[tuple[list[int], pa.Table]]:
    """Tables of frames of one make."""
    package = type(frames[positions[0]]).__module__.partition(".")[0]
    if package == "pyarrow":
        import pyarrow as pa

        table = pa.concat_tables([frames[position] for position in positions]).combine_chunks()
        yield positions, to_table(table, owner=owner)
    elif package == "polars":
        import polars

        yield positions, to_table(polars.concat([frames[n] for n in positions], rechunk=True), owner=owner)
    else:
        yield from _joined_pandas(frames, positions, owner)


def _joined_pandas(
    frames: Sequence[Any], positions: list[int], owner: str
) -> Iterator[tuple[list[int], pa.Table]]:
    """Tables of pandas frames; range labels run through each, or begin anew with each frame."""
    import pandas as pd

    index = frames[positions[0]].index
    if not isinstance(index, pd.RangeIndex):
        yield positions, to_table(pd.concat([frames[n] for n in positions]), owner=owner)
        return
    anew = all(frames[n].index.start == index.start and frames[n].index.step == index.step for n in positions)
    for run in [positions] if anew else _runs(frames, positions):
        whole = pd.concat([frames[n] for n in run], ignore_index=True)
        first = frames[run[0]].index
        labels = Labels(int(first.start), int(first.step), first.name)
        table = with_labels(to_table(whole, owner=owner).combine_chunks(), None)
        label = with_each_labels if anew and len(run) > 1 else with_labels
        yield run, label(table, labels)


def _runs(frames: Sequence[Any], positions: list[int]) -> list[list[int]]:
    """The positions, cut where the labels of a frame do not go on from those of the one before."""
    runs = [[positions[0]]]
    for before, position in itertools.pairwise(positions):
        old, new = frames[before].index, frames[position].index
        goes_on = old.start + len(old) * old.step == new.start and old.step == new.step
        if goes_on:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs
