"""What this process is to a notebook, and how something is shown in a cell of it."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["Replace", "in_notebook", "is_watched", "show"]

Replace = Callable[[str, str], None]
"""Puts other HTML, and the same as text, in the place of what is shown."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, where a display can be updated."""
    shell = _shell()
    return shell is not None and shell.has_trait("kernel")


def is_watched() -> bool:
    """Whether somebody may press a button: a program that runs a notebook, such as nbclient or papermill,
    takes no input, and says so with each cell."""
    if not in_notebook():
        return False
    content = _shell().kernel.get_parent().get("content")
    return isinstance(content, dict) and bool(content.get("allow_stdin"))


def show(html: str, text: str, **richer: Any) -> Replace:
    """Show HTML in the present cell, and give back what replaces it.

    Args:
        html: For front ends that show it.
        text: The same for those that do not.
        richer: Other forms by media type, with which the first display is richer.
    """
    from IPython.display import display

    handle: Any = display(_bundle(html, text) | richer, raw=True, display_id=True)

    def replace(newer: str, same: str) -> None:
        # In the name of the cell that runs by then: what comes in that of one that has ended, as of a run in
        # the background, is not heard by programs that execute notebooks. The display is found by its id.
        contextvars.Context().run(handle.update, _bundle(newer, same), raw=True)

    return replace


def _bundle(html: str, text: str) -> dict[str, Any]:
    return {"text/html": html, "text/plain": text}


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
