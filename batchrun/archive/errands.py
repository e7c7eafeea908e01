"""Questions that take a while, asked in threads for somebody who may not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Errands"]

Found = TypeVar("Found")

REST = 12
"""Times as long as it took to find an answer, it is good for at least."""
LONGEST = 60.0
"""Seconds that it is good for at most on that account."""
FORGOTTEN_AFTER = 60.0
"""Seconds after which an answer that nobody asks for is let go."""


@dataclass
class _Answer:
    value: Any = None
    found_at: float = float("-inf")
    """When it was found."""
    took: float = 0.0
    """Seconds that it took to find it."""
    wanted_at: float = float("-inf")
    """When somebody asked for it last."""
    asked: bool = False
    """Whether a thread is finding it out now."""


class Errands:
    """Remembers the latest answer to each question, and asks again when it is too old.

    Args:
        name: The name of the threads.
        threads: How many questions are asked at once.
        failed: Called with what a question raised, or None when one was answered.
        clock: Seconds, for the age of answers.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int = 2,
        failed: Callable[[Exception | None], object] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._failed = failed
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[Hashable, _Answer] = {}
        self._closed = False

    def latest(self, question: Hashable, ask: Callable[[], Found], *, every: float) -> Found | None:
        """The latest answer to *question*; None before the first.

        *ask* is called in another thread if that answer is older than *every* seconds; more rarely, if it
        takes long, so that no question keeps a processor busy.
        """
        now = self._clock()
        with self._lock:
            answer = self._answers.setdefault(question, _Answer())
            answer.wanted_at = now
            good_for = max(every, min(LONGEST, REST * answer.took))
            if not answer.asked and not self._closed and now - answer.found_at >= good_for:
                answer.asked = True
                self._pool.submit(self._find, answer, ask)
            self._forget(now)
            value: Found | None = answer.value
            return value

    def do(self, act: Callable[[], object]) -> None:
        """Call *act* once in another thread; all answers count as old afterwards."""
        with self._lock:
            if not self._closed:
                self._pool.submit(self._do, act)

    def close(self) -> None:
        """Ask nothing more, and wait for what is asked now."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(cancel_futures=True)

    def _find(self, answer: _Answer, ask: Callable[[], Any]) -> None:
        began = self._clock()
        try:
            value, error = ask(), None
        except Exception as raised:
            value, error = answer.value, raised
        with self._lock:
            answer.value, answer.found_at, answer.asked = value, self._clock(), False
            answer.took = 0.0 if error else answer.found_at - began
        self._failed(error)

    def _do(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self._failed(error)
        finally:
            with self._lock:
                for answer in self._answers.values():
                    answer.found_at = float("-inf")

    def _forget(self, now: float) -> None:
        old = [
            question
            for question, answer in self._answers.items()
            if now - answer.wanted_at > FORGOTTEN_AFTER and not answer.asked
        ]
        for question in old:
            del self._answers[question]
