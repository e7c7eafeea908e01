"""How a user's function wants to be called: its frame, its context, its parameters."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchrun.context import ChunkContext
from batchrun.errors import ParameterError, PipelineError

__all__ = ["FrameKind", "Signature", "read_signature", "validate"]

FrameKind = Literal["pandas", "polars", "arrow"]


@dataclass(frozen=True)
class Signature:
    """What a user's function wants to be called with."""

    kind: FrameKind
    """The frame type of its first parameter."""
    context: str | None
    """The parameter that takes the ChunkContext, if there is one."""
    parameters: Mapping[str, inspect.Parameter]
    """Its keyword-only parameters, the context left out, annotations resolved where possible."""


def read_signature(function: Callable[..., Any], owner: str) -> Signature:
    """How a user's function wants to be called; *owner* names it in errors."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise PipelineError(
            f"{owner} has no signature that Python can read; wrap it in a function"
        ) from error
    hints = _hints(function)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise PipelineError(f"{owner} takes no frame; its first parameter must be the chunk")
    context = next((p.name for p in parameters if _is_context(hints.get(p.name, p.annotation))), None)
    for extra in positional[1:]:
        if extra.name != context and extra.default is extra.empty:
            raise PipelineError(
                f"{owner} has a second positional parameter `{extra.name}`; put a `*,` before it to make it "
                "a parameter of the pipeline, or annotate it ChunkContext"
            )
    keywords = {
        p.name: p.replace(annotation=hints.get(p.name, p.annotation))
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name != context
    }
    first = positional[0] if positional else None
    kind = _frame_kind(hints.get(first.name, first.annotation)) if first else "pandas"
    return Signature(kind, context, keywords)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation may name what is imported for type checkers only
        return {}


def _is_context(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] == "ChunkContext"
    return annotation is ChunkContext


def _frame_kind(annotation: Any) -> FrameKind:
    text = annotation if isinstance(annotation, str) else str(annotation)
    if re.search(r"\b(pl|polars)\.", text):
        return "polars"
    return "arrow" if re.search(r"\b(pa|pyarrow)\.", text) else "pandas"


def validate(
    pipeline_name: str, signature: Signature, params: Mapping[str, Any], record: dict[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for one function; their JSON form goes into *record*."""
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

    arguments: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        if isinstance(annotation, str):
            annotation = Any
        given = name in params
        if not given and parameter.default is parameter.empty:
            raise ParameterError(
                f"pipeline `{pipeline_name}` needs the parameter `{name}`; pass it in params"
            )
        value = params[name] if given else parameter.default
        try:
            try:
                adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
            except Exception:  # a dataclass or model brings its own configuration, and refuses another
                adapter = TypeAdapter(annotation)
            if given:
                value = adapter.validate_python(value)
            record[name] = adapter.dump_python(value, mode="json")
        except ValidationError as error:
            first = error.errors()[0]
            raise ParameterError(
                f"parameter `{name}` of pipeline `{pipeline_name}` cannot be {value!r}: "
                f"{first['msg'][0].lower()}{first['msg'][1:]}"
            ) from error
        except (PydanticSchemaGenerationError, ValueError, TypeError) as error:
            raise ParameterError(
                f"parameter `{name}` of pipeline `{pipeline_name}` is of a kind that JSON cannot hold: "
                f"{annotation}"
            ) from error
        arguments[name] = value
    return arguments
