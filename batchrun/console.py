"""The terminal: live progress, the summary at the end, and the tables of the command line.

Progress and errors go to standard error, tables and JSON to standard output.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from batchrun.events import (
    ChunkReported,
    ChunksRecalled,
    Event,
    RunEnded,
    RunStarted,
    RunStopping,
    RunWaiting,
)
from batchrun.progress import Progress
from batchrun.render.running import MessageLog

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from batchrun.comparison import Comparison
    from batchrun.overview import Overview
    from batchrun.pruning import PrunePlan
    from batchrun.render.pulse import Pulse
    from batchrun.render.terminal import CheckLine, FailedLine, RunLine
    from batchrun.report import RunReport
    from batchrun.schedule import Schedule
    from batchrun.store.records import RunFailures

__all__ = [
    "ConsoleProgress",
    "FullScreen",
    "can_draw",
    "documents_apart",
    "full_screen",
    "jsonable",
    "print_checks",
    "print_comparison",
    "print_details",
    "print_error",
    "print_failed_runs",
    "print_json",
    "print_json_line",
    "print_note",
    "print_overview",
    "print_pipelines",
    "print_prune_plan",
    "print_runs",
    "print_schedules",
    "print_settings",
    "print_summary",
]

LOG_EVERY = 5.0
"""Seconds between two lines of progress in a log that is no terminal."""
WAITING_EVERY = 60.0
"""Seconds between two lines of such a log about what a run waits for, if that changes."""
LOG_WIDTH = 160
"""Columns of what is laid out in columns where there is no terminal."""
_documents: ContextVar[TextIO | None] = ContextVar("batchrun_documents", default=None)
"""Where documents go; None for standard output."""
FRAMES_PER_SECOND = 8
"""How often the live display is drawn."""


class ConsoleProgress:
    """Shows a run on standard error while it goes on: an observer, used as a context manager.

    On a terminal it draws a live block. Elsewhere, as in the log of a build, it writes a line when the run
    starts, one every five seconds, also while a long chunk lets nothing happen, and one when the run is
    stopped or ends; and what a running chunk says, at most every ten seconds. With *quiet* it writes nothing.

    >>> with ConsoleProgress(quiet=True) as progress:
    ...     progress(RunStarted("r1", 0.0, "delays", ("delays",), 100, "", "this process"))
    >>> progress.progress.rows
    100
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.time,
        log_every: float = LOG_EVERY,
    ) -> None:
        self.progress = Progress()
        self._quiet = quiet
        self._console = console
        self._clock = clock
        self._log_every = log_every
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._pulse: Pulse | None = None
        self._messages = MessageLog()
        self._last_line = float("-inf")
        self._waits = "", 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to draw or to write."""
        if self._quiet or self._live is not None or self._pulse is not None:
            return
        self._console = self._console or _stderr()
        if self._console.is_interactive:
            from rich.live import Live

            self._live = Live(
                console=self._console,
                get_renderable=self._draw,
                refresh_per_second=FRAMES_PER_SECOND,
                transient=True,
                # What a stage prints must stay on standard output when that is a file or a pipe.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        else:
            from batchrun.render.pulse import Pulse

            self._pulse = Pulse(self._tick, self._log_every / 10)
            self._pulse.start()

    def stop(self) -> None:
        """Take the live block away and give the terminal back; harmless when nothing was started."""
        live, self._live = self._live, None
        pulse, self._pulse = self._pulse, None
        if live is not None:
            live.stop()
        if pulse is not None:
            pulse.stop()

    def __call__(self, event: Event) -> None:
        """Take an event in; called in the runner's thread."""
        with self._lock:
            self.progress.tell(event)
            if not self._quiet and self._live is None and self._console is not None:
                self._log(event)
            if isinstance(event, RunStarted) and not self._quiet and self._console is not None:
                for note in event.notes:
                    _plain(self._console, f"run {event.run_id}: {note}")

    def _draw(self) -> RenderableType:
        from rich.text import Text

        from batchrun.render.live import progress_block

        with self._lock:
            return progress_block(self.progress, self._clock()) if self.progress.run_id else Text("")

    def _log(self, event: Event) -> None:
        from batchrun.render import live

        if not isinstance(event, RunWaiting):
            self._waits = "", 0.0
        match event:
            case RunStarted():
                self._write(live.started_line(self.progress), event.at)
            case ChunksRecalled():
                self._write(live.resumed_line(self.progress), event.at)
            case RunWaiting():
                self._say_what_it_waits_for(event)
            case RunStopping():
                self._write(live.stopping_line(self.progress, event.at), event.at)
            case RunEnded():
                self._write(live.ended_line(self.progress), event.at)
            case ChunkReported():
                self._say(event)
                self._write_if_due(event.at)
            case _:
                self._write_if_due(event.at)

    def _say(self, event: ChunkReported) -> None:
        """Tell on what a running chunk says, if that is due."""
        line = self._messages.line(event)
        if line and self._console is not None:
            _plain(self._console, line)

    def _say_what_it_waits_for(self, event: RunWaiting) -> None:
        """At once where it went on before; else if that changed and is due."""
        said, at = self._waits
        if not said or (said != event.reason and event.at - at >= WAITING_EVERY):
            self._waits = event.reason, event.at
            self._write(event.reason, event.at)

    def _tick(self) -> None:
        """Say that the run goes on, where no event has said so."""
        with self._lock:
            if self.progress.run_id and self.progress.ended is None and not self.progress.waits:
                self._write_if_due(self._clock())

    def _write_if_due(self, now: float) -> None:
        from batchrun.render.live import progress_line

        if now - self._last_line >= self._log_every:
            self._write(progress_line(self.progress, now), now)

    def _write(self, line: str, now: float) -> None:
        assert self._console is not None  # noqa: S101  there is one from the start on
        self._last_line = now
        _plain(self._console, line)


