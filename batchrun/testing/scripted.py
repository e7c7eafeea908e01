"""A stage whose failures are scripted by its input."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun.context import ChunkContext

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["attempts_in", "scripted"]


def scripted(chunk: pd.DataFrame, ctx: ChunkContext, *, folder: str) -> pd.DataFrame | None:
    """A stage that does what the column ``do`` of its input says, row by row, and counts its tries.

    The column ``id`` names a row. ``do`` is a word, or a word and how many of the first tries it holds for,
    as in ``fail:2``; after those the row is like any other.

    ======================  ==========================================================
    ``ok``                  nothing happens
    ``fail``                raises ValueError
    ``unpicklable``         raises an error that no pickle can carry
    ``exit``                calls ``sys.exit(3)``
    ``kill``                kills its own process
    ``sleep=0.5``           sleeps so many seconds first
    ``large=1000000``       gives a result with so many bytes
    ``hoard=1000000``       fills so many bytes of memory and sleeps
    ``leak=1000000``        keeps so many bytes for the life of its process
    ``crash``               reads an address that is not its own
    ``leave=3``             ends its process by ``os._exit(3)``
    ``hold=60``             sleeps so many seconds in C, holding the interpreter's lock
    ``solve=60``            publishes an answer ten times a second until it should stop
    ``publish=60``          publishes one answer, and sleeps so many seconds
    ``print=1000``          prints so many lines, and logs that it did
    ======================  ==========================================================

    Args:
        chunk: A frame with the columns ``id`` and ``do``.
        ctx: Takes progress, answers and messages.
        folder: A folder that all workers share, where each try of a row leaves a file.

    Returns:
        The chunk, with the column ``tries``; and ``load`` if it was told to be large.
    """
    tries, loads = [], []
    for row, deed in zip(chunk["id"], chunk["do"], strict=True):
        attempt = _count(Path(folder), row)
        word, _, most = str(deed).partition(":")
        load = b""
        if not most or attempt <= int(most):
            load = _do(*word.partition("=")[::2], row=row, frame=chunk.assign(tries=attempt), ctx=ctx)
        tries.append(attempt)
        loads.append(load)
    result = chunk.assign(tries=tries)
    return result.assign(load=loads) if any(loads) else result


def attempts_in(folder: str | Path) -> Counter[str]:
    """How often each row was tried by `scripted`, by its id as text."""
    return Counter(path.name.rpartition("@")[0] for path in Path(folder).glob("*@*"))


def _count(folder: Path, row: object) -> int:
    """Leave the file of one more try, whoever else does so too."""
    folder.mkdir(parents=True, exist_ok=True)
    name = str(row).replace("/", "_").replace(" ", "_").replace(":", "_")
    attempt = 1
    while True:
        try:
            (folder / f"{name}@{attempt}").touch(exist_ok=False)
        except FileExistsError:
            attempt += 1
        else:
            return attempt


class _StubbornError(Exception):
    """Cannot be pickled: it holds a lock."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def _do(word: str, amount: str, *, row: object, frame: pd.DataFrame, ctx: ChunkContext) -> bytes:
    """Do one deed; the bytes are a load for the result."""
    if word == "fail":
        raise ValueError(f"row {row} was told to fail")
    if word == "unpicklable":
        raise _StubbornError(f"row {row} was told to be stubborn")
    if word == "exit":
        raise SystemExit(3)
    if word == "large":
        return os.urandom(int(amount))
    if word in _SAYINGS:
        _SAYINGS[word](frame, ctx, float(amount))
    elif word in _DEEDS:
        _DEEDS[word](float(amount or 0))
    elif word != "ok":
        raise ValueError(f"the script says {word!r}, which is no deed")
    return b""


def _kill_this_process(_: float = 0) -> None:
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)


def _hoard(nbytes: float) -> None:
    hoard = bytearray(os.urandom(4096) * int(nbytes // 4096))
    time.sleep(60)
    del hoard


def _hold(seconds: float) -> None:
    library = ctypes.PyDLL("kernel32" if os.name == "nt" else None)
    library.Sleep(int(seconds * 1000)) if os.name == "nt" else library.sleep(int(seconds))


_kept: list[bytes] = []
_DEEDS: dict[str, Callable[[float], object]] = {
    "kill": _kill_this_process,
    "crash": lambda _: ctypes.string_at(0),
    "leave": lambda code: os._exit(int(code)),
    "sleep": time.sleep,
    "hoard": _hoard,
    "leak": lambda nbytes: _kept.append(os.urandom(4096) * int(nbytes // 4096)),
    "hold": _hold,
}
"""What a row may do to its process."""


def _solve(frame: pd.DataFrame, ctx: ChunkContext, seconds: float) -> None:
    began, step = time.monotonic(), 0
    while not ctx.should_stop and time.monotonic() - began < seconds:
        step += 1
        ctx.progress(step, 10 * seconds, message=f"answer {step}")
        ctx.incumbent(frame, objective=100 + 100 / step, bound=100)
        time.sleep(0.1)


def _publish(frame: pd.DataFrame, ctx: ChunkContext, seconds: float) -> None:
    ctx.incumbent(frame, objective=110, bound=100)
    time.sleep(seconds)


def _print(_: pd.DataFrame, ctx: ChunkContext, lines: float) -> None:
    for number in range(int(lines)):
        print(f"line {number}")  # noqa: T201  that is the deed
    ctx.log.info("printed %d lines", int(lines))


_SAYINGS: dict[str, Callable[[pd.DataFrame, ChunkContext, float], None]] = {
    "solve": _solve,
    "publish": _publish,
    "print": _print,
}
"""What a row may say through the context."""
