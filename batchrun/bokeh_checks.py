"""Bokeh's conversion and checks of what its models are given, kept on in threads that depend on them.

Bokeh has one switch for a whole process, and Dask turns it off while it draws a page of its own. What another
thread makes in that moment is wrong without an error: a figure has a text where its title should be, a colour
is the name of a column instead of what is in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["checks_on"]


class _Here(threading.local):
    on = False


_here = _Here()


@contextmanager
def checks_on() -> Iterator[None]:
    """Let Bokeh convert and check what this thread gives its models meanwhile, whatever others do."""
    _install()
    before, _here.on = _here.on, True
    try:
        yield
    finally:
        _here.on = before


@cache
def _install() -> None:
    """Let Bokeh ask us too; it asks this function of its own before each check, and nothing else does."""
    from bokeh.core.property import bases

    plain: Callable[[], bool] = bases.validation_on

    def validation_on() -> bool:
        """Whether the running thread is to check."""
        return _here.on or plain()

    bases.validation_on = validation_on
