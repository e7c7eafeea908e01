"""Leases of queued runs, as the services that hold them tell the scheduler.

A service renews the leases of its runs several times in the time of one. It says when it did; in between,
and when it has fallen silent, they grow older by the scheduler's clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["LEASES", "Lease", "Leases", "lease_message"]

LEASES: Final = "batchrun-leases"
"""The topic of Dask's event log that services tell on."""
KEPT: Final = 10
"""A lease of a service that has fallen silent is told of for so many times as long as it lasts: by then
another service, perhaps on another scheduler, has had its run for long."""


@dataclass(frozen=True)
class Lease:
    """The lease of a run."""

    pipeline: str
    """The pipeline of the run."""
    renewed: float
    """When it was renewed last, in seconds by the clock of ``Leases``."""
    seconds: float
    """How long it lasts without."""


def lease_message(service: str, seconds: float, ages: Mapping[str, tuple[str, float]]) -> dict[str, Any]:
    """What a service says, in values that msgpack can carry.

    Args:
        service: Its id.
        seconds: How long its leases last.
        ages: By run id, the pipeline, and the seconds since the lease was renewed, of all runs that it holds.
    """
    return {"service": service, "seconds": seconds, "runs": {run: list(told) for run, told in ages.items()}}


class Leases:
    """The leases that services have told of.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, dict[str, Lease]] = {}
        """By service, those of its runs."""

    def take(self, values: Mapping[str, Any]) -> None:
        """Take in what a service says; it says all that it holds."""
        now, service, seconds = self._clock(), str(values["service"]), float(values["seconds"])
        told = {
            str(run): Lease(str(pipeline), now - float(age), seconds)
            for run, (pipeline, age) in values["runs"].items()
        }
        for others in self._held.values():
            for run in told:
                others.pop(run, None)  # it changed hands
        self._held[service] = told
        self._forget(now)

    def ages(self) -> dict[str, tuple[float, float]]:
        """By pipeline, the age of its oldest lease in seconds, and after how many seconds another service may
        take a run of it."""
        now = self._clock()
        self._forget(now)
        found: dict[str, tuple[float, float]] = {}
        for lease in (lease for held in self._held.values() for lease in held.values()):
            age, limit = found.get(lease.pipeline, (0.0, math.inf))
            found[lease.pipeline] = max(age, now - lease.renewed), min(limit, lease.seconds)
        return found

    def _forget(self, now: float) -> None:
        self._held = {
            service: kept
            for service, held in self._held.items()
            if (kept := {r: one for r, one in held.items() if now - one.renewed <= KEPT * one.seconds})
        }
