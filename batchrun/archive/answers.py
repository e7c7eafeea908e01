"""What the store has of the answers that solves told: of those that run, and of those that have ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchrun.dashboard.solves import MOST_SOLVES, Solve
from batchrun.progress import RunningLine

if TYPE_CHECKING:
    import pandas as pd

    from batchrun.store.live import LiveState, RunningChunk
    from batchrun.store.runs import RunStore

__all__ = ["recorded_solves"]


def recorded_solves(
    store: RunStore, run_id: str, attempts: pd.DataFrame, chunk: int | None = None
) -> tuple[Solve, ...]:
    """Solves of a run, or of one chunk, that told of answers: those that run, then those that ended last.

    *attempts* are those to look among, with the columns of ``RunStore.attempts``.
    """
    live = store.live(run_id)
    return (*_running(live, chunk), *_ended(store, run_id, attempts))[:MOST_SOLVES]


def _running(live: LiveState | None, chunk: int | None) -> Iterator[Solve]:
    for one in live.running if live is not None else ():
        if one.answers and chunk in (None, one.chunk):
            line = _line(one, live.at if live is not None else one.started)
            if solve := Solve.recorded(line, one.answers, runs=True):
                yield solve


def _line(one: RunningChunk, at: float) -> RunningLine:
    return RunningLine(
        one.chunk,
        one.worker,
        max(0.0, at - one.started),
        one.stage,
        one.share,
        one.message,
        one.memory,
        one.objective,
        one.bound,
    )


def _ended(store: RunStore, run_id: str, attempts: pd.DataFrame) -> Iterator[Solve]:
    told = attempts[attempts["objective"].notna()].tail(MOST_SOLVES).iloc[::-1]
    points = {chunk: store.incumbents(run_id, chunk) for chunk in dict.fromkeys(told["chunk"].tolist())}
    columns = ("chunk", "stage", "attempt", "worker", "seconds", "objective", "bound")
    for chunk, stage, attempt, worker, seconds, objective, bound in zip(
        *(told[name] for name in columns), strict=True
    ):
        of_chunk = points[chunk]
        mine = of_chunk[(of_chunk["stage"] == stage) & (of_chunk["attempt"] == attempt)]
        answers = mine[["seconds", "objective", "bound"]].to_numpy().tolist()
        line = RunningLine(chunk, worker, seconds, stage, objective=objective, bound=bound)
        if solve := Solve.recorded(line, answers, runs=False):
            yield solve
