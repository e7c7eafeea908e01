"""The memory that stages asked for, beside the most that they used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from batchrun.outcome import Cause, Outcome
from batchrun.resources import Demand, format_bytes
from batchrun.sizing.use import Advice, RunUse, StageUse

__all__ = ["memory", "right_size", "written"]

LEAST = 256 * 2**20
"""Bytes below which nothing is advised: Python, pandas and Arrow alone take more than half of it."""
MARGIN = 1.2
"""What is advised is so many times the highest peak."""
WORTH = 0.8
"""A smaller memory is worth a word if it is no more than this share of the one that was asked for."""
NEAR = 0.9
"""A peak of more than this share of the memory is near the limit."""
ENOUGH = 3
"""Attempts that must have been measured before their peak says something of others."""


def memory(run: RunUse) -> tuple[list[Advice], list[Advice]]:
    """What to ask for where memory was passed or nearly so, and where less would let more run at once.

    Stages of one leg share a process, so they are spoken of together. One that was not measured is not
    spoken of.
    """
    urgent, possible = [], []
    legs = itertools.groupby(run.stages, key=lambda stage: stage.leg)
    for stages in (list(group) for _, group in legs):
        if (short := _too_small(run, stages)) is not None:
            urgent.append(short)
        elif (large := _too_large(run, stages)) is not None:
            possible.append(large)
    return urgent, possible


def right_size(peak: float) -> int:
    """Bytes to ask for where so many were used: a margin above, in quarters of a power of two.

    >>> written(right_size(1.1 * 2**30)), written(right_size(10 * 2**20))
    ('1.5GiB', '256MiB')
    """
    need = max(LEAST, MARGIN * peak)
    step: int = 2 ** math.floor(math.log2(need)) // 4
    return math.ceil(need / step) * step


def written(size: int) -> str:
    """A size as one writes it in a stage.

    >>> written(6 * 2**30)
    '6GiB'
    """
    return format_bytes(size).replace(" ", "")


def _too_small(run: RunUse, stages: Sequence[StageUse]) -> Advice | None:
    subject, first = _subject(stages), stages[0]
    asked, peak, _ = _measured(stages)
    attempts = max(stage.figures.attempts for stage in stages)
    passed = sum(max(stage.ended(Outcome.OUT_OF_MEMORY), stage.because(Cause.MEMORY)) for stage in stages)
    said = f"{passed:,} of {_attempts(attempts)}"
    if passed and not asked:
        return Advice(
            subject, f"{said} ran out of memory: give it a memory, and it runs only where that is free"
        )
    if passed and first.auto:
        return Advice(
            subject,
            f'{said} passed the {format_bytes(asked)} that memory="auto" began with: nothing to change, the '
            "next run begins with what was measured",
        )
    wanted = right_size(max(peak, asked))
    most = max((kind.memory for kind in run.workers if kind.slots(Demand(0, first.demand.tags))), default=0)
    if passed and most and wanted > most:
        return Advice(
            subject,
            f"{said} passed {format_bytes(asked)}, and no worker that may run it has {format_bytes(wanted)}: "
            f"start a larger worker{_or_cut(run)}",
        )
    if passed:
        return Advice(
            subject,
            f"{said} passed {format_bytes(asked)}: ask for {written(wanted)} or more"
            f"{_fewer(run, first.demand, wanted)}{_or_cut(run)}",
        )
    if asked and not first.auto and NEAR * asked < peak and (not most or right_size(peak) <= most):
        return Advice(
            subject,
            f"peaked at {format_bytes(peak)} of {format_bytes(asked)}, so a little more data would pass it: "
            f"ask for {written(right_size(peak))}{_fewer(run, first.demand, right_size(peak))}",
        )
    return None


def _too_large(run: RunUse, stages: Sequence[StageUse]) -> Advice | None:
    asked, peak, measured = _measured(stages)
    first = stages[0]
    if not asked or measured < ENOUGH or first.auto:
        return None
    wanted = right_size(peak)
    if wanted > WORTH * asked:
        return None
    most = f"the largest of {_attempts(measured)} peaked at {format_bytes(peak)}"
    seen = f"asked {format_bytes(asked)}, and {most}"
    if not run.workers:
        return Advice(_subject(stages), f"{seen}: {written(wanted)} would do")
    now, then = run.slots(first.demand), run.slots(Demand(wanted, first.demand.tags))
    if then <= now:
        return None
    return Advice(
        _subject(stages),
        f"{seen}: lower it to {written(wanted)}, and {then:,} would run at once on these workers, not "
        f"{now:,}",
    )


def _measured(stages: Sequence[StageUse]) -> tuple[int, int, int]:
    """Bytes that a leg asked for, the most that it used, and how many attempts at a stage were measured."""
    peaks = [stage.figures.peak_memory or 0 for stage in stages]
    return stages[0].demand.memory, max(peaks), max(stage.figures.measured for stage in stages)


def _fewer(run: RunUse, demand: Demand, wanted: int) -> str:
    """What more memory costs, where that is known."""
    now, then = run.slots(demand), run.slots(Demand(wanted, demand.tags))
    return f" ({then:,} would run at once, not {now:,})" if then < now else ""


def _or_cut(run: RunUse) -> str:
    """The other way, where chunks have more than a row."""
    return ", or make its chunks smaller" if run.rows > run.chunks else ""


def _subject(stages: Sequence[StageUse]) -> str:
    return ", ".join(stage.name for stage in stages)


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number:,} attempts"
