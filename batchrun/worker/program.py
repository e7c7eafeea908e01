"""The code of a run as workers get it: pickled once, by value where workers cannot import it."""

from __future__ import annotations

import functools
import importlib.util
import io
import linecache
import pickle
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import cloudpickle

from batchrun.definition import BoundParameters, Pipeline
from batchrun.errors import PipelineError
from batchrun.signature import FrameKind

__all__ = [
    "Program",
    "Step",
    "load_pickled_pipeline",
    "load_program",
    "pickle_pipeline",
    "pickle_program",
]


@dataclass(frozen=True)
class Step:
    """One stage, ready to be called."""

    name: str
    """The stage's name."""
    function: Callable[..., Any]
    """The user's function."""
    kind: FrameKind
    """The frame type that it wants."""
    context: str | None
    """The parameter that takes the ChunkContext."""
    arguments: dict[str, Any]
    """Its validated parameters."""
    columns: tuple[str, ...] | None
    """The columns that it is given; None for all."""
    memory: int
    """Bytes that it asked for."""


@dataclass(frozen=True)
class Program:
    """What the workers of one run need to know."""

    run_id: str
    """The run."""
    legs: tuple[tuple[Step, ...], ...]
    """The stages, grouped into those that run in one go on one worker."""
    combine: Step | None = None
    """What combines results, where that happens on workers."""


def pickle_program(pipeline: Pipeline, bound: BoundParameters, run_id: str) -> bytes:
    """Pickle the stages of *pipeline* with their parameters for the workers of run *run_id*.

    Modules that are not installed (the user's own files, notebooks) travel by value, together with the
    modules of the same package; installed ones are imported by the worker.

    Raises PipelineError if a function holds on to something that cannot be pickled.
    """
    steps = [
        Step(
            name=stage.name,
            function=stage.function,
            kind=stage.signature.kind,
            context=stage.signature.context,
            arguments=arguments,
            columns=stage.columns,
            memory=stage.demand.memory,
        )
        for stage, arguments in zip(pipeline.stages, bound.stages, strict=True)
    ]
    legs = tuple(tuple(steps[number] for number in leg) for leg in pipeline.legs)
    program = Program(run_id, legs, _combine_step(pipeline, bound))
    return _pickle(program, pipeline, _functions(pipeline, combine=pipeline.associative))


def pickle_pipeline(pipeline: Pipeline) -> bytes:
    """Pickle a whole pipeline for a service that drives it later, whatever becomes of its files meanwhile.

    Raises PipelineError as ``pickle_program`` does.
    """
    return _pickle(pipeline, pipeline, [*_functions(pipeline, combine=True), pipeline.report])


def _functions(pipeline: Pipeline, *, combine: bool) -> list[Any]:
    functions: list[Any] = [stage.function for stage in pipeline.stages]
    return [*functions, pipeline.combine] if combine else functions


def _pickle(value: Any, pipeline: Pipeline, functions: Sequence[Any]) -> bytes:
    """The value, and the source lines of what travels by value in it."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    with _by_value(functions):
        try:
            pickler.dump(value)
        except Exception as error:
            raise PipelineError(
                f"pipeline `{pipeline.name}` cannot be sent to workers: {error}. Open files, locks and "
                "connections belong inside the stage function, not outside of it"
            ) from error
    sources = {name: "".join(linecache.getlines(name)) for name in sorted(pickler.files)}
    return pickle.dumps((sources, buffer.getvalue()))


def _combine_step(pipeline: Pipeline, bound: BoundParameters) -> Step | None:
    signature = pipeline.combine_signature
    if not pipeline.associative or signature is None or pipeline.combine is None:
        return None
    owner = f"combine of `{pipeline.name}`"
    return Step(owner, pipeline.combine, signature.kind, None, dict(bound.combine), None, 0)


@functools.lru_cache(maxsize=8)
def load_program(program: bytes) -> Program:
    """Unpickle a program, once for each process, and learn the source lines that tracebacks will show."""
    loaded: Program = _load(program)
    return loaded


def load_pickled_pipeline(program: bytes) -> Pipeline:
    """Unpickle what ``pickle_pipeline`` gave; call it only with what came from the store's database.

    Raises PipelineError if a module that it needs is not installed here, or was written for another version
    of Python or batchrun.
    """
    try:
        loaded: Pipeline = _load(program)
    except Exception as error:
        raise PipelineError(
            f"the pipeline cannot be loaded here: {type(error).__name__}: {error}. It needs the packages and "
            "the versions of Python and batchrun with which it was submitted"
        ) from error
    return loaded


def _load(program: bytes) -> Any:
    sources, pickled = pickle.loads(program)  # noqa: S301  the runner made it; who reaches a worker runs code
    for name, text in sources.items():
        if text and not linecache.getlines(name):
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return cloudpickle.loads(pickled)


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Keeps the file names of functions that travel by value, which cloudpickle replaces by a constant.

    Without them a traceback from a worker has no line of the user's code.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.files: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        """Reduce code objects with their true file name; leave all else to cloudpickle."""
        if type(obj) is not CodeType:
            return super().reducer_override(obj)
        self.files.add(obj.co_filename)
        make, arguments = self.dispatch_table[CodeType](obj)
        return make, tuple(obj.co_filename if value == "<dynamic-code>" else value for value in arguments)


@contextmanager
def _by_value(functions: Sequence[Any]) -> Iterator[None]:
    """Let cloudpickle copy the modules that a worker cannot be expected to have."""
    modules: dict[str, ModuleType] = {}
    for function in functions:
        name = (getattr(function, "__module__", None) or "").partition(".")[0]
        module = sys.modules.get(name)
        if module is not None and name not in ("__main__", "batchrun", "") and not _installed(name):
            modules[name] = module
    registered = [
        module for name, module in modules.items() if name not in cloudpickle.list_registry_pickle_by_value()
    ]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def _installed(name: str) -> bool:
    """Whether the top-level module *name* is part of Python or of an installed package."""
    if name in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return any(Path(place).resolve().is_relative_to(home) for place in places if place for home in _homes())


@functools.cache
def _homes() -> tuple[Path, ...]:
    """Where packages are installed."""
    return tuple({Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "platlib")})
