"""Opening a page without holding up the loop that serves it.

A page has some three hundred models. To make them, to put them into a document, to check that and to write it
down takes Bokeh a second of work. It is done in a thread before the browser gets its first answer; only what
is shown of runs is put in afterwards, on the loop.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy.ma  # noqa: F401  Bokeh imports it with the first array that it sends
from bokeh.application.handlers.handler import Handler

__all__ = ["Ahead", "WrittenDown", "leave_lightly"]

_threads = ThreadPoolExecutor(1, "batchrun-page")


class Ahead(Handler):  # type: ignore[misc]
    """Fills the documents of an application in a thread; where it did not, others have to.

    *fill* is given an empty document.
    """

    def __init__(self, fill: Callable[[Any], object]) -> None:
        super().__init__()
        self._fill = fill

    async def on_session_created(self, session_context: Any) -> None:
        """Bokeh made a document, which nobody has yet."""
        await session_context.with_locked_document(self._fill_in_thread)

    async def _fill_in_thread(self, doc: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(_threads, self._fill, doc)

    def modify_document(self, doc: Any) -> None:
        """Nothing is left to do."""


class WrittenDown:
    """A document that was written down beforehand, for the first who asks for all of it.

    It must not be changed before ``asked`` is true.
    """

    def __init__(self, doc: Any) -> None:
        self.asked = False
        """Whether somebody has asked for the document."""
        self._doc = doc
        self._content = doc.to_json()
        doc.validate()
        doc.to_json, doc.validate = self._give, lambda: None

    def _give(self, *, deferred: bool = True) -> Any:
        self.asked = True
        del self._doc.to_json
        return self._content if deferred else self._doc.to_json(deferred=False)


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
