"""What became of the tries of a chunk, and what recovery did about each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from batchrun.outcome import Cause, ErrorRecord, Outcome
from batchrun.resources import format_bytes, format_seconds
from batchrun.why.facts import Try
from batchrun.why.wording import clip, count, listing

__all__ = ["because", "ending", "failed_tries", "history", "reason"]

OWN_ERRORS = frozenset(
    {
        "Cancelled",
        "NotStarted",
        "OutOfMemory",
        "ProcessDied",
        "ProtocolError",
        "ResultError",
        "TaskLost",
        "TimedOut",
        "TooManyQuarantined",
        "WorkerLost",
    }
)
"""Kinds of errors that batchrun itself records, whose message says all."""
MOST_GROUPS = 4
"""Tries that ended differently, one after the other, of which a sentence tells."""


def failed_tries(tries: Sequence[Try]) -> list[Try]:
    """Those that were not solved."""
    return [one for one in tries if not one.outcome.solved]


def reason(error_type: str, error: str) -> str:
    """An error for a sentence: its class and message, or the message alone where that says all.

    >>> reason("ValueError", "no such pit."), reason("OutOfMemory", "the stage used 2 GiB")
    ('ValueError: no such pit', 'the stage used 2 GiB')
    """
    said = clip(error)
    if said and _is_own(error_type):
        return said
    return f"{error_type}: {said}" if said and error_type else said or error_type


def because(error: ErrorRecord | None) -> str:
    """An error as the reason of something; empty if there is none.

    >>> because(ErrorRecord("KeyError", "'pit'"))
    ", because of KeyError: 'pit'"
    >>> because(ErrorRecord("batchrun.errors.ClusterError", "no worker came back"))
    ', because no worker came back'
    """
    if error is None:
        return ""
    of = "" if error.message and _is_own(error.type) else " of"
    return f", because{of} {reason(error.type, error.message)}"


def ending(one: Try) -> str:
    """How a try ended, as what it did."""
    said = reason(one.error_type, one.error)
    if one.outcome is Outcome.FAILED and one.cause is Cause.INFRASTRUCTURE:
        return _joined("could not be sent, started or brought back", said)
    if one.outcome is Outcome.FAILED:
        return _joined("failed", said) if _is_own(one.error_type) or not said else f"failed with {said}"
    if one.outcome is Outcome.OUT_OF_MEMORY and not said and one.peak_memory:
        said = f"it used {format_bytes(one.peak_memory)}"
    if one.outcome is Outcome.TIMED_OUT and not said:
        said = f"it was stopped after {format_seconds(one.seconds)}"
    if one.outcome is Outcome.CANCELLED and not said:
        said = clip(one.next_step)
    words = {
        Outcome.OUT_OF_MEMORY: "ran out of memory",
        Outcome.TIMED_OUT: "ran out of time",
        Outcome.WORKER_LOST: f"lost its worker {one.worker}",
        Outcome.CANCELLED: "was cancelled",
    }
    return _joined(words.get(one.outcome, one.outcome.description), said)


def history(tries: Sequence[Try]) -> str:
    """The failed tries of a chunk in order: how each ended, and what was done about it but for the last."""
    groups = [list(group) for _, group in groupby(tries, key=ending)]
    if len(groups) == 1:
        return _alike(groups[0])
    told = [_told(group, last=group is groups[-1]) for group in groups]
    if len(told) > MOST_GROUPS:
        left_out = sum(len(group) for group in groups[2:-1])
        told = [*told[:2], f"{count(left_out, 'try')} more", told[-1]]
    return ", ".join(told)


def _alike(tries: Sequence[Try]) -> str:
    if len(tries) == 1:
        return f"try {tries[0].number} {ending(tries[0])}"
    all_of_them = "both" if len(tries) == 2 else f"all {len(tries)}"
    return f"{all_of_them} tries {ending(tries[0]).replace('lost its', 'lost their')}"


def _told(tries: Sequence[Try], *, last: bool) -> str:
    which = "try" if len(tries) == 1 else "tries"
    step = "" if last or not tries[-1].next_step else f" → {clip(tries[-1].next_step)}"
    return f"{which} {listing([one.number for one in tries])} {ending(tries[0])}{step}"


def _is_own(error_type: str) -> bool:
    return error_type in OWN_ERRORS or error_type.startswith("batchrun.")


def _joined(what: str, said: str) -> str:
    return f"{what} ({said})" if said else what
