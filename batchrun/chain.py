"""Pipelines that follow each other, each on the results of the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.errors import ParameterError, near_miss

if TYPE_CHECKING:
    from batchrun.definition import Pipeline
    from batchrun.stage import Stage

__all__ = ["Chain"]


@dataclass(frozen=True)
class Chain:
    """Pipelines of which each takes the results of the one before as its input, split anew.

    Made by ``first | second``. Each has a run of its own with a report of its own; the report of the last one
    leads back to the others by ``report.before``.

    >>> from batchrun import Pipeline, by_rows
    >>> def double(chunk):
    ...     return chunk * 2
    >>> one, two = (Pipeline(name, split=by_rows(10), stages=[double]) for name in ("one", "two"))
    >>> one | two
    Chain(one | two)
    """

    pipelines: tuple[Pipeline, ...]
    """The pipelines, in order."""

    def __or__(self, other: Pipeline | Chain) -> Chain:
        return Chain((*self.pipelines, *_parts(other)))

    def __ror__(self, other: Pipeline) -> Chain:
        return Chain((other, *self.pipelines))

    def __repr__(self) -> str:
        return f"Chain({self.name})"

    @property
    def name(self) -> str:
        """The names of all, for people."""
        return " | ".join(pipeline.name for pipeline in self.pipelines)

    @property
    def split(self) -> str:
        """How each splits its input, as text."""
        return " | ".join(str(pipeline.split) for pipeline in self.pipelines)

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages of all."""
        return tuple(stage for pipeline in self.pipelines for stage in pipeline.stages)

    def share(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The parameters of each pipeline: every one gets those that it knows, validated.

        Raises ParameterError for one that none of them knows, or that is missing or of the wrong type.
        """
        known = [pipeline.parameters for pipeline in self.pipelines]
        for name in params:
            if not any(name in names for names in known):
                all_known = sorted(set().union(*known))
                takes = (
                    f"they take {', '.join(f'`{n}`' for n in all_known)}" if all_known else "they take none"
                )
                raise ParameterError(
                    f"no pipeline of {self.name} has a parameter `{name}`; {takes}."
                    f"{near_miss(name, all_known)}"
                )
        shares = [{name: params[name] for name in params if name in names} for names in known]
        for pipeline, mine in zip(self.pipelines, shares, strict=True):
            pipeline.bind(mine)
        return shares


def _parts(other: Pipeline | Chain) -> tuple[Pipeline, ...]:
    return other.pipelines if isinstance(other, Chain) else (other,)
