"""What the shell offers when Tab is pressed: runs, schedules and pipelines.

Whatever goes wrong, it says nothing and offers nothing: somebody is in the middle of a line.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from batchrun.store.names import Kind

__all__ = ["complete_pipeline", "complete_run", "complete_schedule"]

FOLDER = "pipelines"
"""The package in the current folder whose pipelines are offered, as ``batchrun pipelines`` lists them."""
MOST_FILES = 100
MOST_BYTES = 2**20
"""Of one file."""

_PLAIN = re.compile(r"[\w.:@+,/-]+")
"""Names that no shell takes for anything else; zsh evaluates what it is offered."""


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of runs, the newest first, and ``last``."""
    return _offered(_stored(ctx, "run", incomplete), ["last"], begins=incomplete)


def complete_schedule(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of schedules."""
    return _offered(_stored(ctx, "schedule", incomplete), begins=incomplete)


def complete_pipeline(ctx: typer.Context, incomplete: str) -> list[str]:
    """Pipelines that were run before, and those of the package ``pipelines`` in the current folder."""
    return _offered(_stored(ctx, "pipeline", incomplete), _declared(Path(FOLDER)), begins=incomplete)


def _offered(*sources: Iterable[str], begins: str) -> list[str]:
    found: dict[str, None] = {}
    for source in sources:
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
            found |= dict.fromkeys(source)
    return [name for name in found if name.startswith(begins) and _PLAIN.fullmatch(name)]


def _stored(ctx: typer.Context, kind: Kind, begins: str) -> Iterator[str]:
    from batchrun.cli.options import settings_of
    from batchrun.store.names import read_names

    settings = settings_of(ctx.params.get("cluster"), ctx.params.get("override"))
    yield from read_names(settings.store_url, kind, begins)


def _declared(folder: Path) -> Iterator[str]:
    """Pipelines of the modules of a package, by how they are written: nothing is imported."""
    for file in sorted(folder.glob("*.py"))[:MOST_FILES]:
        if file.stat().st_size > MOST_BYTES:
            continue
        with contextlib.suppress(SyntaxError, ValueError, OSError):
            for name in _pipelines_of(ast.parse(file.read_bytes())):
                yield f"{folder.name}.{file.stem}:{name}"


def _pipelines_of(module: ast.Module) -> Iterator[str]:
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef):
            if any(_is_called(decorator, "pipeline") for decorator in statement.decorator_list):
                yield statement.name
        elif isinstance(statement, ast.Assign) and _is_called(statement.value, "Pipeline"):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def _is_called(expression: ast.expr, name: str) -> bool:
    """Whether an expression is that name, or a call of it."""
    if isinstance(expression, ast.Call):
        expression = expression.func
    named = expression.attr if isinstance(expression, ast.Attribute) else getattr(expression, "id", "")
    return named == name
