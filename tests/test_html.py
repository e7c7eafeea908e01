"""The page: whole in one file, honest about every row, and deaf to what users write into names."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from bokeh.plotting import figure

from batchrun import RunReport
from batchrun.outcome import Outcome
from batchrun.render.best_answers import StoppedSolve, stopped_solves
from batchrun.render.gap_curve import MOST_CURVES, gap_curves, steps_of
from batchrun.render.html import render_html, write_html
from batchrun.render.timeline import MOST_BARS, MOST_LANES, bars_of, columns_of, embedded, timeline
from tests.large_run import large_run
from tests.scored_run import scored_run
from tests.stopped_run import history, stopped_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page


SCRIPT = "</script><script>window.harmed=1</script><img src=x onerror=window.harmed=1>"


class Text(HTMLParser):
    """The text of a page, and the addresses that it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render_html(scored_run(tmp_path_factory.mktemp("html")))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render_html(scored_run(tmp_path_factory.mktemp("hostile"), mark=SCRIPT))


def test_the_page_states_the_law_of_conservation(page: str):
    text = Text(page).text
    assert "50 rows in = 49 solved + 1 quarantined + 0 cancelled" in text
    assert "49 of 50 rows solved" in text


def test_the_page_says_what_ran_on_what(page: str):
    text = Text(page).text
    for part in (
        "by_rows(5)",
        "this process",
        "DataFrame: 50 rows",
        '"a label"',
        "run.small_result",
        "pandas",
    ):
        assert part in text


def test_the_page_shows_the_first_results_and_how_many_there_are(page: str):
    assert "the first 20 of 49 rows" in Text(page).text


def test_the_page_shows_the_failure_with_its_traceback_and_its_rows(page: str):
    text = Text(page).text
    assert "ValueError : a bad row" in text
    assert "1 chunk, 1 row, first in chunk 12" in text
    assert "Traceback (most recent call last)" in text
    assert "batchrun_chunk" in text


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    return stopped_run(tmp_path_factory.mktemp("stopped"))


def test_stopped_solves_are_told_apart_the_hardest_first_with_why_and_how_good(stopped: RunReport):
    solves = stopped_solves(stopped)
    assert [solve.chunk for solve in solves] == [35, 30, 25, 20, 15, 10, 0, 5]
    text = Text(render_html(stopped)).text
    assert "8 stopped with a solution, worst gap 20 %." in text
    assert "35 solve somebody asked for it 1 min 20 s 1606.56 1284.88 20 %" in text
    assert "chunk 0, solve: gap 4.1 % after 45.0 s" in text
    assert "chunk 5, solve: no gap is known after 50.0 s" in text


def test_a_run_in_which_nothing_was_stopped_has_no_such_section(page: str):
    assert "Best answers" not in Text(page).text


def test_what_was_known_holds_until_something_better_and_to_the_end():
    solve = StoppedSolve(1, "solve", 1, "", 60.0, 10.0, 8.0)
    told = {"seconds": [5.0, 1.0, 9.0], "objective": [None, 20.0, 10.0], "bound": [8.0, None, None]}
    steps = steps_of(pd.DataFrame(told), solve)
    assert steps["seconds"].tolist() == [1.0, 5.0, 9.0, 60.0]
    assert steps["objective"].tolist() == [20.0, 20.0, 10.0, 10.0]
    assert steps["gap"].tolist()[1:] == pytest.approx([0.6, 0.2, 0.2])


def test_the_page_draws_the_hardest_curves_and_says_how_many_more_there_are():
    solves = [StoppedSolve(chunk, "solve", 1, "", 60.0, 10.0, 8.0) for chunk in range(40)]
    told = [(chunk, "solve", 1, i.seconds, i.objective, i.bound) for chunk in range(30) for i in history(1)]
    columns = ["chunk", "stage", "attempt", "seconds", "objective", "bound"]
    curves = gap_curves(solves, pd.DataFrame(told, columns=columns))
    assert curves is not None
    assert [curve.solve.chunk for curve in curves.curves] == list(range(MOST_CURVES))
    assert curves.left_out == 30 - MOST_CURVES


