"""How a chunk that runs is doing, against its limits and against what was seen before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.resources import format_bytes, format_seconds
from batchrun.why.facts import RunFacts
from batchrun.why.history import failed_tries, history
from batchrun.why.wording import answer, percent, quote

if TYPE_CHECKING:
    from batchrun.store.live import RunningChunk

__all__ = ["running", "seen"]


def running(facts: RunFacts, chunk: RunningChunk) -> str:
    """How a running chunk is doing."""
    seconds = max(0.0, facts.now - chunk.started)
    tries = facts.this_session(facts.tries(chunk.chunk))
    failed = failed_tries([one for one in tries if one.stage == chunk.stage])
    why = f", after {history(failed)}" if failed else ""
    begun = f"chunk {chunk.chunk} runs `{chunk.stage}` on {chunk.worker} for {format_seconds(seconds)}"
    so_far = [
        part for part in (_done(chunk), answer(chunk.objective, chunk.bound), _memory(facts, chunk)) if part
    ]
    clauses = [f"{begun}, try {chunk.attempt}{why}" + (f": {', '.join(so_far)}" if so_far else "")]
    last = chunk.log.strip().splitlines()
    if last:
        clauses.append(f"it logged last {quote(last[-1])}")
    usual = _against_usual(facts, chunk.stage, seconds)
    if usual:
        clauses.append(usual)
    second = facts.second_start(chunk.chunk)
    if second is not None:
        ago = format_seconds(max(0.0, facts.now - second.started))
        clauses.append(
            f"it was started a second time {ago} ago on {second.worker}, try {second.attempt}, and the first "
            "of the two to give a result counts"
        )
    return "; ".join(clauses)


def seen(facts: RunFacts, stage: str) -> tuple[int, float, float] | None:
    """How many solved tries of a stage there were, their median and longest seconds; None if there were
    none."""
    found = facts.longest.get(stage)
    return found if found and found[0] else None


def _done(chunk: RunningChunk) -> str:
    said = f" ({quote(chunk.message)})" if chunk.message else ""
    if chunk.share is not None:
        return f"{percent(chunk.share)} done{said}"
    return f"it says {quote(chunk.message)}" if chunk.message else ""


def _memory(facts: RunFacts, chunk: RunningChunk) -> str:
    if chunk.memory is None:
        return ""
    limit = facts.memory_of(chunk.stage)
    # Recovery may have given it more than its stage asks for.
    of = f" of {format_bytes(limit)}" if limit and limit >= max(chunk.memory, chunk.peak_memory or 0) else ""
    return f"{format_bytes(chunk.memory)}{of}"


def _against_usual(facts: RunFacts, stage: str, seconds: float) -> str:
    usual = seen(facts, stage)
    if usual is None:
        return ""
    number, median, longest = usual
    most = format_seconds(longest)
    if seconds > longest:
        seen_before = f"all {number:,} seen, the longest of which" if number > 1 else "the one seen, which"
        return f"slower than {seen_before} took {most}"
    if seconds > 2 * median:
        half = format_seconds(median)
        return f"slow: of {number:,} seen half took less than {half}, the longest {most}"
    return f"the longest seen took {most}"
