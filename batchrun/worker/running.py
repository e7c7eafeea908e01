"""Which tasks run in this worker process, so that any thread of it can ask them to stop."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["StopRequest", "Ticket", "recall", "running", "stop_tasks"]


@dataclass(frozen=True)
class StopRequest:
    """Somebody wants a task to come to an end."""

    keep_best: bool
    """Whether its best answer so far counts as its result."""
    deadline: float
    """When what still runs is killed, by time.monotonic."""
    grace: float
    """The seconds that it was given."""


class Ticket:
    """The entry of one running task."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.stop: StopRequest | None = None
        """What was asked for, if anything."""
        self.recalled = False
        """Whether no further chunk of it may begin."""
        self.begun = 0
        """Chunks of it that began."""

    def begin_next(self) -> bool:
        """The next chunk begins; False if it may not."""
        with _lock:
            if self.recalled or self.stop is not None:
                return False
            self.begun += 1
            return True

    def ask(self, *, keep_best: bool, grace: float) -> None:
        """Ask for a stop; of two requests the stricter one holds."""
        new = StopRequest(keep_best, time.monotonic() + grace, grace)
        old = self.stop
        if old is not None:
            sooner = min(old, new, key=lambda request: request.deadline)
            new = StopRequest(old.keep_best and keep_best, sooner.deadline, sooner.grace)
        self.stop = new


_lock = threading.Lock()
_tickets: dict[str, Ticket] = {}
_recalled: set[str] = set()
"""Tasks that were recalled before they began."""
_ended: OrderedDict[str, None] = OrderedDict()
"""The tasks that ended last, so that a recall that comes late is told from one that comes early."""
_MOST_ENDED = 1_000


@contextmanager
def running(key: str) -> Iterator[Ticket]:
    """The task *key* runs as long as the context is open."""
    ticket = Ticket(key)
    with _lock:
        _tickets[key] = ticket
        ticket.recalled = key in _recalled
        _recalled.discard(key)
    try:
        yield ticket
    finally:
        with _lock:
            if _tickets.get(key) is ticket:
                del _tickets[key]
            _ended[key] = None
            if len(_ended) > _MOST_ENDED:
                _ended.popitem(last=False)


def stop_tasks(keys: Collection[str], *, keep_best: bool, grace: float) -> list[str]:
    """Ask tasks to come to an end, and return at once; from any thread of the worker's process.

    Args:
        keys: Keys of tasks; those that do not run here are passed over.
        keep_best: Whether the best answer so far counts as the result of a task.
        grace: Seconds after which the child process of an isolated task is killed. A stage in the worker's
            own process can only be asked.

    Returns the keys of those that run here.
    """
    with _lock:
        found = [_tickets[key] for key in keys if key in _tickets]
        for ticket in found:
            ticket.ask(keep_best=keep_best, grace=grace)
    return [ticket.key for ticket in found]


def recall(keys: Collection[str]) -> dict[str, int]:
    """Take back the chunks of tasks that have not begun; from any thread of the worker's process.

    Args:
        keys: Keys of tasks that run here or will soon.

    Returns how many chunks of each have begun; the others will not. Tasks that have ended are left out.
    """
    begun = {}
    with _lock:
        for key in keys:
            ticket = _tickets.get(key)
            if ticket is not None:
                ticket.recalled = True
                begun[key] = ticket.begun
            elif key not in _ended:
                _recalled.add(key)
                begun[key] = 0
    return begun
