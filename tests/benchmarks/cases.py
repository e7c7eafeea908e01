"""All benchmarks by name, in the order in which they are run and shown."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.arena import Arena
from tests.benchmarks.contest import Record

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One benchmark: a function of the same name that takes an arena, a size and a number of rounds."""

    name: str
    """What the command line calls it."""
    module: str
    """Where the function is."""
    size: int
    """Rows, chunks or whatever the function counts, of a full measurement."""
    rounds: int
    """Timed turns of each contestant of a full measurement."""
    smoke: int | None
    """A size that takes a moment, for the tests; None where nothing short of all of it makes sense."""

    def run(self, arena: Arena, size: int, rounds: int) -> Record:
        """Measure."""
        return self._function(arena, size, rounds)

    @property
    def about(self) -> str:
        """What it measures, as the function's docstring tells."""
        return inspect.getdoc(self._function) or ""

    @property
    def _function(self) -> Callable[[Arena, int, int], Record]:
        found: Callable[[Arena, int, int], Record] = getattr(
            importlib.import_module(f"tests.benchmarks.{self.module}"), self.name
        )
        return found


CASES = {
    case.name: case
    for case in (
        Case("declared_columns", "group_by", 10_000_000, 5, smoke=3_200),
        Case("all_columns", "group_by", 10_000_000, 5, smoke=3_200),
        Case("from_parquet", "group_by", 10_000_000, 5, smoke=3_200),
        Case("sums_in_memory", "sums", 10_000_000, 5, smoke=3_200),
        Case("sums_from_parquet", "sums", 10_000_000, 5, smoke=3_200),
        Case("polars_parquet", "sums", 100_000_000, 5, smoke=3_200),
        Case("trivial_chunks", "chunks", 10_000, 5, smoke=100),
        Case("queued_tasks", "queues", 1_000, 5, smoke=20),
        Case("million_chunks", "million", 1_000_000, 1, smoke=300),
        Case("combined_results", "combining", 100_000, 5, smoke=100),
        Case("known_solves", "solves", 60, 5, smoke=4),
        Case("unknown_solves", "solves", 60, 20, smoke=None),
        Case("child", "child", 25_000_000, 51, smoke=1_000),
        Case("cancelled_solves", "cancelling", 10, 5, smoke=2),
        Case("imports", "startup", 0, 11, smoke=0),
        Case("cold_start", "startup", 0, 5, smoke=None),
        Case("warm_call", "startup", 1_000, 21, smoke=1_000),
        Case("client_memory", "memory", 125_000_000, 1, smoke=3_200),
        Case("group_commits", "commits", 200_000, 5, smoke=500),
        Case("simulation", "simulated", 1_000_000, 1, smoke=1_000),
        Case("service", "service", 1_000, 5, smoke=3),
        Case("big_store", "big_store", 10_000, 11, smoke=20),
        Case("page_load", "page_load", 20_000, 5, smoke=200),
        Case("stored_page", "stored_page", 1_000_000, 3, smoke=300),
        Case("waste", "waste", 10_000, 5, smoke=200),
    )
}
