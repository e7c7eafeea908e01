"""How a user's function wants to be called: its frame, its context, its parameters."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from batchrun.context import ChunkContext
from batchrun.errors import ParameterError, PipelineError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["FrameKind", "Signature", "read_signature", "validate"]

FrameKind = Literal["pandas", "polars", "arrow"]
_OF_A_CONTEXT = ("context", "ctx")
"""What people call the context of a chunk, also where they forgot to say that it is one."""


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
    """Keyword arguments for one function; their JSON form goes into *record*.

    A value that equals the JSON form of the default is the default, so that what was recorded of it leads
    back to it, even where it is an object that JSON does not know.
    """
    from pydantic import PydanticSchemaGenerationError, ValidationError

    arguments: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        has_default = parameter.default is not parameter.empty
        default = _default_as_json(parameter) if has_default else None
        if has_default and (name not in params or _same(params[name], default)):
            arguments[name], record[name] = parameter.default, default
            continue
        if name not in params:
            plain = name in _OF_A_CONTEXT and parameter.annotation is parameter.empty
            hint = ", or annotate it ChunkContext if it is to be the context" if plain else ""
            raise ParameterError(
                f"pipeline `{pipeline_name}` needs the parameter `{name}`; pass it in params{hint}"
            )
        try:
            adapter = _adapter(parameter)
            arguments[name] = adapter.validate_python(params[name])
            record[name] = adapter.dump_python(arguments[name], mode="json")
        except ValidationError as error:
            first = error.errors()[0]
            raise ParameterError(
                f"parameter `{name}` of pipeline `{pipeline_name}` cannot be {params[name]!r}: "
                f"{first['msg'][0].lower()}{first['msg'][1:]}"
            ) from error
        except (PydanticSchemaGenerationError, ValueError, TypeError) as error:
            raise ParameterError(
                f"parameter `{name}` of pipeline `{pipeline_name}` is of a kind that JSON cannot hold: "
                f"{parameter.annotation}"
            ) from error
    return arguments


def _adapter(parameter: inspect.Parameter) -> TypeAdapter[Any]:
    """What validates values of the parameter and turns them into JSON."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    annotation = parameter.annotation
    if annotation is parameter.empty or isinstance(annotation, str):
        annotation = Any
    try:
        return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
    except PydanticUserError:  # a dataclass or model brings its own configuration, and refuses another
        return TypeAdapter(annotation)


def _default_as_json(parameter: inspect.Parameter) -> Any:
    """The default as JSON, or its description where it is nothing that JSON can hold."""
    try:
        return _adapter(parameter).dump_python(parameter.default, mode="json", warnings=False)
    except Exception:
        return repr(parameter.default)


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; True is not 1."""
    return type(one) is type(other) and one == other
