"""What a page is told of a store, which is read in threads while nobody waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bokeh.models import Div

from batchrun import ChunkContext, Pipeline, RetryPolicy, RunReport, Stage, by_group, by_rows, run_pipeline
from batchrun.archive import StoreArchive
from batchrun.archive.errands import Errands
from batchrun.archive.following import Follower
from batchrun.config import load_settings
from batchrun.dashboard.archive import Archive
from batchrun.dashboard.board import Board, RunView
from batchrun.dashboard.message import CUT, Message, code_of
from batchrun.dashboard.page import Page
from batchrun.dashboard.shelf import Shelf
from batchrun.events import RunStarted
from batchrun.outcome import Outcome, RunState
from batchrun.store.live import LiveState, RunningChunk
from batchrun.store.runs import RunStore

SUCCEEDED, FAILED = code_of(Outcome.SUCCEEDED), code_of(Outcome.FAILED)
EVIL = "<script>alert(1)</script>"


def until(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What is found, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "nothing was found"
        time.sleep(0.02)
    return value


def refuse_seven(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.log.warning("looking at %s", list(chunk["x"]))
    if (chunk["x"] == 7).any():
        raise ValueError(f"seven {EVIL}")
    return chunk


def improve(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    for value in (40.0, 30.0, 20.0):
        ctx.incumbent(chunk, objective=value, bound=10.0)
    return chunk


def ran(rows: int = 20) -> RunReport:
    stage = Stage(refuse_seven, retry=RetryPolicy(attempts=1))
    pipe = Pipeline("picky", split=by_rows(4), stages=[stage])
    return run_pipeline(pipe, pd.DataFrame({"x": range(rows)}), cluster="inline", progress=False)


@pytest.fixture
def archive(here: Path, store_url: str) -> Iterator[StoreArchive]:
    """The archive of an empty store of each kind."""
    (here / "cluster.yaml").write_text(f"store: {store_url}\nartifacts: runs\n")
    made = StoreArchive(load_settings().store_url)
    yield made
    made.close()


class TestErrands:
    def test_nobody_waits_for_an_answer(self) -> None:
        gate = threading.Event()
        errands = Errands("test")
        assert errands.latest("question", lambda: gate.wait(60), every=0.0) is None
        gate.set()
        assert until(lambda: errands.latest("question", lambda: True, every=60.0))
        errands.close()

    def test_a_fresh_answer_is_not_asked_for_again(self) -> None:
        asked: list[int] = []
        now = [0.0]
        errands = Errands("test", clock=lambda: now[0])

        def ask() -> int:
            asked.append(1)
            return len(asked)

        until(lambda: errands.latest("q", ask, every=10.0))
        now[0] = 9.0
        assert errands.latest("q", ask, every=10.0) == 1
        now[0] = 11.0
        assert until(lambda: errands.latest("q", ask, every=10.0) == 2)
        errands.close()
        assert len(asked) == 2

    def test_what_takes_long_to_find_is_asked_for_more_rarely(self) -> None:
        now, asked = [0.0], []
        errands = Errands("test", clock=lambda: now[0])

        def ask() -> int:
            asked.append(1)
            now[0] += 1.0
            return len(asked)

        until(lambda: errands.latest("q", ask, every=2.0))
        now[0] = 12.5
        assert errands.latest("q", ask, every=2.0) == 1
        now[0] = 13.5
        assert until(lambda: errands.latest("q", ask, every=2.0) == 2)
        errands.close()
        assert len(asked) == 2

    def test_one_that_fails_keeps_the_answer_before_and_says_why(self) -> None:
        said: list[Exception | None] = []
        answers = iter([lambda: 1, lambda: 1 / 0])
        errands = Errands("test", failed=said.append)
        until(lambda: errands.latest("q", lambda: next(answers)(), every=60.0))
        errands.do(lambda: None)
        until(lambda: errands.latest("q", lambda: next(answers)(), every=60.0) and len(said) == 2)
        assert errands.latest("q", lambda: 2, every=60.0) == 1
        assert said[0] is None
        assert isinstance(said[1], ZeroDivisionError)
        errands.close()

    def test_what_nobody_asks_for_is_forgotten(self) -> None:
        now = [0.0]
        errands = Errands("test", clock=lambda: now[0])
        until(lambda: errands.latest("old", lambda: 1, every=600.0))
        now[0] = 100.0
        errands.latest("new", lambda: 1, every=600.0)
        assert errands.latest("old", lambda: 2, every=600.0) != 1
        errands.close()


class TestRuns:
    def test_are_listed_newest_first_with_their_rows(self, archive: StoreArchive) -> None:
        first, second = ran(8), ran(20)
        lines = until(archive.runs)
        assert [line.run_id for line in lines] == [second.run_id, first.run_id]
        assert (lines[0].rows_in, lines[0].rows_solved, lines[0].rows_quarantined) == (20, 19, 1)
        assert lines[0].state is RunState.PARTIAL
        assert lines[0].slots is None

    def test_of_an_empty_store_are_none(self, archive: StoreArchive) -> None:
        assert until(lambda: archive.runs() is not None)
        assert archive.runs() == ()
        assert archive.trouble() == ""

    def test_that_cannot_be_read_say_so(self, archive: StoreArchive) -> None:
        ran(8)
        until(archive.runs)
        assert archive.view("never-was") is None
        assert "never-was" in until(archive.trouble)


class TestARunThatHasEnded:
    def test_is_drawn_with_its_parts_attempts_failures_and_throughput(self, archive: StoreArchive) -> None:
        report = ran()

        def whole() -> RunView | None:
            view = archive.view(report.run_id)
            return view if view is not None and view.message.ended and view.message.failures else None

        view = until(whole)
        counts = dict(enumerate(view.counts.tolist()))
        assert (counts[SUCCEEDED], counts[FAILED]) == tuple(
            report.outcomes.get(name, 0) for name in ("succeeded", "failed")
        )
        assert counts[CUT] == report.outcomes["cut"] > 0
        assert view.message.attempts == {
            outcome.value: number for outcome, number in report.counts.attempts.items()
        }
        assert view.message.fates == (19, 1, 0)
        [failure] = view.message.failures
        assert (failure.type, failure.stage) == ("ValueError", "refuse_seven")
        starts, chunks, rows = view.throughput.rates()
        assert chunks.sum() * view.throughput.width == report.outcomes["succeeded"] + 1
        assert rows.sum() * view.throughput.width == 20
        assert len(starts) < 100

    def test_tells_why_and_what_its_chunks_did(self, archive: StoreArchive) -> None:
        report = ran()
        assert until(lambda: archive.why(report.run_id, "partial")) == report.why()
        [bad] = report.quarantined["batchrun_chunk"].unique()
        story = until(lambda: archive.story(report.run_id, int(bad)))
        assert story.why == report.why(int(bad))
        assert [one.outcome for one in story.attempts] == [Outcome.FAILED]
        assert f"seven {EVIL}" in story.attempts[0].error
        assert "looking at [7]" in story.log

    def test_has_the_answers_of_its_solves_though_no_page_was_open(self, archive: StoreArchive) -> None:
        pipe = Pipeline("solves", split=by_rows(1), stages=[Stage(improve)])
        report = run_pipeline(pipe, pd.DataFrame({"x": range(3)}), cluster="inline", progress=False)
        work = until(lambda: archive.work(report.run_id))
        assert sorted(solve.line.chunk for solve in work.solves) == [0, 1, 2]
        for solve in work.solves:
            assert [point.objective for point in solve.history] == [40.0, 30.0, 20.0]
            assert (solve.gap, solve.runs) == (0.5, False)
        story = until(lambda: archive.story(report.run_id, 1))
        assert [solve.line.chunk for solve in story.solves] == [1]
        page = Page(Board(), archive=lambda: archive)

        def drawn() -> bool:
            page.update()
            return page._gaps.figure.visible

        assert until(drawn)
        assert "gap 50 %" in page._gaps.note.text

    def test_that_goes_on_tells_how_its_solves_began(self, archive: StoreArchive) -> None:
        report = ran(8)
        answers = ((1.0, 40.0, None), (5.0, 30.0, 10.0))
        solving = RunningChunk(
            1, "solve", 1, "w", 1_000.0, rows=1, objective=30.0, bound=10.0, answers=answers
        )
        with RunStore(load_settings().store_url) as store:
            store.take_over(report.run_id).save_live(LiveState(1_009.0, (solving,)))
        [solve] = until(lambda: archive.work(report.run_id)).solves
        assert [(point.seconds, point.objective, point.bound) for point in solve.history] == list(answers)
        assert (solve.runs, solve.line.seconds) == (True, 9.0)

    def test_is_left_when_nobody_asks(self, archive: StoreArchive, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("batchrun.archive.following.LEFT_AFTER", 0.2)
        report = ran(8)
        follower = Follower(load_settings().store_url, report.run_id, lambda error: None)
        assert until(lambda: follower.left)


class TestActions:
    def test_on_a_run_that_has_ended_say_what_is_wrong(self, archive: StoreArchive) -> None:
        report = ran(8)
        archive.cancel(report.run_id, keep_best=True)
        assert "has ended" in until(archive.said)
        archive.requeue(report.run_id)
        assert f"batchrun requeue {report.run_id}" in until(archive.said)

    def test_cancel_a_run_that_nothing_drives(self, archive: StoreArchive) -> None:
        report = ran(8)
        with RunStore(load_settings().store_url) as store:
            writer = store.take_over(report.run_id)
            writer.update(state=RunState.RUNNING, driver=None, heartbeat=None, ended=None)
        archive.cancel(report.run_id, keep_best=False)
        assert "asked to stop" in until(archive.said)
        assert RunReport(load_settings().store_url, report.run_id).state is RunState.CANCELLED


class TestTheShelf:
    """Which of two tells of a run."""

    def test_takes_what_a_run_tells_before_what_is_stored(self, archive: StoreArchive) -> None:
        report = ran(8)
        until(archive.runs)
        board = Board(clock=lambda: 1_000.0)
        board.take(told(report.run_id, "running"))
        shelf = Shelf(board, lambda: archive)
        assert shelf.view(report.run_id, 1_010.0) is board.get(report.run_id)

    def test_takes_the_store_for_a_run_that_has_fallen_silent(self, archive: StoreArchive) -> None:
        report = ran(8)
        until(archive.runs)
        board = Board(clock=lambda: 1_000.0)
        board.take(told(report.run_id, "running"))
        shelf = Shelf(board, lambda: archive)
        assert until(lambda: shelf.view(report.run_id, 1_100.0)).message.state == "partial"
        [line] = shelf.listed(1_100.0)
        assert line.state is RunState.PARTIAL

    def test_takes_the_store_for_a_run_that_ended_and_was_queued_again(self, archive: StoreArchive) -> None:
        report = ran(8)
        with RunStore(load_settings().store_url) as store:
            store.take_over(report.run_id).update(state=RunState.QUEUED, ended=None)
        until(archive.runs)
        board = Board(clock=lambda: 1_000.0)
        board.take(told(report.run_id, "partial"))
        shelf = Shelf(board, lambda: archive)
        assert shelf.view(report.run_id, 1_010.0) is board.get(report.run_id)
        assert until(lambda: shelf.view(report.run_id, 1_100.0)).message.state == "queued"
        [line] = shelf.listed(1_100.0)
        assert line.state is RunState.QUEUED

    def test_why_is_asked_in_a_thread_and_not_where_the_page_is_drawn(
        self, archive: StoreArchive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report, here = ran(8), threading.get_ident()
        asked: list[int] = []

        class Slow(RunReport):
            def __init__(self, store_url: str, run_id: str) -> None:
                asked.append(threading.get_ident())
                super().__init__(store_url, run_id)

        monkeypatch.setattr("batchrun.archive.stored.RunReport", Slow)
        until(lambda: archive.why(report.run_id, report.state))
        assert asked
        assert here not in asked

    def test_lists_runs_of_both(self, archive: StoreArchive) -> None:
        report = ran(8)
        until(archive.runs)
        board = Board()
        board.take(told("another", "running", started=time.time() + 60))
        assert [line.run_id for line in Shelf(board, lambda: archive).listed(time.time())] == [
            "another",
            report.run_id,
        ]

    def test_shows_a_run_that_waits_by_its_record(self, archive: StoreArchive) -> None:
        report = ran(8)
        with RunStore(load_settings().store_url) as store:
            store.take_over(report.run_id).update(state=RunState.QUEUED, ended=None)
        until(archive.runs)
        view = until(lambda: Shelf(Board(), lambda: archive).view(report.run_id, time.time()))
        assert (view.message.state, view.message.rows_in) == ("queued", 8)


def told(run_id: str, state: str, started: float = 900.0) -> dict[str, object]:
    return Message(run_id, at=started, pipeline="picky", state=state, started=started, rows_in=8).as_dict()


class TestThePage:
    def test_shows_what_lies_behind_a_chunk_and_escapes_it(self, archive: StoreArchive) -> None:
        report = ran()
        page = Page(Board(), archive=lambda: archive)
        [bad] = report.quarantined["batchrun_chunk"].unique()

        def shown() -> str:
            page.update()
            if page.chunk is None and page.run_id:
                page.choose_chunk(int(bad))
            return html if "looking at [7]" in (html := written(page)) else ""

        html = until(shown)
        assert EVIL not in html
        assert "&lt;script&gt;" in html

    def test_begins_with_the_run_of_its_address(self, archive: StoreArchive) -> None:
        first, second = ran(8), ran(8)
        until(archive.runs)
        for wanted, shown in ((first.run_id, first.run_id), ("", second.run_id), ("gone", second.run_id)):
            page = Page(Board(), archive=lambda: archive, wanted=wanted)
            page.update()
            assert page.run_id == shown

    def test_says_that_the_store_cannot_be_read(self) -> None:
        class Away(Recorded):
            def trouble(self) -> str:
                return f"no such host {EVIL}"

        board = Board()
        board.take(told("r", "running"))
        page = Page(board, archive=Away)
        page.update()
        assert "The store cannot be read now: no such host &lt;script&gt;" in written(page)

    def test_says_where_stories_are_without_a_store(self) -> None:
        page = Page(Board(), archive=lambda: None)
        page.choose_chunk(None)
        assert "batchrun dashboard" in written(page)


def written(page: Page) -> str:
    """All that the page says, as HTML."""
    return "\n".join(div.text for div in page.root.select({"type": Div}))


class Recorded:
    """An archive that notes what it is asked to do."""

    place = "nowhere"
    acts = True

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []

    def runs(self) -> None: ...
    def view(self, run_id: str) -> None: ...
    def why(self, run_id: str, state: str) -> None: ...
    def story(self, run_id: str, chunk: int) -> None: ...
    def work(self, run_id: str) -> None: ...

    def trouble(self) -> str:
        return ""

    def said(self) -> str:
        return ""

    def cancel(self, run_id: str, *, keep_best: bool) -> None:
        self.done.append(("cancel", run_id, "keep" if keep_best else ""))

    def requeue(self, run_id: str) -> None:
        self.done.append(("requeue", run_id))


def test_an_archive_is_what_a_page_asks() -> None:
    archive: Archive = Recorded()
    assert archive.runs() is None


def test_runs_of_this_process_are_offered_to_its_pages(here: Path) -> None:
    from batchrun.dashboard.archive import offered

    Path("cluster.yaml").write_text(
        "workers: {standard: {count: 1, threads: 1, memory: 512MiB}}\ndashboard: 127.0.0.1:0\n"
        "dashboard_buttons: false\n"
    )
    seen: list[str] = []

    def observe(event: object) -> None:
        if isinstance(event, RunStarted):
            archive = offered()
            assert archive is not None
            seen.append(f"{archive.place} {archive.acts}")

    stage = Stage(refuse_seven)
    pipe = Pipeline("picky", split=by_group("x"), stages=[stage])
    run_pipeline(
        pipe, pd.DataFrame({"x": range(3)}), cluster="cluster.yaml", progress=False, observers=[observe]
    )
    assert seen == [f"sqlite:///{here}/.batchrun/store.db False"]
