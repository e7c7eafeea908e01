"""The button below a live display that stops the run and keeps its best answers.

A kernel that is busy with a cell does not hear a button, unless the front end sends its messages to a
subshell, as JupyterLab does with ipykernel 7. So it can be pressed only once the front end was heard to say
that it has drawn it. Of a run in the background, whose cell has ended, that happens everywhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from batchrun.errors import BatchrunError
from batchrun.notebook.card import MUTED, line
from batchrun.notebook.kernel import Replace, is_watched, show

if TYPE_CHECKING:
    from batchrun.notebook.widget import HeardButton

__all__ = ["StopButton"]

logger = logging.getLogger("batchrun")

UNHEARD = "Stop"
"""What it says where presses are not heard, for now or at all."""
READY = "Stop and keep the best answers"
PRESSED = "Stopping: what runs hands in its best answer"


class StopButton:
    """Stops one run, once; without ipywidgets, or where nobody sees it, there is none.

    Args:
        stop: Asks for the run to be stopped, and returns at once. May raise a BatchrunError.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._widget: HeardButton | None = None
        self._replace: Replace | None = None
        self._pressed = self._heard = False

    @property
    def pressed(self) -> bool:
        """Whether it has stopped the run."""
        return self._pressed

    @property
    def heard(self) -> bool:
        """Whether it can be pressed, or could be."""
        return self._heard

    def prepare(self) -> None:
        """Tell the front end of it, and show nothing yet.

        JupyterLab asks for the subshell of a widget when it hears of it, and until that is there what it says
        goes to the shell that is busy.
        """
        if not is_watched():
            return
        try:
            from batchrun.notebook.widget import HeardButton

            widget = HeardButton(UNHEARD, heard=self._hear, pressed=self._press)
        except Exception:  # without ipywidgets, or with one of other habits, the display is enough
            logger.debug("there is no button in this notebook", exc_info=True)
            return
        self._widget = widget

    def show(self) -> None:
        """Show it in the present cell, once; some time after it was prepared."""
        if self._widget is not None and self._replace is None:
            self._replace = show("", "", **self._widget.bundle())

    def end(self, said: str) -> None:
        """Take it away; what it did stays in its place."""
        with self._lock:
            widget, self._widget = self._widget, None
        if widget is not None:
            widget.say(widget.description, disabled=True)
            if self._replace is not None:
                self._replace(line(said, MUTED), said)
            widget.leave()

    def _hear(self) -> None:
        self._heard = True
        self._say(PRESSED if self._pressed else READY)

    def _press(self) -> None:
        with self._lock:
            if self._pressed or self._widget is None:
                return
            self._pressed = True
        self._say(PRESSED)
        try:
            self._stop()
        except BatchrunError as error:
            self._pressed = False
            self._say(f"Not stopped: {error}")

    def _say(self, words: str) -> None:
        widget = self._widget
        if widget is not None:
            widget.say(words, disabled=self._pressed)
