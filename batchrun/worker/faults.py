"""Deaths at named steps of the talk between worker and child, for tests of what follows from them."""

from __future__ import annotations

import os
import signal

__all__ = ["FAULT", "die", "die_at", "fault_at"]

FAULT = "BATCHRUN_CHILD_FAULT"
"""Environment variable for tests: ``step=file``. The child kills itself at that step if it can remove the
file, so that each file is good for one death."""


def fault_at(step: str) -> bool:
    """Whether a test wants the child to die at *step*; says so once."""
    wanted, _, path = os.environ.get(FAULT, "").partition("=")
    if wanted != step:
        return False
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def die_at(step: str) -> None:
    """Die if a test wants it."""
    if fault_at(step):
        die()


def die() -> None:
    """End this process as a kill from outside does."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
