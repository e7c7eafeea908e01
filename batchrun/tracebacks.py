"""Whose code a traceback goes through, and how IPython shows an error that batchrun raises on purpose."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import PurePath
from types import TracebackType
from typing import Any

__all__ = ["StageError", "is_own", "render_error", "users_frames"]

HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep
PACKAGES = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages."""
SHELLS = frozenset({"IPython", "ipykernel"})
"""Packages that call what a user typed."""
MACHINERY = SHELLS | {
    "alembic",
    "dask",
    "distributed",
    "fsspec",
    "psycopg",
    "pyarrow",
    "pydantic",
    "sqlalchemy",
    "tornado",
}
"""Packages that batchrun stands on; a frame in one of them tells a user nothing."""


class StageError(Exception):
    """What a stage raised on a worker, as the text of its traceback: the cause of an error that is raised
    here."""

    def __str__(self) -> str:
        return f"\n{super().__str__().rstrip()}"


def is_own(path: str) -> bool:
    """Whether a file is part of batchrun."""
    return os.path.abspath(path).startswith(HERE)


def users_frames(trace: TracebackType | None) -> tuple[TracebackType | None, int]:
    """A traceback of the user's frames alone, and how many others were left out, those of the shell aside."""
    kept: list[TracebackType] = []
    left_out = 0
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if not _is_machinery(path):
            kept.append(trace)
        elif _package(path) not in SHELLS:
            left_out += 1
        trace = trace.tb_next
    chain: TracebackType | None = None
    for entry in reversed(kept):
        chain = TracebackType(chain, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return chain, left_out


def render_error(error: BaseException, *, alone: bool = False) -> list[str]:
    """The lines that IPython shows for *error*: what led to it, then where the user's code met it, and of
    both the user's frames alone.

    Only for errors whose message says all; one that is a defect of ours must be shown in full. So is this one
    where the user asked for it, by ``%tb Verbose``.

    Args:
        error: What was raised.
        alone: Whether what led to it is left out.
    """
    ipython: Any = sys.modules["IPython"]
    painter = ipython.get_ipython().InteractiveTB
    if painter.mode == "Verbose":
        lines: list[str] = painter.structured_traceback(type(error), error, error.__traceback__)
        return lines
    lines = []
    for cause in [] if alone else _causes(error):
        lines += [*_paint(painter, cause)[0], "\nwhich led to:\n"]
    shown, left_out = _paint(painter, error)
    if left_out:
        frames = "1 frame" if left_out == 1 else f"{left_out} frames"
        shown.insert(len(shown) - 1, f"    [{frames} inside batchrun left out; %tb Verbose shows them]\n")
    return lines + shown


def _causes(error: BaseException) -> list[BaseException]:
    """What led to an error, the first first."""
    found: list[BaseException] = []
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while before is not None and before not in found:
        found.insert(0, before)
        before = before.__cause__ or (None if before.__suppress_context__ else before.__context__)
    return found


def _paint(painter: Any, error: BaseException) -> tuple[list[str], int]:
    """One error by itself, and how many of its frames were left out."""
    if isinstance(error, StageError):
        return [str(error).lstrip()], 0
    trace, left_out = users_frames(error.__traceback__)
    if trace is None:
        return [f"{type(error).__name__}: {error}"], 0
    with _apart(error):
        return list(painter.structured_traceback(type(error), error, trace, tb_offset=0)), left_out


@contextlib.contextmanager
def _apart(error: BaseException) -> Iterator[None]:
    """Without what led to it, which IPython would show by itself."""
    cause, context, suppressed = error.__cause__, error.__context__, error.__suppress_context__
    error.__cause__ = error.__context__ = None
    try:
        yield
    finally:
        error.__cause__, error.__context__, error.__suppress_context__ = cause, context, suppressed


def _is_machinery(path: str) -> bool:
    if is_own(path) or path.startswith("<frozen "):
        return True
    package = _package(path)
    return package in MACHINERY if package else path.startswith(STANDARD_LIBRARY)


def _package(path: str) -> str:
    """The installed package that a file belongs to; empty if it belongs to none."""
    parts = PurePath(path).parts
    at = next((number for number, part in enumerate(parts[:-1]) if part in PACKAGES), None)
    return "" if at is None else parts[at + 1]
