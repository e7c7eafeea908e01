"""Two runs side by side in a terminal: what differs, and how much is alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchrun.render.account import count
from batchrun.render.terminal import table_of
from batchrun.render.wording import one_line

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from batchrun.comparison import Comparison, Line, ResultDifference

__all__ = ["comparison_view"]

MOST_OF_A_CELL = 200
"""Characters of a value that are shown."""


def comparison_view(comparison: Comparison, *, everything: bool) -> Group:
    """What differs between two runs, or *everything*; the results last."""
    from rich.console import Group
    from rich.text import Text

    blocks: list[RenderableType] = []
    for title, lines in (
        ("asked for", comparison.asked),
        ("came of it", comparison.outcome),
        ("took", comparison.times),
    ):
        shown = [line for line in lines if line.differs or everything]
        if shown:
            blocks += [_table(title, comparison, shown), Text()]
        alike = sum(not line.differs for line in lines)
        if alike and not everything:
            blocks += [Text(f"{title}: {count(alike, 'thing')} alike", style="dim"), Text()]
    return Group(*blocks, *_results(comparison.results))


def _table(title: str, comparison: Comparison, lines: Sequence[Line]) -> RenderableType:
    from rich.text import Text

    table = table_of(title, comparison.first, comparison.second)
    for line in lines:
        style = "" if line.differs else "dim"
        cells = (one_line(text, MOST_OF_A_CELL) for text in (line.name, line.first, line.second))
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _results(results: ResultDifference) -> list[RenderableType]:
    from rich.text import Text

    first, second = results.rows
    if results.alike:
        return [Text(f"results: alike, {count(first, 'row')}", style="bold")]
    said: list[RenderableType] = [
        Text(f"results: {count(first, 'row')} and {count(second, 'row')}", style="bold")
    ]
    if results.unknown:
        said.append(Text(f"  values were not compared: {one_line(results.unknown, MOST_OF_A_CELL)}"))
    for whose, names in (("first", results.only_first), ("second", results.only_second)):
        if names:
            listed = ", ".join(one_line(name, 40) for name in names)
            said.append(Text(f"  only the {whose} has the {_columns(names)} {listed}"))
    for column in results.columns:
        by = "" if column.largest is None else f", by {column.largest:g} at most"
        said.append(Text(f"  {one_line(column.name, 40)} differs in {count(column.rows, 'row')}{by}"))
    return said


def _columns(names: Sequence[str]) -> str:
    return "column" if len(names) == 1 else "columns"
