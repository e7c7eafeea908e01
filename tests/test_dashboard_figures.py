"""The figures of the live page: what they show of a run, how little they send, and that it is bounded."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from bokeh.core.validation import check_integrity
from bokeh.document import Document
from bokeh.layouts import column
from bokeh.models import Step

from batchrun.dashboard.board import RunView
from batchrun.dashboard.difference import send_difference
from batchrun.dashboard.durations import Durations
from batchrun.dashboard.gaps import Gaps
from batchrun.dashboard.lanes import LaneBars, Lanes
from batchrun.dashboard.looks import plain_figure
from batchrun.dashboard.message import CUT, RUNNING, WAITING, ChunkColumns, Message, code_of
from batchrun.dashboard.peaks import Peaks
from batchrun.dashboard.solves import (
    MOST_POINTS,
    MOST_SOLVES,
    Solve,
    Solves,
    of_chunk,
    together,
    widest,
)
from batchrun.dashboard.spread import SecondsTally, Spread
from batchrun.outcome import Outcome
from batchrun.progress import RunningLine

SCRIPT = "<script>alert(1)</script>"
DONE = code_of(Outcome.SUCCEEDED)


def message(run_id="r", **changes):
    fields = {"at": 101.0, "started": 100.0, "rows_in": 1_000, "pipeline": "delays"} | changes
    return Message(run_id, **fields)


def view_of(*messages):
    """One session of a run after these messages."""
    view = RunView(messages[0], 0.0)
    for each in messages:
        view.take(each, 0.0)
    return view


def settled(*seconds, run_id="r", first=0, code=DONE):
    """A message of chunks that took so many seconds, numbered from *first*."""
    count = len(seconds)
    columns = ChunkColumns(
        np.arange(first, first + count),
        np.full(count, code, np.uint8),
        np.full(count, 10),
        np.array(seconds, np.float32),
    )
    return message(run_id, chunks_planned=first + count, changed=columns.pack())


def solving(chunk, seconds, objective, bound=None, **changes):
    """A line of a running solve."""
    fields = {"worker": f"w-{chunk}", "stage": "solve"} | changes
    return RunningLine(chunk, seconds=seconds, objective=objective, bound=bound, **fields)


def run_with(*running, **changes):
    """A message of a run in which these lines run."""
    return message(running=running, **changes)


def attempts(number, workers=4, **columns):
    """Attempts of a second each, one after the other on each worker; the run began at 1,000."""
    at = np.arange(number) % workers
    fields = {
        "chunk": np.arange(number),
        "stage": "solve",
        "attempt": 1,
        "worker": [f"w-{name}" for name in at],
        "outcome": "succeeded",
        "started": 1_000.0 + np.arange(number) // workers,
        "seconds": 1.0,
        "error_type": None,
        "peak_memory": pd.array([2**20 * (1 + name % 50) for name in range(number)], dtype="Int64"),
    }
    return pd.DataFrame(fields | columns)


def spread_of(codes, seconds) -> Spread | None:
    """How the seconds of all these chunks are spread."""
    tally = SecondsTally()
    tally.count(codes, seconds)
    return tally.spread()


def heard(solves, chunk):
    """What a page heard of the solve of a chunk."""
    return of_chunk(solves.latest_first(), chunk)


class Watched:
    """What is sent to a browser that shows a figure."""

    def __init__(self, *roots):
        self.document = Document()
        self.document.add_root(column(*roots))
        self.events = []
        self.document.on_change(self.events.append)

    def sent(self):
        """The kinds of what was sent since the last time."""
        kinds = [type(getattr(event, "event", None) or event).__name__ for event in self.events]
        self.events.clear()
        return kinds


@pytest.mark.parametrize("kind", [Durations, Gaps, Lanes, Peaks])
def test_bokeh_finds_no_fault_in_a_figure_without_data(kind):
    drawn = kind()
    issues = check_integrity(Watched(drawn.figure, drawn.note).document.models)
    assert (issues.error, issues.warning) == ([], [])
    assert not drawn.figure.visible


class TestDifference:
    def source(self, **columns):
        plot = plain_figure(100, "anything")
        return plot.scatter(next(iter(columns)), next(iter(columns)), source=columns).data_source, plot

    def test_nothing_is_sent_of_what_is_alike_and_a_missing_number_is_like_another(self):
        source, plot = self.source(x=[1.0, math.nan, 3.0], name=["a", "b", "c"])
        watched = Watched(plot)
        send_difference(source, {"x": np.array([1.0, math.nan, 3.0]), "name": ["a", "b", "c"]})
        assert watched.sent() == []

    def test_changed_rows_are_patched_and_new_rows_are_streamed(self):
        source, plot = self.source(x=[1.0, 2.0, 3.0], name=["a", "b", "c"])
        watched = Watched(plot)
        send_difference(source, {"x": [1.0, 2.5, 3.0, 4.0], "name": ["a", "b", "c", "d"]})
        assert source.data == {"x": [1.0, 2.5, 3.0, 4.0], "name": ["a", "b", "c", "d"]}
        assert watched.sent() == ["ColumnsPatchedEvent", "ColumnsStreamedEvent"]

    def test_all_is_sent_where_rows_went_away_or_most_values_changed(self):
        for fresh in ({"x": [1.0]}, {"x": [7.0, 8.0, 3.0]}):
            source, plot = self.source(x=[1.0, 2.0, 3.0])
            watched = Watched(plot)
            send_difference(source, fresh)
            assert source.data == fresh
            assert watched.sent() == ["ColumnDataChangedEvent"]


class TestDurations:
    def test_before_a_chunk_is_settled_the_figure_is_hidden_and_the_note_says_so(self):
        durations = Durations()
        durations.update(view_of(message(chunks_planned=5)))
        assert not durations.figure.visible
        assert "No chunk is settled yet." in durations.note.text

    def test_only_settled_chunks_count_and_each_is_in_one_bin(self):
        codes = np.array([WAITING, RUNNING, CUT, DONE, code_of(Outcome.FAILED), DONE], np.uint8)
        seconds = np.array([1, 2, 3, 4, 5, 0], np.float32)
        spread = spread_of(codes, seconds)
        assert spread.total == 2
        assert spread.edges[0] <= 4
        assert spread.edges[-1] > 5

    def test_median_and_95th_percentile_are_those_of_the_chunks_to_within_a_percent(self):
        seconds = np.random.default_rng(1).lognormal(0, 1, 10_001).astype(np.float32)
        spread = spread_of(np.full(len(seconds), DONE, np.uint8), seconds)
        assert spread.median == pytest.approx(np.median(seconds), rel=0.01)
        assert spread.high == pytest.approx(np.percentile(seconds, 95), rel=0.01)
        inside = np.histogram(seconds, spread.edges)[0]
        assert np.abs(inside - spread.chunks).sum() <= 0.1 * len(seconds)

    @pytest.mark.parametrize("powers", [(-6, 9), (0, 0), (-37, 38), (-3, -2.9)])
    def test_bins_are_forty_at_most_and_hold_every_chunk(self, powers):
        seconds = np.logspace(*powers, 100_000).astype(np.float32)
        spread = spread_of(np.full(len(seconds), DONE, np.uint8), seconds)
        assert len(spread.chunks) <= 40
        assert len(spread.edges) == len(spread.chunks) + 1
        assert spread.total == 100_000

    def test_the_figure_says_what_its_lines_mean(self):
        durations = Durations()
        durations.update(view_of(settled(*[2.0] * 90, *[60.0] * 10)))
        labels = [item.label.value for item in durations.figure.legend[0].items]
        assert labels == ["median 2.0 s", "95 % within 1 min"]
        assert "100 settled chunks" in durations.note.text

    @pytest.mark.parametrize("seconds", [(0.0004, 0.02), (2.0, 2.1), (0.3, 4_000), (9, 90_000), (1e-6, 1e8)])
    def test_the_axis_has_a_few_labels_that_people_count_in(self, seconds):
        durations = Durations()
        durations.update(view_of(settled(*seconds)))
        axis, shown = durations.figure.xaxis[0], durations.figure.x_range
        assert 2 <= len(axis.ticker.ticks) <= 8
        assert all(shown.start <= tick <= shown.end for tick in axis.ticker.ticks)
        assert set(axis.major_label_overrides) == set(axis.ticker.ticks)

    def test_it_looks_at_a_run_once_a_second_and_at_another_run_at_once(self):
        now = 0.0
        durations = Durations(clock=lambda: now)
        view = view_of(settled(1.0))
        durations.update(view)
        view.take(settled(2.0, first=1), 0.0)
        durations.update(view)
        assert "1 settled chunk<" in durations.note.text
        now = 1.0
        durations.update(view)
        assert "2 settled chunks" in durations.note.text
        durations.update(view_of(settled(1.0, 1.0, 1.0, run_id="other")))
        assert "3 settled chunks" in durations.note.text

    def test_nothing_is_sent_while_the_run_tells_nothing(self):
        durations = Durations(clock=iter(range(100)).__next__)
        view = view_of(settled(1.0))
        watched = Watched(durations.figure, durations.note)
        durations.update(view)
        assert watched.sent()
        durations.update(view)
        assert watched.sent() == []


class TestSolves:
    def test_a_solve_keeps_what_it_told_and_a_value_holds_until_another_is_told(self):
        solves = Solves()
        solves.take([solving(3, 1.0, 10.0)])
        solves.take([solving(3, 2.0, 10.0)])
        solves.take([solving(3, 3.0, 10.0, 4.0)])
        solves.take([solving(3, 4.0, 8.0)])
        told = [(point.seconds, point.objective, point.bound) for point in heard(solves, 3).history]
        assert told == [(1.0, 10.0, None), (3.0, 10.0, 4.0), (4.0, 8.0, 4.0)]
        assert heard(solves, 3).gap == 0.5

    def test_a_chunk_that_tells_no_finite_answer_has_no_history(self):
        solves = Solves()
        solves.take([solving(1, 1.0, None), solving(2, 1.0, math.inf), solving(3, 1.0, math.nan)])
        assert len(solves) == 0

    def test_a_history_is_thinned_out_evenly_and_keeps_the_latest(self):
        solves = Solves()
        for second in range(5_000):
            solves.take([solving(3, float(second), 10_000.0 - second, 0.0)])
            assert len(heard(solves, 3).history) <= MOST_POINTS
        history = heard(solves, 3).history
        assert (history[-1].seconds, history[-1].objective) == (4_999.0, 5_001.0)
        apart = np.diff([point.seconds for point in history])
        assert len(history) > MOST_POINTS / 4
        assert apart[:-1].max() <= 2 * apart[:-1].min()

    def test_another_try_or_another_stage_begins_anew(self):
        for again in (solving(3, 0.5, 50.0), solving(3, 9.0, 50.0, stage="polish")):
            solves = Solves()
            solves.take([solving(3, 8.0, 10.0)])
            solves.take([again])
            assert [point.objective for point in heard(solves, 3).history] == [50.0]

    def test_a_clock_that_goes_back_a_little_makes_no_new_try(self):
        solves = Solves()
        solves.take([solving(3, 8.0, 10.0)])
        solves.take([solving(3, 7.9, 9.0)])
        assert [point.seconds for point in heard(solves, 3).history] == [8.0, 8.0]

    def test_a_solve_that_ended_stays_until_its_room_is_needed_and_the_longest_ended_goes_first(self):
        solves = Solves()
        solves.take([solving(0, 1.0, 5.0), solving(1, 1.0, 5.0)])
        solves.take([solving(1, 2.0, 5.0)])
        solves.take([])
        assert heard(solves, 0) is not None
        solves.take([solving(chunk, 1.0, 5.0) for chunk in range(2, MOST_SOLVES + 1)])
        assert len(solves) == MOST_SOLVES
        assert heard(solves, 0) is None
        assert heard(solves, 1) is not None

    def test_solves_that_run_are_not_dropped_for_others(self):
        solves = Solves()
        lines = [solving(chunk, 1.0, 5.0) for chunk in range(50)]
        for _ in range(3):
            solves.take(lines)
        assert [chunk for chunk in range(50) if heard(solves, chunk)] == list(range(MOST_SOLVES))

    def test_of_a_chunk_that_runs_twice_both_are_kept_and_one_that_runs_is_given(self):
        solves = Solves()
        solves.take([solving(3, 5.0, 9.0, worker="a"), solving(3, 1.0, 8.0, worker="b")])
        solves.take([solving(3, 6.0, 9.0, worker="a")])
        assert heard(solves, 3).line.worker == "a"
        assert len(solves) == 2

    def test_the_widest_is_the_one_with_the_largest_gap_of_those_that_run(self):
        solves = Solves()
        lines = [solving(1, 1.0, 10.0, 9.0), solving(2, 1.0, 10.0, 5.0), solving(3, 1.0, 10.0)]
        solves.take([*lines, solving(4, 1.0, 10.0, 1.0)])
        assert widest(solves.latest_first()).line.chunk == 4
        solves.take(lines)
        assert widest(solves.latest_first()).line.chunk == 2
        solves.take([])
        assert widest(solves.latest_first()).line.chunk == 4

    def test_a_run_keeps_histories_of_its_session_and_none_runs_after_its_end(self):
        view = view_of(run_with(solving(3, 1.0, 5.0)), message(running=None))
        assert heard(view.solves, 3).runs
        view.take(message(running=None, state="succeeded"), 0.0)
        assert not heard(view.solves, 3).runs
        assert widest(RunView(message(started=200.0), 0.0).solves.latest_first()) is None


class TestSolvesOfTheStore:
    def recorded(self, chunk, *answers, runs=False, **changes):
        told = [(seconds, objective, None) for seconds, objective in answers]
        return Solve.recorded(solving(chunk, *answers[-1], **changes), told, runs=runs)

    def test_one_that_told_no_answer_is_none(self):
        assert Solve.recorded(solving(1, 9.0, None), [], runs=True) is None
        assert self.recorded(1, (1.0, math.nan)) is None

    def test_one_that_runs_begins_as_the_store_knows_and_goes_on_as_the_page_has_heard(self):
        solves = Solves()
        solves.take([solving(3, 50.0, 20.0)])
        solves.take([solving(3, 60.0, 15.0)])
        stored = self.recorded(3, (1.0, 90.0), (30.0, 40.0), (55.0, 20.0), runs=True)
        [one] = together(solves, [stored])
        assert [(point.seconds, point.objective) for point in one.history] == [
            *[(1.0, 90.0), (30.0, 40.0)],
            *[(50.0, 20.0), (60.0, 15.0)],
        ]
        assert one.runs

    def test_one_that_ended_is_as_it_was_recorded(self):
        solves = Solves()
        solves.take([solving(3, 50.0, 20.0)])
        solves.take([])
        stored = self.recorded(3, (1.0, 90.0), (52.0, 19.0))
        assert list(together(solves, [stored])) == [stored]

    def test_another_try_that_runs_is_not_mixed_with_the_one_before(self):
        solves = Solves()
        solves.take([solving(3, 2.0, 70.0)])
        [one] = together(solves, [self.recorded(3, (1.0, 90.0), (52.0, 19.0))])
        assert [point.seconds for point in one.history] == [2.0]

    def test_latest_first_and_those_that_are_only_stored_among_them(self):
        solves = Solves()
        solves.take([solving(1, 2.0, 70.0)])
        stored = [self.recorded(chunk, (1.0, 90.0)) for chunk in (9, 8)]
        assert [solve.line.chunk for solve in together(solves, stored)] == [1, 9, 8]


class TestGaps:
    def columns(self, gaps, renderer=3):
        return gaps.figure.renderers[renderer].data_source.data

    def test_a_step_is_two_corners_and_not_one_of_bokehs_which_hang_a_browser_while_there_is_none(self):
        gaps = Gaps()
        gaps.update(
            view_of(
                run_with(solving(1, 1.0, 90.0, 2.0)),
                run_with(solving(1, 3.0, 80.0, 4.0)),
                run_with(solving(1, 5.0, 80.0, 4.0)),
            )
        )
        corners = self.columns(gaps, 1)
        assert corners["time"] == [1.0, 3.0, 3.0, 5.0, 5.0, 5.0]
        assert corners["objective"] == [90.0, 90.0, 80.0, 80.0, 80.0, 80.0]
        assert corners["bound"] == [2.0, 2.0, 4.0, 4.0, 4.0, 4.0]
        assert list(gaps.figure.select({"type": Step})) == []

    def test_before_a_solve_tells_an_answer_the_figure_is_hidden_and_the_note_says_so(self):
        gaps = Gaps()
        gaps.update(view_of(run_with(RunningLine(3, "w", 9.0, "solve", message="reads"))))
        assert not gaps.figure.visible
        assert "No solve has told an answer yet." in gaps.note.text

    def test_the_curve_of_the_largest_gap_is_shown_until_the_present(self):
        gaps = Gaps()
        gaps.update(
            view_of(
                run_with(solving(1, 1.0, 10.0, 9.0), solving(2, 1.0, 10.0)),
                run_with(solving(1, 30.0, 10.0, 9.0), solving(2, 30.0, 8.0, 2.0, message="node 7")),
                run_with(solving(1, 40.0, 10.0, 9.0), solving(2, 40.0, 8.0, 2.0, message="node 9")),
            )
        )
        assert gaps.figure.visible
        columns = self.columns(gaps)
        assert columns["time"] == [1.0, 30.0, 40.0]
        assert columns["objective"] == [10.0, 8.0, 8.0]
        assert math.isnan(columns["bound"][0])
        assert columns["bound"][1:] == [2.0, 2.0]
        assert columns["gap"] == ["not known", "75 %", "75 %"]
        assert self.columns(gaps, 0)["time"] == [30.0, 40.0, 40.0, 40.0]
        for part in ("chunk 2", "solve", "gap 75 %", "node 9"):
            assert part in gaps.note.text

    def test_a_chosen_chunk_is_shown_instead_if_it_told_an_answer(self):
        gaps = Gaps()
        view = view_of(run_with(solving(1, 1.0, 10.0, 9.0), solving(2, 1.0, 10.0, 2.0)))
        gaps.update(view, chunk=1)
        assert "chunk 1" in gaps.note.text
        for chunk in (7, None):
            gaps.update(view, chunk=chunk)
            assert "chunk 2" in gaps.note.text

    def test_what_the_store_has_of_a_solve_that_ended_is_drawn_though_no_page_was_open(self):
        gaps = Gaps()
        answers = [(1.0, 90.0, 2.0), (4.0, 50.0, math.nan), (9.0, 50.0, 45.0)]
        ended = Solve.recorded(solving(5, 12.0, 50.0, 45.0), answers, runs=False)
        gaps.update(view_of(message(state="succeeded")), (ended,))
        assert gaps.figure.visible
        assert self.columns(gaps)["time"] == [1.0, 4.0, 9.0, 12.0]
        assert self.columns(gaps)["bound"] == [2.0, 2.0, 45.0, 45.0]
        for part in ("chunk 5", "gap 10 %", "runs no more"):
            assert part in gaps.note.text

    def test_what_users_wrote_is_text(self):
        gaps = Gaps()
        gaps.update(view_of(run_with(solving(1, 1.0, 10.0, stage=SCRIPT, message=f'"{SCRIPT}'))))
        assert "<script" not in gaps.note.text
        assert "&lt;script&gt;" in gaps.note.text
        assert 'title="&quot;&lt;' in gaps.note.text

    def test_a_new_answer_is_patched_and_streamed_and_nothing_is_sent_while_nothing_changes(self):
        gaps = Gaps()
        view = view_of(*(run_with(solving(1, 1.0 + n, 90.0 - n, 2.0)) for n in range(20)))
        gaps.update(view)
        watched = Watched(gaps.figure, gaps.note)
        gaps.update(view)
        assert watched.sent() == []
        view.take(run_with(solving(1, 30.0, 60.0, 2.0)), 0.0)
        gaps.update(view)
        assert "ColumnDataChangedEvent" not in watched.sent()
        assert self.columns(gaps)["objective"][-3:] == [71.0, 60.0, 60.0]

    def test_another_run_takes_the_place_of_the_one_before(self):
        gaps = Gaps()
        gaps.update(view_of(*(run_with(solving(1, 10.0 + n, 90.0 - n, 2.0)) for n in range(20))))
        gaps.update(view_of(message("other", running=(solving(5, 2.0, 7.0, 6.0),))))
        assert self.columns(gaps)["objective"] == [7.0, 7.0]
        assert "chunk 5" in gaps.note.text
        gaps.update(view_of(message("third")))
        assert not gaps.figure.visible

    def test_a_solve_that_ended_says_so(self):
        gaps = Gaps()
        gaps.update(view_of(run_with(solving(1, 1.0, 10.0, 9.0)), message(state="succeeded")))
        assert "runs no more" in gaps.note.text


class TestLanes:
    def columns(self, lanes):
        return lanes.figure.renderers[0].data_source.data

    def test_before_an_attempt_has_ended_the_figure_is_hidden_and_the_note_says_so(self):
        lanes = Lanes()
        lanes.update(LaneBars.of(attempts(0), 1_000.0))
        assert not lanes.figure.visible
        assert "No attempt has ended yet." in lanes.note.text

    def names(self, lanes):
        """The names that the axis shows, by their place."""
        axis = lanes.figure.yaxis[0]
        names = axis.formatter.args["names"].data
        assert list(axis.ticker.ticks) == list(names["at"])
        return dict(zip(names["at"], names["name"], strict=True))

    def test_an_attempt_is_a_bar_of_the_colour_of_its_outcome_in_the_lane_of_its_worker(self):
        lanes = Lanes()
        frame = attempts(4, workers=2, outcome=["succeeded", "out_of_memory", "succeeded", "failed"])
        lanes.update(LaneBars.of(frame, 990.0))
        columns = self.columns(lanes)
        assert columns["left"] == [10.0, 10.0, 11.0, 11.0]
        assert [math.floor(top) for top in columns["top"]] == [0, 1, 0, 1]
        assert columns["color"] == [Outcome(outcome).color for outcome in frame["outcome"]]
        assert columns["what"][1] == "chunk 1, solve, try 1"
        assert columns["outcome"][1] == "out of memory"
        assert columns["took"][1] == "1.0 s"
        assert columns["more"][1] == "peak memory 2 MiB"
        assert self.names(lanes) == {0.5: "w-0", 1.5: "w-1"}
        assert lanes.note.text == ""

    def test_bars_and_lanes_are_bounded_and_the_note_says_what_was_merged(self):
        lanes = Lanes()
        outcomes = [outcome.value for outcome in Outcome]
        frame = attempts(30_000, workers=300, outcome=np.resize(outcomes, 30_000))
        lanes.update(LaneBars.of(frame, 1_000.0))
        assert len(self.columns(lanes)["left"]) <= 1_500
        assert lanes.figure.y_range.start <= 40
        assert "busiest of 300 workers" in lanes.note.text
        assert "merged" in lanes.note.text

    def test_lanes_of_a_single_worker_with_many_threads_are_bounded(self):
        lanes = Lanes()
        lanes.update(LaneBars.of(attempts(5_000, workers=100, worker="w"), 1_000.0))
        assert lanes.figure.y_range.start == 40
        assert max(self.columns(lanes)["bottom"]) < 40
        assert "40 of its 100 lanes" in lanes.note.text

    def test_what_users_wrote_is_text(self):
        lanes = Lanes()
        lanes.update(
            LaneBars.of(attempts(1, stage=SCRIPT, worker=f"$${SCRIPT}$$", error_type=SCRIPT), 1_000.0)
        )
        (hover,) = lanes.figure.tools
        assert all(isinstance(tooltip, tuple) for tooltip in hover.tooltips)
        assert not any("safe" in text for _, text in hover.tooltips)
        assert self.names(lanes) == {0.5: f"$${SCRIPT}…"}
        assert "<script" not in lanes.note.text

    def test_attempts_that_are_new_are_streamed_and_the_same_bars_are_drawn_once(self):
        lanes = Lanes()
        lanes.update(LaneBars.of(attempts(40), 1_000.0))
        watched = Watched(lanes.figure, lanes.note)
        frame = attempts(48)
        bars = LaneBars.of(frame, 1_000.0)
        lanes.update(bars)
        assert "ColumnsStreamedEvent" in (sent := watched.sent())
        assert "ColumnDataChangedEvent" not in sent
        lanes.update(bars)
        assert watched.sent() == []

    def test_another_run_takes_the_place_of_the_one_before(self):
        lanes = Lanes()
        lanes.update(LaneBars.of(attempts(400, workers=8), 1_000.0))
        lanes.update(LaneBars.of(attempts(3, workers=1, worker="other"), 1_000.0))
        assert len(self.columns(lanes)["left"]) == 3
        assert lanes.figure.y_range.start == 1
        assert self.names(lanes) == {0.5: "other"}
        lanes.update(None)
        assert not lanes.figure.visible


class TestPeaks:
    def columns(self, peaks, renderer=1):
        return peaks.figure.renderers[renderer].data_source.data

    @pytest.mark.parametrize("nothing", [None, attempts(0), attempts(3, peak_memory=pd.NA)])
    def test_before_a_peak_is_known_the_figure_is_hidden_and_the_note_says_so(self, nothing):
        peaks = Peaks()
        peaks.update(nothing, {"solve": 2**30}, 1_000.0)
        assert not peaks.figure.visible
        assert "No attempt whose memory was measured has ended yet." in peaks.note.text

    def test_a_dot_is_at_the_end_of_its_attempt_and_a_line_at_what_its_stage_asked_for(self):
        peaks = Peaks()
        frame = attempts(3, workers=1, peak_memory=pd.array([2**20, None, 2**21], dtype="Int64"))
        peaks.update(frame, {"clean": 0, "solve": 2**30, "polish": 2**30}, 1_000.0)
        assert self.columns(peaks)["time"] == [1.0, 3.0]
        assert self.columns(peaks)["peak"] == [2**20, 2**21]
        assert self.columns(peaks)["used"] == ["1 MiB", "2 MiB"]
        assert self.columns(peaks, 0)["bytes"] == [2**30]
        assert self.columns(peaks, 0)["text"] == ["solve, polish: 1 GiB asked for"]
        assert peaks.figure.y_range.end > 2**30

    def test_of_many_attempts_the_highest_are_shown_over_all_of_the_time(self):
        peaks = Peaks()
        frame = attempts(20_000)
        frame.loc[12_345, "peak_memory"] = 2**40
        peaks.update(frame, {}, 1_000.0)
        columns = self.columns(peaks)
        assert len(columns["time"]) <= 1_500
        assert max(columns["peak"]) == 2**40
        assert columns["time"] == sorted(columns["time"])
        assert columns["time"][-1] > 4_980
        assert "of 20,000 attempts" in peaks.note.text

    def test_what_users_wrote_is_text(self):
        peaks = Peaks()
        peaks.update(attempts(2, stage=SCRIPT), {SCRIPT: 2**30}, 1_000.0)
        (hover,) = peaks.figure.tools
        assert all(isinstance(tooltip, tuple) for tooltip in hover.tooltips)
        assert "<script" not in peaks.note.text

    def test_another_run_takes_the_place_of_the_one_before_and_the_same_frame_is_drawn_once(self):
        peaks = Peaks()
        peaks.update(attempts(400), {"solve": 2**30}, 1_000.0)
        frame = attempts(3)
        peaks.update(frame, {}, 1_000.0)
        assert len(self.columns(peaks)["time"]) == 3
        assert self.columns(peaks, 0)["bytes"] == []
        watched = Watched(peaks.figure, peaks.note)
        peaks.update(frame, {}, 1_000.0)
        assert watched.sent() == []
        peaks.update(None, {})
        assert not peaks.figure.visible
