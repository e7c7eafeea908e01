"""Whose code a traceback goes through, and how IPython shows an error that batchrun raises on purpose."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

__all__ = ["StageError", "is_own", "others_frames", "render_error"]

HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class StageError(Exception):
    """What a stage raised on a worker, as the text of its traceback: the cause of an error that is raised
    here."""

    def __str__(self) -> str:
        return f"\n{super().__str__().rstrip()}"


def is_own(path: str) -> bool:
    """Whether a file is part of batchrun."""
    return os.path.abspath(path).startswith(HERE)


def others_frames(trace: TracebackType | None) -> tuple[TracebackType | None, int]:
    """A traceback without batchrun's own frames, and how many these are."""
    entries = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    kept = [entry for entry in entries if not is_own(entry.tb_frame.f_code.co_filename)]
    chain: TracebackType | None = None
    for entry in reversed(kept):
        chain = TracebackType(chain, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return chain, len(entries) - len(kept)


def render_error(error: BaseException, *, alone: bool = False) -> list[str]:
    """The lines that IPython shows for *error*: where the user's code met it, without the way inside of
    batchrun, and before that the frames of a stage that it is about.

    Only for errors whose message says all; one that is a defect of ours must be shown in full. So is this one
    where the user asked for it, by ``%tb Verbose``.

    Args:
        error: What was raised.
        alone: Whether what led to it is left out too.
    """
    ipython: Any = sys.modules["IPython"]
    painter = ipython.get_ipython().InteractiveTB
    if painter.mode == "Verbose":
        lines: list[str] = painter.structured_traceback(type(error), error, error.__traceback__)
        return lines
    first: list[str] = []
    shown, stage = error, error.__cause__
    if alone or isinstance(stage, StageError):
        shown = type(error)(*error.args)
        first = [f"{stage}\n".lstrip()] if isinstance(stage, StageError) else []
    trace, left_out = others_frames(error.__traceback__)
    lines = painter.structured_traceback(type(error), shown, trace)
    if left_out:
        frames = "1 frame" if left_out == 1 else f"{left_out} frames"
        lines.insert(len(lines) - 1, f"    [{frames} inside batchrun left out; %tb Verbose shows them]\n")
    return [*first, *lines]
