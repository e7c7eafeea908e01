"""What a stage function may know about the chunk in its hands."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ChunkContext"]


@dataclass(frozen=True)
class ChunkContext:
    """Given to a stage function that has a parameter annotated ``ChunkContext``.

    >>> def score(chunk, ctx: ChunkContext):
    ...     return chunk.assign(chunk=ctx.chunk)
    """

    run_id: str
    """The run that the chunk belongs to."""
    chunk: int
    """The chunk's number in input order, from 0."""
    stage: str
    """The name of the stage that is called."""
    attempt: int
    """Which try this is, from 1."""
    rows: int
    """Input rows of the chunk, as the first stage saw them."""
    worker: str
    """The worker that runs the stage."""
    memory: int
    """Bytes that the stage asked for; 0 if it asked for none."""
