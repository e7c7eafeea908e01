"""Single keys of the terminal, without Enter after each."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

__all__ = ["Keys", "pressed_keys"]

Keys = Callable[[float], str]
"""Waits so many seconds for a key, and gives its name: up, down, enter, back or quit; empty if none came."""

_NAMES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "k": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "j": "down",
    "\r": "enter",
    "\n": "enter",
    "\x1b[C": "enter",
    "\x1bOC": "enter",
    "\x1b": "back",
    "\x1b[D": "back",
    "\x1bOD": "back",
    "\x7f": "back",
    "\x08": "back",
    "q": "quit",
    "Q": "quit",
    "\x04": "quit",
}
_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", re.DOTALL)
_WINDOWS = {"H": "up", "P": "down", "M": "enter", "K": "back"}
"""What follows the mark of a special key there."""
_BEAT = 0.05
"""Seconds between two looks where there is nothing to wait for, and between the letters of one key."""


@contextlib.contextmanager
def pressed_keys() -> Iterator[Keys | None]:
    """Within this context, keys can be read one by one; None where standard input is no terminal.

    The terminal is as it was afterwards, however the context is left. Ctrl-C still interrupts.
    """
    if not sys.stdin.isatty():
        yield None
    elif sys.platform == "win32":
        yield _wait_on_windows
    else:
        import termios
        import tty

        device = sys.stdin.fileno()
        before = termios.tcgetattr(device)
        tty.setcbreak(device)
        # A stop would leave the terminal on the other screen.
        now = termios.tcgetattr(device)
        now[6][termios.VSUSP] = b"\x00"
        termios.tcsetattr(device, termios.TCSADRAIN, now)
        try:
            yield _Typed(device)
        finally:
            termios.tcsetattr(device, termios.TCSADRAIN, before)


def names_of(typed: str) -> list[str]:
    """The names of the keys in what was typed; others are left out.

    >>> names_of("\x1b[A\x1b[Bq"), names_of("x\x1b[15~\x1b")
    (['up', 'down', 'quit'], ['back'])
    """
    return [name for key in _KEY.findall(typed) if (name := _NAMES.get(key))]


class _Typed:
    """Waits for keys on a terminal; those that came together are given one after the other."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._keys: deque[str] = deque()

    def __call__(self, seconds: float) -> str:
        import select

        if not self._keys and select.select([self._device], [], [], seconds)[0]:
            typed = os.read(self._device, 64)
            if typed.endswith(b"\x1b") and select.select([self._device], [], [], _BEAT)[0]:
                typed += os.read(self._device, 64)  # the rest of a key that sends several letters
            self._keys.extend(names_of(typed.decode(errors="replace")) if typed else ["quit"])
        return self._keys.popleft() if self._keys else ""


def _wait_on_windows(seconds: float) -> str:
    if sys.platform == "win32":
        import msvcrt

        until = time.monotonic() + seconds
        while not msvcrt.kbhit():
            if time.monotonic() >= until:
                return ""
            time.sleep(_BEAT)
        typed = msvcrt.getwch()
        if typed in ("\x00", "\xe0"):
            return _WINDOWS.get(msvcrt.getwch(), "")
        if typed == "\x03":
            raise KeyboardInterrupt
        return "".join(names_of(typed)[:1])
    return ""
