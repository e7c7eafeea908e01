"""Figures and tables that a pipeline adds to the report of its runs."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
from bokeh.core.properties import validate
from bokeh.layouts import row
from bokeh.models import ColumnDataSource, LinearColorMapper, Title
from bokeh.plotting import curdoc, figure
from bokeh.transform import transform

from batchrun import (
    Pipeline,
    RetryPolicy,
    RunReport,
    Stage,
    by_rows,
    open_report,
    requeue_run,
    resume_run,
    run_pipeline,
)
from batchrun.definition import pipeline
from batchrun.errors import ParameterError, PipelineError, RunInterrupted, StoreError
from batchrun.events import AttemptEnded
from batchrun.exhibits import Exhibit, Exhibits
from batchrun.render.exhibits import adapt, shown_exhibits
from batchrun.render.native_charts import NativeChart, NativeTiles, native_charts
from batchrun.worker.program import load_pickled_pipeline, pickle_pipeline

HOSTILE = "</script><script>alert(1)</script>"


def double(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk * 2


def a_line(title: str = "") -> Any:
    plot = figure(title=title, height=100)
    plot.line([1, 2, 3], [1.0, math.nan, 3.0], legend_label="a line")
    return plot


def a_run(folder: Path, charts: Callable[..., Any], **options: Any) -> RunReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_pipeline(
            Pipeline("doubled", split=by_rows(2), stages=[double], report=charts),
            pd.DataFrame({"x": range(5)}),
            cluster="inline",
            progress=False,
            **options,
        )


def sheets(report: RunReport, folder: Path) -> Any:
    return openpyxl.load_workbook(report.to_excel(folder / "report.xlsx"))


class TestWhereTheyComeFrom:
    def test_they_are_made_of_the_results_and_of_parameters(self, tmp_path: Path):
        def charts(results: pd.DataFrame, *, top: int = 2) -> dict[str, Any]:
            return {"Line": a_line(), "Largest": results.nlargest(top, "x")}

        report = a_run(tmp_path, charts, params={"top": 3})
        assert list(report.exhibits) == ["Line", "Largest"]
        assert report.exhibits["Largest"]["x"].tolist() == [8, 6, 4]
        assert [type(one.glyph).__name__ for one in report.exhibits["Line"].renderers] == ["Line"]
        assert report.params == {"top": 3}

    def test_a_parameter_of_theirs_is_checked_like_any_other(self, tmp_path: Path):
        def charts(results: pd.DataFrame, *, top: int) -> dict[str, Any]:
            return {}

        with pytest.raises(ParameterError, match="needs the parameter `top`"):
            a_run(tmp_path, charts)

    def test_they_get_the_frame_that_they_ask_for(self, tmp_path: Path):
        def charts(results: pa.Table) -> dict[str, Any]:
            return {"Kind": pa.table({"type": [type(results).__name__]})}

        assert a_run(tmp_path, charts).exhibits["Kind"]["type"].tolist() == ["Table"]

    def test_they_get_what_combine_gave(self, tmp_path: Path):
        pipe = Pipeline(
            "sums",
            split=by_rows(2),
            stages=[double],
            combine=lambda parts: pd.DataFrame({"sum": [sum(int(part["x"].sum()) for part in parts)]}),
            report=lambda results: {"Sum": results},
        )
        report = run_pipeline(pipe, pd.DataFrame({"x": range(5)}), cluster="inline", progress=False)
        assert report.exhibits["Sum"]["sum"].tolist() == [20]

    def test_the_decorator_and_changed_pipelines_keep_the_function(self):
        def charts(results: pd.DataFrame) -> dict[str, Any]:
            return {}

        made = pipeline(split=by_rows(2), report=charts)(double)
        assert made.with_split(by_rows(3)).report is charts

    def test_they_travel_with_a_queued_pipeline(self):
        pipe = Pipeline("p", split=by_rows(2), stages=[double], report=lambda results: {"Rows": results})
        again = load_pickled_pipeline(pickle_pipeline(pipe))
        assert again.report is not None
        assert list(again.report(pd.DataFrame({"x": [1]}))) == ["Rows"]

    def test_what_is_no_function_is_refused(self):
        with pytest.raises(PipelineError, match="report='charts'; it must be a function"):
            Pipeline("p", split=by_rows(2), stages=[double], report="charts")  # type: ignore[arg-type]


class TestWhatCanGoWrong:
    def test_an_error_loses_nothing_and_is_told(self, tmp_path: Path):
        def charts(results: pd.DataFrame) -> dict[str, Any]:
            raise ValueError(HOSTILE)

        report = a_run(tmp_path, charts)
        assert (report.state, report.rows_solved) == ("succeeded", 5)
        assert report.exhibits.error is not None
        assert len(report.exhibits) == 0
        page = report.to_html(tmp_path / "report.html").read_text()
        assert "the function that makes them failed" in page
        assert "<script>alert(1)</script>" not in page
        assert "raise ValueError(HOSTILE)" in page

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ([1, 2], "returned list; return a dictionary"),
            (None, "returned NoneType; return a dictionary"),
            ({"A title": 3}, "gave int for `A title`; give a Bokeh figure or layout, or a frame"),
            ({"A title": None}, "gave NoneType for `A title`"),
            ({3: pd.DataFrame()}, "gave the title 3; titles are texts"),
            ({"": pd.DataFrame()}, "gave the title ''; titles are texts"),
        ],
    )
    def test_what_is_no_exhibit_is_explained(self, given: object, said: str):
        made = Exhibits.made(lambda: given, "report of `p`")
        assert made.error is not None
        assert said in made.error.message

    def test_a_run_that_failed_has_none(self, tmp_path: Path):
        def broken(chunk: pd.DataFrame) -> pd.DataFrame:
            raise ValueError("always")

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            stage = Stage(broken, retry=RetryPolicy(attempts=1))
            pipe = Pipeline("broken", split=by_rows(2), stages=[stage], report=lambda _: {"Line": a_line()})
            report = run_pipeline(pipe, pd.DataFrame({"x": range(4)}), cluster="inline", progress=False)
        assert report.state == "failed"
        assert not report.exhibits

    def test_they_are_made_anew_when_more_was_solved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        mended = tmp_path / "mended"

        def solve(chunk: pd.DataFrame, *, path: str) -> pd.DataFrame:
            if (chunk["x"] == 3).any() and not Path(path).exists():
                raise ValueError("not yet")
            return chunk

        def charts(results: pd.DataFrame) -> dict[str, Any]:
            return {"Rows": pd.DataFrame({"rows": [len(results)]})}

        monkeypatch.chdir(tmp_path)
        stage = Stage(solve, retry=RetryPolicy(attempts=1))
        pipe = Pipeline("mended", split=by_rows(1), stages=[stage], report=charts)
        params = {"path": str(mended)}
        first = run_pipeline(
            pipe, pd.DataFrame({"x": range(5)}), params=params, cluster="inline", progress=False
        )
        assert (first.state, first.exhibits["Rows"]["rows"].tolist()) == ("partial", [4])
        mended.touch()
        again = requeue_run(first.run_id, pipeline=pipe, cluster="inline", progress=False)
        assert (again.state, again.exhibits["Rows"]["rows"].tolist()) == ("succeeded", [5])

    @pytest.mark.parametrize("combines", [False, True])
    def test_of_a_run_that_was_stopped_they_show_what_was_solved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, combines: bool
    ) -> None:
        monkeypatch.chdir(tmp_path)
        pipe = Pipeline(
            "stopped",
            split=by_rows(2),
            stages=[double],
            combine=(lambda parts: pd.DataFrame({"x": [sum(part["x"].sum() for part in parts)]}))
            if combines
            else None,
            report=lambda results: {"X": results},
        )

        def interrupt(event: object) -> None:
            if isinstance(event, AttemptEnded):
                signal.raise_signal(signal.SIGINT)

        table = pd.DataFrame({"x": range(6)})
        with pytest.raises(RunInterrupted):
            run_pipeline(pipe, table, cluster="inline", progress=False, observers=[interrupt])
        stopped = open_report("last")
        assert (stopped.state, stopped.rows_solved) == ("cancelled", 2)
        assert stopped.exhibits["X"]["x"].tolist() == ([2] if combines else [0, 2])
        assert stopped.record.combined is None
        resumed = resume_run("last", pipeline=pipe, cluster="inline", progress=False)
        assert resumed.exhibits["X"]["x"].tolist() == ([30] if combines else [0, 2, 4, 6, 8, 10])

    def test_who_does_not_wait_for_them_has_none_and_the_run_ends(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        def charts(results: pd.DataFrame) -> dict[str, Any]:
            raise KeyboardInterrupt

        def interrupt(event: object) -> None:
            if isinstance(event, AttemptEnded):
                signal.raise_signal(signal.SIGINT)

        pipe = Pipeline("stopped", split=by_rows(2), stages=[double], report=charts)
        with pytest.raises(RunInterrupted):
            run_pipeline(
                pipe, pd.DataFrame({"x": range(6)}), cluster="inline", progress=False, observers=[interrupt]
            )
        stopped = open_report("last")
        assert stopped.state == "cancelled"
        assert list(stopped.exhibits) == []

    def test_what_a_later_version_wrote_is_refused(self, tmp_path: Path):
        path = tmp_path / "exhibits.json"
        path.write_text(json.dumps({"format": 99, "error": None, "exhibits": []}))
        with pytest.raises(StoreError, match="later version of batchrun"):
            Exhibits.read(str(path))


class TestFigures:
    def test_each_look_gives_a_figure_of_its_own(self):
        exhibit = Exhibit.of("Line", a_line(), "test")
        assert exhibit.content is not exhibit.content
        assert exhibit.content.document is None

    def test_a_figure_of_another_document_is_copied_and_stays_there(self):
        plot = a_line()
        curdoc().add_root(plot)
        try:
            exhibit = Exhibit.of("Line", plot, "test")
            assert plot.document is curdoc()
        finally:
            curdoc().clear()
        assert len(exhibit.content.renderers) == 1

    def test_a_figure_is_right_though_checks_are_turned_off_meanwhile(self):
        def charts() -> dict[str, Any]:
            plot = figure(title="A title", height=100)
            source = ColumnDataSource({"x": [1], "kind": ["red"]})
            plot.scatter("x", "x", color="kind", source=source)
            return {"Figure": plot}

        with validate(False):
            made = Exhibits.made(charts, "test")
            assert Title(text=7).text == 7  # nothing is checked here
        assert made["Figure"].title.text == "A title"
        drawn = json.dumps(made.entries[0].document)
        assert '"fill_color": {"type": "field", "field": "kind"}' in drawn

    def test_a_layout_of_figures_is_one(self):
        exhibit = Exhibit.of("Both", row(a_line(), a_line()), "test")
        assert len(exhibit.content.children) == 2
        assert len(native_charts(exhibit.content)) == 2

    def test_what_the_pipeline_chose_is_left_as_it_is(self):
        plot = figure(width=300, sizing_mode="fixed", background_fill_color="#ffeedd")
        plot.line([1], [1])
        adapt(plot)
        assert (plot.sizing_mode, plot.background_fill_color) == ("fixed", "#ffeedd")
        assert plot.border_fill_color is None

    def test_titles_and_names_are_escaped_on_the_page(self, tmp_path: Path):
        def charts(results: pd.DataFrame) -> dict[str, Any]:
            return {HOSTILE: a_line(HOSTILE), f"{HOSTILE}2": pd.DataFrame({HOSTILE: [HOSTILE]})}

        page = a_run(tmp_path, charts).to_html(tmp_path / "report.html").read_text()
        assert "<script>alert(1)</script>" not in page
        assert page.count("&lt;script&gt;alert(1)") >= 3

    def test_the_page_brings_the_parts_of_bokeh_that_a_figure_needs(self):
        from bokeh.models import DataTable, TableColumn

        table = DataTable(source=ColumnDataSource({"x": [1]}), columns=[TableColumn(field="x")])
        plain = shown_exhibits(Exhibits((Exhibit.of("Line", a_line(), "test"),)))
        wide = shown_exhibits(Exhibits((Exhibit.of("Table", table, "test"),)))
        assert plain is not None
        assert wide is not None
        assert len(wide.library) > len(plain.library) + 100_000

    def test_a_long_table_is_cut_on_the_page_and_whole_in_the_workbook(self, tmp_path: Path):
        report = a_run(tmp_path, lambda results: {"Long": pd.DataFrame({"n": range(500)})})
        assert "the first 100 of 500 rows" in report.to_html(tmp_path / "report.html").read_text()
        assert sheets(report, tmp_path)["Long"].max_row == 501


class TestOtherFaces:
    def test_a_notebook_has_a_tab_of_them(self, tmp_path: Path):
        def charts(results: pd.DataFrame) -> dict[str, Any]:
            return {"A line": a_line(), f"Rows of {HOSTILE}": results}

        shown = a_run(tmp_path, charts)._repr_html_()
        assert ">Figures</summary>" in shown
        assert "report.exhibits[&#x27;A line&#x27;] is a Bokeh figure" in shown
        assert "Rows of &lt;/script&gt;" in shown
        assert "<script" not in shown

    def test_a_notebook_says_why_there_are_none(self, tmp_path: Path):
        shown = a_run(tmp_path, lambda results: 1 / 0)._repr_html_()
        assert "report failed: ZeroDivisionError: division by zero" in shown

    def test_markdown_has_their_tables(self, tmp_path: Path):
        def charts(results: pd.DataFrame) -> dict[str, Any]:
            return {"A line": a_line(), "Sum | all": pd.DataFrame({"sum": [20]})}

        text = a_run(tmp_path, charts).to_markdown()
        assert "`Sum \\| all`:\n\n| `sum` |\n| ---: |\n| `20` |" in text
        assert "A line" not in text

    def test_markdown_says_why_there_are_none(self, tmp_path: Path):
        text = a_run(tmp_path, lambda results: 1 / 0).to_markdown()
        assert "The pipeline's report failed: `ZeroDivisionError: division by zero`" in text


class TestWorkbook:
    def test_figures_are_native_charts_over_their_numbers(self, tmp_path: Path):
        book = sheets(a_run(tmp_path, lambda results: {"A line": a_line()}), tmp_path)
        [chart] = book["figures"]._charts
        assert type(chart).__name__ == "ScatterChart"
        assert book["figures"]["A1"].value == "A line"
        numbers = list(book["figure data"].values)
        assert numbers == [("x", "a line"), (1, 1), (2, None), (3, 3)]

    def test_a_figure_without_a_native_form_says_so(self, tmp_path: Path):
        def charts(results: pd.DataFrame) -> dict[str, Any]:
            plot = figure(height=100)
            plot.patch([0, 1, 1], [0, 0, 1])
            return {"A patch": plot}

        book = sheets(a_run(tmp_path, charts), tmp_path)
        assert "no form that a spreadsheet can draw" in book["figures"]["A3"].value
        assert "figure data" not in book.sheetnames

    def test_titles_become_names_of_sheets_that_excel_accepts(self, tmp_path: Path):
        titles = ["a/b [c]: *?", "A B  C", "settings", "x" * 40, "x" * 50, "'"]
        report = a_run(tmp_path, lambda results: dict.fromkeys(titles, results))
        names = sheets(report, tmp_path).sheetnames
        assert len({name.lower() for name in names}) == len(names)
        assert all(len(name) <= 31 for name in names)
        assert {"a b  c", "settings (2)", "settings", "table"} <= set(names)


class TestNativeForms:
    def test_stacked_bars(self):
        plot = figure(x_range=["a", "b"], height=100)
        source = {"k": ["a", "b"], "u": [1, 2], "v": [3, 4]}
        plot.vbar_stack(["u", "v"], x="k", color=["red", "#00ff00"], source=source, legend_label=["U", "V"])
        [chart] = native_charts(plot)
        assert isinstance(chart, NativeChart)
        assert (chart.kind, chart.stacked) == ("column", True)
        assert [(one.name, one.color, list(one.values)) for one in chart.series] == [
            ("U", "#ff0000", [1.0, 2.0]),
            ("V", "#00ff00", [3.0, 4.0]),
        ]

    def test_bars_from_a_start_to_an_end_are_spans_by_colour(self):
        plot = figure(y_range=["m", "n"], height=100)
        source = {
            "m": ["m", "m", "n"],
            "a": [0, 2, 1],
            "b": [2, 5, 4],
            "c": ["#111111", "#222222", "#111111"],
        }
        plot.hbar(y="m", left="a", right="b", color="c", source=source)
        [chart] = native_charts(plot)
        assert isinstance(chart, NativeChart)
        assert chart.kind == "spans"
        assert [(one.color, list(one.values), list(one.ends)) for one in chart.series] == [
            ("#111111", [0.0, 1.0], [2.0, 4.0]),
            ("#222222", [2.0], [5.0]),
        ]

    def test_points_over_bars_are_drawn_over_them(self):
        plot = figure(x_range=["a", "b"], height=100)
        plot.vbar(x=["a", "b"], top=[1, 2])
        plot.scatter(["a", "b"], [2, 1])
        [chart] = native_charts(plot)
        assert isinstance(chart, NativeChart)
        assert (chart.kind, [list(one.values) for one in chart.over]) == ("column", [[2.0, 1.0]])

    def test_a_histogram_is_bars_between_its_edges(self):
        plot = figure(height=100)
        plot.quad(left=[0, 1], right=[1, 2], bottom=0, top=[5, 3])
        [chart] = native_charts(plot)
        assert isinstance(chart, NativeChart)
        assert [(list(one.places), list(one.values)) for one in chart.series] == [
            (["0 to 1", "1 to 2"], [5.0, 3.0])
        ]

    def test_a_map_of_tiles_is_a_coloured_table(self, tmp_path: Path):
        plot = figure(x_range=["1", "2"], y_range=["low", "high"], height=100)
        source = {"x": ["1", "2", "1"], "y": ["low", "low", "high"], "v": [1.0, 2.0, 3.0]}
        mapper = LinearColorMapper(palette=["#0000ff", "#ffffff", "#ff0000"], low=0, high=3)
        plot.rect("x", "y", 1, 1, source=source, fill_color=transform("v", mapper))
        [tiles] = native_charts(plot)
        assert tiles == NativeTiles(
            "",
            ["1", "2"],
            ["high", "low"],
            [[3.0, None], [1.0, 2.0]],
            ("#0000ff", "#ffffff", "#ff0000"),
            (0.0, 3.0),
        )
        book = sheets(a_run(tmp_path, lambda results: {"Tiles": plot}), tmp_path)
        rows = [cells[:3] for cells in book["figures"].iter_rows(min_row=3, max_row=5, values_only=True)]
        assert rows == [(None, "1", "2"), ("high", 3, None), ("low", 1, 2)]
        assert len(book["figures"].conditional_formatting) == 1
