"""A report gives results in input order whatever their schemas, and knows whether its run is still driven."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest

from batchrun import Pipeline, RetryPolicy, RunReport, Stage, by_rows, resume_run, run_pipeline
from batchrun.data import ordered
from batchrun.data.refs import ResultRefs
from batchrun.data.windows import Window
from batchrun.errors import ResultError, StoreError
from batchrun.events import ChunksSettled, Event
from batchrun.outcome import RunState
from batchrun.render.account import advice, headline
from batchrun.render.excel import write_excel
from batchrun.render.html import render_html
from batchrun.store.runs import RunStore
from tests.writing import writer

ONCE = RetryPolicy(attempts=1)
STORE = "sqlite:///.batchrun/store.db"


def mixed(chunk: pd.DataFrame, *, healed: str) -> pd.DataFrame:
    """Each two rows give results of another schema; rows 0, 1, 6 and 7 fail until *healed*."""
    number = int(chunk["x"].iloc[0]) // 2
    if number in (0, 3) and not Path(healed).exists():
        raise ValueError("not yet")
    match number:
        case 0:
            return pd.DataFrame({"x": chunk["x"], "y": chunk["x"] + 1})
        case 1:
            return pd.DataFrame({"x": chunk["x"], "y": [0.5, 1.5], "note": pd.Categorical(["a", "b"])})
        case 2:
            return pd.DataFrame({"x": [], "unseen": []})
        case _:
            rows = chunk["x"].to_numpy()
            notes = ["c" if x == 6 else None for x in rows]
            return pd.DataFrame({"note": notes, "x": rows}, index=[7 if x == 6 else 9 for x in rows])


@pytest.fixture
def report(here: Path) -> RunReport:
    """Chunks 1 and 2 end in the first session, the parts of chunks 0 and 3 in the second."""
    pipeline = Pipeline("mixed", split=by_rows(2), stages=[Stage(mixed, retry=ONCE)])
    first = run_pipeline(
        pipeline,
        pd.DataFrame({"x": range(8)}),
        params={"healed": str(here / "healed")},
        cluster="inline",
        progress=False,
    )
    assert first.state is RunState.PARTIAL
    (here / "healed").touch()
    return resume_run(first.run_id, pipeline=pipeline, cluster="inline", progress=False)


EXPECTED = {
    "x": [0, 1, 2, 3, 6, 7],
    "y": [1.0, 2.0, 0.5, 1.5, None, None],
    "note": [None, None, "a", "b", "c", None],
    "unseen": [None] * 6,
}


def test_batches_are_in_input_order_and_of_one_schema(report: RunReport):
    batches = report.batches()
    assert {name: str(batches.schema.field(name).type) for name in ("x", "y")} == {
        "x": "int64",
        "y": "double",
    }
    read = list(batches)
    assert all(batch.schema == batches.schema for batch in read)
    assert pa.Table.from_batches(read).to_pydict() == EXPECTED
    assert report.rows_out == 6


def test_batches_agree_with_the_results_as_one_frame(report: RunReport):
    results = report.results()
    assert list(results.columns) == report.batches().schema.names
    assert results["x"].tolist() == EXPECTED["x"]


def test_batches_read_results_when_they_are_asked_for(report: RunReport, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []
    whole = ordered.read_windows

    def counted(refs: ResultRefs) -> Iterator[Window]:
        for window in whole(refs):
            read.append(window.table.num_rows)
            yield window

    monkeypatch.setattr(ordered, "read_windows", counted)
    batches = report.batches()
    assert read == []
    next(batches)
    assert read == [2]


def test_the_workbook_has_the_results_in_input_order(report: RunReport, here: Path):
    book = openpyxl.load_workbook(write_excel(report, here / "mixed.xlsx"))
    rows = list(book["results"].iter_rows(values_only=True))
    assert rows[0] == ("x", "y", "note", "unseen")
    assert [row[0] for row in rows[1:]] == EXPECTED["x"]
    assert [row[2] for row in rows[1:]] == EXPECTED["note"]


def test_the_page_has_the_results_in_input_order(report: RunReport):
    page = render_html(report)
    preview = page[page.index("<h2>Result</h2>") : page.index("<h2>Timeline</h2>")]
    cells = [row.split("</td>")[0].split(">")[-1] for row in preview.split("<tr>")[2:]]
    assert cells == [str(x) for x in EXPECTED["x"]]


def test_a_run_without_results_has_no_batches(here: Path):
    empty = run_pipeline(
        Pipeline("none", split=by_rows(2), stages=[Stage(lambda chunk: None, name="none")]),
        pd.DataFrame({"x": range(4)}),
        cluster="inline",
        progress=False,
    )
    assert list(empty.batches()) == []
    assert empty.rows_out == 0


def test_a_combined_result_is_what_batches_give(here: Path):
    def total(parts) -> pd.DataFrame:
        return pd.DataFrame({"total": [sum(int(part["x"].sum()) for part in parts)]}, index=["all"])

    combined = run_pipeline(
        lambda chunk: chunk,
        pd.DataFrame({"x": range(8)}),
        split=by_rows(2),
        combine=total,
        cluster="inline",
        progress=False,
    )
    assert combined.batches().read_all().to_pydict() == {"total": [28]}
    assert combined.rows_out == 1


def clashing(chunk: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"y": [1] if 0 in set(chunk["x"]) else ["<b>text</b>"]})


def test_results_that_do_not_fit_one_table_are_an_error_that_the_page_tells(here: Path):
    clash = run_pipeline(
        clashing, pd.DataFrame({"x": range(4)}), split=by_rows(2), cluster="inline", progress=False
    )
    with pytest.raises(ResultError, match="'y' is int64 in the result of one chunk"):
        clash.batches()
    page = render_html(clash)
    assert "do not fit one table: column &#39;y&#39; is int64" in page


def test_the_workbook_says_why_where_results_do_not_fit_one_table(here: Path):
    clash = run_pipeline(
        clashing, pd.DataFrame({"x": range(4)}), split=by_rows(2), cluster="inline", progress=False
    )
    book = openpyxl.load_workbook(write_excel(clash, here / "clash.xlsx"))
    assert "'y' is int64" in str(book["results"]["B3"].value)
    assert len(list(book["chunks"].iter_rows())) == 3


def test_the_workers_that_a_run_began_with_are_known(report: RunReport):
    [kind] = report.workers
    assert (kind.group, kind.count, kind.threads) == ("inline", 1, 1)
    assert report.sizing == []


def test_a_file_that_is_gone_is_named(report: RunReport):
    for segment in Path(report.folder).rglob("segment-*.arrow"):
        segment.unlink()
    with pytest.raises(StoreError, match=r"segment-000000\.arrow"):
        report.batches()


class TestAbandoned:
    """A run whose driver was killed: its record says running, and a process that is gone."""

    @pytest.fixture
    def left(self, report: RunReport) -> RunReport:
        now = time.time()
        with RunStore(STORE) as store:
            driver = f"elsewhere/{os.getpid()}/1.00"
            writer(store, report.run_id).update(
                state=RunState.RUNNING,
                started=now - 100,
                ended=None,
                heartbeat=now - 60,
                driver=driver,
            )
        return RunReport(STORE)

    def test_is_told_apart_from_one_that_runs(self, left: RunReport):
        assert left.abandoned
        assert not left.driven
        with RunStore(STORE) as store:
            writer(store, left.run_id).update(heartbeat=time.time())
        assert RunReport(STORE).driven
        assert not RunReport(STORE).abandoned

    def test_took_until_its_last_sign_of_life(self, left: RunReport):
        assert left.seconds == pytest.approx(40)

    def test_says_how_to_go_on(self, left: RunReport):
        assert headline(left) == "Stopped after 40.0 s as its driver is gone, with 8 of 8 rows solved"
        assert advice(left) == (
            f"It is recorded as running, but its driver is gone: batchrun resume {left.run_id}"
        )

    def test_gives_no_such_advice_while_it_is_driven(self, left: RunReport):
        with RunStore(STORE) as store:
            writer(store, left.run_id).update(heartbeat=time.time())
        assert advice(RunReport(STORE)) == ""


def test_a_report_taken_while_the_run_goes_on_in_this_process_says_so(here: Path):
    driven: list[bool] = []

    def look(event: Event) -> None:
        if isinstance(event, ChunksSettled):
            driven.extend([RunReport(STORE).driven] * len(event.chunks))

    done = run_pipeline(
        lambda chunk: chunk,
        pd.DataFrame({"x": range(4)}),
        split=by_rows(2),
        cluster="inline",
        progress=False,
        observers=[look],
    )
    assert driven == [True, True]
    assert not done.driven
    assert not done.abandoned
