"""The runs that a page can show, whoever tells of them: the scheduler's board, or an archive."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from batchrun.dashboard.archive import Archive, RunLine
from batchrun.dashboard.board import Board, RunView
from batchrun.dashboard.message import RUNNING, Message
from batchrun.outcome import RunState

__all__ = ["Shelf", "title_of"]

SILENT_AFTER = 30.0
"""Seconds without a word from its runner after which a run is looked up in the archive."""


class Shelf:
    """Runs by their ids.

    What a run tells itself is newer than what the store knows, so the board goes first; a run that it lost
    sight of, because its driver is another one now, is taken from the archive.
    """

    def __init__(self, board: Board, archive: Callable[[], Archive | None]) -> None:
        self._board = board
        self._archive = archive
        self._stood: dict[str, tuple[RunLine, RunView]] = {}

    def listed(self, now: float) -> list[RunLine]:
        """All runs, newest first, as they are at *now*, in seconds since the epoch."""
        archive = self._archive()
        stored = (archive.runs() if archive is not None else None) or ()
        lines = {line.run_id: line for line in stored}
        for view in self._board.newest_first():
            told = _line(view)
            known = lines.get(told.run_id)
            if known is None or (_is_told(view, known, now) and not known.state.ended):
                lines[told.run_id] = told if known is None else _newer(known, told)
        return sorted(lines.values(), key=lambda line: line.created, reverse=True)

    def view(self, run_id: str, now: float) -> RunView | None:
        """A run as the page draws it; None if nobody knows of it."""
        archive, told = self._archive(), self._board.get(run_id)
        if archive is None:
            return told
        line = next((line for line in archive.runs() or () if line.run_id == run_id), None)
        if line is None or (told is not None and _is_told(told, line, now)):
            return told
        followed = archive.view(run_id)
        if followed is not None and (followed.message.ended or line.state is RunState.RUNNING):
            return followed
        return self._standing(line)

    def _standing(self, line: RunLine) -> RunView:
        """A run of which only the list tells: one that waits, or whose chunks are not read yet."""
        known = self._stood.get(line.run_id)
        if known is None or known[0] != line:
            self._stood = {line.run_id: (line, RunView(_message(line), time.time()))}
        return self._stood[line.run_id][1]


def _is_told(view: RunView, stored: RunLine, now: float) -> bool:
    """Whether what a run told last is what counts: it is fresh, or the run has ended for good."""
    return now - view.heard <= SILENT_AFTER or (view.message.ended and stored.state.ended)


def title_of(line: RunLine) -> str:
    """A run in a word or two, for a list to choose from."""
    named = line.run_id.startswith(line.pipeline)  # the ids that batchrun makes begin so
    return f"{line.state} · {line.run_id if named else f'{line.pipeline} · {line.run_id}'}"


def _message(line: RunLine) -> Message:
    ended = line.ended if line.state.ended else None
    return Message(
        line.run_id,
        at=line.started or line.created,
        pipeline=line.pipeline,
        state=line.state.value,
        started=line.started or line.created,
        rows_in=line.rows_in,
        rows_ended=(line.rows_solved, line.rows_quarantined, line.rows_cancelled),
        seconds=max(0.0, ended - (line.started or ended)) if ended is not None else 0.0,
    )


def _line(view: RunView) -> RunLine:
    message = view.message
    solved, quarantined, cancelled = message.fates
    return RunLine(
        run_id=message.run_id,
        pipeline=message.pipeline,
        state=RunState(message.state),
        created=message.started,
        started=message.started,
        ended=message.started + message.seconds if message.ended else None,
        rows_in=message.rows_in,
        rows_solved=solved + (0 if message.ended else message.rows_before),
        rows_quarantined=quarantined,
        rows_cancelled=cancelled,
        slots=None if message.ended else int(view.counts[RUNNING]),
    )


def _newer(stored: RunLine, told: RunLine) -> RunLine:
    """What a run tells, with its age as the store knows it."""
    return replace(told, created=stored.created)