def test_solves_that_published_nothing_have_no_curves():
    columns = ["chunk", "stage", "attempt", "seconds", "objective", "bound"]
    nothing = pd.DataFrame(columns=columns)
    assert gap_curves([StoppedSolve(1, "solve", 1, "", 60.0, None, None)], nothing) is None


def test_memory_is_shown_beside_the_limit_of_its_stage(stopped: RunReport):
    assert "solve 860 MiB 2.3 GiB 2 GiB" in Text(render_html(stopped)).text


def test_attempts_that_failed_say_what_was_done_about_it(stopped: RunReport):
    text = Text(render_html(stopped)).text
    assert "its memory is 2 GiB cut in two halves, which are tried by themselves" in text
    assert "42 chunks: 32 succeeded, 8 stopped with solution, 1 failed, 1 timed out" in text


def test_what_was_asked_for_stands_beside_what_was_used_with_what_to_do(stopped: RunReport):
    text = Text(render_html(stopped)).text
    assert "clean not measured none" in text
    assert "Next time solve : 4 of 44 attempts passed 2 GiB: ask for 3GiB or more" in text


def test_the_page_of_a_large_run_is_small(tmp_path: Path):
    page = render_html(large_run(tmp_path, 20_000))
    assert len(page.encode()) < 2_000_000
    assert "800 failed" in page


def test_logs_of_chunks_that_did_not_end_well_are_folded_away_and_cut_short(stopped: RunReport):
    html = render_html(stopped)
    logs = re.findall(r'<details class="log".*?</details>', html, re.DOTALL)
    assert len(logs) == 10
    assert "chunk 22" in logs[0]
    assert "characters left out" in logs[0]
    assert max(map(len, logs)) < 10_000


def test_quarantined_rows_have_their_traceback_folded_away(stopped: RunReport):
    html = render_html(stopped)
    assert re.search(r"<details><summary>show</summary><pre>Traceback.*?ValueError: no date", html, re.DOTALL)


def test_the_page_loads_nothing(page: str):
    assert Text(page).addresses == ["data:,"]
    assert "@import" not in page
    assert not re.search(r"url\(\s*['\"]?http", page)


def test_empty_parts_say_so(tmp_path: Path):
    text = Text(render_html(scored_run(tmp_path, rows=0))).text
    for part in (
        "The result has no rows.",
        "Nothing was tried.",
        "Nothing failed for good.",
        "No row was set apart.",
    ):
        assert part in text


def test_a_name_can_add_no_script(page: str, hostile: str):
    assert Text(hostile).scripts == Text(page).scripts
    assert SCRIPT not in hostile
    assert "window.harmed=1" in Text(hostile).text


def test_a_log_a_message_or_a_traceback_can_add_no_script(stopped: RunReport, tmp_path: Path):
    harmful = render_html(stopped_run(tmp_path, mark=SCRIPT))
    assert Text(harmful).scripts == Text(render_html(stopped)).scripts
    assert SCRIPT not in harmful
    assert "window.harmed=1" in Text(harmful).text


def test_the_file_appears_whole_at_the_path_and_the_path_is_given_back(tmp_path: Path):
    path = tmp_path / "out" / "scores.html"
    assert write_html(scored_run(tmp_path), path) == path
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [found.name for found in path.parent.iterdir()] == ["scores.html"]


