"""The tables of a report: chunks, failures, and the rows that were set apart, from the records of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from batchrun.data import files
from batchrun.data.joining import join_tables
from batchrun.data.load import load
from batchrun.data.results import read_result
from batchrun.data.table import Stored, labelled, to_frame
from batchrun.outcome import Outcome
from batchrun.plan import PlannedChunks
from batchrun.store.artifacts import RunFolder
from batchrun.store.records import ChunkLog, SettledChunk

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["chunk_table", "failure_table", "last_failures", "log_text", "quarantined_rows"]

CUT = "cut"
"""What stands for the outcome of a chunk whose parts took its place."""


def chunk_table(
    plan: PlannedChunks, settled: Sequence[SettledChunk], attempts: pd.DataFrame, *, ended: bool
) -> pd.DataFrame:
    """One row a chunk, by number."""
    frame = pd.DataFrame({"chunk": range(len(plan)), "start": plan.starts, "stop": plan.stops})
    frame["rows"] = frame["stop"] - frame["start"]
    numbers = dict.fromkeys(("seconds", "objective", "bound", "gap"), "float64")
    types = {"chunk": "int64", "outcome": "str", "rows_out": "int64", **numbers}
    outcomes = pd.DataFrame(
        [(c.chunk, c.outcome.value, c.rows_out, c.seconds, c.objective, c.bound, c.gap) for c in settled],
        columns=list(types),
    ).astype(types)
    frame = frame.merge(outcomes, on="chunk", how="left")
    frame["outcome"] = (
        frame["outcome"].fillna(Outcome.CANCELLED.value if ended else "pending").mask(plan.is_cut, CUT)
    )
    frame["rows_out"] = frame["rows_out"].fillna(0).astype("int64")
    tries = attempts.groupby("chunk")["seconds"].agg(["size", "sum"]).reindex(frame["chunk"], fill_value=0)
    frame["seconds"] = frame["seconds"].fillna(pd.Series(tries["sum"].to_numpy()))
    frame["attempts"] = tries["size"].to_numpy().astype("int64")
    frame["parent"] = pd.Series(plan.parents, dtype="Int64").mask(plan.parents < 0)
    first = ["chunk", "start", "stop", "rows", "outcome", "rows_out", "seconds", "attempts", "parent"]
    return frame[[*first, "objective", "bound", "gap"]]


def last_failures(
    starts: Sequence[int], settled: Iterable[SettledChunk], attempts: pd.DataFrame
) -> pd.DataFrame:
    """One row a chunk that was given up, in input order: chunk, rows, and what its last failed attempt says.

    *starts* holds the first row of each chunk.
    """
    given_up = [
        (c.chunk, starts[c.chunk], c.rows, c.outcome.value, c.outcome.description)
        for c in settled
        if c.given_up
    ]
    types = {"chunk": "int64", "start": "int64", "rows": "int64", "outcome": "str", "meaning": "str"}
    frame = pd.DataFrame(given_up, columns=list(types)).astype(types)
    solved = [outcome.value for outcome in Outcome if outcome.solved]
    last = attempts[~attempts["outcome"].isin(solved)].drop_duplicates("chunk", keep="last")
    told = ["chunk", "stage", "error_type", "error", "traceback", "signature"]
    frame = frame.sort_values("start").merge(last[told], on="chunk", how="left")
    # A chunk that was given up without an error of its own still says what happened.
    frame["error_type"] = frame["error_type"].fillna(frame["outcome"])
    frame["error"] = frame["error"].fillna(frame["meaning"])
    frame["signature"] = frame["signature"].fillna(frame["outcome"])
    return frame


def failure_table(failures: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of error, the one of most chunks first."""
    columns = ["error_type", "error", "traceback", "stage", "chunks", "rows", "first_chunk"]
    if failures.empty:
        return pd.DataFrame(columns=columns)
    frame = failures.groupby("signature", sort=False, dropna=False).agg(
        error_type=("error_type", "first"),
        error=("error", "first"),
        traceback=("traceback", "first"),
        stage=("stage", "first"),
        chunks=("chunk", "size"),
        rows=("rows", "sum"),
        first_chunk=("chunk", "min"),
    )
    return frame.sort_values("chunks", ascending=False, kind="stable").reset_index(drop=True)[columns]


def quarantined_rows(
    failures: pd.DataFrame, settled: Iterable[SettledChunk], folder: RunFolder
) -> pd.DataFrame:
    """The input rows of *failures* with their own index, and beside them why they were set apart.

    Rows that could not be read when they were set apart have no values, and stand in their place.
    """
    chunks = {chunk.chunk: chunk for chunk in settled if chunk.given_up}
    read = [_rows_of(chunks[number], folder) for number in failures["chunk"]]
    is_read = np.array([table is not None for table in read], bool)
    sizes = [chunks[number].rows for number in failures["chunk"]]
    failure = np.repeat(np.arange(len(failures)), sizes)
    readable = [labelled(table) for table in read if table is not None]
    values: pd.DataFrame = to_frame(join_tables(readable), "pandas")
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


def _rows_of(chunk: SettledChunk, folder: RunFolder) -> pa.Table | None:
    """The input rows of a chunk that was given up; None if they could not be read then."""
    if chunk.result is not None:
        return read_result(chunk.result)
    path = folder.old_quarantine(chunk.chunk)
    return load(Stored(path, rows=-1, nbytes=-1)) if files.exists(path) else None
