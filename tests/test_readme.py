"""What README.md and the guides in docs show is what happens."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "pipelines.md"
WITH_COMMANDS = [
    README,
    *(ROOT / "docs" / f"{name}.md" for name in ("pipelines", "queue", "schedules", "events")),
]
PROMISE = re.compile(r"#\s*→\s*(.*\S)\s*$")


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def commands(path: Path) -> list[list[str]]:
    """The command lines of a document, as lists of words, without what their output is piped into."""
    lines = "\n".join(blocks(path, "console")).splitlines()
    asked = [line.removeprefix("$ ").partition(" | ")[0] for line in lines if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in asked]


def command_group() -> Any:
    """The command line as click knows it."""
    import typer

    from batchrun.cli import app

    return typer.main.get_command(app)


def run_block(code: str, namespace: dict[str, Any]) -> int:
    """Run a block whose lines with ``# → text`` must give that text; returns how many such lines it has."""
    lines = code.splitlines()
    kept = 0
    for statement in ast.parse(code).body:
        promise = PROMISE.search(lines[(statement.end_lineno or 1) - 1])
        if promise and isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), "<example>", "eval"), namespace)
            assert str(value) == promise.group(1), lines[statement.lineno - 1]
            kept += 1
        else:
            exec(compile(ast.Module([statement], []), "<example>", "exec"), namespace)
    return kept


def test_the_checker_itself_refuses_a_promise_that_is_not_kept() -> None:
    with pytest.raises(AssertionError):
        run_block("x = 1\nx + 1   # → 3\n", {})
    assert run_block("x = 1\nx + 1   # → 2\n", {}) == 1


@pytest.mark.cluster
@pytest.mark.parametrize(("document", "promises"), [(README, 3), (GUIDE, 13)], ids=["README", "pipelines"])
def test_python_examples_give_what_they_promise(
    document: Path, promises: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "example"}

    kept = sum(run_block(code, namespace) for code in blocks(document, "python"))

    assert kept >= promises


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_batchrun_command_parses(document: Path) -> None:
    found = [words for words in commands(document) if words[0] == "batchrun"]

    assert found
    for name, *arguments in found:
        command = command_group()
        while hasattr(command, "commands"):
            name, *arguments = arguments
            command = command.commands[name]
        command.make_context(name, list(arguments))


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: path.stem)
def test_commands_that_are_named_in_passing_exist(document: Path) -> None:
    group = command_group()
    named = re.findall(r"`batchrun ([a-z]+)\b[^`]*`", document.read_text(encoding="utf-8"))

    assert named
    assert set(named) <= set(group.commands)


@pytest.mark.cluster
def test_the_tour_of_the_command_line_runs_as_shown(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    tour = [words for words in commands(README) if words[0] != "make"]
    said = {}
    for words in tour:
        program = {
            "python": [sys.executable],
            "batchrun": [sys.executable, "-c", "import sys; from batchrun.cli import main; sys.exit(main())"],
        }[words[0]]
        done = subprocess.run(
            [*program, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        said[tuple(words[:2])] = done.stdout + done.stderr

    assert (tmp_path / "delays.html").stat().st_size > 10_000
    assert "336,776" in said["batchrun", "show"]
    assert "succeeded" in said["batchrun", "why"]


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    shown = [words[1] for words in commands(README) if words[0] == "make"]

    assert shown == ["demo", "test"]
    assert set(shown) <= set(targets)


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_file_that_a_document_links_to_is_there(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8"))

    assert [link for link in links if not (document.parent / link).exists()] == []
