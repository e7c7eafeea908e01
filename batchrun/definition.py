"""Pipelines: chains of stages over a table, the way to split it, and what becomes of the results."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

from batchrun.chain import Chain
from batchrun.context import ChunkContext
from batchrun.errors import ParameterError, PipelineError, near_miss
from batchrun.resources import Demand
from batchrun.retry import RetryPolicy
from batchrun.signature import Signature, read_signature, validate
from batchrun.split import ByFile, ByGroup, ByRows, Split
from batchrun.stage import Stage, StageFunction, read_columns
from batchrun.where import read_where

__all__ = ["BoundParameters", "Pipeline", "as_pipeline", "pipeline"]


@dataclass(frozen=True)
class BoundParameters:
    """The parameters of a run, validated."""

    stages: tuple[dict[str, Any], ...]
    """Keyword arguments for each stage in order, as Python values."""
    combine: dict[str, Any]
    """Keyword arguments for ``combine``."""
    report: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for ``report``."""
    record: dict[str, Any] = field(default_factory=dict)
    """All parameters by name as JSON values, defaults included."""


class Pipeline:
    """A named chain of stages over a table, a way to split it and, optionally, to combine the results.

    Args:
        name: What runs and reports call it.
        split: ``by_rows``, ``by_group`` or ``by_file``.
        stages: Functions or Stages, applied one after the other to each chunk.
        combine: Takes an iterator of result frames in input order and gives one frame.
        columns: The input columns to read; None for all. Columns of a ``by_group`` are always read.
        where: The rows that the stages get, as in pandas' ``read_parquet(filters=...)``:
            ``[("month", ">=", 6), ("carrier", "in", ["AA", "UA"])]``, or a list of such lists of which one
            must hold. Blocks of Parquet files without such rows are not read. Rows that are left out count
            as solved, with no result.
        associative: Whether ``combine`` may be applied to neighbouring results first and then to what that
            gave, with the same outcome, as sums can. It is then applied on workers while the run goes on, and
            the client holds no more than a few results, however many there are.
        report: Takes the results, as ``report.results()`` gives them, and gives figures and tables for the
            report of the run: a dictionary of titles and Bokeh figures or frames. It is called where the run
            ends, unless it failed or was cancelled; an error in it is told in the report, and loses nothing.

    Calling a pipeline applies its stages to one frame in this process, without splitting.

    Raises PipelineError if a part is not well formed.

    >>> from batchrun import by_rows
    >>> def double(chunk):
    ...     return chunk * 2
    >>> Pipeline("doubled", split=by_rows(100), stages=[double])
    Pipeline('doubled', split=by_rows(100), stages=[double])
    """

    report: Callable[..., Any] | None = None
    """What makes the figures and tables; none where an older version pickled the pipeline."""

    def __init__(
        self,
        name: str,
        *,
        split: Split,
        stages: Sequence[Stage | StageFunction],
        combine: Callable[..., Any] | None = None,
        columns: Sequence[str] | None = None,
        where: Sequence[Any] | None = None,
        associative: bool = False,
        report: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[^\s/\\:]+", name):
            raise PipelineError(f"{name!r} cannot name a pipeline; use letters, digits, '-', '_' and '.'")
        if not isinstance(split, (ByRows, ByGroup, ByFile)):
            raise PipelineError(
                f"pipeline `{name}` has split={split!r}; use by_rows(10_000), by_group('column') or by_file()"
            )
        if callable(stages) or isinstance(stages, Stage):
            stages = [stages]
        if not stages:
            raise PipelineError(f"pipeline `{name}` has no stage; give at least one function")
        if combine is not None and not callable(combine):
            raise PipelineError(f"pipeline `{name}` has combine={combine!r}; it must be a function")
        if report is not None and not callable(report):
            raise PipelineError(f"pipeline `{name}` has report={report!r}; it must be a function")
        self.name = name
        self.split = split
        self.stages = _with_unique_names(
            [stage if isinstance(stage, Stage) else Stage(stage) for stage in stages]
        )
        if associative and combine is None:
            raise PipelineError(f"pipeline `{name}` is associative={associative!r}, and has no combine")
        self.combine = combine
        self.associative = associative
        self.report = report
        self.where = read_where(where)
        self.columns = read_columns(f"pipeline `{name}`", columns)
        self.__doc__ = inspect.getdoc(self.stages[0].function) or self.__doc__

    def __repr__(self) -> str:
        names = ", ".join(stage.name for stage in self.stages)
        return f"Pipeline({self.name!r}, split={self.split}, stages=[{names}])"

    def __call__(self, frame: Any, **params: Any) -> Any:
        """Apply the stages to one *frame* in this process and give its result; nothing is recorded."""
        bound = self.bind(params)
        for stage, bound_arguments in zip(self.stages, bound.stages, strict=True):
            arguments = dict(bound_arguments)
            if stage.signature.context:
                arguments[stage.signature.context] = ChunkContext(
                    "", 0, stage.name, 1, len(frame), "inline", stage.demand.memory
                )
            frame = stage.function(frame, **arguments)
        return frame

    def __or__(self, other: Pipeline | Chain) -> Chain:
        return Chain((self,)) | other

    def with_stages(self, stages: Sequence[Stage]) -> Pipeline:
        """This pipeline with other stages in place of its own."""
        return self._changed(stages=stages)

    def with_split(self, split: Split) -> Pipeline:
        """This pipeline with another split."""
        return self._changed(split=split)

    def _changed(self, **changes: Any) -> Pipeline:
        names = ("split", "stages", "combine", "columns", "associative", "report")
        parts = {name: getattr(self, name) for name in names}
        changed = Pipeline(self.name, **{**parts, **changes})
        changed.where = self.where
        return changed

    @cached_property
    def combine_signature(self) -> Signature | None:
        """How ``combine`` wants to be called; None without one."""
        return read_signature(self.combine, f"combine of `{self.name}`") if self.combine else None

    @cached_property
    def report_signature(self) -> Signature | None:
        """How ``report`` wants to be called; None without one."""
        return read_signature(self.report, f"report of `{self.name}`") if self.report else None

    @property
    def target(self) -> str | None:
        """``module:name``, from which another process can load the pipeline; None if there is no such place.

        A pipeline that was made in a notebook or a script has none.
        """
        for module_name in dict.fromkeys(
            getattr(function, "__module__", None)
            for function in [*(stage.function for stage in self.stages), self.combine, self.report]
            if function is not None
        ):
            module = _importable(module_name)
            for name, value in vars(module).items() if module else ():
                if value is self:
                    return f"{module_name}:{name}"
        return None

    @property
    def legs(self) -> tuple[tuple[int, ...], ...]:
        """Stage numbers in runs of equal needs; a chunk goes through one leg on one worker in one go, in one
        process."""
        legs: list[list[int]] = []
        for number, stage in enumerate(self.stages):
            if legs and self.stages[legs[-1][-1]].needs == stage.needs:
                legs[-1].append(number)
            else:
                legs.append([number])
        return tuple(tuple(leg) for leg in legs)

    @property
    def demands(self) -> dict[str, Demand]:
        """What each stage needs of a worker, by its name."""
        return {stage.name: stage.demand for stage in self.stages}

    def input_columns(self) -> tuple[str, ...] | None:
        """The input columns that must be read; None for all."""
        wanted = self.columns if self.columns is not None else self.stages[0].columns
        if wanted is None:
            return None
        grouped = self.split.columns if isinstance(self.split, ByGroup) else ()
        return tuple(dict.fromkeys([*wanted, *grouped]))

    @property
    def parameters(self) -> set[str]:
        """The names of its parameters."""
        owners = [*(stage.signature for stage in self.stages), self.combine_signature, self.report_signature]
        return {name for owner in owners if owner for name in owner.parameters}

    def bind(self, params: Mapping[str, Any]) -> BoundParameters:
        """Validate *params* against the keyword-only annotations of the stages, ``combine`` and ``report``.

        Raises ParameterError for one that is unknown, missing or of the wrong type.
        """
        known = self.parameters
        for name in params:
            if name not in known:
                takes = f"it takes {', '.join(f'`{n}`' for n in sorted(known))}" if known else "it takes none"
                raise ParameterError(
                    f"pipeline `{self.name}` has no parameter `{name}`; {takes}.{near_miss(name, known)}"
                )
        record: dict[str, Any] = {}

        def arguments(owner: Signature | None) -> dict[str, Any]:
            return validate(self.name, owner, params, record) if owner else {}

        return BoundParameters(
            tuple(arguments(stage.signature) for stage in self.stages),
            arguments(self.combine_signature),
            arguments(self.report_signature),
            record,
        )


def pipeline(
    *,
    split: Split,
    name: str | None = None,
    combine: Callable[..., Any] | None = None,
    columns: Sequence[str] | None = None,
    where: Sequence[Any] | None = None,
    associative: bool = False,
    report: Callable[..., Any] | None = None,
    memory: str | int | None = None,
    resources: Mapping[str, float] | None = None,
    timeout: str | float | None = None,
    stop_after: str | float | None = None,
    retry: RetryPolicy | None = None,
    isolate: bool | None = None,
) -> Callable[[StageFunction], Pipeline]:
    """Make a pipeline of one stage out of a function; the arguments are those of Pipeline and Stage.

    >>> from batchrun import by_rows
    >>> @pipeline(split=by_rows("auto"), columns=["value"])
    ... def doubled(chunk):
    ...     return chunk * 2
    >>> doubled
    Pipeline('doubled', split=by_rows("auto"), stages=[doubled])
    """

    def decorate(function: StageFunction) -> Pipeline:
        stage = Stage(
            function,
            name=name,
            memory=memory,
            resources=resources,
            timeout=timeout,
            stop_after=stop_after,
            retry=retry,
            isolate=isolate,
        )
        return Pipeline(
            stage.name,
            split=split,
            stages=[stage],
            combine=combine,
            columns=columns,
            where=where,
            associative=associative,
            report=report,
        )

    return decorate


def as_pipeline(
    target: Pipeline | Stage | StageFunction,
    *,
    split: Split | None = None,
    combine: Callable[..., Any] | None = None,
    columns: Sequence[str] | None = None,
) -> Pipeline:
    """The pipeline that a user means: one as it is, or a function with a split.

    Raises PipelineError if a function has no split, or if a pipeline is given what it has already.
    """
    if isinstance(target, Pipeline):
        if combine is not None or columns is not None:
            raise PipelineError(
                f"pipeline `{target.name}` has its own combine and columns; change them there"
            )
        return target if split is None or split == target.split else target.with_split(split)
    stage = target if isinstance(target, Stage) else Stage(target)
    if split is None:
        raise PipelineError(
            f"`{stage.name}` is a plain function; say how to split the input, as in split=by_rows(10_000)"
        )
    name = re.sub(r"[\s/\\:<>]+", "-", stage.name).strip("-") or "function"
    return Pipeline(name, split=split, stages=[stage], combine=combine, columns=columns)


def _with_unique_names(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Stages whose names differ: a second `clean` becomes `clean-2`."""
    seen: dict[str, int] = {}
    unique = []
    for stage in stages:
        seen[stage.name] = seen.get(stage.name, 0) + 1
        repeated = seen[stage.name] > 1
        unique.append(stage.with_name(f"{stage.name}-{seen[stage.name]}") if repeated else stage)
    return tuple(unique)


def _importable(module_name: str | None) -> ModuleType | None:
    """The module, if another process could import it too."""
    module = sys.modules.get(module_name or "")
    if module is None or module_name == "__main__" or getattr(module, "__spec__", None) is None:
        return None
    return module
