"""A hook that is a program of this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO

from batchrun.resources import format_seconds
from batchrun.store.deliveries import Delivery

__all__ = ["run_command"]

TOLD = 500
"""Bytes of what a command that failed printed last that are told."""


def run_command(command: Sequence[str], body: bytes, names: Mapping[str, str], timeout: float) -> Delivery:
    """Start a program, give it *body* on standard input, and wait for its end.

    Args:
        command: The program and its arguments; no shell reads them.
        body: What it finds on its standard input.
        names: What is added to its environment.
        timeout: Seconds after which it and all that it started are ended.

    What it prints goes nowhere, but its end is told if the program fails.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        given.write(body)
        given.seek(0)
        try:
            process = subprocess.Popen(
                list(command),
                stdin=given,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env={**os.environ, **names},
                start_new_session=True,  # Ctrl-C is for the run, not for it
            )
            error = _end_of(process, timeout)
        except (OSError, ValueError) as failure:
            error = f"it cannot be started: {getattr(failure, 'strerror', None) or failure}"
        if error:
            error += _said(printed)
    return Delivery("command", command[0], not error, 1, time.monotonic() - began, error)


def _end_of(process: subprocess.Popen[bytes], timeout: float) -> str:
    """Wait for the end of a process; returns what was wrong with it, empty if nothing was."""
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"it did not end within {format_seconds(timeout)}, and was ended"
    finally:
        if process.poll() is None:
            _end_all(process)
    return f"it ended with exit code {code}" if code else ""


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


def _said(printed: IO[bytes]) -> str:
    """The end of what was printed, to follow what was wrong."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - TOLD))
    text = printed.read().decode(errors="replace").strip()
    return f"; it said: {text}" if text else ""
