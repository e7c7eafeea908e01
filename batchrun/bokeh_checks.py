"""Bokeh's conversion and checks of what its models are given, kept on in threads that depend on them.

Bokeh has one switch for a whole process, and Dask turns it off while it draws a page of its own. What another
thread makes in that moment is wrong without an error: a figure has a text where its title should be, a colour
is the name of a column instead of what is in it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["checks_on"]


class _Here(threading.local):
    """What is so in this thread."""

    on: bool | None = None
    """Whether Bokeh checks; None where the switch of the process counts."""


_here = _Here()


@contextmanager
def checks_on() -> Iterator[None]:
    """Give this thread a switch of its own meanwhile, which is on until this thread turns it off."""
    _install()
    before, _here.on = _here.on, True
    try:
        yield
    finally:
        _here.on = before


@cache
def _install() -> None:
    """Let Bokeh's switch be that of the running thread, where it has one.

    Bokeh asks ``validation_on`` before each check, and turns the switch with ``validate``, also while it
    makes a class of models.
    """
    from bokeh.core.property import bases, validation

    of_all, validate = bases.validation_on, validation.validate
    turn_all, turn_all_back = validate.__init__, validate.__exit__

    def validation_on() -> bool:
        return of_all() if _here.on is None else _here.on

    def turn(self: Any, value: bool) -> None:
        if _here.on is None:
            turn_all(self, value)
        else:
            self.old, _here.on = _here.on, value

    def turn_back(self: Any, *raised: Any) -> None:
        if _here.on is None:
            turn_all_back(self, *raised)
        else:
            _here.on = self.old

    bases.validation_on = validation_on
    validate.__init__, validate.__exit__ = turn, turn_back
