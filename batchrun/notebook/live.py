"""Shows a run in a notebook while it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from batchrun.events import Event, RunEnded, RunStopping, RunWaiting
from batchrun.notebook.button import StopButton
from batchrun.notebook.kernel import Replace, show
from batchrun.notebook.running import progress_html, progress_text
from batchrun.outcome import Outcome
from batchrun.progress import Progress
from batchrun.render.account import count
from batchrun.render.pulse import Pulse
from batchrun.render.running import MOST_RUNNING
from batchrun.render.wording import describe_stopped

__all__ = ["NotebookProgress"]

SHOW_EVERY = 0.25
"""Seconds between two updates of the live display that events cause."""
REDRAW_EVERY = 1.0
"""Seconds between two updates while nothing happens, so that the clock in the display goes on."""
BUTTON_AFTER = 1.0
"""Seconds after which the button is shown: a shorter run needs none, and the front end can get ready."""


class NotebookProgress:
    """Shows a run in one output cell while it goes on, and leaves a summary there: an observer, used as a
    context manager. Below it is a button that stops the run, where the front end can have one.

    Args:
        display: Shows HTML, or the text given with it, the first time, and gives back what replaces it;
            IPython's own by default.
        clock: Seconds since the epoch.
        redraw_every: Seconds between two updates while nothing happens.
        stop: Asks for the run of that id to be stopped, its best answers kept; None for no button.
        interrupt: What an interrupt of the kernel does, for people.
    """

    def __init__(
        self,
        *,
        display: Callable[[str, str], Replace] | None = None,
        clock: Callable[[], float] = time.time,
        redraw_every: float = REDRAW_EVERY,
        stop: Callable[[str], None] | None = None,
        interrupt: str = "",
    ) -> None:
        self.progress = Progress()
        self._redraw_every = redraw_every
        self._pulse = Pulse(self._tick, redraw_every)
        self._lock = threading.Lock()
        self._display = display or show
        self._clock = clock
        self._interrupt = interrupt
        self._button = None if stop is None else StopButton(lambda: stop(self.progress.run_id))
        self._replace: Replace | None = None
        self._shown = self._since = float("-inf")

    def __enter__(self) -> Self:
        self._pulse.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pulse.stop()
        if self._button is not None:
            self._button.end(self._what_the_button_did())

    def __call__(self, event: Event) -> None:
        """Take an event in, and show what changed, four times a second at most."""
        with self._lock:
            self.progress.tell(event)
            now = self._clock()
            if now - self._shown >= SHOW_EVERY or isinstance(event, (RunStopping, RunEnded, RunWaiting)):
                self._show(now)

    def _tick(self) -> None:
        """Let the clock in the display go on."""
        with self._lock:
            now = self._clock()
            going_on = self.progress.run_id and self.progress.ended is None and not self.progress.waits
            if going_on and now - self._shown >= self._redraw_every:
                self._show(now)

    def _show(self, now: float) -> None:
        self._shown = now
        block = progress_html(self.progress, now, hints=self._hints(now))
        text = progress_text(self.progress, now)
        if self._replace is not None:
            self._replace(block, text)
        else:
            self._replace = self._display(block, text)
            if self._button is not None:
                self._button.prepare()
            self._since = self._clock()  # to prepare it takes a while
        if self._button is not None and self.progress.ended is None and now - self._since >= BUTTON_AFTER:
            self._button.show()

    def _hints(self, now: float) -> list[str]:
        """How the run can be stopped from here; where no button is heard, its best answers are kept by a
        command only."""
        hints = [self._interrupt] if self._interrupt else []
        answers = any(line.objective is not None for line in self.progress.running_lines(now, MOST_RUNNING))
        if answers and self._button is not None and not self._button.heard:
            hints.append(f"with the best answers: batchrun cancel {self.progress.run_id} --keep-best")
        return hints

    def _what_the_button_did(self) -> str:
        ended = self.progress.ended
        if self._button is None or not self._button.pressed or ended is None:
            return ""
        stopped = self.progress.outcomes[Outcome.STOPPED_WITH_SOLUTION]
        kept = (
            describe_stopped(stopped, self.progress.worst_gap) if stopped else "no answer was there to keep"
        )
        left = f"; {count(ended.rows_cancelled, 'row')} cancelled" if ended.rows_cancelled else ""
        return f"Stopped by the button: {kept}{left}"
