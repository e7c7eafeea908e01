"""Chunks that run now, one line each: for the terminal, for a log that is no terminal, for the notebook."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from batchrun.events import ChunkReported
from batchrun.progress import RunningLine, describe_gap, describe_share
from batchrun.render.wording import one_line
from batchrun.resources import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from batchrun.store.live import RunningChunk

__all__ = ["MOST_RUNNING", "MessageLog", "running_html", "running_line", "running_table", "running_texts"]

MOST_RUNNING = 5
"""Running chunks that a live display shows."""
MESSAGE_EVERY = 10.0
"""Seconds between two lines of a log about the same chunk."""
MOST_MESSAGES = 5
"""Lines of a log about running chunks in that time, all chunks together."""
BLOCKS = 4
"""Characters of the bar of a running chunk."""


def running_table(lines: Sequence[RunningLine]) -> Table:
    """Running chunks for the terminal, a line each and as wide as that is; the messages take what room is
    left."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    rows = [(_place(line), *_figures(line)) for line in lines]
    # A column that is empty for every chunk would only take room from the messages.
    filled = [any(column) for column in zip(*rows, strict=True)]
    table.add_column(no_wrap=True, overflow="ellipsis")
    for at, full in enumerate(filled[1:], start=1):
        if full:
            table.add_column(no_wrap=True, justify="left" if at == 1 else "right")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for line, row in zip(lines, rows, strict=True):
        cells = [Text(cell) for cell, full in zip(row, filled, strict=True) if full]
        message = one_line(line.message)
        table.add_row(*cells, Text(f'"{message}"' if message else "", style="dim"))
    return table


def running_texts(lines: Sequence[RunningLine], names: Sequence[str] = ()) -> list[Text]:
    """Running chunks for the terminal, each a line that is cut where that ends.

    *names* stand before them, where chunks of several runs are shown.
    """
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    rows = [(*([names[at]] if names else []), _place(line), *_figures(line)) for at, line in enumerate(lines)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    texts = []
    for line, row in zip(lines, rows, strict=True):
        cells = [
            set_cell_size(cell, width) if at < len(row) - 3 else " " * (width - cell_len(cell)) + cell
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            if width
        ]
        message = one_line(line.message)
        text = Text("  " + "  ".join(cells), no_wrap=True, overflow="ellipsis")
        texts.append(text.append(f'  "{message}"' if message else "", "dim"))
    return texts


def running_line(chunk: RunningChunk, now: float) -> RunningLine:
    """A chunk that a driver told of, as it is at *now*, in seconds since the epoch."""
    return RunningLine(
        chunk.chunk,
        chunk.worker,
        max(0.0, now - chunk.started),
        chunk.stage,
        chunk.share,
        chunk.message,
        chunk.memory,
        chunk.objective,
        chunk.bound,
    )


def running_html(lines: Sequence[RunningLine]) -> str:
    """Running chunks as rows of an HTML table with styles of its own; empty without any."""
    cell = "text-align:{};padding:1px 12px 1px 0;border:0;background:none;white-space:nowrap"
    rows = []
    for line in lines:
        bar, *figures = _figures(line)
        cells = [(_place(line), "left"), *((figure, "right") for figure in figures)]
        shown = [f"<td style='{cell.format(side)}'>{escape(text)}</td>" for text, side in cells]
        shown.insert(1, f"<td style='{cell.format('left')}'>{_html_bar(line.share) if bar else ''}</td>")
        message = escape(one_line(line.message))
        shown.append(
            "<td style='text-align:left;padding:1px 0;border:0;background:none;opacity:.65;width:100%;"
            f"min-width:120px;overflow-wrap:anywhere'>{message}</td>"
        )
        rows.append(f"<tr style='background:none'>{''.join(shown)}</tr>")
    if not rows:
        return ""
    # Notebooks lay tables out by fixed widths unless told otherwise, and then the columns overlap.
    style = (
        "margin:6px 0;table-layout:auto;border-collapse:collapse;border:0;font-size:12px;color:inherit;"
        "width:100%"
    )
    return f"<table style='{style}'>{''.join(rows)}</table>"


class MessageLog:
    """Chooses what a log says about running chunks: a new message of a chunk at most every ten seconds, and
    no more than five lines in that time for all chunks together, so that the log can still be read."""

    def __init__(self) -> None:
        self._said: dict[int, tuple[float, str]] = {}
        self._lately: deque[float] = deque(maxlen=MOST_MESSAGES)

    def line(self, event: ChunkReported) -> str:
        """The line about what a chunk said, without a line break; empty if it is not due."""
        message = one_line(event.status.message)
        at, before = self._said.get(event.chunk, (-math.inf, ""))
        full = len(self._lately) == MOST_MESSAGES and event.at - self._lately[0] < MESSAGE_EVERY
        if not message or message == before or full or event.at - at < MESSAGE_EVERY:
            return ""
        if len(self._said) > 1_000:
            self._said = {
                chunk: said for chunk, said in self._said.items() if event.at - said[0] < MESSAGE_EVERY
            }
        self._said[event.chunk] = event.at, message
        self._lately.append(event.at)
        status = event.status
        line = RunningLine(
            event.chunk,
            event.worker,
            status.seconds,
            status.stage,
            status.share,
            message,
            status.memory,
            status.objective,
            status.bound,
        )
        share = "" if status.share is None else describe_share(status.share)
        parts = [share, *(figure.strip() for figure in _figures(line)[1:])]
        return f'run {event.run_id}: {_place(line)}: {", ".join(filter(None, parts))}, "{message}"'


def _place(line: RunningLine) -> str:
    """Which chunk it is, and where it runs."""
    stage = f" {one_line(line.stage, 40)}" if line.stage else ""
    worker = f" on {one_line(line.worker, 40)}" if line.worker else ""
    others = f" and {line.others:,} more" if line.others else ""
    return f"chunk {line.chunk:,}{others}{stage}{worker}"


def _figures(line: RunningLine) -> tuple[str, str, str, str]:
    """Progress, gap, memory and time; empty where not known."""
    share = "" if line.share is None else f"{_blocks(line.share)} {describe_share(line.share)}"
    gap = "" if line.gap is None else f"gap {describe_gap(line.gap)}"
    if line.gap is None and line.objective is not None:
        gap = f"best {line.objective:.6g}"
    memory = "" if line.memory is None else format_bytes(line.memory)
    seconds = math.floor(line.seconds)
    return share, gap, memory, f"{seconds} s" if seconds < 60 else format_seconds(seconds)


def _blocks(share: float) -> str:
    full = math.floor(BLOCKS * share + 1e-9)
    return "▇" * full + "▁" * (BLOCKS - full)


def _html_bar(share: float | None) -> str:
    if share is None:
        return ""
    return (
        "<span style='display:inline-block;vertical-align:middle;width:60px;height:5px;border-radius:3px;"
        "overflow:hidden;background:rgba(128,128,128,.25);margin-right:8px'>"
        f"<span style='display:block;height:5px;width:{100 * share:.1f}%;background:#4c8fd6'></span></span>"
        f"{describe_share(share)}"
    )
