"""Showing a store as a whole while things happen in it: as a full screen, in lines, or as documents."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from batchrun import console
from batchrun.cli.documents import overview_document
from batchrun.cli.program import leave_output
from batchrun.errors import BatchrunError
from batchrun.outcome import ExitCode

if TYPE_CHECKING:
    from batchrun.overview import Overview, StoreWatch

__all__ = ["Documents", "Looker", "watch_store"]

LOOK_EVERY = 1.0
"""Seconds between two looks."""
REST = 9
"""How many times as long as a look took there is none after it."""
VOLATILE = ("at", "seconds_left", "why")
"""What changes by the clock alone."""


def watch_store(store_url: str, *, once: bool, as_json: bool) -> None:
    """Show a store until somebody leaves, or *once*.

    On a terminal it is a full screen. Elsewhere it is a line whenever something changed, or with *as_json* a
    document on a line of its own.
    """
    from batchrun.overview import StoreWatch
    from batchrun.store.runs import RunStore

    with RunStore(store_url) as store:
        watch = StoreWatch(store)
        first = watch.look()
        if once:
            if as_json:
                console.print_json(overview_document(first))
            else:
                console.print_overview(first)
            return
        try:
            if not as_json and console.can_draw():
                _draw(first, watch)
            else:
                _write(first, watch, Documents() if as_json else _lines_of())
        except KeyboardInterrupt:  # the usual end of it, about which there is nothing to say
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            leave_output()


# On a terminal


class Looker(threading.Thread):
    """Looks at a store in a thread of its own, so that keys are answered while a store is slow or away."""

    def __init__(self, watch: StoreWatch, first: Overview) -> None:
        super().__init__(name="batchrun-watch", daemon=True)
        self.overview = first
        """What was found last."""
        self.trouble = ""
        """Why nothing is found now; empty if something is."""
        self._watch = watch
        self._chosen: str | None = None
        self._over = False
        self._wake = threading.Event()

    def choose(self, run_id: str | None) -> None:
        """Look at that run more closely, from now on."""
        if run_id != self._chosen:
            self._chosen = run_id
            self._wake.set()

    def stop(self) -> None:
        """Look no more; one that goes on now is not waited for for long."""
        self._over = True
        self._wake.set()
        self.join(1.0)

    def run(self) -> None:
        """What the thread does."""
        rest = LOOK_EVERY
        while True:
            self._wake.wait(rest)
            self._wake.clear()
            if self._over:
                return
            began = time.monotonic()
            try:
                self.overview, self.trouble = self._watch.look(self._chosen), ""
            except Exception as error:  # whatever it is, the screen must not stand still without a word
                self.trouble = str(error) or type(error).__name__
            rest = max(LOOK_EVERY, REST * (time.monotonic() - began))


def _draw(first: Overview, watch: StoreWatch) -> None:
    from batchrun.cli.keys import pressed_keys
    from batchrun.cli.screen import StoreScreen

    looker = Looker(watch, first)
    looker.start()
    try:
        with pressed_keys() as keys, console.full_screen() as canvas:
            StoreScreen(looker, keys).show(canvas)
    finally:
        looker.stop()


# Elsewhere


def _write(first: Overview, watch: StoreWatch, tell: Callable[[Overview], object]) -> None:
    """Write what there is to tell of each look; while the store is away, say so once."""
    overview, away = first, False
    while True:
        tell(overview)
        while True:
            began = time.monotonic()
            time.sleep(LOOK_EVERY)
            try:
                overview = watch.look()
            except BatchrunError as error:
                if not away:
                    console.print_note(f"the store cannot be looked at for now: {error}")
                away = True
                continue
            away = False
            break
        time.sleep(max(0.0, (REST - 1) * (time.monotonic() - began - LOOK_EVERY)))


def _lines_of() -> Callable[[Overview], None]:
    from batchrun.render.overview_log import OverviewLog

    log = OverviewLog()

    def tell(overview: Overview) -> None:
        for line in log.news(overview):
            typer.echo(line)

    return tell


class Documents:
    """Writes each overview as a line of JSON, if more than the time is another than in the one before."""

    def __init__(self) -> None:
        self._before: Any = None

    def __call__(self, overview: Overview) -> None:
        """Take in the next one."""
        document = console.jsonable(overview_document(overview))
        stands = _without_time(document)
        if stands != self._before:
            self._before = stands
            console.print_json_line(document)


def _without_time(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _without_time(value) for key, value in document.items() if key not in VOLATILE}
    return [_without_time(item) for item in document] if isinstance(document, list) else document
