"""Logs as text: all at once, or as they grow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrun.store.records import ChunkLog
    from batchrun.store.runs import RunStore

__all__ = ["LogTail", "follow_logs", "plain"]

POLL_EVERY = 1.0
"""Seconds between two looks at the logs; the driver of a run tells them as often."""
MARK = 200
"""Characters of what was told last by which its place is found again in a log that lost its beginning."""
LEFT_OUT = "\n… some of it is left out …\n"

_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and moves of the cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles and links
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


class LogTail:
    """Tells what is new in logs that grow, below a line that says which attempt it is of."""

    def __init__(self) -> None:
        self._told: dict[tuple[int, str, int], str | None] = {}
        self._last: tuple[int, str, int] | None = None
        self._line_open = False

    def news(self, logs: Sequence[ChunkLog]) -> str:
        """What follows the text that was told before; empty if there is nothing new.

        It is without what could steer a terminal.

        >>> from batchrun.store.records import ChunkLog
        >>> tail = LogTail()
        >>> tail.news([ChunkLog(7, "solve", 1, "node 1\\n", live=True)])
        '== chunk 7, stage solve, attempt 1 ==\\nnode 1\\n'
        >>> tail.news([ChunkLog(7, "solve", 1, "node 1\\nnode 2\\n")])
        'node 2\\n'
        """
        parts: list[str] = []
        for log in logs:
            attempt = (log.chunk, log.stage, log.attempt)
            before = self._told.get(attempt, "")
            if before is None:
                continue
            text = plain(log.text)
            more = _after(before, text)
            self._told[attempt] = text if log.live else None
            if not more:
                continue
            if attempt != self._last:
                parts.append("\n" * (self._line_open + (self._last is not None)))
                parts.append(f"== chunk {log.chunk}, stage {log.stage}, attempt {log.attempt} ==\n")
                self._last = attempt
            parts.append(more)
            self._line_open = not more.endswith("\n")
        return "".join(parts)


def follow_logs(
    store: RunStore,
    run_id: str,
    chunk: int | None,
    *,
    write: Callable[[str], object],
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Write the logs of a run, or of one chunk, as they grow, until it has ended, or nothing drives it and
    it is not in the queue."""
    tail = LogTail()
    while True:
        # What is said before the end is there once the end is.
        over = _is_over(store, run_id, chunk)
        began = time.monotonic()
        write(tail.news(store.logs(run_id, chunk)))
        if over:
            return
        # Logs that take long to read are looked at less often.
        pause(max(POLL_EVERY, 9 * (time.monotonic() - began)))


def _is_over(store: RunStore, run_id: str, chunk: int | None) -> bool:
    from batchrun.plan import read_plan
    from batchrun.store.turns import is_under_way

    record = store.find(run_id)
    entry = store.queue.entry(run_id)
    if record.state.ended or (entry is None and not is_under_way(record, entry)):
        return True
    if chunk is None:
        return False
    live = store.live(run_id)
    if live is None or any(running.chunk == chunk for running in live.running):
        return False
    if len(store.settled(run_id, chunks=[chunk])):
        return True
    plan = read_plan(record.files)
    return 0 <= chunk < len(plan) and bool(plan.is_cut[chunk])


def _after(before: str, now: str) -> str:
    """What *now* has after *before*, where either may have lost its beginning or its middle."""
    if now.startswith(before):
        return now[len(before) :]
    mark = before[-MARK:]
    place = now.find(mark)
    return now[place + len(mark) :] if place >= 0 else LEFT_OUT + now


def plain(text: str) -> str:
    """The text without control characters; a line that overwrites itself becomes lines."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
