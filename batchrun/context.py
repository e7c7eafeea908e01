"""What a stage function may know about the chunk in its hands, and what it can say about it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["ChunkContext", "Listener"]


class Listener(Protocol):
    """Who hears what a stage says through its context; a worker has one for each task."""

    @property
    def log(self) -> logging.Logger:
        """Takes messages for the log of the chunk."""
        ...

    def progress(self, done: float, total: float | None, message: str) -> None:
        """The stage said how far it is."""
        ...

    def incumbent(self, frame: Any, objective: float | None, bound: float | None) -> None:
        """The stage has a better answer than before."""
        ...

    def should_stop(self) -> bool:
        """Whether the stage was asked to come to an end."""
        ...

    def stopped_early(self) -> None:
        """The stage ends by a limit of its own."""
        ...


class _Nobody:
    """Hears nothing; for a stage that is called by hand."""

    log = logging.getLogger("batchrun.chunk")

    def progress(self, done: float, total: float | None, message: str) -> None:
        pass

    def incumbent(self, frame: Any, objective: float | None, bound: float | None) -> None:
        pass

    def should_stop(self) -> bool:
        return False

    def stopped_early(self) -> None:
        pass


@dataclass(frozen=True)
class ChunkContext:
    """Given to a stage function that has a parameter annotated ``ChunkContext``.

    >>> def solve(pit, ctx: ChunkContext):
    ...     for step in range(100):
    ...         pit = pit.assign(value=step)
    ...         ctx.progress(step, 100, message=f"step {step}")
    ...         ctx.incumbent(pit, objective=step, bound=100)
    ...         if ctx.should_stop:
    ...             break
    ...     ctx.log.info("ended at step %d", step)
    ...     return pit
    """

    run_id: str
    """The run that the chunk belongs to."""
    chunk: int
    """The chunk's number, from 0: in input order, and after those the parts of chunks that were cut."""
    stage: str
    """The name of the stage that is called."""
    attempt: int
    """Which try this is, from 1."""
    rows: int
    """Input rows of the chunk, as the first stage saw them."""
    worker: str
    """The worker that runs the stage."""
    memory: int
    """Bytes that the stage may use; 0 if it asked for none."""
    listener: Listener = field(default_factory=_Nobody, repr=False, compare=False)
    """Who hears what the stage says; not for use by stages."""

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is, for people who watch: *done* of *total*, or a share from 0 to 1.

        May be called as often as you like; it is told on twice a second.
        """
        self.listener.progress(float(done), None if total is None else float(total), str(message))

    def incumbent(self, frame: Any, *, objective: float | None = None, bound: float | None = None) -> None:
        """Keep *frame* as the best answer so far: what the stage would return if it ended now.

        It is kept outside of the stage's process. If the stage is stopped, by ``stop_after``, ``timeout``,
        a cancel that keeps the best, or for passing its memory, the frame given last becomes its result,
        with the outcome ``stopped_with_solution``. So call it when an answer is better than the one before.
        May be called as often as you like: of many in quick succession the last one is kept.

        Args:
            frame: What the stage would return, as a pandas, polars or Arrow frame.
            objective: The value of the answer, in units of your own.
            bound: The proven limit of what any answer can reach, from which the report knows the gap.
        """
        self.listener.incumbent(
            frame, None if objective is None else float(objective), None if bound is None else float(bound)
        )

    @property
    def should_stop(self) -> bool:
        """Whether the stage should return what it has: its ``stop_after`` is over, or a stop was asked for.

        A stage that returns after it saw this ends as ``stopped_with_solution``. One that goes on is killed
        after a grace, and its incumbent is taken.
        """
        return self.listener.should_stop()

    def stopped_early(self) -> None:
        """Say that the answer that is returned next is the best so far, because a limit of the stage's own
        is over, as the time that it gives its solver. It counts as ``stopped_with_solution``."""
        self.listener.stopped_early()

    @property
    def log(self) -> logging.Logger:
        """A logger whose messages are part of the chunk's log, as is all that the stage prints in a child
        process; ``batchrun logs`` shows it."""
        return self.listener.log
