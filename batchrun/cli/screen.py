"""The full screen of a store: which run the keys are at, and what is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

    from batchrun.cli.keys import Keys
    from batchrun.overview import Overview

__all__ = ["StoreScreen"]

FRAME_EVERY = 0.2
"""Seconds between two looks whether there is something to draw anew."""


class Looks(Protocol):
    """Who finds out how a store stands."""

    overview: Overview
    trouble: str

    def choose(self, run_id: str | None) -> None:
        """Look at that run more closely."""


class Canvas(Protocol):
    """Where it is drawn."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        ...

    def draw(self, shown: RenderableType) -> None:
        """Show that, and nothing else."""


class StoreScreen:
    """Draws what is found of a store, and moves by keys.

    Args:
        looks: Finds out how the store stands.
        keys: The keys of the terminal; None if it has none.
        clock: Seconds since the epoch.
    """

    def __init__(self, looks: Looks, keys: Keys | None, *, clock: Callable[[], float] = time.time) -> None:
        self._looks = looks
        self._keys = keys
        self._clock = clock
        self._run = ""
        """The run that the keys are at; the first one if there is none of that id."""
        self._at = 0
        """Where it was in the list."""
        self._opened = False

    def show(self, canvas: Canvas) -> None:
        """Draw until somebody leaves."""
        shown: object = None
        while True:
            stands = (id(self._looks.overview), self._looks.trouble, canvas.size, int(self._clock()))
            if stands != shown:
                canvas.draw(self.drawn(canvas.size))
                shown = stands
            key = self._wait()
            if key == "quit":
                return
            if key:
                self.press(key)
                shown = None

    def press(self, key: str) -> None:
        """Act on a key, by its name."""
        runs = [run.record.run_id for run in self._looks.overview.runs]
        if not runs:
            return
        self._at = self._place(runs)
        if key in ("up", "down") and not self._opened:
            self._at = min(len(runs) - 1, max(0, self._at + (1 if key == "down" else -1)))
        elif key in ("enter", "back"):
            self._opened = key == "enter"
        self._run = runs[self._at]
        self._looks.choose(self._run if self._opened else None)

    def drawn(self, size: tuple[int, int]) -> RenderableType:
        """What is to be seen now on a screen of so many columns and lines."""
        from batchrun.render.overview import overview_screen, run_screen

        overview, now, said = self._looks.overview, self._clock(), self._looks.trouble
        runs = [run.record.run_id for run in overview.runs]
        chosen = runs[self._place(runs)] if runs and self._keys is not None else ""
        opened = overview.find(chosen) if self._opened else None
        if opened is not None:
            return run_screen(overview, opened, now, size, said=said)
        return overview_screen(overview, now, size, chosen=chosen, keys=self._keys is not None, said=said)

    def _place(self, runs: list[str]) -> int:
        """Where the run is that the keys are at; one that is gone is followed by the one in its place."""
        return runs.index(self._run) if self._run in runs else min(self._at, len(runs) - 1)

    def _wait(self) -> str:
        if self._keys is not None:
            return self._keys(FRAME_EVERY)
        time.sleep(FRAME_EVERY)
        return ""