class FullScreen:
    """The whole terminal, drawn on as long as the context of ``full_screen`` lasts."""

    def __init__(self, live: Live) -> None:
        self._live = live

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        return self._live.console.size

    def draw(self, shown: RenderableType) -> None:
        """Show that, and nothing else."""
        self._live.update(shown, refresh=True)


def can_draw() -> bool:
    """Whether standard output is a terminal on which a full screen can be drawn."""
    return _is_screen(sys.stdout)


@contextlib.contextmanager
def full_screen(*, console: Console | None = None) -> Iterator[FullScreen]:
    """Take the terminal that standard output is; what it showed is there again afterwards."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = console or Console(highlight=False)
    with Live(Text(), console=console, screen=True, auto_refresh=False, redirect_stdout=False) as live:
        yield FullScreen(live)


def print_overview(overview: Overview, *, console: Console | None = None) -> None:
    """Print how a store stands, as wide as the terminal, or as wide as a log likes it."""
    from rich.console import Console

    from batchrun.render.overview import overview_view

    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    console.print(overview_view(overview, overview.at, console.width))


def print_summary(
    report: RunReport, files: Sequence[str | Path] = (), *, console: Console | None = None
) -> None:
    """Print how a run ended, with the paths of the report *files* that were written."""
    from batchrun.render.terminal import summary

    _print(summary(report, [str(file) for file in files]), console)


def print_details(report: RunReport, *, console: Console | None = None) -> None:
    """Print all that is known of a run, whether it has ended or not."""
    from batchrun.render.terminal import details

    _print(details(report), console)


def print_comparison(
    comparison: Comparison, *, everything: bool = False, console: Console | None = None
) -> None:
    """Print where two runs differ, or *everything*, side by side."""
    from batchrun.render.comparing import comparison_view

    _print(comparison_view(comparison, everything=everything), console)


def print_runs(
    runs: Iterable[RunLine],
    abandoned: Collection[str] = (),
    queued: Collection[str] = (),
    hosts: Mapping[str, str] | None = None,
    *,
    console: Console | None = None,
) -> None:
    """Print one line a run, and how to go on with those whose ids are in *abandoned*; those in *queued* wait
    for a service, and *hosts* has the machines that drive the others."""
    from batchrun.render.terminal import runs_table

    _print(runs_table(runs, abandoned, queued, hosts or {}), console)


def print_schedules(schedules: Iterable[Schedule], *, console: Console | None = None) -> None:
    """Print one line a schedule."""
    from batchrun.render.schedules import schedules_table

    _print(schedules_table(schedules), console)


def print_failed_runs(
    runs: Iterable[FailedLine], failures: Mapping[str, RunFailures], *, console: Console | None = None
) -> None:
    """Print one line a run that failed, with what most of its chunks failed for."""
    from batchrun.render.terminal import failed_runs_table

    _print(failed_runs_table(runs, failures), console)


def print_prune_plan(plan: PrunePlan, *, console: Console | None = None) -> None:
    """Print the runs and folders that would be removed, and what that frees."""
    from batchrun.render.terminal import prune_table

    _print(prune_table(plan.runs, plan.sizes, [one.path for one in plan.leftovers], plan.nbytes), console)


def print_settings(settings: Iterable[tuple[str, object, str]], *, console: Console | None = None) -> None:
    """Print each setting as ``(key, value, source)``."""
    from batchrun.render.terminal import settings_table

    _print(settings_table(settings), console)


def print_checks(checks: Iterable[CheckLine], *, console: Console | None = None) -> None:
    """Print what ``doctor`` found."""
    from batchrun.render.terminal import checks_table

    _print(checks_table(checks), console)


def print_pipelines(
    pipelines: Iterable[tuple[str, str, str, str]], *, console: Console | None = None
) -> None:
    """Print each pipeline as ``(module:name, split, stages, what it is for)``."""
    from batchrun.render.terminal import pipelines_table

    _print(pipelines_table(pipelines), console)


def print_json(document: Any) -> None:
    """Write one JSON document to standard output, and nothing else.

    Not-a-number and infinities become null, which JSON has a word for; dates and other values become text.
    """
    _write_document(json.dumps(jsonable(document), indent=2, ensure_ascii=False, allow_nan=False))


def print_json_line(document: Any) -> None:
    """The same on one line, for those that follow each other."""
    _write_document(json.dumps(jsonable(document), ensure_ascii=False, allow_nan=False))


@contextlib.contextmanager
def documents_apart() -> Iterator[None]:
    """Within this context standard output gets documents and nothing else: what stages, libraries and the
    processes that they start write there goes to standard error."""
    output = sys.stdout
    try:
        number = output.fileno()
    except (OSError, ValueError):  # it is no file, as in tests
        kept, documents = None, output
    else:
        output.flush()
        kept = os.dup(number)
        documents = os.fdopen(kept, "w", encoding=output.encoding, errors="replace", closefd=False)
        os.dup2(sys.stderr.fileno(), number)
    sys.stdout, token = sys.stderr, _documents.set(documents)
    try:
        yield
    finally:
        sys.stdout = output
        _documents.reset(token)
        if kept is not None:
            with contextlib.suppress(OSError):  # there may be nobody left to read it
                documents.flush()
            os.dup2(kept, number)
            os.close(kept)


def _write_document(text: str) -> None:
    documents = _documents.get() or sys.stdout
    documents.write(text + "\n")
    documents.flush()


def print_error(message: str, *, console: Console | None = None) -> None:
    """Say on standard error, in one block, what was wrong and what to do."""
    from rich.text import Text

    _print(Text.assemble(("error: ", "bold #d1495b"), str(message)), console or _stderr())


def print_note(message: str, *, console: Console | None = None) -> None:
    """Say something on standard error that is no error, such as how to resume."""
    from rich.text import Text

    _print(Text(str(message)), console or _stderr())


def jsonable(value: Any) -> Any:
    """*value* in the types of JSON; see ``print_json``."""
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _stderr() -> Console:
    from rich.console import Console

    # FORCE_COLOR makes rich take a file for a terminal; colours may be forced, a moving display may not.
    return Console(stderr=True, highlight=False, force_interactive=_is_screen(sys.stderr))


def _is_screen(stream: TextIO) -> bool:
    """Whether something can be drawn there that moves."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _print(renderable: RenderableType, console: Console | None) -> None:
    from rich.console import Console

    console = console or Console(highlight=False)
    console.print(renderable, soft_wrap=not console.is_terminal and _is_line(renderable))


def _is_line(renderable: RenderableType) -> bool:
    """Whether it is text of one block, which a log keeps unwrapped."""
    from rich.text import Text

    return isinstance(renderable, Text)


def _plain(console: Console, line: str) -> None:
    """A line without markup, colours or wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True, emoji=False)
