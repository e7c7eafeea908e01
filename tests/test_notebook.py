"""The notebook: one display that is updated, and a card that is safe to show."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from batchrun import Pipeline, RetryPolicy, RunReport, Stage, by_rows, run_pipeline, submit_pipeline
from batchrun.config import Settings
from batchrun.events import (
    AttemptsSolved,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    ChunksSettled,
    RetryScheduled,
    RunEnded,
    RunStarted,
    RunStopping,
    RunWaiting,
    SlotsChanged,
    SlotUse,
)
from batchrun.notebook import NotebookProgress, in_notebook, progress_html, report_html
from batchrun.outcome import ErrorRecord, Outcome, RunState
from batchrun.progress import Progress
from batchrun.status import TaskStatus
from tests.loops import run_apart
from tests.stopped_run import stopped_run
from tests.told import chunk_settled, solved_attempts

SCRIPT = "<script>alert(1)</script>"


class Display:
    """Keeps what is shown, as a notebook's cell does."""

    def __init__(self) -> None:
        self.displays = 0
        self.shown: list[str] = []

    def __call__(self, html: str, text: str):
        self.displays += 1
        self.show(html, text)
        return self.show

    def show(self, html: str, text: str) -> None:
        self.shown.append(html)
        self.text = text


class Clock:
    """Stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Tags(HTMLParser):
    """Collects tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


FOUR = pd.DataFrame({"x": range(4)})


def double(chunk: pd.DataFrame) -> pd.DataFrame:
    return 2 * chunk


def folds(card: str) -> dict[str, str]:
    """The tabs of a card by their titles."""
    found = re.findall(r"<summary[^>]*>(.*?)</summary><div>(.*?)</div></details>", card, re.DOTALL)
    return dict(found)


def start(rows: int = 1_000, *, pipeline: str = "delays", dashboard: str = "") -> RunStarted:
    return RunStarted("r1", 0.0, pipeline, ("delays",), rows, "runs/r1", "two workers", dashboard)


def settled(chunk: int, at: float) -> ChunksSettled:
    return chunk_settled("r1", at, chunk, Outcome.SUCCEEDED, 10)


def test_one_display_is_updated_four_times_a_second_at_most():
    display, clock = Display(), Clock()
    progress = NotebookProgress(display=display, clock=clock)
    progress(start())
    for number in range(100):
        clock.now = number / 100
        progress(settled(number, clock.now))
    assert display.displays == 1
    assert 4 <= len(display.shown) <= 5


def test_the_last_state_stays_and_no_longer_counts_down():
    display, clock = Display(), Clock()
    progress = NotebookProgress(display=display, clock=clock)
    progress(start())
    progress(ChunksPlanned("r1", 0.0, chunks=100, rows=1_000))
    progress(settled(0, 0.1))
    progress(RunEnded("r1", 0.2, RunState.PARTIAL, 1_000, 990, 10, 0, 3.0))
    assert "partial after 3.0 s" in display.shown[-1]
    assert "1,000 rows in = 990 solved + 10 quarantined + 0 cancelled" in display.shown[-1]
    assert "rows/s" not in display.shown[-1]
    assert " left" not in display.shown[-1]


def test_the_live_block_shows_rows_rate_time_left_and_slots():
    progress = Progress()
    progress.tell(start(dashboard="http://127.0.0.1:8787/batchrun"))
    progress.tell(ChunksPlanned("r1", 0.0, chunks=100, rows=1_000))
    progress.tell(settled(0, 1.0))
    progress.tell(SlotsChanged("r1", 1.0, (SlotUse("HIGHMEM", 1, 1, 3),), 3))
    block = progress_html(progress, 1.0)
    for part in (
        "10 of 1,000 rows",
        "10 rows/s",
        "1 of 100 chunks",
        "1 s elapsed, 1 min 39 s left",
        "0 chunks running",
        "HIGHMEM 1/1, 3 waiting",
    ):
        assert part in block
    assert "href='http://127.0.0.1:8787/batchrun'" in block


def test_the_display_goes_on_while_nothing_happens_and_stops_with_the_run():
    moved = threading.Event()
    ticks = iter(range(100_000))

    def display(html: str, text: str):
        def replace(newer: str, same: str) -> None:
            if "20 s elapsed" in newer:
                moved.set()

        return replace

    with NotebookProgress(display=display, clock=lambda: float(next(ticks)), redraw_every=0.001) as progress:
        progress(start())
        assert moved.wait(30)
    assert "batchrun-display" not in {thread.name for thread in threading.enumerate()}


