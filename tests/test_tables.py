"""The report of a run whose chunks were cut, stopped, cancelled or given up, from its records alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from batchrun import Outcome, RunReport, RunState
from batchrun.data.load import write_table
from batchrun.data.table import Inline, encode, to_table
from batchrun.errors import UsageError
from batchrun.outcome import Attempt, ErrorRecord, Incumbent
from batchrun.render.account import attempts_line, chunks_line, stage_accounts
from batchrun.store.artifacts import RunFolder
from batchrun.store.live import LiveState, RunningChunk
from batchrun.store.recorder import Recorder
from batchrun.store.runs import RunRecord, RunStore, SettledChunk
from tests.writing import writer

TABLE = pd.DataFrame({"x": range(8), "name": list("abcdefgh")}, index=range(100, 900, 100))
BAD = ErrorRecord("ValueError", "no", "Traceback: no", ("ValueError",), "ValueError at s.py:1")


@dataclass
class Recorded:
    """A run of two chunks of four rows; the second was cut into 2 and 3, and 2 into 4 and 5."""

    store: RunStore
    recorder: Recorder
    url: str

    def attempt(self, chunk: int, outcome: Outcome, number: int = 1, **more: object) -> None:
        attempt = Attempt(chunk, "solve", number, "w", outcome, 0.0, 0.5, rows_in=1)
        self.recorder.attempt(replace(attempt, **more))

    def solved(
        self, chunk: int, rows: pd.DataFrame, outcome: Outcome = Outcome.SUCCEEDED, **more: object
    ) -> None:
        self.attempt(chunk, outcome)
        settled = SettledChunk(chunk, outcome, len(rows), len(rows), 0.5, **more)
        self.recorder.solved(settled, Inline(encode(to_table(rows, owner="it"))), f"key-{chunk}")

    def given_up(self, chunk: int, rows: pd.DataFrame, *, readable: bool = True, **attempt: object) -> None:
        self.attempt(chunk, Outcome.FAILED, **{"error": BAD, **attempt})
        settled = SettledChunk(chunk, Outcome.FAILED, len(rows), 0, 0.5)
        self.recorder.given_up(settled, to_table(rows, owner="it") if readable else None)

    def report(self) -> RunReport:
        self.recorder.flush(chunks=6)
        return RunReport(self.url)


@pytest.fixture
def run(here: Path):
    url = f"sqlite:///{here.as_posix()}/store.db"
    folder = RunFolder(str(here / "r"))
    write_table(pa.table({"start": [0, 4], "stop": [4, 8]}), folder.plan(0))
    write_table(pa.table({"start": [4, 6], "stop": [6, 8], "parent": [1, 1]}), folder.plan(1))
    write_table(pa.table({"start": [4, 5], "stop": [5, 6], "parent": [2, 2]}), folder.plan(2))
    with RunStore(url) as store:
        state = RunState.PARTIAL
        store.create(RunRecord("r", "p", None, state, 0.0, "by_rows(4)", folder.path, rows_in=8, ended=1.0))
        yield Recorded(store, Recorder(writer(store, "r"), folder, "session"), url)


def rows(first: int, last: int) -> pd.DataFrame:
    return TABLE.iloc[first:last]


def test_results_of_parts_stand_where_their_rows_stood(run: Recorded):
    run.solved(3, rows(6, 8))
    run.solved(5, rows(5, 6))
    run.solved(0, rows(0, 4))
    run.solved(4, rows(4, 5))
    report = run.report()

    pd.testing.assert_frame_equal(report.results(), TABLE, check_index_type=False)
    assert report.batches().read_all()["x"].to_pylist() == list(range(8))
    assert sorted(report.scan().to_table()["x"].to_pylist()) == list(range(8))


def test_files_of_parts_are_scanned_in_input_order(run: Recorded):
    for chunk, (first, last) in {3: (6, 8), 4: (4, 5), 0: (0, 4), 5: (5, 6)}.items():
        run.solved(chunk, rows(first, last))
        run.recorder.flush(chunks=6)

    assert run.report().scan().to_table()["x"].to_pylist() == list(range(8))


def test_each_chunk_says_what_it_is_a_part_of_and_what_became_of_it(run: Recorded):
    run.attempt(1, Outcome.FAILED, error=BAD)
    run.solved(0, rows(0, 4), Outcome.STOPPED_WITH_SOLUTION, objective=80.0, bound=60.0)
    run.given_up(4, rows(4, 5))
    run.recorder.cancelled(SettledChunk(3, Outcome.CANCELLED, 2, 0, 0.0))
    chunks = run.report().chunks

    outcomes = ["stopped_with_solution", "cut", "cut", "cancelled", "failed", "cancelled"]
    assert chunks["outcome"].tolist() == outcomes
    assert chunks["parent"].dtype == "Int64"
    assert chunks["parent"].fillna(-1).tolist() == [-1, -1, 1, 1, 2, 2]
    assert chunks["attempts"].tolist() == [1, 1, 0, 0, 1, 0]
    assert chunks["seconds"].tolist() == [0.5, 0.5, 0.0, 0.0, 0.5, 0.0]
    assert chunks.loc[0, ["objective", "bound", "gap"]].tolist() == [80.0, 60.0, 0.25]
    assert chunks.loc[1:, ["objective", "bound", "gap"]].isna().all(axis=None)
    assert chunks.loc[chunks["outcome"] != "cut", "rows"].sum() == 8


def test_what_is_not_settled_is_pending_while_the_run_goes_on(run: Recorded):
    writer(run.store, "r").update(state=RunState.RUNNING, ended=None)
    assert run.report().chunks["outcome"].tolist() == [
        "pending",
        "cut",
        "cut",
        "pending",
        "pending",
        "pending",
    ]


class TestQuarantine:
    def test_has_the_rows_in_input_order_with_their_own_index_and_their_error(self, run: Recorded):
        run.attempt(1, Outcome.FAILED, error=BAD)
        run.given_up(3, rows(6, 8))
        run.given_up(4, rows(4, 5), number=2)
        run.solved(0, rows(0, 4))
        bad = run.report().quarantined

        assert bad.index.tolist() == [500, 700, 800]
        pd.testing.assert_frame_equal(bad[["x", "name"]], TABLE.iloc[[4, 6, 7]], check_index_type=False)
        said = ["batchrun_chunk", "batchrun_stage", "error_type", "error_message", "traceback"]
        assert bad.columns.tolist() == ["x", "name", *said]
        assert bad["batchrun_chunk"].tolist() == [4, 3, 3]
        assert bad.iloc[0][said[1:]].tolist() == ["solve", "ValueError", "no", "Traceback: no"]

    def test_keeps_a_named_index_and_one_that_falls(self, run: Recorded):
        falling = TABLE.set_axis(pd.RangeIndex(8, 0, -1, name="id"))
        run.given_up(4, falling.iloc[4:5])
        run.given_up(3, falling.iloc[6:8])
        bad = run.report().quarantined

        assert bad.index.tolist() == [4, 2, 1]
        assert bad.index.name == "id"

    def test_leaves_the_users_own_columns_alone(self, run: Recorded):
        run.given_up(4, rows(4, 5).assign(traceback="mine"))
        bad = run.report().quarantined

        assert bad["traceback"].tolist() == ["mine"]
        assert bad["batchrun_traceback"].tolist() == ["Traceback: no"]

    def test_has_a_row_without_values_where_they_could_not_be_read(self, run: Recorded):
        run.given_up(3, rows(6, 8))
        run.given_up(0, rows(0, 4))
        run.given_up(4, rows(4, 5), readable=False)
        bad = run.report().quarantined

        assert bad["batchrun_chunk"].tolist() == [0, 0, 0, 0, 4, 3, 3]
        assert bad["x"].fillna(-1).tolist() == [0, 1, 2, 3, -1, 6, 7]
        assert bad["error_type"].tolist() == ["ValueError"] * 7

    def test_has_only_errors_where_no_row_could_be_read(self, run: Recorded):
        run.given_up(3, rows(6, 8), readable=False)
        assert run.report().quarantined["batchrun_chunk"].tolist() == [3, 3]

    def test_is_empty_where_nothing_was_given_up(self, run: Recorded):
        run.solved(0, rows(0, 4))
        run.recorder.cancelled(SettledChunk(3, Outcome.CANCELLED, 2, 0, 0.0))
        report = run.report()

        assert report.quarantined.empty
        assert report.quarantined.columns.tolist()[:2] == ["batchrun_chunk", "batchrun_stage"]
        assert report.failures.empty

    def test_of_the_first_version_is_read_as_well(self, run: Recorded):
        folder = RunFolder(run.recorder.folder.path)
        write_table(to_table(rows(6, 8), owner="it"), folder.old_quarantine(3))
        run.given_up(3, rows(6, 8), readable=False)
        run.given_up(4, rows(4, 5))

        assert run.report().quarantined["x"].tolist() == [4, 6, 7]

    def test_says_what_happened_to_a_chunk_that_has_no_error_of_its_own(self, run: Recorded):
        run.given_up(4, rows(4, 5), error=None)
        run.recorder.given_up(SettledChunk(3, Outcome.TIMED_OUT, 2, 0, 0.0), None)
        report = run.report()

        assert report.quarantined["error_type"].tolist() == ["failed", "timed_out", "timed_out"]
        assert report.failures["rows"].tolist() == [2, 1]  # as many chunks of each; that of chunk 3 is first
        assert report.failures["error"].tolist()[0] == "the stage passed its time limit"

    def test_of_many_cut_chunks_counts_each_kind_of_error_once(self, run: Recorded):
        for chunk, first in ((3, 6), (4, 4), (5, 5)):
            run.given_up(chunk, rows(first, first + 1))
        [failure] = run.report().failures.to_dict("records")
        assert (failure["chunks"], failure["rows"], failure["first_chunk"]) == (3, 3, 3)


def test_the_answers_that_a_solve_published_are_in_the_report(run: Recorded):
    run.attempt(
        0, Outcome.STOPPED_WITH_SOLUTION, incumbents=(Incumbent(1.0, 90.0), Incumbent(2.0, 80.0, 60.0))
    )
    report = run.report()

    assert report.incumbents[["chunk", "seconds", "objective"]].to_numpy().tolist() == [
        [0, 1, 90],
        [0, 2, 80],
    ]
    assert report.attempts["gap"].tolist() == [0.25]


def test_logs_are_text_with_a_line_before_each_attempt(run: Recorded):
    run.attempt(3, Outcome.FAILED, log="gap 3 %\ngave up\n")
    run.attempt(0, Outcome.SUCCEEDED, number=2, log="optimal")
    report = run.report()

    assert report.logs() == (
        "== chunk 0, stage solve, attempt 2 ==\noptimal\n"
        "\n"
        "== chunk 3, stage solve, attempt 1 ==\ngap 3 %\ngave up\n"
    )
    assert report.logs(3) == "== chunk 3, stage solve, attempt 1 ==\ngap 3 %\ngave up\n"
    assert report.logs(1) == ""


def test_how_a_run_is_doing_is_in_its_report_while_it_is_driven(
    run: Recorded, monkeypatch: pytest.MonkeyPatch
):
    state = LiveState(1.0, (RunningChunk(3, "solve", 1, "w", 0.0, rows=2),))
    writer(run.store, "r").save_live(state)
    assert run.report().live is None

    monkeypatch.setattr("batchrun.report.is_under_way", lambda record, entry: True)
    assert run.report().live == state


def test_the_report_says_why_a_chunk_stands_where_it_stands(run: Recorded):
    writer(run.store, "r").update(stages=[{"name": "solve", "memory": 0, "resources": {}, "leg": 0}])
    run.given_up(4, rows(4, 5))
    report = run.report()

    assert "ValueError" in report.why(4)
    assert report.why(4) != report.why(1) != report.why()
    with pytest.raises(UsageError, match="no chunk 6"):
        report.why(6)


def test_outcomes_are_counted_as_the_table_of_chunks_has_them(run: Recorded):
    run.attempt(1, Outcome.FAILED, error=BAD)
    run.solved(0, rows(0, 4), Outcome.STOPPED_WITH_SOLUTION, objective=80.0, bound=60.0)
    run.given_up(4, rows(4, 5))
    run.recorder.cancelled(SettledChunk(3, Outcome.CANCELLED, 2, 0, 0.0))

    for state, left in ((RunState.PARTIAL, "cancelled"), (RunState.RUNNING, "pending")):
        writer(run.store, "r").update(state=state)
        report = run.report()
        assert report.outcomes == report.chunks["outcome"].value_counts().to_dict()
        assert report.outcomes_of(0) == ["stopped_with_solution"]
        assert sorted(report.outcomes_of(1)) == sorted(["cancelled", "failed", left])
        assert report.outcomes_of(5) == [left]


def _noting(whole: Callable[..., object], asked: list[dict[str, object]]) -> Callable[..., object]:
    """The method, which notes what it was asked for."""

    def seen(store: RunStore, run_id: str, **which: object) -> object:
        asked.append(which)
        return whole(store, run_id, **which)

    return seen


def test_figures_why_and_failures_read_no_whole_tables_of_the_run(
    run: Recorded, monkeypatch: pytest.MonkeyPatch
):
    writer(run.store, "r").update(stages=[{"name": "solve", "memory": 0, "resources": {}, "leg": 0}])
    run.solved(0, rows(0, 4))
    run.given_up(4, rows(4, 5))
    report = run.report()
    asked: list[dict[str, object]] = []

    for name in ("attempts", "settled"):
        whole = getattr(RunStore, name)

        def seen(
            store: RunStore, run_id: str, whole: Callable[..., object] = whole, **which: object
        ) -> object:
            asked.append(which)
            return whole(store, run_id, **which)

        monkeypatch.setattr(RunStore, name, seen)
    said = [report.why(), report.why(4), chunks_line(report), attempts_line(report), *stage_accounts(report)]

    assert len(report.failures) == len(report.quarantined) == 1
    assert len(said) == 5
    assert asked
    assert all(which in ({"solved": False}, {"unsolved": True}, {"chunks": [4]}) for which in asked)
