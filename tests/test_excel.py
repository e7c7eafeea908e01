"""The workbook: every value as it was or as text that says so, and nothing that acts."""

from __future__ import annotations

import datetime as dt
import json
import zipfile
from decimal import Decimal
from pathlib import Path

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest

from batchrun import Pipeline, RetryPolicy, RunReport, Stage, by_rows, run_pipeline
from batchrun.errors import StoreError
from batchrun.outcome import Outcome
from batchrun.render.cells import column_of, table_of
from batchrun.render.excel import write_excel
from tests.stopped_run import stopped_run

ZURICH = "Europe/Zurich"
MARKUP = "<r><t>a</t></is></c><c r='Z1'><f>1+1</f><v>2</v></c><c r='AA1' t='inlineStr'><is></r>"
FORMULA = '=HYPERLINK("http://example.org","x")'


def solve(chunk: pd.DataFrame) -> pd.DataFrame:
    """Results of many types, in the order of the input."""
    if (chunk["value"] == 7).any():
        raise ValueError(FORMULA)
    at = pd.Timestamp("2026-01-31 12:00", tz=ZURICH)
    return pd.DataFrame(
        {
            "value": chunk["value"].to_numpy(),
            "share": [float("inf"), float("nan"), *([0.25] * (len(chunk) - 2))],
            "arrived": pd.Series([at] * len(chunk)).dt.as_unit("us"),
            "formula": FORMULA,
            "link": "https://example.org",
            "control": "a\x00b\x1b\ufffe",
            "markup": MARKUP,
            "nested": [{"machine": 1, "parts": [1, 2]}] * len(chunk),
            "kind": pd.Categorical(["a"] * len(chunk)),
        }
    )


def a_run(folder: Path, rows: int = 50) -> RunReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_pipeline(
            Pipeline("scores", split=by_rows(5), stages=[Stage(solve, retry=RetryPolicy(attempts=1))]),
            pd.DataFrame({"value": range(rows)}),
            cluster="inline",
            progress=False,
        )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    return a_run(tmp_path_factory.mktemp("excel"))


@pytest.fixture(scope="module")
def book(report: RunReport, tmp_path_factory: pytest.TempPathFactory) -> openpyxl.Workbook:
    path = tmp_path_factory.mktemp("book") / "scores.xlsx"
    assert write_excel(report, path) == path
    return openpyxl.load_workbook(path)


def columns(book: openpyxl.Workbook, sheet: str) -> dict[str, list[object]]:
    rows = list(book[sheet].iter_rows(values_only=True))
    return {str(name): [row[at] for row in rows[1:]] for at, name in enumerate(rows[0])}


def test_the_sheets_come_in_the_order_of_interest(book: openpyxl.Workbook):
    expected = ["summary", "results", "chunks", "attempts", "failures", "quarantine", "settings"]
    assert book.sheetnames == expected


def test_the_summary_states_the_law_of_conservation(book: openpyxl.Workbook):
    facts = {row[0]: row[1] for row in book["summary"].iter_rows(min_row=3, values_only=True)}
    assert facts["Rows"] == "50 rows in = 49 solved + 1 quarantined + 0 cancelled"
    assert facts["State"] == "partial"


def test_every_result_row_is_there_in_input_order(book: openpyxl.Workbook):
    assert columns(book, "results")["value"] == [value for value in range(50) if value != 7]


def test_numbers_stay_numbers_and_what_excel_has_no_number_for_does_not(book: openpyxl.Workbook):
    assert columns(book, "results")["share"][:3] == ["inf", None, 0.25]


def test_times_lose_their_zone_but_not_their_meaning(book: openpyxl.Workbook):
    assert columns(book, "results")[f"arrived (UTC, from {ZURICH})"][0] == dt.datetime(2026, 1, 31, 11, 0)


def test_nothing_from_a_user_becomes_a_formula_or_a_link(book: openpyxl.Workbook):
    for sheet in book:
        for row in sheet.iter_rows():
            for cell in row:
                assert cell.data_type != "f"
                assert cell.hyperlink is None
    assert columns(book, "results")["formula"][0] == FORMULA
    assert columns(book, "quarantine")["error_message"][0] == FORMULA