def test_a_request_to_stop_is_shown_at_once_with_what_it_does():
    display, clock = Display(), Clock()
    progress = NotebookProgress(display=display, clock=clock)
    progress(start())
    progress(ChunksPlaced("r1", 0.0, (0, 1), ("w-0", "w-1")))
    progress(RunStopping("r1", 0.0, running=2, grace=5.0))
    assert "2 running chunks have up to 5 s to end; interrupt again to stop at once" in display.shown[-1]
    progress(RunEnded("r1", 0.2, RunState.CANCELLED, 1_000, 0, 0, 1_000, 3.0))
    assert "stopping" not in display.shown[-1]


def test_an_address_that_is_no_web_page_is_no_link():
    progress = Progress()
    progress.tell(start(dashboard="javascript:alert(1)"))
    assert "a" not in Tags(progress_html(progress, 0.0)).tags


def test_names_and_errors_of_the_live_block_are_escaped():
    progress = Progress()
    progress.tell(start(pipeline=SCRIPT))
    progress.tell(RunEnded("r1", 1.0, RunState.FAILED, 0, 0, 0, 0, 1.0, ErrorRecord(SCRIPT, SCRIPT)))
    assert "script" not in Tags(progress_html(progress, 1.0)).tags
    assert "&lt;script&gt;" in progress_html(progress, 1.0)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))

        def solve(chunk: pd.DataFrame, *, label: str = SCRIPT) -> pd.DataFrame:
            if (chunk["value"] == 7).any():
                raise ValueError(f"{SCRIPT} is bad")
            return chunk

        stage = Stage(solve, name=f"solve{SCRIPT}", retry=RetryPolicy(attempts=1))
        return run_pipeline(
            Pipeline("scores'\"><img>", split=by_rows(5), stages=[stage]),
            pd.DataFrame({"value": range(50)}),
            cluster="inline",
            progress=False,
        )


def test_the_card_accounts_for_every_row_and_names_the_failure(report: RunReport):
    card = report._repr_html_()
    assert "50 rows in = 49 solved + 1 quarantined + 0 cancelled" in card
    assert "12 chunks: 11 succeeded, 1 failed; 2 others were cut into parts" in card
    assert "ValueError" in card
    assert "(1 chunk, 1 row)" in card


def test_the_card_runs_no_script_and_loads_nothing(report: RunReport):
    read = Tags(report_html(report))
    plain = {"div", "span", "b", "table", "tr", "th", "td", "pre", "style", "details", "summary"}
    assert set(read.tags) <= plain
    assert {name for name, _ in read.attributes} == {"style", "class", "name", "open"}
    assert "url(" not in report_html(report)


def test_the_tabs_hold_the_results_the_failures_and_how_it_was_run(report: RunReport):
    tabs = folds(report_html(report))
    assert list(tabs) == ["Summary", "Results", "Failures", "Quarantined", "Chunks", "Settings"]
    assert "the first 10 of 49 rows" in tabs["Results"]
    assert "in solve" in tabs["Failures"]
    assert "batchrun/" not in tabs["Failures"]  # the frames of the user's code only
    assert "is bad" in tabs["Quarantined"]
    assert "succeeded" in tabs["Chunks"]
    assert "label" in tabs["Settings"]
    assert "run.stop_grace" in tabs["Settings"]


def test_the_first_tab_is_open_and_those_of_two_cards_do_not_close_each_other(report: RunReport):
    card, again = report_html(report), report_html(report)
    assert card.count(" open>") == 1
    [name] = {value for key, value in Tags(card).attributes if key == "name"}
    assert name not in again


def test_a_card_without_failures_has_no_tab_for_them(here: Path):
    fine = run_pipeline(double, FOUR, split=by_rows(2), cluster="inline", progress=False)
    assert list(folds(fine._repr_html_())) == ["Summary", "Results", "Chunks", "Settings"]


def test_a_card_whose_files_are_gone_says_so_in_the_tab(here: Path):
    fine = run_pipeline(double, FOUR, split=by_rows(2), cluster="inline", progress=False)
    for file in Path(fine.folder).glob("**/*.arrow"):
        if "plan" not in file.as_posix():
            file.unlink()
    tabs = folds(fine._repr_html_())
    assert "4 rows in = 4 solved" in fine._repr_html_()
    assert "gone" in tabs["Results"] or "read" in tabs["Results"]


def test_the_live_block_shows_what_running_chunks_say_and_lets_them_say_no_markup():
    progress = Progress()
    progress.tell(start())
    progress.tell(ChunksPlaced("r1", 0.0, (17,), ("highmem-0",)))
    status = TaskStatus("k", SCRIPT, 720.0, done=0.4, message=SCRIPT, objective=1_000, bound=968)
    progress.tell(ChunkReported("r1", 720.0, 17, SCRIPT, status))
    block = progress_html(progress, 720.0)
    assert "script" not in Tags(block).tags
    for part in ("chunk 17", "40 %", "gap 3.2 %", "12 min", "&lt;script&gt;"):
        assert part in block
    progress.tell(RunEnded("r1", 721.0, RunState.CANCELLED, 0, 0, 0, 0, 1.0))
    assert "chunk 17" not in progress_html(progress, 721.0)


