"""What becomes of a chunk, and of the run, after an attempt that failed. Values in, values out."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchrun.outcome import ErrorRecord, Outcome
from batchrun.retry import RetryPolicy

__all__ = ["Decision", "GiveUp", "Retry", "Tally", "decide"]


@dataclass(frozen=True)
class Retry:
    """Try the chunk again."""

    wait: float
    """Seconds before the next try may start."""


@dataclass(frozen=True)
class GiveUp:
    """Set the chunk apart; the others go on."""


Decision = Retry | GiveUp


def decide(
    outcome: Outcome,
    error: ErrorRecord,
    *,
    failures: int,
    policy: RetryPolicy,
    chance: float,
    alone: bool = True,
) -> Decision:
    """Decide about a chunk whose latest attempt ended with *outcome*.

    *failures* counts its attempts that ended like this at this leg, the latest one included; *chance* is a
    draw from [0, 1) that spreads the waits. A worker that went away has a budget of its own, and is held
    against a chunk only if the chunk was *alone* there: any other could have been the cause.
    """
    if outcome is Outcome.WORKER_LOST:
        return GiveUp() if alone and failures >= policy.worker_lost else Retry(0.0)
    if failures < policy.attempts and policy.covers(error.classes):
        return Retry(policy.wait_after(failures, chance=chance))
    return GiveUp()


@dataclass
class Tally:
    """Watches whether the first chunks at a stage all fail alike, which means that its function is broken."""

    enough: int
    """So many chunks that failed alike, before any passed the stage, end the run."""
    _passed: set[str] = field(default_factory=set)
    _failed: dict[str, int] = field(default_factory=dict)

    def passed(self, stage: str) -> None:
        """The stage gave a result; from now on failures at it are the chunks' own."""
        self._passed.add(stage)

    def failed(self, stage: str, error: ErrorRecord) -> ErrorRecord | None:
        """A chunk was given up at the stage; the error of a broken function if that makes enough of them."""
        if stage in self._passed:
            return None
        self._failed[error.signature] = self._failed.get(error.signature, 0) + 1
        return error if self._failed[error.signature] >= self.enough else None
