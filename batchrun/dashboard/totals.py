"""What the runs of each pipeline came to since the scheduler started, counted from their messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from batchrun.dashboard.message import Message

__all__ = ["OTHERS", "Totals"]

MOST_PIPELINES = 200
"""Pipelines that are counted apart, so that names which are made up run by run cannot fill the memory."""
OTHERS = "(others)"
"""What all further pipelines are counted as."""


class Totals:
    """Counts that only grow, by pipeline and outcome; runs that are forgotten still count."""

    def __init__(self) -> None:
        self.runs: Counter[tuple[str, str]] = Counter()
        """Sessions of runs that ended, by pipeline and state."""
        self.chunks: Counter[tuple[str, str]] = Counter()
        """Chunks that were settled, by pipeline and outcome."""
        self.rows: Counter[tuple[str, str]] = Counter()
        """Input rows in them."""
        self.attempts: Counter[tuple[str, str]] = Counter()
        """Attempts, by pipeline and outcome."""
        self.seconds: Counter[str] = Counter()
        """Seconds that the attempts of settled chunks took, by pipeline."""
        self.peaks: dict[str, int] = {}
        """The most memory that a running chunk was told to use, in bytes, by pipeline."""
        self._pipelines: set[str] = set()

    def take(self, before: Message | None, message: Message, seconds: float) -> None:
        """Count what is new in a message.

        Args:
            before: The message before of the same session; None if this is its first.
            message: The message.
            seconds: Seconds of the chunks that were settled in between.
        """
        pipeline = self.name_of(message.pipeline)
        for counts, now, earlier in (
            (self.chunks, message.chunks, before.chunks if before else {}),
            (self.rows, message.rows, before.rows if before else {}),
            (self.attempts, message.attempts, before.attempts if before else {}),
        ):
            _add(counts, pipeline, now, earlier)
        self.seconds[pipeline] += seconds  # type: ignore[assignment]
        for line in message.running or ():
            if line.memory:
                self.peaks[pipeline] = max(line.memory, self.peaks.get(pipeline, 0))
        if message.ended and not (before and before.ended):
            self.runs[pipeline, message.state] += 1

    def name_of(self, pipeline: str) -> str:
        """What a pipeline is counted as."""
        if pipeline not in self._pipelines and len(self._pipelines) >= MOST_PIPELINES:
            return OTHERS
        self._pipelines.add(pipeline)
        return pipeline


def _add(
    counts: Counter[tuple[str, str]], pipeline: str, now: Mapping[str, int], before: Mapping[str, int]
) -> None:
    for outcome, number in now.items():
        counts[pipeline, outcome] += max(0, number - before.get(outcome, 0))
