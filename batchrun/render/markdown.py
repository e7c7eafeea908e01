"""A run as Markdown, short enough for a pull request or a message.

Whatever users chose stands in code spans or code blocks: there a site makes neither a link, nor a mention,
nor markup of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from batchrun.render.account import (
    STAGE_COLUMNS,
    advice,
    attempts_line,
    chunks_line,
    conservation,
    count,
    headline,
    moment,
    stage_accounts,
    stage_cells,
    stopped_line,
    work_line,
)
from batchrun.render.grid import Grid, grid_of, preview
from batchrun.render.wording import one_line
from batchrun.resources import format_seconds

if TYPE_CHECKING:
    from batchrun.report import RunReport

__all__ = ["block", "code", "render_markdown", "table"]

RESULT_ROWS = 5
"""Rows of the result that are shown."""
EXHIBIT_ROWS = 20
"""Rows of a table of the pipeline that are shown."""
FAILURES = 5
"""Distinct failures that are shown."""
MOST_OF_A_CELL = 80
"""Characters of a cell of user data."""
TRACEBACK = 2**12
"""Characters of a traceback, its end."""


def render_markdown(report: RunReport) -> str:
    """*report* as GitHub-flavoured Markdown. Reads only the first rows of the results."""
    parts = [
        f"### {headline(report)}",
        f"**{conservation(report)}**",
        table(("", ""), _facts(report)),
        _stages(report),
        *_sizing(report),
        *_failures(report),
        *_results(report),
        *_exhibits(report),
    ]
    if advice(report):
        parts.append(code(advice(report), 400))
    return "\n\n".join(part for part in parts if part) + "\n"


def code(text: str, most: int = MOST_OF_A_CELL) -> str:
    """A text in a code span, on one line of at most so many characters, fit for a table.

    >>> print(code("a|b"), code("tick ` tock"))
    `a\\|b` `` tick ` tock ``
    """
    line = one_line(text, most)
    if not line:
        return ""
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def block(text: str) -> str:
    """A text in a code block that it cannot end.

    >>> print(block("x = 1"))
    ```
    x = 1
    ```
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table; the columns of the numbers in *right* stand to the right.

    >>> print(table(("stage", "took"), [("solve", "3 s")], right=[1]))
    | stage | took |
    | --- | ---: |
    | solve | 3 s |
    """
    rule = ["---:" if number in right else "---" for number in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _facts(report: RunReport) -> list[tuple[str, str]]:
    facts = [
        ("run", code(report.run_id)),
        ("pipeline", code(report.target or report.pipeline)),
        ("input", f"{code(str(report.input.get('description', '')))}, {count(report.rows_in, 'row')}"),
        ("split", code(str(report.split))),
        ("parameters", ", ".join(code(f"{name} = {value!r}") for name, value in report.params.items())),
        ("cluster", code(str(report.cluster))),
        ("chunks", chunks_line(report)),
        ("stopped", stopped_line(report)),
        ("attempts", attempts_line(report)),
        ("time", f"{format_seconds(report.seconds)}, from {moment(report.started)}; {work_line(report)}"),
    ]
    return [(name, said) for name, said in facts if said]


def _stages(report: RunReport) -> str:
    cells = [stage_cells(stage) for stage in stage_accounts(report)]
    rows = [(code(name), code(needs), *numbers) for name, needs, *numbers in cells]
    return table(STAGE_COLUMNS, rows, right=range(2, len(STAGE_COLUMNS)))


def _sizing(report: RunReport) -> list[str]:
    """What to ask for next time; users chose the subjects, and only these."""
    lines = [f"- {code(advice.subject)}: {advice.text}" for advice in report.sizing]
    return ["Next time:", "\n".join(lines)] if lines else []


def _failures(report: RunReport) -> list[str]:
    """The error that ended the run, and the distinct failures with the traceback of the first."""
    parts = []
    if report.error is not None:
        parts.append(f"**The run ended with** {code(str(report.error), 300)}")
        parts += _folded("Traceback", report.error.traceback)
    kinds = report.failure_kinds
    if not kinds:
        return parts
    rows = [
        (
            code(f"{kind.error_type}: {kind.error}", 200),
            code(str(kind.stage)),
            f"{kind.chunks:,}",
            f"{kind.rows:,}",
        )
        for kind in kinds[:FAILURES]
    ]
    parts.append(table(("failure", "stage", "chunks", "rows"), rows, right=(2, 3)))
    if len(kinds) > FAILURES:
        parts.append(f"and {count(len(kinds) - FAILURES, 'other error')}")
    if report.error is not None and report.error.traceback == kinds[0].traceback:
        return parts
    return [*parts, *_folded("Traceback of the first", kinds[0].traceback)]


def _folded(title: str, text: object) -> list[str]:
    """A long text that is folded away; none if there is none."""
    if not isinstance(text, str) or not text.strip():
        return []
    shown = text if len(text) <= TRACEBACK else "…" + text[-TRACEBACK:]
    return [f"<details><summary>{title}</summary>", block(shown), "</details>"]


def _results(report: RunReport) -> list[str]:
    """The first rows of the results; the reason where they do not fit one table."""
    grid = preview(report, RESULT_ROWS)
    if not grid.rows:
        return [f"Results: {code(grid.note, 300)}"] if grid.note else []
    return _shown("Results", grid)


def _exhibits(report: RunReport) -> list[str]:
    """The tables that the pipeline adds; its figures need a page."""
    exhibits = report.exhibits
    if exhibits.error is not None:
        return [f"The pipeline's report failed: {code(str(exhibits.error), 300)}"]
    parts: list[str] = []
    for entry in exhibits.entries:
        if entry.table is not None and entry.table.num_rows:
            grid = grid_of(entry.table.slice(0, EXHIBIT_ROWS), entry.table.num_rows, "row")
            parts += _shown(code(entry.title), grid)
    return parts


def _shown(title: str, grid: Grid) -> list[str]:
    """A table of user data below its title."""
    shown = table(
        [code(name) for name in grid.header],
        [[code(cell) for cell in row] for row in grid.rows],
        right=[number for number, numeric in enumerate(grid.numeric) if numeric],
    )
    return [f"{title}{f', {grid.note}' if grid.note else ''}:", shown]
