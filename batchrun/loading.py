"""Pipelines by name: ``module:name``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from batchrun.chain import Chain
from batchrun.definition import Pipeline
from batchrun.errors import PipelineError, PipelineNotFoundError, near_miss

__all__ = ["load_pipeline", "load_runnable", "pipelines_in", "sibling_modules"]


def load_pipeline(target: str) -> Pipeline:
    """Import ``module:name``; a module with just one pipeline may be named alone.

    Raises PipelineNotFoundError with the near miss, or with the reason why the module cannot be imported, and
    PipelineError for a chain of pipelines.
    """
    found = load_runnable(target)
    if isinstance(found, Chain):
        raise PipelineError(
            f"`{target}` is {found}, more than one pipeline; it can be submitted, but here one is wanted: "
            "name one of them"
        )
    return found


def load_runnable(target: str) -> Pipeline | Chain:
    """Import a pipeline as ``load_pipeline`` does, or a chain of them."""
    module_name, _, name = target.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module_name):
        raise PipelineNotFoundError(f"{target!r} names no pipeline; write it like `pipelines.flights:delays`")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise PipelineNotFoundError(
                f"there is no module `{error.name}`.{near_miss(module_name, sibling_modules(module_name))} "
                "The current folder is searched first; run this from the folder that holds the module"
            ) from error
        raise PipelineNotFoundError(
            f"module `{module_name}` needs `{error.name}`, which is not installed"
        ) from error
    except Exception as error:
        raise PipelineNotFoundError(
            f"module `{module_name}` cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = pipelines_in(module)
    if not name:
        if len(found) == 1:
            return next(iter(found.values()))
        raise PipelineNotFoundError(
            f"module `{module_name}` has {len(found)} pipelines"
            + (f"; name one: {', '.join(f'`{module_name}:{n}`' for n in found)}" if found else "")
        )
    if name in found:
        return found[name]
    if callable(getattr(module, name, None)):
        raise PipelineNotFoundError(
            f"`{target}` is a plain function; decorate it with @pipeline(split=by_rows(10_000)) "
            "to run it by name"
        )
    there = f" It has {', '.join(f'`{n}`' for n in found)}." if found else " It has no pipeline."
    raise PipelineNotFoundError(
        f"module `{module_name}` has no pipeline `{name}`.{near_miss(name, found) or there}"
    )


def pipelines_in(module: Any) -> dict[str, Pipeline | Chain]:
    """The pipelines, and chains of them, that a module defines or imports, by the name they have there."""
    return {name: value for name, value in vars(module).items() if isinstance(value, (Pipeline, Chain))}


def sibling_modules(module_name: str) -> list[str]:
    """Modules that lie beside the one of that name, for suggestions."""
    import pkgutil

    package_name, _, _ = module_name.rpartition(".")
    try:
        path = importlib.import_module(package_name).__path__ if package_name else None
    except (ImportError, AttributeError):
        return []
    prefix = f"{package_name}." if package_name else ""
    return [prefix + info.name for info in pkgutil.iter_modules(path)]


def describe_pipelines(names: Iterable[str]) -> tuple[list[tuple[str, str, str, str]], dict[str, str]]:
    """The pipelines of modules and packages: ``module:name``, split, stages, first line of the docstring.

    The second value maps modules that cannot be imported to the reason. A package stands for the modules
    in it.
    """
    found: list[tuple[str, str, str, str]] = []
    broken: dict[str, str] = {}
    for name in _modules(names, broken):
        try:
            module = importlib.import_module(name)
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
            continue
        for attribute, pipeline in pipelines_in(module).items():
            doc = (pipeline.__doc__ or "").strip().partition("\n")[0]
            stages = " → ".join(stage.name for stage in pipeline.stages)
            found.append((f"{name}:{attribute}", str(pipeline.split), stages, doc))
    return found, broken


def _modules(names: Iterable[str], broken: dict[str, str]) -> Iterator[str]:
    """The modules that *names* stand for."""
    import pkgutil

    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
            continue
        yield name
        for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
            yield f"{name}.{info.name}"
