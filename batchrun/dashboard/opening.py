"""Opening a page without holding up the loop that serves it.

A page has some three hundred models. To make them, to put them into a document, to check that and to write it
down takes Bokeh a second of work. But for the first page it is done in a thread before the browser gets its
first answer; only what is shown of runs is put in afterwards, on the loop.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy.ma  # noqa: F401  Bokeh imports it with the first array that it sends
from bokeh.application.handlers.handler import Handler

__all__ = ["Ahead", "WrittenDown", "leave_lightly"]

_log = logging.getLogger("batchrun.dashboard")
_NAME = re.compile(r'"p[0-9]+"')
_written: weakref.WeakKeyDictionary[Any, WrittenDown] = weakref.WeakKeyDictionary()
_threads = ThreadPoolExecutor(1, "batchrun-page")


class Ahead(Handler):  # type: ignore[misc]
    """Fills the documents of an application in a thread, all but the first.

    Dask turns Bokeh's checks of properties off for all threads at once while it draws, and what is made in
    that moment may be wrong. So a document that does not look like the first one, which was made on the loop,
    is made again there.

    Args:
        fill: Fills an empty document and writes it down; also what the application does on the loop.
    """

    def __init__(self, fill: Callable[[Any], object]) -> None:
        super().__init__()
        self._fill = fill
        self._first: int | None = None

    async def on_session_created(self, session_context: Any) -> None:
        """Bokeh made a document, which nobody has yet."""
        if self._first is not None:
            await session_context.with_locked_document(self._fill_in_thread)

    async def _fill_in_thread(self, doc: Any) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(_threads, self._fill, doc)
        except Exception:  # of Bokeh, in such a moment
            _log.debug("a page is made again", exc_info=True)
        written = _written.get(doc)
        if written is None or written.looks != self._first:
            _empty(doc)

    def modify_document(self, doc: Any) -> None:
        """The document is filled by now."""
        written = _written.get(doc)
        if self._first is None and written is not None:
            self._first = written.looks


class WrittenDown:
    """A document that was written down beforehand, for the first who asks for all of it.

    It must not be changed before ``asked`` is true.
    """

    def __init__(self, doc: Any) -> None:
        self.asked = False
        """Whether somebody has asked for the document."""
        self._doc = weakref.ref(doc)
        self._content = doc.to_json()
        self.looks = _looks(self._content.content)
        """The same for two documents that are alike."""
        doc.validate()
        doc.to_json, doc.validate = self._give, lambda: None
        _written[doc] = self

    def _give(self, *, deferred: bool = True) -> Any:
        self.asked = True
        doc, content = self._doc(), self._content
        if doc is None:
            return content
        del doc.to_json, self._content
        return content if deferred else doc.to_json(deferred=False)


def _looks(content: Any) -> int:
    """The same for two documents that differ in nothing but the names of their models."""
    names: dict[str, str] = {}
    text = json.dumps(content, default=repr)
    return hash(_NAME.sub(lambda found: names.setdefault(found.group(), f'"{len(names)}"'), text))


def _empty(doc: Any) -> None:
    """Take back all that a document was filled with."""
    for name in ("to_json", "validate", "destroy"):
        doc.__dict__.pop(name, None)
    for callback in doc.session_callbacks:
        doc.remove_periodic_callback(callback)
    doc.callbacks.js_event_callbacks.clear()
    doc.clear()


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
