"""What a queued run was asked to be, before anything of it is planned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from batchrun.errors import UsageError, near_miss

__all__ = ["Submission"]


@dataclass(frozen=True)
class Submission:
    """A run as it was asked for, in JSON values, so that a service can plan it later in another process."""

    pipeline: str
    """``module:name`` of the pipeline."""
    folder: str
    """The folder, absolute, in which the pipeline is imported and from which its relative paths count."""
    input: str | None
    """The path, glob or URL of the input, absolute; None if ``input_from`` names it."""
    params: dict[str, Any] = field(default_factory=dict)
    """Parameters by name, as JSON values."""
    input_from: str | None = None
    """The id of the run whose results are the input."""
    max_quarantined: str | None = None
    """A number of rows, or a share of them like ``5%``, above which the run ends early."""
    priority: int = 0
    """Runs with a higher one come first."""
    lock: str | None = None
    """Of runs with the same lock, one at a time is driven."""
    max_slots: int | None = None
    """How many slots of the cluster the run may use at once; None for all."""
    after: tuple[str, ...] = ()
    """Ids of runs that must have ended well before this one begins."""
    not_before: float | None = None
    """When it may begin, in seconds since the epoch."""
    unique: bool = False
    """Whether it is left out if a run that would give the same result is queued or goes on."""

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values. Raises UsageError for a parameter that JSON cannot hold."""
        values = {**asdict(self), "after": list(self.after)}
        try:
            json.dumps(values, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the parameters of {self.pipeline} cannot be queued: {error}; "
                "give numbers, texts, lists and mappings of them"
            ) from error
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Submission:
        """The submission whose ``to_json`` gave *values*.

        Raises UsageError if a field is missing or unknown, as in one that a newer batchrun wrote.

        >>> asked = Submission("mine:plan", "/work", "/work/pits.parquet", {"discount": 0.1})
        >>> Submission.from_json(asked.to_json()) == asked
        True
        """
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise UsageError(
                    f"a submission has no field {name!r}.{near_miss(name, known)} "
                    "If a newer batchrun wrote it, upgrade this one"
                )
        missing = [name for name in ("pipeline", "folder", "input") if name not in values]
        if missing:
            raise UsageError(f"a submission lacks {', '.join(missing)}; submit it again")
        return cls(**{**values, "after": tuple(values.get("after", ()))})
