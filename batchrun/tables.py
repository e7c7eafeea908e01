"""The tables of a report: chunks, failures, and the rows that were set apart, from the records of a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from batchrun.data import files
from batchrun.data.joining import join_tables
from batchrun.data.load import load
from batchrun.data.table import Stored, labelled, to_frame
from batchrun.data.windows import read_windows
from batchrun.outcome import Outcome
from batchrun.plan import PlannedChunks
from batchrun.store.artifacts import RunFolder
from batchrun.store.records import ChunkLog, SettledChunks

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

    from batchrun.outcome import Integers
    from batchrun.store.event_record import EventRecord

__all__ = [
    "CUT",
    "chunk_outcomes",
    "chunk_table",
    "event_table",
    "last_failures",
    "log_text",
    "quarantined_rows",
]

CUT = "cut"
"""What stands for the outcome of a chunk whose parts took its place."""
PENDING = "pending"
"""What stands for the outcome of a chunk that has none yet."""


def chunk_table(
    plan: PlannedChunks,
    settled: SettledChunks,
    attempts: pd.DataFrame,
    *,
    ended: bool,
    numbers: Integers | None = None,
) -> pd.DataFrame:
    """One row a chunk, by number; of all chunks, or of those of *numbers*, which rise."""
    import pandas as pd

    chunks = np.arange(len(plan)) if numbers is None else numbers
    starts, stops, parents = plan.starts[chunks], plan.stops[chunks], plan.parents[chunks]
    known = settled.where(np.isin(settled.chunks, chunks))
    place = np.searchsorted(chunks, known.chunks)
    outcomes = np.full(len(chunks), Outcome.CANCELLED.value if ended else PENDING, object)
    outcomes[place] = [outcome.value for outcome in known.outcomes]
    outcomes[plan.is_cut[chunks]] = CUT
    tried = attempts[attempts["chunk"].isin(chunks)] if numbers is not None else attempts
    tries = np.searchsorted(chunks, tried["chunk"].to_numpy())
    seconds = np.bincount(tries, tried["seconds"], minlength=len(chunks))
    seconds[place] = known.seconds
    columns: dict[str, Any] = {
        "chunk": chunks,
        "start": starts,
        "stop": stops,
        "rows": stops - starts,
        "outcome": pd.Series(outcomes, dtype="str"),
        "rows_out": _placed(len(chunks), place, known.rows_out, 0),
        "seconds": seconds,
        "attempts": np.bincount(tries, minlength=len(chunks)),
        "parent": pd.Series(parents, dtype="Int64").mask(parents < 0),
        "objective": _placed(len(chunks), place, known.objectives, np.nan),
        "bound": _placed(len(chunks), place, known.bounds, np.nan),
        "gap": _placed(len(chunks), place, known.gaps, np.nan),
    }
    return pd.DataFrame(columns)


def event_table(events: Iterable[EventRecord]) -> pd.DataFrame:
    """One row an event, in order."""
    import pandas as pd

    rows = [(event.id, event.at, event.kind, event.chunk, event.data) for event in events]
    frame = pd.DataFrame(rows, columns=["id", "at", "kind", "chunk", "data"])
    return frame.astype({"id": "int64", "at": "float64", "kind": "str", "chunk": "Int64", "data": "object"})


def chunk_outcomes(plan: PlannedChunks, settled: Mapping[Outcome, int], *, ended: bool) -> dict[str, int]:
    """How many chunks there are of each outcome of ``chunk_table``, the ones that are cut last."""
    counts = {outcome.value: number for outcome, number in settled.items()}
    cut = int(plan.is_cut.sum())
    rest = len(plan) - cut - sum(counts.values())
    name = Outcome.CANCELLED.value if ended else PENDING
    counts[name] = counts.get(name, 0) + rest
    counts[CUT] = cut
    order = [*(outcome.value for outcome in Outcome), PENDING, CUT]
    return {name: counts[name] for name in order if counts.get(name)}


def last_failures(starts: Integers, settled: SettledChunks, attempts: pd.DataFrame) -> pd.DataFrame:
    """One row a chunk that was given up, in input order: chunk, rows, and what its last failed attempt says.

    *starts* holds the first row of each chunk.
    """
    import pandas as pd

    given_up = settled.where(settled.given_up)
    frame = pd.DataFrame(
        {
            "chunk": given_up.chunks,
            "start": starts[given_up.chunks],
            "rows": given_up.rows,
            "outcome": pd.Series([outcome.value for outcome in given_up.outcomes], dtype="str"),
            "meaning": pd.Series([outcome.description for outcome in given_up.outcomes], dtype="str"),
        }
    )
    solved = [outcome.value for outcome in Outcome if outcome.solved]
    last = attempts[~attempts["outcome"].isin(solved)].drop_duplicates("chunk", keep="last")
    told = ["chunk", "stage", "error_type", "error", "traceback", "signature"]
    frame = frame.sort_values("start").merge(last[told], on="chunk", how="left")
    # A chunk that was given up without an error of its own still says what happened.
    frame["error_type"] = frame["error_type"].fillna(frame["outcome"])
    frame["error"] = frame["error"].fillna(frame["meaning"])
    frame["signature"] = frame["signature"].fillna(frame["outcome"])
    return frame


def quarantined_rows(failures: pd.DataFrame, settled: SettledChunks, folder: RunFolder) -> pd.DataFrame:
    """The input rows of *failures* with their own index, and beside them why they were set apart.

    Rows that could not be read when they were set apart have no values, and stand in their place.
    """
    import pandas as pd

    chunks = settled.take(np.searchsorted(settled.chunks, failures["chunk"].to_numpy()))
    read, sizes = _read(chunks, folder)
    is_read = np.array([size is not None for size in sizes], bool)
    rows = [number if size is None else size for number, size in zip(chunks.rows, sizes, strict=True)]
    failure = np.repeat(np.arange(len(failures)), rows)
    values: pd.DataFrame = to_frame(join_tables(read), "pandas")
    if not is_read.all():
        unknown = ~is_read[failure]
        values = pd.concat([values, pd.DataFrame(index=range(unknown.sum()))])
        values = values.iloc[np.argsort(np.argsort(unknown, kind="stable"), kind="stable")]
    said = failures.iloc[failure].rename(columns={"error": "error_message"})
    said = said.rename(columns={"chunk": "batchrun_chunk", "stage": "batchrun_stage"})
    # What the user's own columns are called is theirs.
    names = {name: name if name not in values.columns else f"batchrun_{name}" for name in _SAID}
    return values.assign(**{names[name]: said[name].to_numpy() for name in _SAID})


def log_text(logs: Iterable[ChunkLog]) -> str:
    """Logs as plain text, a header line before each."""
    parts = [
        f"== chunk {log.chunk}, stage {log.stage}, attempt {log.attempt} ==\n{log.text.rstrip()}\n"
        for log in logs
    ]
    return "\n".join(parts)


_SAID = ("batchrun_chunk", "batchrun_stage", "error_type", "error_message", "traceback")
"""Columns that stand beside the values of a row that was set apart."""


def _read(chunks: SettledChunks, folder: RunFolder) -> tuple[list[pa.Table], list[int | None]]:
    """The input rows of chunks that were given up, in order, with their labels as columns; and how many each
    has, None where they could not be read then."""
    known = chunks.results.known
    old = {
        position: load(Stored(path, rows=-1, nbytes=-1))
        for position in np.flatnonzero(~known).tolist()
        if files.exists(path := folder.old_quarantine(int(chunks.chunks[position])))
    }
    tables: list[pa.Table] = []
    sizes: list[int | None] = [None] * len(chunks)
    # Between two chunks whose rows are in a file of the first version, all others are read together.
    edges = [-1, *old, len(chunks)]
    for before, after in itertools.pairwise(edges):
        if before in old:
            tables.append(labelled(old[before]))
            sizes[before] = old[before].num_rows
        positions = np.arange(before + 1, after)
        positions = positions[known[positions]]
        read: list[int] = []
        for window in read_windows(chunks.results.take(positions)):
            tables += map(labelled, window.tables() if window.restarts else [window.whole])
            read += window.rows
        for position, size in zip(positions.tolist(), read, strict=True):
            sizes[position] = size
    return tables, sizes


def _placed(length: int, place: Integers, values: npt.NDArray[Any], rest: float) -> npt.NDArray[Any]:
    column = np.full(length, rest, values.dtype)
    column[place] = values
    return column
