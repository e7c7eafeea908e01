"""The one question: why does it stand so?"""

from __future__ import annotations

from batchrun.why import run, settled, waiting
from batchrun.why.facts import RunFacts
from batchrun.why.running import running

__all__ = ["explain"]


def explain(facts: RunFacts, chunk: int | None = None) -> str:
    """Why a chunk, or the run as a whole, stands where it stands: one sentence without a full stop.

    Args:
        facts: What is known of the run at this moment.
        chunk: The chunk's number; None for the run as a whole.

    Raises UsageError if the run has no such chunk.
    """
    if chunk is None:
        return run.explain_run(facts)
    known = facts.chunk(chunk)
    if known.outcome == "cut" or facts.parts(chunk):
        return settled.cut(facts, known)
    if known.outcome == "pending":
        now_running = facts.running(chunk) if facts.driven else None
        return running(facts, now_running) if now_running else waiting.waiting(facts, known)
    return settled.settled(facts, known)
