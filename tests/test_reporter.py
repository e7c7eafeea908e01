"""What is told of a task while it runs."""

from __future__ import annotations

import threading
import time

from batchrun.status import TaskStatus
from batchrun.worker.reporter import Reporter


def status(message: str) -> TaskStatus:
    return TaskStatus("key", "solve", 1.0, None, None, message)


class Told:
    """Those who are told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.threads: list[int] = []
        self._came = threading.Condition()

    def __call__(self, status: TaskStatus) -> None:
        with self._came:
            self.messages.append(status.message)
            self.threads.append(threading.get_ident())
            self._came.notify_all()

    def wait(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.messages) >= count, timeout=60)


def test_what_comes_too_early_is_told_once_it_is_due_and_only_the_latest_of_it() -> None:
    told = Told()
    reporter = Reporter(told, every=0.3)
    began = time.monotonic()
    reporter.offer(lambda: status("first"))
    reporter.offer(lambda: status("second"))
    assert told.messages == []
    told.wait(1)
    assert time.monotonic() - began >= 0.3
    assert told.messages == ["second"]
    assert told.threads != [threading.get_ident()]


def test_what_is_due_is_told_at_once() -> None:
    told = Told()
    reporter = Reporter(told, every=0.0)
    reporter.offer(lambda: status("now"))
    assert told.messages == ["now"]
    assert told.threads == [threading.get_ident()]


def test_what_is_forgotten_is_not_told() -> None:
    gone, other = Told(), Told()
    early, late = Reporter(gone, every=0.2), Reporter(other, every=0.5)
    early.offer(lambda: status("of a stage that has ended"))
    late.offer(lambda: status("of another task"))
    early.forget()
    other.wait(1)
    assert gone.messages == []


def test_an_error_of_those_who_are_told_harms_no_other() -> None:
    def broken(status: TaskStatus) -> None:
        raise OSError("gone")

    told = Told()
    first, second = Reporter(broken, every=0.2), Reporter(told, every=0.5)
    first.offer(lambda: status("lost"))
    second.offer(lambda: status("heard"))
    told.wait(1)
    assert told.messages == ["heard"]
    second.offer(lambda: status("again"))
    told.wait(2)
