"""How long Python takes to be ready, against a Python that imports argparse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks.contest import Record, Target, compete, judge


def startup(rows: int, rounds: int, statistic: str) -> Record:
    """``import batchrun`` and ``batchrun --help``; *rows* and *statistic* have no meaning here."""
    command = Path(sys.executable).with_name("batchrun")
    program = [str(command)] if command.exists() else [sys.executable, "-m", "batchrun"]
    lines = {
        "import argparse": [sys.executable, "-c", "import argparse"],
        "import batchrun": [sys.executable, "-c", "import batchrun"],
        "batchrun --help": [*program, "--help"],
    }
    runs: dict[str, Callable[[], object]] = {
        name: partial(subprocess.run, line, check=True, stdout=subprocess.DEVNULL)
        for name, line in lines.items()
    }
    record = Record("startup", {"rounds": rounds})
    compete(record, runs, rounds)
    judge(
        record,
        [
            Target("import batchrun", ("import argparse",), 0.060, extra=True),
            Target("batchrun --help", ("import argparse",), 0.200, extra=True),
        ],
    )
    return record
