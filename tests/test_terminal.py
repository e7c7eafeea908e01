"""A run as it is shown on a terminal, and what scripts get beside that."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.terminal import CODES, terminal

__all__ = ["terminal"]

MODULE = """\
import os
import time
from batchrun import RetryPolicy, by_rows, pipeline

@pipeline(split=by_rows(1), retry=RetryPolicy(attempts=1))
def picky(chunk):
    time.sleep(0.1)
    if (chunk["x"] == 1).any():
        raise ValueError("one [bold]is[/bold] bad")
    print("said by the stage", flush=True)
    os.write(1, b"as by a solver in C\\n")
    return chunk
"""
SUBMIT = [sys.executable, "-m", "batchrun", "submit", "work:picky", "-i", "in.parquet", "-c", "inline"]


@pytest.fixture
def project(here: Path) -> Path:
    (here / "work.py").write_text(MODULE)
    pd.DataFrame({"x": range(6)}).to_parquet(here / "in.parquet")
    return here


def test_a_run_is_drawn_within_eighty_columns_and_standard_output_has_one_document(project, terminal):
    shown = terminal(*SUBMIT, "--json", out=project / "out.json", NO_COLOR="1")
    shown.wait_for("✗ 1 × ValueError at picky: one [bold]is[/bold] bad")
    assert shown.leave() == 3
    document = json.loads((project / "out.json").read_text())

    assert (document["rows_solved"], document["rows_quarantined"]) == (5, 1)
    assert "rows/s" in shown.said
    assert max(map(len, CODES.sub("", shown.said).replace("\r", "\n").split("\n"))) <= 80
    assert "\x1b[3" not in shown.said
    assert shown.given_back


def test_quiet_draws_nothing(project, terminal):
    shown = terminal(*SUBMIT, "--quiet", "--json", out=project / "out.json")
    assert shown.leave() == 3
    assert json.loads((project / "out.json").read_text())["state"] == "partial"
    assert shown.said.split("\r\n") == ["said by the stage", "as by a solver in C"] * 5 + [""]