def test_the_card_names_stopped_solves_and_their_worst_gap(tmp_path: Path):
    assert "8 stopped with a solution, worst gap 20 %" in report_html(stopped_run(tmp_path))


def test_the_live_block_shows_how_far_each_stage_is():
    progress = Progress()
    progress.tell(RunStarted("r1", 0.0, "mine", (f"clean{SCRIPT}", "solve"), 40, "", "here"))
    progress.tell(ChunksPlanned("r1", 0.0, chunks=4, rows=40))
    progress.tell(AttemptsSolved("r1", 1.0, solved_attempts(range(3), f"clean{SCRIPT}")))
    progress.tell(settled(0, 1.0))
    progress.tell(ChunksPlaced("r1", 1.0, (1,), ("w-0",)))
    progress.tell(ChunkReported("r1", 1.0, 1, "w-0", TaskStatus("k", "solve", 1.0, done=0.4)))
    block = progress_html(progress, 1.0)
    assert "3 of 4<" in block
    assert "1 of 4, 1 running" in block
    assert "script" not in Tags(block).tags
    progress.tell(RunEnded("r1", 2.0, RunState.CANCELLED, 40, 10, 0, 30, 1.0))
    assert "3 of 4<" not in progress_html(progress, 2.0)


def test_the_latest_error_is_shown_while_the_run_goes_on():
    progress = Progress()
    progress.tell(start())
    progress.tell(RetryScheduled("r1", 1.0, 3, "solve", 1.0, ErrorRecord("ValueError", f"no date {SCRIPT}")))
    assert "latest error: ValueError: no date &lt;script&gt;" in progress_html(progress, 1.0)


def test_what_cannot_show_html_is_given_the_same_as_text():
    display, clock = Display(), Clock()
    progress = NotebookProgress(display=display, clock=clock)
    progress(start())
    progress(ChunksPlanned("r1", 0.0, chunks=100, rows=1_000))
    assert display.text.splitlines()[0] == "delays (r1): 0 % · 0 s elapsed, starting"
    progress(
        RunEnded("r1", 0.2, RunState.FAILED, 1_000, 990, 10, 0, 3.0, ErrorRecord("ValueError", "no date"))
    )
    assert display.text.splitlines() == [
        "delays (r1): failed after 3.0 s",
        "1,000 rows in = 990 solved + 10 quarantined + 0 cancelled · 0 of 100 chunks",
        "ValueError: no date",
    ]


def test_a_run_is_safe_where_an_event_loop_runs(here: Path):
    async def cell() -> list[int]:
        report = run_pipeline(double, FOUR, split=by_rows(2), cluster="inline", progress=False)
        return report.results()["x"].tolist()

    assert run_apart(cell()) == [0, 2, 4, 6]


@pytest.mark.cluster
def test_a_run_on_a_cluster_is_safe_where_an_event_loop_runs(cluster: Settings):
    async def cell() -> list[int]:
        options = {"split": by_rows(2), "cluster": cluster, "progress": False}
        report = run_pipeline(double, FOUR, **options)
        again = submit_pipeline(double, FOUR, queue=False, **options).wait()
        await asyncio.sleep(0)
        return [report.rows_solved, again.rows_solved]

    assert run_apart(cell()) == [4, 4]


def test_a_plain_process_is_no_notebook():
    assert not in_notebook()


def test_asking_whether_this_is_a_notebook_imports_no_ipython():
    code = "import sys, batchrun.notebook as n; n.in_notebook(); sys.exit('IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tables_are_laid_out_by_their_contents_in_a_notebook_too(report: RunReport):
    progress = Progress()
    for event in (
        RunStarted("r1", 0.0, "p", ("solve",), 10, "", "here"),
        ChunksPlanned("r1", 0.0, 1, 10),
        ChunksPlaced("r1", 0.0, (0,), ("w-0",)),
        ChunkReported("r1", 1.0, 0, "w-0", TaskStatus("k", "solve", 1.0, done=0.4, message="gap 3 %")),
    ):
        progress.tell(event)

    shown = progress_html(progress, 2.0)

    assert "chunk 0 solve on w-0" in shown
    assert shown.count("<table") == shown.count("table-layout:auto") == 1
    assert report_html(report).count("<table") == report_html(report).count("table-layout:auto")


def test_a_run_that_waits_shows_what_for_and_then_goes_on():
    progress = Progress()
    progress.tell(RunWaiting("r1", 0.0, "delays", 0, "run r1 waits for the lock <b>gurobi</b>"))
    waiting = progress_html(progress, 5.0)
    progress.tell(start())

    assert "waits for the lock &lt;b&gt;gurobi" in waiting
    assert "elapsed" not in waiting
    assert "gurobi" not in progress_html(progress, 5.0)
