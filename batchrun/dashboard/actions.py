"""The buttons that stop a run or queue it again; each asks before it acts.

While a question is open the buttons stay where they are, and cannot be pressed: were an answer to take their
place, the second click of a double click would give it.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any, Final

from bokeh.layouts import column, row
from bokeh.models import Button, Div

from batchrun.dashboard.archive import Archive
from batchrun.outcome import FAILED_STATES, RunState

__all__ = ["Actions"]

_STOP: Final = "Stop, keep the best"
_CANCEL: Final = "Cancel"
_REQUEUE: Final = "Requeue"
_QUESTIONS: Final = {
    _STOP: "Stop the run? Solves that have an answer keep their best one; what waits is cancelled.",
    _CANCEL: "Cancel the run? What is solved is kept; what runs is stopped without a result.",
    _REQUEUE: "Queue the run again, for all that has no result?",
}
_AGAIN: Final = {*FAILED_STATES, RunState.CANCELLED}


class Actions:
    """Buttons for what can be done with the run that is shown.

    Args:
        archive: Whom to ask for it, at the moment that somebody does.
        say: Shows a sentence to who clicked.
        stylesheets: The page's.
    """

    def __init__(self, archive: Callable[[], Archive | None], say: Div, stylesheets: list[Any]) -> None:
        self._archive = archive
        self._said = say
        self._run_id = ""
        self._asked = ""
        looks = {
            "height": 30,
            "sizing_mode": "stretch_width",
            "stylesheets": stylesheets,
            "margin": (6, 3, 0, 0),
        }
        self._buttons = {name: Button(label=name, **looks) for name in _QUESTIONS}
        for name, button in self._buttons.items():
            button.on_click(lambda name=name: self._ask(name))
        self._yes = Button(label="Yes", button_type="danger", **looks)
        self._no = Button(label="No", **looks)
        self._yes.on_click(self._act)
        self._no.on_click(lambda: self._ask(""))
        self._sure = row(self._yes, self._no, sizing_mode="stretch_width", visible=False)
        self._choice = row(*self._buttons.values(), sizing_mode="stretch_width")
        self.root = column(self._choice, self._said, self._sure, sizing_mode="stretch_width", visible=False)
        """The Bokeh model of all of it."""

    def update(self, run_id: str, state: RunState) -> None:
        """Offer what can be done with a run that stands so."""
        archive = self._archive()
        self.root.visible = archive is not None
        if archive is None:
            return
        if run_id != self._run_id:
            self._run_id = run_id
            self._ask("")
        going = not state.ended
        for name, offered in ((_STOP, going), (_CANCEL, going), (_REQUEUE, state in _AGAIN)):
            self._buttons[name].visible = offered
        self._choice.visible = any(button.visible for button in self._buttons.values())
        if not self._asked and (said := archive.said()):
            self._say(said)

    def _ask(self, name: str) -> None:
        self._asked = name
        if not name:
            self._sure.visible = False
        for button in self._buttons.values():
            button.disabled = bool(name)
        self._say(_QUESTIONS.get(name, ""))
        self._yes.label = f"Yes: {name.lower()}" if name else "Yes"
        if name:
            self._sure.visible = True

    def _act(self) -> None:
        archive, name = self._archive(), self._asked
        self._ask("")
        if archive is None:
            return
        if name == _REQUEUE:
            archive.requeue(self._run_id)
        elif name:
            archive.cancel(self._run_id, keep_best=name == _STOP)

    def _say(self, text: str) -> None:
        self._said.text = f'<div class="b quiet" role="status">{escape(text)}</div>' if text else ""
