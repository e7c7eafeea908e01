"""Opening a page without holding up the loop that serves it.

A page has some three hundred models. To make them, to put them into a document, to check that and to write
it down takes Bokeh a second of work. It is done in a thread before the browser gets its first answer; only
what is shown of runs is put in afterwards, on the loop.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy.ma  # noqa: F401  Bokeh imports it with the first array that it sends
from bokeh.application.handlers.handler import Handler

from batchrun.bokeh_checks import checks_on

__all__ = ["Ahead", "WrittenDown", "leave_lightly"]

_threads = ThreadPoolExecutor(1, "batchrun-page")
_TURN: Final = 0.0005
"""Seconds after which the thread lets the loop go on; Python's own are ten times as many."""


class Ahead(Handler):  # type: ignore[misc]
    """Fills the documents of an application in a thread.

    Args:
        fill: Fills an empty document and writes it down.
    """

    def __init__(self, fill: Callable[[Any], object]) -> None:
        super().__init__()
        self._fill = fill

    async def on_session_created(self, session_context: Any) -> None:
        """Bokeh made a document, which nobody has yet."""
        await session_context.with_locked_document(self._fill_in_thread)

    async def _fill_in_thread(self, doc: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(_threads, self._fill_here, doc)

    def _fill_here(self, doc: Any) -> None:
        with _letting_others_go_on(), checks_on():
            self._fill(doc)

    def modify_document(self, doc: Any) -> None:
        """The document is filled by now."""


@contextmanager
def _letting_others_go_on() -> Iterator[None]:
    """Let the loop have its turn soon, which it gives up with each call of the system."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, _TURN))
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class WrittenDown:
    """A document that was written down beforehand, for the first who asks for all of it.

    It must not be changed before ``asked`` is true.
    """

    def __init__(self, doc: Any) -> None:
        self.asked = False
        """Whether somebody has asked for the document."""
        self._doc = weakref.ref(doc)
        self._content = doc.to_json()
        doc.validate()
        doc.to_json, doc.validate = self._give, lambda: None

    def _give(self, *, deferred: bool = True) -> Any:
        self.asked = True
        doc, content = self._doc(), self._content
        if doc is None:
            return content
        del doc.to_json, self._content
        return content if deferred else doc.to_json(deferred=False)


def leave_lightly(doc: Any) -> None:
    """Let *doc* be given up without a look at all objects of the process, which may be those of a scheduler.

    Bokeh collects all garbage with each tab that was closed, on the loop. Python does so by itself in time.
    """
    doc.destroy = partial(_destroy, doc)


def _destroy(doc: Any, session: Any) -> None:
    if gc.get_freeze_count():  # somebody keeps objects out for good
        type(doc).destroy(doc, session)
        return
    gc.freeze()
    try:
        type(doc).destroy(doc, session)
    finally:
        gc.unfreeze()
