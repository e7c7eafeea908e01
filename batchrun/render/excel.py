"""A run as an Excel workbook: what it was, its results, and what became of every chunk and row.

Rows are streamed to the file as they are read, so that the results need not fit into memory. Nothing that
comes from a user is ever taken for a formula or a link.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from itertools import count as count_up
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from batchrun.data.files import write_atomically
from batchrun.errors import ResultError
from batchrun.outcome import Outcome
from batchrun.render.account import (
    advice,
    attempts_line,
    chunks_line,
    conservation,
    count,
    headline,
    moment,
    stage_accounts,
    stopped_line,
)
from batchrun.render.cells import Cell, Column, clip, column_of, table_of
from batchrun.render.chart_sheet import add_figures
from batchrun.render.native_charts import native_charts
from batchrun.resources import format_seconds

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from batchrun.exhibits import Exhibits
    from batchrun.report import RunReport

__all__ = ["write_excel"]

ROWS_PER_SHEET = 1_048_575
"""Rows that a sheet can hold below its header."""
COLUMNS_PER_SHEET = 16_384
"""Columns that a sheet can hold."""
LONGEST_NAME = 31
"""Characters that the name of a sheet can have."""
OWN_NAME = re.compile(
    r"(chunks|attempts|incumbents|failures|quarantine|settings)( \d+)?|history", re.IGNORECASE
)
"""Names of sheets that come later, and one that Excel keeps for itself."""
WIDEST = 60
"""Characters; a column is never made wider by its values."""
PIECE = 8_192
"""Rows that are Python objects at a time."""
FACT = 100
"""Characters in a line of the summary."""
LINE = 15
"""Points of a line."""
FIRST_LINE = 15.75
"""Points of a row that shows the first line of a text; that of 15 is the usual one, which grows with it."""
TALLEST = 400
"""Points; no row is made taller."""
SAMPLE = 200
"""Rows whose width decides that of the column."""
OWN_FORMATS = {"gap": "0.00%", "peak_memory": "#,##0", "seconds": "#,##0.00"}
"""Number formats of columns of the report itself."""


def write_excel(report: RunReport, path: str | Path, *, rows_per_sheet: int = ROWS_PER_SHEET) -> Path:
    """Write *report* to *path* as one workbook and give the path back; it appears whole or not at all.

    Its sheets are summary, results (as many as *rows_per_sheet* makes necessary), figures and tables of the
    pipeline, chunks, attempts, incumbents if there are any, failures, quarantine and settings.

    Raises StoreError if the file cannot be written.
    """
    # Rows wait in files of their own until the workbook is put together; the folder takes them away again.
    with (
        tempfile.TemporaryDirectory(prefix="batchrun-excel-") as waiting,
        write_atomically(str(path)) as file,
        _Workbook(file, waiting, rows_per_sheet) as book,
    ):
        book.add_facts("summary", f"{report.pipeline}: {headline(report)}", _summary(report))
        try:
            results = report.batches()
        except ResultError as error:
            reason = [("Why", clip(str(error)))]
            book.add_facts("results", "The results of the chunks do not fit one table", reason)
        else:
            book.add_stream("results", results.schema, results)
        book.add_exhibits(report.exhibits)
        book.add_frame("chunks", report.chunks, formats=OWN_FORMATS, colored="outcome")
        book.add_frame("attempts", _with_moments(report.attempts), formats=OWN_FORMATS, colored="outcome")
        if len(report.incumbents):
            book.add_frame("incumbents", report.incumbents, formats=OWN_FORMATS)
        book.add_frame("failures", report.failures)
        book.add_frame("quarantine", report.quarantined)
        book.add_frame("settings", _settings(report))
    return Path(path)


class _Workbook:
    """Sheets of one look, written row by row; a context that ends with the whole file."""

    def __init__(self, file: Any, waiting: str, rows_per_sheet: int) -> None:
        import xlsxwriter

        from batchrun.render.plain_sheet import PlainSheet

        self._book = xlsxwriter.Workbook(
            file,
            {
                "constant_memory": True,
                "tmpdir": waiting,
                "use_zip64": True,
                "strings_to_formulas": False,
                "strings_to_urls": False,
                "strings_to_numbers": False,
            },
        )
        self._book.worksheet_class = PlainSheet
        self._rows_per_sheet = rows_per_sheet
        self._header = self._book.add_format(
            {"bold": True, "bottom": 1, "bg_color": "#EEF1F5", "valign": "top"}
        )
        self._label = self._book.add_format({"font_color": "#5B6675", "valign": "top"})
        self._title = self._book.add_format({"bold": True, "font_size": 16})
        self._wrapped = self._book.add_format({"text_wrap": True, "valign": "top"})
        self._formats: dict[str, Any] = {"": None}
        self._colors = {
            outcome.value: self._book.add_format({"font_color": outcome.color, "bold": not outcome.solved})
            for outcome in Outcome
            if outcome is not Outcome.SUCCEEDED
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the file together, or after an error let go of the rows that wait."""
        if error is None:
            self._book.close()
            return
        for sheet in self._book.worksheets():
            if sheet.row_data_fh is not None:
                sheet.row_data_fh.close()

    def add_facts(self, name: str, title: str, facts: Iterable[tuple[str, str]]) -> None:
        """A sheet of a title, and labels with their values."""
        sheet = self._book.add_worksheet(name)
        sheet.hide_gridlines(2)
        sheet.fit_to_pages(1, 0)
        sheet.set_column(0, 0, 22)
        sheet.set_column(1, 1, FACT)
        sheet.set_row(0, 2 * LINE)
        sheet.write_string(0, 0, clip(title), self._title)
        for row, (label, value) in enumerate(facts, start=2):
            # Not every program finds the height of a row by itself.
            lines = sum(max(1, -(-len(line) // FACT)) for line in value.splitlines())
            if lines > 1:
                sheet.set_row(row, min(LINE * lines, TALLEST))
            sheet.write_string(row, 0, label, self._label)
            sheet.write_string(row, 1, value, self._wrapped)

    def add_frame(
        self, name: str, frame: pd.DataFrame, *, formats: Mapping[str, str] | None = None, colored: str = ""
    ) -> None:
        """A sheet of a DataFrame's columns.

        *formats* has number formats of columns by name; the column *colored* holds outcomes, which get their
        colours.
        """
        table = table_of(frame.iloc[:, :COLUMNS_PER_SHEET])
        columns = [column_of(field.name, field.type) for field in table.schema]
        columns = [
            replace(column, number_format=(formats or {}).get(column.header, column.number_format))
            for column in columns
        ]
        marked = [column.header for column in columns].index(colored) if colored else None
        self._write(name, columns, table.to_batches(), marked)

    def add_stream(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """A sheet of record batches, and further ones with the same header when one is full."""
        columns = [column_of(field.name, field.type) for field in islice(schema, COLUMNS_PER_SHEET)]
        self._write(name, columns, batches)

    def add_exhibits(self, exhibits: Exhibits) -> None:
        """A sheet of all figures as native charts with one of their numbers, and a sheet for each table."""
        figures = [(entry.title, entry.content) for entry in exhibits.entries if entry.table is None]
        if figures:
            add_figures(self._book, [(title, native_charts(figure)) for title, figure in figures])
        for entry in exhibits.entries:
            if entry.table is not None:
                self.add_stream(self._free_name(entry.title), entry.table.schema, entry.table.to_batches())

    def _free_name(self, title: str) -> str:
        """A name for a sheet, made of a title: some characters are forbidden, and none may be there twice."""
        name = re.sub(r"[\[\]:*?/\\]", " ", title).strip(" '")[:LONGEST_NAME] or "table"
        taken = {sheet.get_name().lower() for sheet in self._book.worksheets()}
        numbered = (f"{name[: LONGEST_NAME - 5].rstrip()} ({number})" for number in count_up(2))
        return next(
            one for one in chain([name], numbered) if one.lower() not in taken and not OWN_NAME.fullmatch(one)
        )

    def _write(
        self,
        name: str,
        columns: Sequence[Column],
        batches: Iterable[pa.RecordBatch],
        marked: int | None = None,
    ) -> None:
        sheets, sheet = 1, self._sheet(name, columns, marked)
        for batch in batches:
            # A piece at a time: a batch may be large, and its values as Python objects larger still.
            for start in range(0, batch.num_rows, PIECE):
                piece = batch.slice(start, PIECE)
                cells = [column.cells(piece.column(at)) for at, column in enumerate(columns)]
                for values in zip(*cells, strict=True):
                    if sheet.rows == self._rows_per_sheet:
                        sheet.finish()
                        sheets += 1
                        sheet = self._sheet(f"{name} {sheets}", columns, marked)
                    sheet.write(values)
        sheet.finish()

    def _sheet(self, name: str, columns: Sequence[Column], marked: int | None) -> _Sheet:
        sheet = self._book.add_worksheet(name)
        return _Sheet(sheet, columns, self._header, self._wrapped, self._format, self._colors, marked)

    def _format(self, number_format: str) -> Any:
        """The cell format of a number format, made once."""
        if number_format not in self._formats:
            self._formats[number_format] = self._book.add_format({"num_format": number_format})
        return self._formats[number_format]


class _Sheet:
    """One sheet with a frozen header, a filter, and columns as wide as their first values."""

    def __init__(
        self,
        sheet: Any,
        columns: Sequence[Column],
        header: Any,
        wrapped: Any,
        format_of: Callable[[str], Any],
        colors: Mapping[str, Any],
        marked: int | None,
    ) -> None:
        self.rows = 0
        """Rows below the header so far."""
        self._sheet = sheet
        self._wrapped = wrapped
        self._colors = colors
        self._marked = marked
        self._formats = [format_of(column.number_format) for column in columns]
        self._widths = [max(column.width, len(column.header) + 3) for column in columns]
        sheet.freeze_panes(1, 0)
        sheet.repeat_rows(0)
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)
        for at, column in enumerate(columns):
            sheet.write_string(0, at, clip(column.header), header)

    def write(self, values: Sequence[Cell]) -> None:
        """Write the next row."""
        self.rows += 1
        sheet, row = self._sheet, self.rows
        for at, value in enumerate(values):
            if value is None:
                continue
            if isinstance(value, str):
                look = self._colors.get(value) if at == self._marked else None
                if "\n" in value:
                    # Shown by its first line: the others would lie on the rows below, or make this one tall.
                    look = self._wrapped
                    sheet.set_row(row, FIRST_LINE)
                sheet.write_string(row, at, value, look)
                if row <= SAMPLE and len(value) >= self._widths[at]:
                    self._widths[at] = len(value) + 1
            elif isinstance(value, bool):
                sheet.write_boolean(row, at, value)
            elif isinstance(value, (int, float)):
                sheet.write_number(row, at, value, self._formats[at])
            else:
                sheet.write_datetime(row, at, value, self._formats[at])

    def finish(self) -> None:
        """Set what depends on all rows."""
        for at, width in enumerate(self._widths):
            self._sheet.set_column(at, at, min(width, WIDEST))
        if self._widths:
            self._sheet.autofilter(0, 0, self.rows, len(self._widths) - 1)


def _summary(report: RunReport) -> list[tuple[str, str]]:
    """What the first sheet says, label and value."""
    facts = [
        ("Rows", conservation(report)),
        ("State", report.state.value),
        ("Run", report.run_id),
        ("Pipeline", report.target or report.pipeline),
        ("Input", f"{report.input.get('description', '')}, {count(report.rows_in, 'row')}"),
        ("Split", str(report.split)),
        ("Cluster", str(report.cluster)),
        ("Started", moment(report.started)),
        ("Ended", moment(report.ended)),
        ("Time", format_seconds(report.seconds)),
        ("Chunks", chunks_line(report)),
        ("Attempts", attempts_line(report)),
        ("Folder", str(report.folder)),
    ]
    if stopped_line(report):
        facts.append(("Stopped", stopped_line(report)))
    facts += [
        (f"Parameter {name}", json.dumps(value, ensure_ascii=False)) for name, value in report.params.items()
    ]
    for stage in stage_accounts(report):
        took = f"{count(stage.attempts, 'attempt')}, {format_seconds(stage.seconds)} in all"
        facts.append((f"Stage {stage.name}", f"needs {stage.demand}; {took}"))
    facts += [("Next time", str(one)) for one in report.sizing]
    facts += [(f"Version of {name}", str(version)) for name, version in report.versions.items()]
    if report.error is not None:
        facts.append(("Error", f"{report.error}\n\n{report.error.traceback}".rstrip()))
    if advice(report):
        facts.append(("What next", advice(report)))
    return [(label, clip(value)) for label, value in facts]


def _settings(report: RunReport) -> pd.DataFrame:
    import pandas as pd

    rows = [(str(entry["key"]), str(entry["value"]), str(entry["source"])) for entry in report.settings]
    return pd.DataFrame(rows, columns=["setting", "value", "from"], dtype="str")


def _with_moments(attempts: pd.DataFrame) -> pd.DataFrame:
    """The attempts with their start as a time rather than as seconds since the epoch."""
    import pandas as pd

    started = pd.to_datetime(attempts["started"], unit="s", utc=True)
    return attempts.assign(started=started)