def test_what_looks_like_markup_of_the_workbook_is_a_text_like_any_other(book: openpyxl.Workbook):
    assert columns(book, "results")["markup"][0] == MARKUP


def test_a_text_of_many_lines_takes_one_line_of_its_table_and_all_of_them_in_the_summary(
    book: openpyxl.Workbook, tmp_path: Path
):
    sheet = book["quarantine"]
    traced = next(cell for cell in sheet[2] if str(cell.value).startswith("Traceback"))
    assert traced.alignment.wrap_text
    assert sheet.row_dimensions[2].height < 16
    long = openpyxl.load_workbook(write_excel(stopped_run(tmp_path), tmp_path / "long.xlsx"))["summary"]
    assert long.row_dimensions[1].height == 30


def test_nested_values_are_json_and_categories_their_values(book: openpyxl.Workbook):
    results = columns(book, "results")
    assert json.loads(str(results["nested"][0])) == {"machine": 1, "parts": [1, 2]}
    assert results["kind"][0] == "a"


def test_control_characters_do_not_break_the_file(book: openpyxl.Workbook):
    assert str(columns(book, "results")["control"][0]).startswith("a")


def test_quarantined_rows_keep_their_values_and_their_error(book: openpyxl.Workbook):
    quarantine = columns(book, "quarantine")
    assert quarantine["value"] == [7]
    assert set(quarantine["error_type"]) == {"ValueError"}


def test_headers_are_bold_frozen_and_filtered(book: openpyxl.Workbook):
    sheet = book["results"]
    assert sheet.freeze_panes == "A2"
    assert sheet["A1"].font.bold
    assert sheet.auto_filter.ref is not None
    assert sheet.column_dimensions["C"].width >= 20


def test_attempts_tell_when_they_started(book: openpyxl.Workbook):
    started = columns(book, "attempts")["started (UTC)"][0]
    assert isinstance(started, dt.datetime)
    assert started.year >= 2026


def test_results_go_on_in_another_sheet_when_one_is_full(report: RunReport, tmp_path: Path):
    write_excel(report, tmp_path / "scores.xlsx", rows_per_sheet=20)
    book = openpyxl.load_workbook(tmp_path / "scores.xlsx")
    parts = [columns(book, name)["value"] for name in ("results", "results 2", "results 3")]
    assert [len(part) for part in parts] == [20, 20, 9]
    assert [value for part in parts for value in part] == [value for value in range(50) if value != 7]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> openpyxl.Workbook:
    folder = tmp_path_factory.mktemp("stopped")
    return openpyxl.load_workbook(write_excel(stopped_run(folder), folder / "scores.xlsx"))


def test_the_best_answers_over_time_have_a_sheet_if_there_are_any(
    stopped: openpyxl.Workbook, book: openpyxl.Workbook
):
    assert len(columns(stopped, "incumbents")["objective"]) == 8 * 14
    assert "incumbents" not in book.sheetnames


def test_attempts_say_why_they_ended_and_what_was_decided(stopped: openpyxl.Workbook):
    attempts = columns(stopped, "attempts")
    at = attempts["outcome"].index("out_of_memory")
    assert attempts["cause"][at] == "memory"
    assert attempts["decision"][at] == "cut"
    assert attempts["next_step"][at] == "cut in two halves, which are tried by themselves"


def test_chunks_that_did_not_end_by_themselves_have_the_colour_of_their_outcome(stopped: openpyxl.Workbook):
    header, *rows = stopped["chunks"].iter_rows()
    at = [cell.value for cell in header].index("outcome")
    colors = {row[at].value: row[at].font.color and row[at].font.color.rgb for row in rows}
    for outcome in (Outcome.STOPPED_WITH_SOLUTION, Outcome.FAILED, Outcome.TIMED_OUT):
        assert colors[outcome.value] == f"FF{outcome.color[1:].upper()}"
    gap = [cell.value for cell in header].index("gap")
    assert rows[0][gap].number_format == "0.00%"


