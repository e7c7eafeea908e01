"""How a task that runs is doing: small values that travel from a worker to whoever watches."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TaskStatus"]


@dataclass(frozen=True)
class TaskStatus:
    """The state of a running task, told at most twice a second; each one replaces the one before, except
    for `log`, of which each one brings what is new."""

    key: str
    """The task's key."""
    stage: str
    """The stage that runs."""
    seconds: float
    """Since that stage began."""
    done: float | None = None
    """How far the stage says it is, in units of its own; a share from 0 to 1 if it names no total."""
    total: float | None = None
    """All there is to do, in the same units; None if it named none."""
    message: str = ""
    """What it said last about its progress."""
    memory: int | None = None
    """Bytes that it uses, its child processes included; None where that is not measured."""
    peak_memory: int | None = None
    """The most so far, in bytes."""
    objective: float | None = None
    """The value of its best answer so far."""
    bound: float | None = None
    """The proven limit of what any answer can reach."""
    log: str = ""
    """What it printed and logged since the status before; at most a few KiB of it."""
    chunk: int | None = None
    """The chunk that it is at, where it has several."""

    @property
    def share(self) -> float | None:
        """How much of the work is done, from 0 to 1; None if the stage did not say.

        >>> TaskStatus("k", "solve", 1.0, done=3, total=4).share
        0.75
        """
        if self.done is None:
            return None
        whole = 1.0 if self.total is None else self.total
        return min(1.0, max(0.0, self.done / whole)) if whole > 0 else None
