"""Processes that do something with a store at the same moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

__all__ = ["do_together"]

_BEGIN = """\
import sys
from batchrun.store.runs import RunStore
from tests.writing import attempt, packed, record, writer
url, number = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
input()
"""


def do_together(url: str, program: str, processes: int) -> Sequence[str]:
    """Run a program in so many processes that begin together; gives what each has printed.

    The program knows ``url`` and the ``number`` of its process. An error in it is one here.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _BEGIN + program, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    for process, (_, error) in zip(started, said, strict=True):
        assert process.returncode == 0, error
    return [out for out, _ in said]