def test_quarantined_rows_have_their_traceback(stopped: openpyxl.Workbook):
    assert str(columns(stopped, "quarantine")["traceback"][0]).startswith("Traceback")


def test_a_run_without_rows_makes_a_workbook_that_opens(tmp_path: Path):
    write_excel(a_run(tmp_path, rows=0), tmp_path / "empty.xlsx")
    assert "results" in openpyxl.load_workbook(tmp_path / "empty.xlsx").sheetnames


def test_a_failure_while_writing_leaves_no_file_and_what_was_there_before(
    report: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "scores.xlsx").write_bytes(b"the old one")

    def broken(self: RunReport) -> None:
        raise StoreError("the results cannot be read")

    monkeypatch.setattr(RunReport, "batches", broken)
    with pytest.raises(StoreError):
        write_excel(report, tmp_path / "scores.xlsx")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.xlsx"]
    assert (tmp_path / "scores.xlsx").read_bytes() == b"the old one"


def test_a_path_that_cannot_be_written_is_named(report: RunReport, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"scores\.xlsx"):
        write_excel(report, tmp_path / "file" / "scores.xlsx")


def test_the_workbook_is_a_whole_zip_archive(report: RunReport, tmp_path: Path):
    assert zipfile.ZipFile(write_excel(report, tmp_path / "scores.xlsx")).testzip() is None


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([0], pa.timestamp("ns", ZURICH)).dictionary_encode(), [dt.datetime(1970, 1, 1)]),
        (pa.array([10**7], pa.date32()), ["29349-01-26"]),
        (pa.array([float("nan"), float("-inf")]), [None, "-inf"]),
        (pa.array([1, 2**60, None]), [1, str(2**60), None]),
        (pa.array([Decimal("1.50"), Decimal("12345678901234567.89")]), [1.5, "12345678901234567.89"]),
        (pa.array([dt.date(2026, 1, 31), dt.date(1850, 1, 1)]), [dt.date(2026, 1, 31), "1850-01-01"]),
        (pa.array([dt.time(8, 30)]), [dt.time(8, 30)]),
        (
            pa.array([dt.timedelta(hours=30), dt.timedelta(seconds=-5)]),
            [dt.timedelta(hours=30), "-0:00:05"],
        ),
        (pa.array([1_000_000_001], pa.timestamp("ns")), [dt.datetime(1970, 1, 1, 0, 0, 1)]),
        (pa.array([dt.datetime(1850, 1, 1)]), ["1850-01-01 00:00:00"]),
        (pa.array([b"\x00\xff"]), ["00ff"]),
        (pa.array([True, None]), [True, None]),
        (pa.array([None, None]), [None, None]),
        (pa.array([[1, None]]), ["[1, null]"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    ],
    ids=str,
)
def test_a_value_that_a_cell_cannot_hold_exactly_becomes_text(array: pa.Array, expected: list[object]):
    assert column_of("x", array.type).cells(array) == expected


def test_a_year_beyond_pythons_becomes_text_and_not_an_error():
    array = pa.array([2**60], pa.timestamp("s"))
    assert isinstance(column_of("x", array.type).cells(array)[0], str)


def test_a_text_too_long_for_a_cell_is_cut_and_says_so():
    cell = column_of("x", pa.string()).cells(pa.array(["x" * 40_000]))[0]
    assert isinstance(cell, str)
    assert len(cell) == 32_767
    assert cell.endswith("(cut)")


def test_a_text_is_as_long_as_excel_counts_it():
    cell = column_of("x", pa.string()).cells(pa.array(["\U0001f600" * 20_000]))[0]
    assert isinstance(cell, str)
    assert 32_760 < len(cell.encode("utf-16-le")) // 2 <= 32_767
    assert cell.endswith("(cut)")


def test_a_frame_with_values_of_mixed_types_becomes_text():
    assert table_of(pd.DataFrame({"mixed": [1, "a", None]})).column("mixed").to_pylist() == ["1", "a", None]