def hover(page: Page, plot: Locator) -> str:
    """What a plot says where the mouse is first over something; "" if there is nothing.

    The mouse goes to points that fill the plot ever more densely, because bars are as narrow as the machine
    is slow, and the plot may not be drawn yet.
    """
    plot.scroll_into_view_if_needed()
    box, tip = plot.bounding_box(), page.locator(".bk-tooltip-content").first
    assert box is not None
    deadline, point = time.monotonic() + 30, 0
    while time.monotonic() < deadline:
        point += 1
        x, y = point * 0.7548776662 % 1, point * 0.5698402910 % 1  # M. Roberts' R2 sequence
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        if tip.is_visible():
            return tip.inner_text(timeout=5_000)
    return ""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_page_offline_without_an_error_or_a_harm(
    hostile: str, tmp_path: Path, scheme: str, chromium: Browser
):
    (tmp_path / "page.html").write_text(hostile, encoding="utf-8")
    problems: list[str] = []
    screen: Any = {"color_scheme": scheme, "viewport": {"width": 1200, "height": 1000}, "offline": True}
    with chromium.new_context(**screen) as context:
        shown = context.new_page()
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("console", lambda message: message.type == "error" and problems.append(message.text))
        shown.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
        shown.goto((tmp_path / "page.html").as_uri())
        shown.locator(".plot canvas").first.wait_for()
        assert "try 1" in hover(shown, shown.locator(".plot"))
        assert shown.evaluate("window.harmed") is None
        assert shown.evaluate("document.documentElement.scrollWidth") <= 1200
        shown.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert float(shown.evaluate("document.querySelector('.plot').style.zoom")) < 1
        shown.evaluate("dispatchEvent(new Event('afterprint'))")
        assert shown.evaluate("document.querySelector('.plot').style.zoom") == ""
        shown.set_viewport_size({"width": 390, "height": 800})
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    assert problems == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_curves_of_stopped_solves(tmp_path: Path, scheme: str, chromium: Browser):
    stopped_run(tmp_path, mark=SCRIPT).to_html(tmp_path / "page.html")
    problems: list[str] = []
    with chromium.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 1000}) as context:
        shown = context.new_page()
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("console", lambda message: message.type == "error" and problems.append(message.text))
        shown.goto((tmp_path / "page.html").as_uri())
        curve = shown.locator(".curves canvas").first
        curve.wait_for()
        assert "answer" in hover(shown, curve)
        assert shown.locator(".curves figure").count() == 8
        assert shown.evaluate("window.harmed") is None
        assert shown.evaluate("document.documentElement.scrollWidth") <= 1200
    assert problems == []


def attempts(number: int, workers: int = 4, *, seed: int = 0) -> pd.DataFrame:
    """Attempts one after the other on each worker, one in a hundred failed."""
    random = np.random.default_rng(seed)
    seconds = random.lognormal(0, 0.5, number)
    worker = np.arange(number) % workers
    frame = pd.DataFrame({"seconds": seconds, "at": worker})
    frame["started"] = 1_000.0 + frame.groupby("at")["seconds"].cumsum() - seconds
    failed = np.arange(number) % 100 == 50
    return frame.assign(
        chunk=range(number),
        stage="solve",
        attempt=1,
        worker=[f"standard-{name}" for name in worker],
        outcome=np.where(failed, "failed", "succeeded"),
        error_type=np.where(failed, "ValueError", None),
        peak_memory=pd.array([None] * number, dtype="Int64"),
    )


def test_an_attempt_is_one_bar_in_the_lane_of_its_worker():
    bars, lanes, note = bars_of(attempts(40), started=1_000.0)
    assert len(bars) == 40
    assert lanes == [(f"standard-{name}", 1) for name in range(4)]
    assert note == ""
    assert (bars["right"] - bars["left"]).to_numpy() == pytest.approx(bars["seconds"].to_numpy())


def test_workers_are_in_the_order_that_people_count_in():
    _, lanes, _ = bars_of(attempts(48, workers=12), started=1_000.0)
    assert [name for name, _ in lanes] == [f"standard-{number}" for number in range(12)]


def test_attempts_that_overlap_on_one_worker_have_lanes_of_their_own():
    frame = attempts(4, workers=1).assign(started=[0.0, 0.5, 1.0, 10.0], seconds=[2.0, 2.0, 2.0, 1.0])
    bars, lanes, _ = bars_of(frame, started=0.0)
    assert lanes == [("standard-0", 3)]
    assert list(bars["lane"]) == [0, 1, 2, 0]


def test_many_attempts_are_merged_and_none_is_lost():
    frame = attempts(60_000)
    bars, _, note = bars_of(frame, started=1_000.0)
    assert len(bars) <= MOST_BARS
    assert bars["count"].sum() == 60_000
    assert bars["seconds"].sum() == pytest.approx(frame["seconds"].sum())
    assert "60,000 attempts merged" in note


