"""A stage: one function of a pipeline, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from batchrun.errors import PipelineError
from batchrun.resources import MEMORY, Demand, format_seconds, parse_bytes, parse_seconds
from batchrun.retry import RetryPolicy
from batchrun.signature import Signature, read_signature

__all__ = ["Stage", "StageFunction", "read_columns"]

StageFunction = Callable[..., Any]
"""DataFrame in, DataFrame out."""


@dataclass(frozen=True, init=False)
class Stage:
    """One function of a pipeline and what it needs.

    The function takes a frame, and keyword-only arguments that become parameters of the pipeline; it
    gives a frame back, or None for no rows. A parameter annotated ChunkContext is filled in.

    >>> def score(chunk, *, rate: float = 0.1):
    ...     return chunk.assign(score=chunk.value * rate)
    >>> Stage(score, memory="6GiB", resources={"HIGHMEM": 1}).demand
    Demand(memory=6442450944, tags={'HIGHMEM': 1.0})
    """

    function: StageFunction
    """DataFrame in, DataFrame out."""
    name: str
    """What attempts and reports call it."""
    demand: Demand
    """Memory and resource tags that it takes while it runs."""
    auto_memory: bool
    """Whether its memory is estimated from what it used in earlier runs, when a run starts."""
    timeout: float | None
    """Seconds after which it is killed; None for no limit."""
    stop_after: float | None
    """Seconds after which it is asked to return what it has; None for no limit."""
    isolated: bool
    """Whether it runs in a child process of the worker, which can be measured, stopped and lost."""
    retry: RetryPolicy
    """What happens after an error."""
    columns: tuple[str, ...] | None
    """The columns that it is given; None for all there are."""

    def __init__(
        self,
        function: StageFunction,
        *,
        name: str | None = None,
        memory: str | int | None = None,
        resources: Mapping[str, float] | None = None,
        timeout: str | float | None = None,
        stop_after: str | float | None = None,
        retry: RetryPolicy | None = None,
        isolate: bool | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        """Describe a stage.

        Args:
            function: DataFrame in, DataFrame out.
            name: What attempts and reports call it; by default the function's name.
            memory: What it may use, like "6GiB", its own child processes included; ``"auto"`` takes what
                earlier runs of the pipeline used. A stage that passes it is stopped, its chunk is cut in
                halves, and a single row goes to the next larger worker.
            resources: Resource tags that it takes from its worker while it runs, like ``{"HIGHMEM": 1}``.
            timeout: The time after which it is killed, like "2h".
            stop_after: The time after which ``ctx.should_stop`` tells it to return what it has; it is killed
                after a grace (``run.solution_grace``), and its last incumbent is its result.
            retry: What happens after errors.
            isolate: Whether it runs in a child process. By default it does if it has a memory, a timeout
                or a stop_after.
            columns: The columns that it is given; None for all there are.

        Raises PipelineError if a value is not well formed or two do not go together.
        """
        if not callable(function):
            raise PipelineError(f"a stage needs a function, not {function!r}")
        name = str(name or getattr(function, "__name__", type(function).__name__))
        limits = {"timeout": timeout, "stop_after": stop_after}
        auto_memory = memory == "auto"
        nbytes = 0 if memory is None or auto_memory else parse_bytes(memory)
        values = {
            "function": function,
            "name": name,
            "demand": Demand(nbytes, _check_tags(name, resources)),
            "auto_memory": auto_memory,
            **{limit: _check_limit(name, limit, value) for limit, value in limits.items()},
            "isolated": _isolated(name, isolate, limits, memory),
            "retry": retry or RetryPolicy(),
            "columns": read_columns(f"stage `{name}`", columns),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        if self.timeout and self.stop_after and self.stop_after >= self.timeout:
            raise PipelineError(
                f"stage `{name}` would be killed after {format_seconds(self.timeout)}, before it is asked to "
                f"stop after {format_seconds(self.stop_after)}; make stop_after the shorter one"
            )
        self.signature  # noqa: B018  a malformed function is refused here and now

    @property
    def needs(self) -> tuple[Demand, bool, bool]:
        """What stages must have in common to run in one go: demand, auto_memory, isolated."""
        return self.demand, self.auto_memory, self.isolated

    def with_memory(self, memory: int) -> Stage:
        """This stage with *memory* bytes in place of what it asks for."""
        return self._changed(demand=Demand(memory, self.demand.tags))

    def with_name(self, name: str) -> Stage:
        """This stage under another name."""
        return self._changed(name=name)

    @cached_property
    def signature(self) -> Signature:
        """How the function wants to be called."""
        return read_signature(self.function, f"stage `{self.name}`")

    def _changed(self, **changes: Any) -> Stage:
        changed = object.__new__(Stage)
        for item in fields(Stage):
            object.__setattr__(changed, item.name, changes.get(item.name, getattr(self, item.name)))
        return changed


def _check_tags(owner: str, resources: Mapping[str, float] | None) -> dict[str, float]:
    tags: dict[str, float] = {}
    for tag, amount in (resources or {}).items():
        if tag == MEMORY:
            raise PipelineError(f"stage `{owner}`: say memory='6GiB' instead of the resource tag MEMORY")
        if not isinstance(amount, (int, float)) or isinstance(amount, bool) or not amount > 0:
            raise PipelineError(
                f"stage `{owner}`: resource tag {tag}: {amount!r} must be a number above zero"
            )
        tags[tag] = float(amount)
    return tags


def _check_limit(owner: str, limit: str, value: str | float | None) -> float | None:
    if value is None:
        return None
    seconds = parse_seconds(value)
    if not seconds > 0:
        raise PipelineError(f"stage `{owner}`: {limit}={value!r} must be more than no time at all")
    return seconds


def _isolated(
    owner: str, isolate: bool | None, limits: Mapping[str, object], memory: str | int | None
) -> bool:
    """Whether a stage runs in a child process."""
    limited = [limit for limit, value in limits.items() if value is not None]
    if memory == "auto":
        limited.append('memory="auto"')
    if isolate is False and limited:
        raise PipelineError(
            f"stage `{owner}` has {limited[0]}, which only a child process can keep; leave isolate out"
        )
    return bool(limited) or memory is not None if isolate is None else isolate


def read_columns(owner: str, columns: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of *columns*, each once; None for all there are. *owner* names who asks in errors."""
    if columns is None:
        return None
    if isinstance(columns, str):
        raise PipelineError(f"{owner} has columns={columns!r}; give a list of names: [{columns!r}]")
    return tuple(dict.fromkeys(columns))
