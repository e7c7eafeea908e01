"""A run of ten chunks of five rows, driven in this process, with a bad row in the second chunk."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from batchrun import Pipeline, RetryPolicy, RunReport, Stage, by_rows, run_pipeline

__all__ = ["scored_run"]


def scored_run(folder: Path, *, rows: int = 50, mark: str = "") -> RunReport:
    """The report of the run, recorded in *folder*; *mark* goes into all that a user names."""

    def solve(chunk: pd.DataFrame, *, label: str = f"a label{mark}") -> pd.DataFrame:
        if (chunk["value"] == 7).any():
            raise ValueError(f"a bad row{mark}")
        return chunk.assign(**{f"label{mark}": label})

    stage = Stage(solve, name=f"solve{mark}", retry=RetryPolicy(attempts=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_pipeline(
            Pipeline("scores", split=by_rows(5), stages=[stage]),
            pd.DataFrame({"value": range(rows), f"note{mark}": f"x{mark}"}),
            cluster="inline",
            progress=False,
        )
