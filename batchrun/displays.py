"""What shows a run while it goes on: the live page, and the terminal or notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from batchrun.events import Observer
from batchrun.executor import Executor

__all__ = ["display", "displays"]


@contextlib.contextmanager
def displays(
    progress: bool,
    executor: Executor,
    *,
    stop: Callable[[str], None] | None = None,
    interrupt: str = "",
) -> Iterator[Sequence[Observer]]:
    """The observers that show the run: the live page always, terminal or notebook as ``display`` does."""
    from batchrun.dashboard.publisher import Publisher

    with contextlib.ExitStack() as stack:
        shown: list[Observer] = []
        if executor.dashboard:
            publisher = Publisher(executor.publish)
            stack.callback(publisher.close)
            shown.append(publisher)
        yield [*shown, *stack.enter_context(display(progress, stop=stop, interrupt=interrupt))]


@contextlib.contextmanager
def display(
    progress: bool, *, stop: Callable[[str], None] | None = None, interrupt: str = ""
) -> Iterator[Sequence[Observer]]:
    """The observer that shows a run in this notebook or terminal, if *progress* is wanted.

    Args:
        progress: Whether it is.
        stop: Asks for the run of that id to be stopped, its best answers kept: what the button of a notebook
            does. None for no button.
        interrupt: What an interrupt of a notebook's kernel does, for people.
    """
    from batchrun.console import ConsoleProgress
    from batchrun.notebook import NotebookProgress, in_notebook

    if not progress:
        yield []
    elif in_notebook():
        with NotebookProgress(stop=stop, interrupt=interrupt) as notebook:
            yield [notebook]
    else:
        with ConsoleProgress() as console:
            yield [console]
