"""Whether the workers were kept busy: what was scarce, and whether the chunks had the right size."""

from __future__ import annotations

import math
import re

from batchrun.resources import format_seconds
from batchrun.sizing.use import Advice, RunUse, StageUse

__all__ = ["bottleneck", "chunk_size"]

LEAST_SPAN = 10.0
"""Seconds; a run that takes less is not worth a word on its balance."""
BUSY = 0.85
"""Slots that were busy for this share of the time or more were the limit."""
IDLE = 0.5
"""Threads that were busy for this share of the time or less had time to spare."""
TAIL = 0.2
"""A share of the time that workers waited at the end which is worth a word."""
SHORT = 0.01
"""Seconds of a chunk below which handing it out may take longer."""
GOOD = 0.1
"""Seconds of a chunk that make handing it out not matter."""
MANY = 1_000
"""Chunks that must have been short before it matters."""
CHUNKS = "chunks"
"""The subject of what is said of the chunks."""


def bottleneck(run: RunUse) -> list[Advice]:
    """The need that few slots could meet, if those were busy nearly all the time while others were idle."""
    span = run.span
    if span < LEAST_SPAN:
        return []
    found = []
    for demand in dict.fromkeys(stage.demand for stage in run.stages):
        slots, stages = run.slots(demand), [stage for stage in run.stages if stage.demand == demand]
        if not 0 < slots < run.threads:
            continue
        seconds = sum(stage.figures.seconds for stage in stages)
        busy = seconds / (slots * span)
        elsewhere = (run.seconds - seconds) / ((run.threads - slots) * span)
        if busy >= BUSY and elsewhere <= IDLE:
            subject = ", ".join(demand.tags) or ", ".join(stage.name for stage in stages)
            held = "its slot was" if slots == 1 else f"its {slots:,} slots were"
            found.append(
                Advice(
                    subject,
                    f"{held} busy for {_percent(busy)} of the time, all other threads for "
                    f"{_percent(elsewhere)}: another worker that has it, or a stage that needs less, would "
                    "end the run sooner",
                )
            )
    return found


def chunk_size(run: RunUse) -> list[Advice]:
    """What to do about chunks so long that workers waited for the last ones, or so short that handing them
    out took longer than they did."""
    if run.span < LEAST_SPAN or not run.workers:
        return []
    stage = max(run.stages, key=lambda stage: stage.figures.seconds)
    text = _too_short(run, stage) or _too_long(run, stage)
    return [Advice(CHUNKS, text)] if text else []


def _too_short(run: RunUse, stage: StageUse) -> str:
    busy, median = run.seconds / (run.threads * run.span), stage.figures.median
    remedy = _larger(run.split, median)
    if run.chunks < MANY or median > SHORT or busy > IDLE or not remedy:
        return ""
    return (
        f"half of them took {format_seconds(median)} or less, and the workers computed for {_percent(busy)} "
        f"of the time: {remedy}"
    )


def _too_long(run: RunUse, stage: StageUse) -> str:
    slots, remedy = run.slots(stage.demand), _smaller(run.split)
    if not remedy or run.rows < 2 * run.chunks:
        return ""
    if run.chunks < slots:
        idle = slots - run.chunks
        return f"there were {run.chunks:,} for {slots:,} slots, so {idle:,} had nothing to do: {remedy}"
    waited = _tail(run, stage)
    if waited < TAIL:
        return ""
    return (
        f"workers waited for the last of {run.chunks:,} for {_percent(waited)} of the time; the longest took "
        f"{format_seconds(stage.figures.longest)}, half of them {format_seconds(stage.figures.median)} or "
        f"less: {remedy}"
    )


def _tail(run: RunUse, stage: StageUse) -> float:
    """The share of the whole time that the workers of a stage had nothing to do at its end."""
    last = {
        worker: max(
            other.figures.by_worker[worker].last for other in run.stages if worker in other.figures.by_worker
        )
        for worker in stage.figures.by_worker
    }
    end = max(last.values())
    return sum(end - at for at in last.values()) / (len(last) * run.span)


def _smaller(split: str) -> str:
    """How to get smaller chunks; empty where that is up to batchrun or to nobody."""
    if re.fullmatch(r"by_rows\(\d+\)", split):
        return 'fewer rows a chunk even that out, and by_rows("auto") makes the last ones small'
    if split.startswith("by_group(") and "max_rows=" in split:
        return "a smaller max_rows evens that out"
    if split.startswith("by_file("):
        return "more and smaller files even that out"
    return ""


def _larger(split: str, median: float) -> str:
    """How to get larger chunks; empty where that is up to batchrun or to nobody."""
    if found := re.fullmatch(r"by_rows\((\d+)\)", split):
        rows = int(found[1]) * GOOD / max(median, 1e-4)
        digits = 10 ** math.floor(math.log10(rows))
        rounded = math.ceil(rows / digits) * digits
        return f'by_rows({rounded}) or by_rows("auto") would hand out fewer and larger ones'
    if split.startswith("by_group(") and "max_rows=" not in split:
        return "with max_rows, neighbouring groups share a chunk"
    return ""


def _percent(share: float) -> str:
    return f"{min(share, 1.0):.0%}".replace("%", " %")
