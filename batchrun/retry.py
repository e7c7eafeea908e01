"""When and how often a failed chunk is tried again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from batchrun.errors import PipelineError
from batchrun.resources import parse_seconds

__all__ = ["RetryPolicy"]


@dataclass(frozen=True, init=False)
class RetryPolicy:
    """Try a chunk again after an error: how often, after how long, after which errors.

    The wait before try *n* + 1 is ``delay × factor^(n - 1)``, at most ``max_delay``, of which a random
    share of up to ``jitter`` is taken off, so that chunks that failed together do not come back together
    (M. Brooker, "Exponential backoff and jitter", 2015).

    What is not an error of the stage's code has a budget of its own: a worker that went away, a passed
    time limit, passed memory, and a task that could not be sent, started or brought back.

    >>> policy = RetryPolicy(attempts=5, delay="1s", on=ConnectionError)
    >>> [policy.wait_after(n, chance=0.0) for n in (1, 2, 3)]
    [1.0, 2.0, 4.0]
    """

    attempts: int
    """Tries in all, the first one included."""
    delay: float
    """Seconds before the second try."""
    factor: float
    """How much longer each further wait is."""
    max_delay: float
    """The longest wait, in seconds."""
    jitter: float
    """The share of each wait that chance may take off, from 0 to 1."""
    on: tuple[str, ...]
    """Names of exception classes; an error of such a class, or of a subclass of it, is tried again."""
    worker_lost: int
    """How many workers a chunk may lose before it is given up."""
    timeouts: int
    """How many tries may pass the stage's ``timeout``."""
    out_of_memory: int
    """How many tries of a chunk, and of the parts that it is cut into, one after the other may pass the
    memory of the stage. Each one is in fewer rows or in more memory than the one before."""
    infrastructure: int
    """How many tries may fail to be sent, started or brought back."""

    def __init__(
        self,
        attempts: int = 3,
        *,
        delay: str | float = "250ms",
        factor: float = 2.0,
        max_delay: str | float = "1min",
        jitter: float = 0.25,
        on: type[BaseException] | str | Iterable[type[BaseException] | str] = Exception,
        worker_lost: int = 3,
        timeouts: int = 1,
        out_of_memory: int = 40,
        infrastructure: int = 8,
    ) -> None:
        if attempts < 1:
            raise PipelineError(f"RetryPolicy(attempts={attempts}) would never try; use 1 for no retry")
        if factor < 1:
            raise PipelineError(f"RetryPolicy(factor={factor}) would shrink its waits; use 1 or more")
        if not 0 <= jitter <= 1:
            raise PipelineError(f"RetryPolicy(jitter={jitter}) is not a share between 0 and 1")
        budgets = {
            "worker_lost": worker_lost,
            "timeouts": timeouts,
            "out_of_memory": out_of_memory,
            "infrastructure": infrastructure,
        }
        for name, budget in budgets.items():
            if budget < 1:
                raise PipelineError(f"RetryPolicy({name}={budget}) must be 1 or more")
        kinds = [on] if isinstance(on, (str, type)) else list(on)
        values = {
            "attempts": attempts,
            "delay": parse_seconds(delay),
            "factor": factor,
            "max_delay": parse_seconds(max_delay),
            "jitter": jitter,
            "on": tuple(kind if isinstance(kind, str) else kind.__name__ for kind in kinds),
            **budgets,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def covers(self, error_classes: Iterable[str]) -> bool:
        """Whether an error may be tried again, given the names of its class and of that class's bases."""
        return not set(self.on).isdisjoint(error_classes)

    def wait_after(self, failures: int, *, chance: float) -> float:
        """Seconds to wait after *failures* failed tries; *chance* is a draw from [0, 1)."""
        longest = min(self.max_delay, self.delay * self.factor ** min(failures - 1, 64))
        return longest * (1 - self.jitter * chance)
