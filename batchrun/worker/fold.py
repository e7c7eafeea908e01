"""Results of several chunks combined into one on a worker, by a pipeline's ``combine``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchrun.data.load import load, write_table
from batchrun.data.refs import ResultRefs
from batchrun.data.results import ResultSet
from batchrun.data.table import Inline, Stored, encode, to_frame, to_table
from batchrun.errors import PipelineError
from batchrun.outcome import ErrorRecord
from batchrun.resources import Demand
from batchrun.worker.program import load_program
from batchrun.worker.running import running

__all__ = ["Fold", "FoldResult", "run_fold"]


NOTHING = Demand()


@dataclass(frozen=True)
class Fold:
    """Some neighbouring results, to be combined into one."""

    key: str
    """Unlike that of any other task of any run."""
    number: int
    """The runner's number for it."""
    parts: tuple[ResultRefs | Inline | Stored, ...]
    """Results of chunks, and what other folds made of some, in input order."""
    store_to: str
    """Where a large result is written."""
    inline_limit: int
    """Results of up to so many bytes travel inline; below zero none does."""
    demand: Demand = NOTHING
    """What it takes from its worker beside a thread."""


@dataclass(frozen=True)
class FoldResult:
    """What came of a fold."""

    key: str
    """The fold's key."""
    output: Inline | Stored | None
    """The combined frame; None if ``combine`` failed."""
    seconds: float
    """How long it took."""
    error: ErrorRecord | None = None
    """Why it failed, if it did."""


def run_fold(program: bytes, fold: Fold) -> FoldResult:
    """Call the pipeline's ``combine``; never raises because of what it did."""
    clock = time.perf_counter()
    output: Inline | Stored | None = None
    problem: ErrorRecord | None = None
    with running(fold.key):
        try:
            output = _combined(program, fold)
        except (Exception, SystemExit) as error:
            problem = ErrorRecord.of(error)
    return FoldResult(fold.key, output, time.perf_counter() - clock, problem)


def _combined(program: bytes, fold: Fold) -> Inline | Stored:
    step = load_program(program).combine
    if step is None:
        raise PipelineError("the pipeline has no combine")
    frame = step.function(_frames(fold, step.kind), **step.arguments)
    table = to_table(frame, owner=step.name)
    if table.nbytes <= fold.inline_limit:
        return Inline(encode(table))
    return write_table(table, fold.store_to)


def _frames(fold: Fold, kind: Any) -> Iterator[Any]:
    for part in fold.parts:
        if isinstance(part, ResultRefs):
            yield from ResultSet(range(len(part)), part).parts(kind)
        else:
            yield to_frame(load(part), kind)
