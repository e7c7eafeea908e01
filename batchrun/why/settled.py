"""How a chunk ended, and what led to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from batchrun.outcome import Cause, Outcome, RunState
from batchrun.resources import format_seconds
from batchrun.why.facts import ChunkFacts, RunFacts, Try
from batchrun.why.history import because, failed_tries, history, reason
from batchrun.why.wording import account, answer, clip, count, listing

__all__ = ["cut", "settled"]

MOST_PARTS = 4
"""Parts of a chunk of which a sentence tells one by one."""

_FATES = {
    "succeeded": "succeeded",
    "stopped_with_solution": "stopped with a solution",
    "failed": "failed",
    "out_of_memory": "ran out of memory",
    "timed_out": "ran out of time",
    "worker_lost": "lost its workers",
    "cancelled": "was cancelled",
    "pending": "is not settled yet",
    "cut": "was cut again",
}


def settled(facts: RunFacts, chunk: ChunkFacts) -> str:
    """Why a chunk ended as it did."""
    tries = facts.tries(chunk.chunk)
    outcome = Outcome(chunk.outcome)
    if outcome is Outcome.SUCCEEDED:
        return _succeeded(chunk, tries)
    if outcome is Outcome.STOPPED_WITH_SOLUTION:
        return _stopped(chunk, tries)
    if outcome is Outcome.CANCELLED:
        return _cancelled(facts, chunk, tries)
    return _given_up(chunk, tries)


def cut(facts: RunFacts, chunk: ChunkFacts) -> str:
    """Why a chunk was cut, and what became of its parts."""
    failed = failed_tries(facts.tries(chunk.chunk))
    parts = facts.parts(chunk.chunk)
    stage = f" at `{failed[-1].stage}`" if failed else ""
    why = f", because {history(failed)}{stage}" if failed else ""
    if len(parts) <= MOST_PARTS:
        into = f"chunks {listing(parts)}"
        fates = [f"{part} {_FATES[facts.chunk(part).outcome]}" for part in parts]
        told = f"{', '.join(fates)}; "
    else:
        into, told = f"{len(parts)} parts", ""
    return f"{_named(chunk)} was cut into {into}{why}: {told}{_rows_of(facts, chunk)}"


def _stopped_because(one: Try) -> str:
    """Why a try ended with the best answer it had."""
    words = {
        Cause.DEADLINE: "its `stop_after` was over",
        Cause.TIMEOUT: "it passed its `timeout`",
        Cause.MEMORY: "it passed its memory",
        Cause.CANCEL: "somebody asked for it",
    }
    said = reason(one.error_type, one.error) if one.error else ""
    because = words.get(one.cause) if one.cause else None
    if because is None:
        return said or "it was asked to"
    return f"{because} ({said})" if said else because


def _succeeded(chunk: ChunkFacts, tries: Sequence[Try]) -> str:
    failed = failed_tries(tries)
    last = tries[-1] if tries else None
    where = f" on {last.worker}" if last else ""
    after = f", after {history(failed)}" if failed else ""
    out = f"{count(chunk.rows_out, 'row')} came of it"
    which = f" at try {last.number}" if last and last.number > 1 else ""
    return f"{_named(chunk)} succeeded in {format_seconds(chunk.seconds)}{where}{which}{after}: {out}"


def _stopped(chunk: ChunkFacts, tries: Sequence[Try]) -> str:
    stopped = [one for one in tries if one.outcome is Outcome.STOPPED_WITH_SOLUTION]
    if not stopped:
        return f"{_named(chunk)} stopped with a solution after {format_seconds(chunk.seconds)}"
    last = stopped[-1]
    found = answer(last.objective, last.bound)
    failed = failed_tries(tries)
    after = f", after {history(failed)}" if failed else ""
    return (
        f"{_named(chunk)} stopped with a solution at `{last.stage}` after {format_seconds(last.seconds)}, "
        f"because {_stopped_because(last)}{after}{found and ': ' + found}"
    )


def _cancelled(facts: RunFacts, chunk: ChunkFacts, tries: Sequence[Try]) -> str:
    name = _named(chunk)
    now = facts.this_session(list(tries))
    last = now[-1] if now else None
    stopped = last is not None and last.outcome is Outcome.CANCELLED
    if stopped or facts.record.state not in (RunState.CANCELLED, RunState.FAILED):
        if last is None:
            when, said = "before it was started", ""
        else:
            when = f"after {format_seconds(last.seconds)} at `{last.stage}` on {last.worker}"
            said = reason(last.error_type, last.error)
        why = f"somebody asked for it{said and f' ({said})'}"
        return f"{name} was cancelled {when}: {why}; `batchrun resume {facts.record.run_id}` computes it"
    if last is None:
        return f"{name} was not started, because {_run_ended(facts)}"
    if last.outcome.solved:
        return f"{name} did not get past `{last.stage}`, because {_run_ended(facts)}"
    return f"{name} is not solved: {history(failed_tries(now))}, and {_run_ended(facts)}"


def _given_up(chunk: ChunkFacts, tries: Sequence[Try]) -> str:
    failed = [one for one in failed_tries(tries) if one.outcome is not Outcome.CANCELLED]
    if not failed:
        return f"{_named(chunk)} was given up: {Outcome(chunk.outcome).description}"
    last = failed[-1]
    # Tries of an earlier session, or at an earlier stage, led to another end.
    same = [one for one in failed if one.stage == last.stage]
    after = clip(last.next_step) or "its rows are set apart"
    return f"{_named(chunk)} was given up at `{last.stage}`: {history(same)}; {after}"


def _run_ended(facts: RunFacts) -> str:
    """That the run ended before the chunk did."""
    record = facts.record
    how = "was cancelled" if record.state is RunState.CANCELLED else "failed"
    return f"the run {how} before{because(record.error)}; `batchrun resume {record.run_id}` computes it"


def _rows_of(facts: RunFacts, chunk: ChunkFacts) -> str:
    """What became of the rows of a chunk that was cut, its parts' parts included."""
    rows: Counter[str] = Counter()
    left = facts.parts(chunk.chunk)
    while left:
        number = left.pop()
        parts = facts.parts(number)
        left += parts
        if not parts:
            part = facts.chunk(number)
            rows[_fate_of_rows(part.outcome)] += part.rows
    return account(
        chunk.rows, {fate: rows[fate] for fate in ("solved", "quarantined", "cancelled", "still to come")}
    )


def _fate_of_rows(outcome: str) -> str:
    if outcome == "pending":
        return "still to come"
    if outcome == "cancelled":
        return "cancelled"
    return "solved" if Outcome(outcome).solved else "quarantined"


def _named(chunk: ChunkFacts) -> str:
    return f"chunk {chunk.chunk} ({count(chunk.rows, 'row')})"
