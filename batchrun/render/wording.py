"""Numbers and states of a run on its way, in words: one wording for all faces."""

from __future__ import annotations

import math

from batchrun.events import SlotUse
from batchrun.progress import Progress, describe_gap
from batchrun.resources import MEMORY, format_bytes, format_seconds

__all__ = [
    "describe_left",
    "describe_rate",
    "describe_slot",
    "describe_stop",
    "describe_stopped",
    "describe_time",
    "one_line",
]


def one_line(text: str, most: int = 200) -> str:
    """A text of a user as one line of at most so many characters, without anything that steers a terminal.

    >>> one_line("a\\n b\\x1b[31m c"), one_line("abcdef", 4)
    ('a b [31m c', 'abc…')
    """
    # Only what can be kept is looked at, however long the text is.
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * most])
    line = " ".join(printable.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def describe_stopped(chunks: int, worst_gap: float | None) -> str:
    """How many chunks were stopped with a solution, and how good the worst of these is at least.

    >>> describe_stopped(2, 0.041), describe_stopped(1, None)
    ('2 stopped with a solution, worst gap 4.1 %', '1 stopped with a solution')
    """
    gap = "" if worst_gap is None else f", worst gap {describe_gap(worst_gap)}"
    return f"{chunks:,} stopped with a solution{gap}"


def describe_slot(slot: SlotUse) -> str:
    """Supply and demand of one kind of slot, for people.

    >>> describe_slot(SlotUse("HIGHMEM", capacity=1, used=1, waiting=3))
    'HIGHMEM 1/1, 3 waiting'
    """
    if slot.tag == MEMORY:
        text = f"{slot.tag} {format_bytes(slot.used)}/{format_bytes(slot.capacity)}"
        return f"{text}, {format_bytes(slot.waiting)} waiting" if slot.waiting else text
    text = f"{slot.tag} {slot.used:g}/{slot.capacity:g}"
    return f"{text}, {slot.waiting:g} waiting" if slot.waiting else text


def describe_rate(rows_per_second: float) -> str:
    """A rate, with a digit after the point where whole rows would hide it.

    >>> describe_rate(12345.6), describe_rate(0.32), describe_rate(0)
    ('12,346 rows/s', '0.3 rows/s', '0 rows/s')
    """
    digits = 1 if 0 < rows_per_second < 9.95 else 0
    return f"{rows_per_second:,.{digits}f} rows/s"


def describe_time(progress: Progress, now: float) -> str:
    """The time that a run has taken so far, and the estimate of what is left or why there is none."""
    left = progress.seconds_left(now)
    if not progress.chunks_planned:
        rest = "starting"
    elif progress.stopping is not None:
        rest = "stopping"
    elif progress.share >= 1:
        rest = "finishing"
    elif left is None:
        rest = "no chunk has ended yet"
    else:
        rest = describe_left(left)
    return f"{_whole(math.floor(progress.seconds_elapsed(now)))} elapsed, {rest}"


def describe_left(seconds: float) -> str:
    """About how long something still takes; 0 seconds where it takes longer than it should.

    >>> describe_left(12.3), describe_left(200), describe_left(0)
    ('13 s left', '3 min 20 s left', 'longer than estimated')
    """
    return f"{_whole(math.ceil(seconds))} left" if seconds else "longer than estimated"


def describe_stop(progress: Progress, now: float, *, again: str) -> str:
    """What happens after the run was asked to stop; *again* says what a second interrupt does, where it does
    something."""
    running, left = len(progress.running), math.ceil(progress.grace_left(now))
    if not running:
        return "stopping: no chunk is running any more"
    chunks = "1 running chunk" if running == 1 else f"{running:,} running chunks"
    if not left:
        return f"stopping: {chunks} did not end in time"
    said = f"stopping: {chunks} {'has' if running == 1 else 'have'} up to {_whole(left)} to end"
    return f"{said}; {again}" if progress.stopping and progress.stopping.interruptible else said


def _whole(seconds: int) -> str:
    return f"{seconds} s" if seconds < 60 else format_seconds(seconds)