def test_a_failure_among_merged_attempts_can_still_be_seen():
    bars, _, _ = bars_of(attempts(60_000), started=1_000.0)
    assert (bars["outcome"] == Outcome.FAILED.value).any()


def test_outcomes_that_take_turns_keep_their_share_of_the_time():
    frame = attempts(20_000, workers=2)
    frame["outcome"] = np.where(np.arange(20_000) // 2 % 2 == 0, "failed", "succeeded")
    bars, _, _ = bars_of(frame, started=1_000.0)
    assert len(bars) <= MOST_BARS
    assert bars["count"].sum() == 20_000
    taken = (bars["right"] - bars["left"]).groupby(bars["outcome"]).sum()
    assert taken.to_dict() == pytest.approx(frame.groupby("outcome")["seconds"].sum().to_dict())


def test_merged_bars_of_a_lane_do_not_overlap():
    frame = attempts(20_000, workers=2)
    frame["outcome"] = np.where(np.arange(20_000) // 2 % 2 == 0, "failed", "succeeded")
    bars, _, _ = bars_of(frame, started=1_000.0)
    for _, lane in bars.sort_values("left").groupby("lane"):
        assert (lane["left"].to_numpy()[1:] >= lane["right"].to_numpy()[:-1] - 1e-6).all()


def test_many_workers_are_shown_by_the_busiest_and_the_note_says_so():
    bars, lanes, note = bars_of(attempts(2_000, workers=1_000), started=1_000.0)
    assert len(lanes) <= MOST_LANES
    assert bars["lane"].max() < MOST_LANES
    assert "of 1,000 workers" in note


def test_the_lanes_of_a_single_worker_are_bounded_and_the_note_says_so():
    frame = attempts(500, workers=1).assign(started=1_000.0, seconds=1.0)
    bars, lanes, note = bars_of(frame, started=1_000.0, most_lanes=40)
    assert lanes == [("standard-0", 40)]
    assert bars["lane"].max() == 39
    assert note == "40 of its 500 lanes"


def test_bars_are_no_more_than_asked_for_also_where_attempts_take_no_time_at_the_very_end():
    outcomes = [outcome.value for outcome in Outcome]
    number = np.arange(40_000)
    frame = attempts(40_000, workers=40).assign(started=1_000.0 + number // 40, seconds=1.0)
    frame["outcome"] = np.resize(outcomes, 40_000)
    end = frame[:40].assign(started=2_000.0, seconds=0.0)
    ends = [end.assign(outcome=outcome) for outcome in outcomes]
    bars, _, _ = bars_of(pd.concat([frame, *ends]), 1_000.0, most_bars=1_500, most_lanes=40)
    assert len(bars) <= 1_500
    assert bars["count"].sum() == 40_280


def test_a_bar_says_the_peak_memory_of_its_attempt_where_it_was_measured():
    frame = attempts(2).assign(peak_memory=pd.array([3 * 2**20, None], dtype="Int64"))
    bars, _, _ = bars_of(frame, started=1_000.0)
    assert columns_of(bars, 1.0)["more"] == ["peak memory 3 MiB", ""]


@pytest.mark.parametrize("most", [1, 10, 100])
def test_a_merged_bar_says_the_highest_peak_memory_of_its_attempts(most: int):
    frame = attempts(1_000, workers=1).assign(peak_memory=pd.array(range(1, 1_001), dtype="Int64"))
    bars, _, _ = bars_of(frame, started=1_000.0, most_bars=most)
    assert bars["count"].max() > 1
    assert bars["peak_memory"].max() == 1_000


def test_the_plot_of_many_attempts_is_small():
    plot = timeline(attempts(60_000), 1_000.0)
    assert plot is not None
    assert len(plot.head) + len(plot.script) + len(plot.body) < 2_000_000


def test_a_run_without_attempts_has_no_plot():
    assert timeline(attempts(0), None) is None


def test_a_report_is_drawn_while_a_page_of_this_process_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bokeh.io.doc._PATCHED_CURDOCS", [lambda: None])
    script, [body] = embedded([figure()])
    assert "<script" in script
    assert "<div" in body
