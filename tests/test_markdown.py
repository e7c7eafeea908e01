"""A report as Markdown: short, whole, and unmoved by what users write into names and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from batchrun.cli import app
from tests.scored_run import scored_run

HOSTILE = "<script>alert(1)</script> | [x](http://evil) @team ```` # ` *b*"


def tokens(text: str) -> list[Any]:
    """The page as a site would read it: blocks, and what is in their lines."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    found = []
    for token in parser.parse(text):
        found += [token, *(token.children or [])]
    return found


def test_the_law_what_ran_and_what_failed_are_told(tmp_path: Path):
    report = scored_run(tmp_path)
    text = report.to_markdown()
    assert text.startswith("### 49 of 50 rows solved in ")
    assert "**50 rows in = 49 solved + 1 quarantined + 0 cancelled**" in text
    assert f"| run | `{report.run_id}` |" in text
    assert "| `ValueError: a bad row` | `solve` | 1 | 1 |" in text
    assert "ValueError: a bad row\n```" in text
    assert "Results, the first 5 of 49 rows:" in text
    assert f"batchrun requeue {report.run_id} --quarantined" in text


def test_a_run_without_failures_says_nothing_of_them(tmp_path: Path):
    text = scored_run(tmp_path, rows=5).to_markdown()
    assert text.startswith("### All 5 rows solved in ")
    assert "Traceback" not in text
    assert "failure" not in text


def test_what_users_write_is_code_and_nothing_else(tmp_path: Path):
    text = scored_run(tmp_path, mark=HOSTILE).to_markdown()
    plain, code = [], []
    for token in tokens(text):
        if token.type in ("code_inline", "fence"):
            code.append(token.content)
        elif token.type in ("text", "html_inline", "html_block", "link_open", "heading_open", "em_open"):
            plain.append(token.content or token.type)
    assert any("alert(1)" in content for content in code)
    assert not [said for said in plain if "alert" in said or "evil" in said or "@team" in said]
    assert {"link_open", "em_open"}.isdisjoint(plain)
    assert plain.count("heading_open") == 1


def test_every_row_of_a_table_has_as_many_cells_as_its_header(tmp_path: Path):
    text = scored_run(tmp_path, mark=HOSTILE).to_markdown()
    parser = MarkdownIt("commonmark").enable("table")
    widths: list[list[int]] = []
    for token in parser.parse(text):
        if token.type == "table_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            widths[-1][-1] += 1
    assert len(widths) == 4
    assert all(len(set(rows)) == 1 for rows in widths)


def test_the_command_prints_it_and_it_is_written_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    report = scored_run(tmp_path)
    said = CliRunner().invoke(app, ["report", "last", "--markdown"], catch_exceptions=False).output
    assert said == report.to_markdown(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == said


def test_with_files_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    scored_run(tmp_path)
    asked = ["report", "last", "--markdown", "--html", "report.html"]
    assert "use it alone" in str(CliRunner().invoke(app, asked).exception)
