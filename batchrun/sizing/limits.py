"""The times that stages were given, beside the times that they took."""

from __future__ import annotations

import math

from batchrun.outcome import Cause
from batchrun.resources import format_seconds
from batchrun.sizing.use import Advice, RunUse, StageUse

__all__ = ["time_limits"]

ENOUGH = 5
"""Attempts that must have ended well before their times say something of others."""
FAR = 10
"""A timeout of so many times the longest attempt would let one that hangs go on for long."""
LEAST_TIMEOUT = 600.0
"""Seconds; a shorter timeout costs little when something hangs."""
STEPS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)
"""Times that people write, in seconds."""


def time_limits(run: RunUse) -> tuple[list[Advice], list[Advice]]:
    """What to do about limits of time that were reached, and about timeouts that nothing came near."""
    reached = [one for stage in run.stages for one in (_timed_out(stage), _deadline(stage)) if one]
    idle = [one for stage in run.stages if (one := _idle(stage)) is not None]
    return reached, idle


def _timed_out(stage: StageUse) -> Advice | None:
    passed = stage.because(Cause.TIMEOUT)
    if not passed or stage.timeout is None:
        return None
    figures = stage.figures
    limit, longest = format_seconds(stage.timeout), figures.longest_solved
    if passed == figures.attempts:
        return Advice(
            stage.name,
            f"every attempt passed its timeout of {limit}: raise it, or publish the best answer so far with "
            "ctx.incumbent, and it is kept",
        )
    said = f"{passed:,} of {figures.attempts:,} attempts passed its timeout of {limit}"
    if longest > stage.timeout / 2:
        return Advice(stage.name, f"{said}, and others took up to {format_seconds(longest)}: raise it")
    if longest < stage.timeout / FAR:
        return Advice(
            stage.name,
            f"{said}, while those that ended took {format_seconds(longest)} at most: more time is unlikely "
            "to help, see what is special about these rows",
        )
    return None


def _deadline(stage: StageUse) -> Advice | None:
    stopped = stage.because(Cause.DEADLINE)
    if stage.stop_after is None or stopped < ENOUGH or stopped < stage.figures.attempts:
        return None
    return Advice(
        stage.name,
        f"all {stopped:,} attempts were stopped by its stop_after of {format_seconds(stage.stop_after)}: "
        "none ended by itself, so more time may give better answers",
    )


def _idle(stage: StageUse) -> Advice | None:
    longest, limit = stage.figures.longest, stage.timeout
    if limit is None or limit < LEAST_TIMEOUT or not longest or stage.figures.attempts < ENOUGH:
        return None
    if longest * FAR > limit:
        return None
    shorter = next((step for step in STEPS if step >= 3 * longest), math.inf)
    if shorter > limit / 2:
        return None
    return Advice(
        stage.name,
        f"the longest of {stage.figures.attempts:,} attempts took {format_seconds(longest)}, its timeout is "
        f"{format_seconds(limit)}: {format_seconds(shorter)} would end one that hangs sooner",
    )
