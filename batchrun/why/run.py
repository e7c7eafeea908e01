"""Why a run as a whole stands where it stands."""

from __future__ import annotations

from batchrun.outcome import Outcome, RunState
from batchrun.resources import format_seconds
from batchrun.why.at_work import at_work
from batchrun.why.facts import RunFacts
from batchrun.why.history import because, reason
from batchrun.why.queued import queued
from batchrun.why.running import seen
from batchrun.why.waiting import undriven
from batchrun.why.wording import account, count, percent

__all__ = ["explain_run"]

_GIVEN_UP = [outcome.value for outcome in Outcome if not outcome.solved and outcome is not Outcome.CANCELLED]


def explain_run(facts: RunFacts) -> str:
    """What the run waits for, or why it ended as it did."""
    record = facts.record
    name = f"run {record.run_id}"
    if record.state.ended:
        return "; ".join(part for part in (f"{name} {_ended(facts)}", *_ends(facts)) if part)
    if not facts.driven:
        return f"{name} {_stands_still(facts)}"
    if record.state is RunState.QUEUED or record.started is None:
        since = format_seconds(max(0.0, facts.now - record.created))
        return f"{name} is queued for {since}: its cluster and its input are being made ready"
    live = facts.live
    if live is None:
        return f"{name} runs with {_progress(facts)}, and has not told yet what runs where"
    if live.stopping:
        running = count(live.chunks, "running chunk")
        ends = f"and lets {running} end" if live.running else "and no chunk runs any more"
        return f"{name} is stopping, because somebody asked for it, {ends}: {_progress(facts)}"
    clauses = [
        f"{name} runs with {_progress(facts)}",
        at_work(live, facts.now),
        _longest(facts),
        _failures(facts),
    ]
    return "; ".join(clause for clause in clauses if clause)


# While it goes on, or could


def _stands_still(facts: RunFacts) -> str:
    if facts.queue is None:
        return f"stands still with {_progress(facts)}, because {undriven(facts)}"
    so_far = f"; so far it has {_progress(facts)}" if facts.total else ""
    return f"{queued(facts.record, facts.queue)}{so_far}"


def _progress(facts: RunFacts) -> str:
    standing = facts.total - facts.outcomes.get("cut", 0)
    settled = standing - facts.outcomes.get("pending", 0)
    return f"{settled:,} of {count(standing, 'chunk')} settled"


def _longest(facts: RunFacts) -> str:
    """The chunk that has run longest."""
    live = facts.live
    if live is None or not live.running:
        return ""
    chunk = min(live.running, key=lambda one: one.started)
    seconds = max(0.0, facts.now - chunk.started)
    usual = seen(facts, chunk.stage)
    known = f" (longest seen: {format_seconds(usual[2])})" if usual else ""
    far = f", {percent(chunk.share)} done" if chunk.share is not None else ""
    longest = "it is" if live.chunks == 1 else "the longest is"
    place = f"at `{chunk.stage}` on {chunk.worker}"
    return f"{longest} chunk {chunk.chunk}, {place} for {format_seconds(seconds)}{far}{known}"


# Once it has ended


def _ended(facts: RunFacts) -> str:
    """The state and its reason."""
    record = facts.record
    seconds = max(0.0, (record.ended or facts.now) - (record.started or record.created))
    took = format_seconds(seconds)
    rows = count(record.rows_in, "row")
    match record.state:
        case RunState.SUCCEEDED:
            all_of = f"its {rows} is" if record.rows_in == 1 else f"all {rows} are"
            return f"succeeded in {took}: {all_of} solved"
        case RunState.PARTIAL:
            return f"ended in part after {took}: {_account(facts)}"
        case RunState.CANCELLED:
            why = because(record.error) or ", because somebody stopped it"
            return f"was cancelled after {took}{why}: {_account(facts)}"
    return f"failed after {took}{because(record.error)}: {_account(facts)}"


def _account(facts: RunFacts) -> str:
    record = facts.record
    fates = {
        "solved": record.rows_solved,
        "quarantined": record.rows_quarantined,
        "cancelled": record.rows_cancelled,
    }
    return account(record.rows_in, fates)


def _ends(facts: RunFacts) -> list[str]:
    """What else is worth knowing of a run that has ended."""
    record = facts.record
    go_on = f"`batchrun resume {record.run_id}` goes on" if record.state is not RunState.SUCCEEDED else ""
    return [_stopped(facts), _failures(facts), go_on]


def _stopped(facts: RunFacts) -> str:
    stopped = facts.outcomes.get(Outcome.STOPPED_WITH_SOLUTION.value, 0)
    if not stopped:
        return ""
    told = f"{count(stopped, 'chunk')} stopped with a solution"
    gap = facts.worst_gap
    return f"{told}, with a gap of {percent(gap)} at worst" if gap is not None else told


def _failures(facts: RunFacts) -> str:
    """How many chunks were given up, and for what most of them."""
    given_up = facts.chunks.loc[facts.chunks["outcome"].isin(_GIVEN_UP), "chunk"]
    if given_up.empty:
        return ""
    told = f"{count(len(given_up), 'chunk')} {'was' if len(given_up) == 1 else 'were'} given up"
    attempts = facts.attempts
    solved = [outcome.value for outcome in Outcome if outcome.solved]
    failed = attempts[attempts["chunk"].isin(given_up) & ~attempts["outcome"].isin(solved)]
    last = failed.drop_duplicates("chunk", keep="last")
    if last.empty:
        return told
    counts = last.groupby("signature", dropna=False).size().sort_values(ascending=False, kind="stable")
    signatures = last["signature"]
    most = counts.index[0]
    worst = last[signatures == most if isinstance(most, str) else signatures.isna()].iloc[0]
    error = reason(_said(worst["error_type"]), _said(worst["error"]))
    often = "most often " if len(counts) > 1 else ""
    at = f", {often}at" if often else " at"
    return f"{told}{at} `{worst['stage']}`: {error or Outcome(worst['outcome']).description}"


def _said(value: object) -> str:
    return value if isinstance(value, str) else ""
