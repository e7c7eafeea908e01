"""One run of a store, kept as the page draws it while somebody looks."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from batchrun.dashboard.board import Board, RunView, Throughput
from batchrun.dashboard.message import FailureLine
from batchrun.dashboard.publisher import Publisher
from batchrun.errors import BatchrunError
from batchrun.outcome import RunState
from batchrun.store.records import FailureKind, RunRecord
from batchrun.store.runs import RunStore
from batchrun.watching import watch_run

__all__ = ["Follower"]

logger = logging.getLogger("batchrun.dashboard")

LEFT_AFTER = 15.0
"""Seconds after which a run is followed no more if no page shows it."""
LOOK_EVERY = 2.0
"""Seconds between two looks at what the events of a run do not tell."""
REST = 20
"""How many times as long as a look took there is none after it."""
BINS = 500
"""Bins of the throughput, about."""
TELL_EVERY = 0.05
"""Seconds between two messages of some ten thousand chunks each."""
AT_ONCE = 0.01
"""Seconds that who asks for a run is held up by what is new in it."""
FAILURES = 12
"""Kinds of failure."""


class Follower:
    """Follows a run in a thread, which ends when nobody has asked for a while.

    The events of a run tell of chunks from the moment at which one begins to listen. How many attempts there
    were, what failed and how fast it went before is asked of the store now and then.

    Args:
        store_url: The database.
        run_id: The run's whole id.
        failed: Called with an error that ends the following.
    """

    def __init__(self, store_url: str, run_id: str, failed: Callable[[Exception | None], object]) -> None:
        self._store_url = store_url
        self._run_id = run_id
        self._failed = failed
        self._board = Board()
        self._news: deque[Callable[[], object]] = deque()
        """What the board is to be told; who asks for the run tells it, so that it is never half changed
        while it is drawn."""
        self._facts: dict[str, Any] = {}
        self._told = False
        self._look_at = float("-inf")
        self._asked = self._asked_first = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"batchrun-follow-{run_id}", daemon=True)
        self._thread.start()

    @property
    def left(self) -> bool:
        """Whether it has ended a while ago, because nobody asked or the store was out of reach."""
        return not self._thread.is_alive() and time.monotonic() - self._asked_first > LEFT_AFTER

    def view(self) -> RunView | None:
        """The run as it stands; None until it is read, and while it has never begun."""
        self._asked = began = time.monotonic()
        while self._news and time.monotonic() - began < AT_ONCE:
            self._news.popleft()()
        return self._board.get(self._run_id)

    def stop(self) -> None:
        """Follow it no more."""
        self._stop.set()

    def _left(self) -> bool:
        return self._stop.is_set() or time.monotonic() - self._asked > LEFT_AFTER

    def _follow(self) -> None:
        try:
            while not self._left():
                publisher = Publisher(self._take, interval=TELL_EVERY)
                try:
                    watch_run(self._store_url, self._run_id, [publisher], until=self._is_enough)
                finally:
                    publisher.close()
                self._look(now=True)
                stood = self._standing()
                while not self._left() and self._standing() == stood:
                    self._stop.wait(LOOK_EVERY)
        except Exception as error:  # a page says so; nothing else depends on it
            logger.warning("run %s cannot be shown: %s", self._run_id, error, exc_info=True)
            self._failed(error)

    def _standing(self) -> tuple[RunState, float | None]:
        """What is another one once a run that stood still goes on."""
        record = self._record()
        return record.state, record.started

    def _record(self) -> RunRecord:
        with RunStore(self._store_url) as store:
            return store.find(self._run_id)

    def _is_enough(self) -> bool:
        """Asked before each look at the events: whether there shall be no more."""
        if self._told:  # first what its chunks came to
            with contextlib.suppress(BatchrunError):  # the watching says so, and waits
                self._look()
        return self._left()

    def _take(self, values: Mapping[str, Any]) -> None:
        """Called by the publisher, in a thread of its own."""
        self._told = True
        self._news.append(partial(self._board.take, {**values, **self._facts}))

    def _look(self, *, now: bool = False) -> None:
        """Ask the store for what events do not tell, unless that was just asked."""
        began = time.monotonic()
        if not now and began < self._look_at:
            return
        record = self._record()
        started = record.started
        if started is None:
            return
        seconds = max(1.0, (record.ended if record.state.ended and record.ended else time.time()) - started)
        width = 2.0 ** max(0, int(seconds / BINS)).bit_length()
        with RunStore(self._store_url) as store:
            counts = store.counts(self._run_id)
            kinds = store.failure_kinds(self._run_id)
            bins = store.throughput(self._run_id, started, width)
        facts: dict[str, Any] = {
            "attempts": {outcome.value: number for outcome, number in counts.attempts.items()},
            "failures": [asdict(_line(kind)) for kind in kinds[:FAILURES]],
        }
        self._facts = facts
        self._news.append(partial(self._know, Throughput.of(width, bins), facts))
        took = time.monotonic() - began
        self._look_at = time.monotonic() + max(LOOK_EVERY, REST * took)

    def _know(self, throughput: Throughput, facts: Mapping[str, Any]) -> None:
        view = self._board.get(self._run_id)
        if view is not None:
            view.know(throughput, facts)


def _line(kind: FailureKind) -> FailureLine:
    return FailureLine(
        type=kind.error_type,
        message=kind.error,
        stage=kind.stage or "",
        outcome=kind.outcome.value,
        attempts=kind.chunks,
        chunks=(kind.first_chunk,),
    )
