"""Programs on a pseudo-terminal, for tests."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Terminal", "terminal"]

PATIENCE = 60.0
"""Seconds for what takes two."""
CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Terminal:
    """A program on a terminal of its own.

    Args:
        command: The program and its arguments.
        columns, lines: The size of the terminal.
        out: A file that its standard output goes to instead.
        environment: Variables beside those of this process.
    """

    def __init__(
        self,
        *command: str,
        columns: int = 80,
        lines: int = 24,
        out: Path | None = None,
        **environment: str,
    ) -> None:
        import pty

        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        self.modes = self.modes_now()
        # Sizes in the environment, as pytest-xdist's processes have them, would hide that of the terminal.
        here = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        known = {**here, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment}
        output = slave if out is None else os.open(out, os.O_WRONLY | os.O_CREAT)
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=output,
            stderr=slave,
            env=known,
            start_new_session=True,
            preexec_fn=self._control,
        )
        for device in {slave, output}:
            os.close(device)
        self.said = ""

    def _control(self) -> None:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def modes_now(self) -> list[Any]:
        """How the terminal treats what is typed."""
        import termios

        return termios.tcgetattr(self.master)

    def resize(self, columns: int, lines: int) -> None:
        import termios

        termios.tcsetwinsize(self.master, (lines, columns))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait_for(self, words: str) -> str:
        """Read until that was written; gives the picture that it is in, without codes."""
        begin, until = len(self.said), time.monotonic() + PATIENCE
        while words not in CODES.sub("", self.said[begin:]):
            assert time.monotonic() < until, self.said
            assert self._read(1.0) is not None, self.said
        return CODES.sub("", self.said.rpartition("\x1b[H")[2])

    def leave(self) -> int:
        """Read to the end; gives the exit code."""
        while self._read(PATIENCE):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, seconds: float) -> str | None:
        """What was written meanwhile; None once there is nobody to write."""
        if not select.select([self.master], [], [], seconds)[0]:
            return ""
        try:
            text = os.read(self.master, 2**16).decode(errors="replace")
        except OSError:
            return None
        self.said += text
        return text or None

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    @property
    def given_back(self) -> bool:
        """Whether the terminal is as it was: its own screen, its cursor, its modes."""
        pairs = (("\x1b[?1049l", "\x1b[?1049h"), ("\x1b[?25h", "\x1b[?25l"))
        drawn = all(self.said.rfind(last) >= self.said.rfind(first) for last, first in pairs)
        return drawn and self.modes_now() == self.modes


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Starts programs on terminals of their own, which end with the test."""
    if sys.platform == "win32":
        pytest.skip("there are no pseudo-terminals")
    opened: list[Terminal] = []

    def start(*command: str, **how: Any) -> Terminal:
        opened.append(Terminal(*command, **how))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
