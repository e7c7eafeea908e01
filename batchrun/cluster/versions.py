"""Versions of client, scheduler and workers, and whether they fit together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchrun.errors import VersionMismatchError

__all__ = ["PACKAGES", "Difference", "compare_versions", "require_fit"]

PACKAGES = ("python", "batchrun", "dask", "distributed", "cloudpickle", "pandas", "pyarrow")
"""What is compared, the most telling first."""

_MUST_AGREE = frozenset({"python", "batchrun", "dask", "distributed"})


@dataclass(frozen=True)
class Difference:
    """A package whose version differs between here and there."""

    package: str
    """Name of the package."""
    here: str
    """The version of this process."""
    there: str
    """The other version, or ``missing``."""
    places: tuple[str, ...]
    """Who has it: ``scheduler``, or names of workers."""
    fatal: bool
    """Whether a run cannot be trusted to work."""

    def __str__(self) -> str:
        shown = ", ".join(self.places[:3])
        more = f" and {len(self.places) - 3} more" if len(self.places) > 3 else ""
        return f"{self.package}: {self.here} here, {self.there} on {shown}{more}"


def compare_versions(
    here: Mapping[str, str | None], there: Mapping[str, Mapping[str, str | None]]
) -> list[Difference]:
    """What differs between *here* and each place of *there*; the order is that of PACKAGES.

    Python counts as equal when major and minor version are; batchrun is wanted on workers only, since the
    scheduler runs none of it.

    >>> [str(d) for d in compare_versions({"dask": "2"}, {"w-0": {"dask": "1"}, "w-1": {"dask": "2"}})]
    ['dask: 2 here, 1 on w-0']
    """
    found: list[Difference] = []
    for package in PACKAGES:
        mine = here.get(package)
        if mine is None:
            continue
        others: dict[str, list[str]] = {}
        for place, versions in there.items():
            theirs = versions.get(package)
            if place == "scheduler" and package not in ("python", "dask", "distributed", "cloudpickle"):
                continue
            if _shape(package, theirs) != _shape(package, mine):
                others.setdefault(theirs or "missing", []).append(place)
        found.extend(
            Difference(package, mine, version, tuple(places), package in _MUST_AGREE)
            for version, places in others.items()
        )
    return found


def require_fit(differences: list[Difference], address: str) -> tuple[str, ...]:
    """Sentences about the differences that can be lived with.

    Raises VersionMismatchError that lists all others, if there are any.
    """
    fatal = [difference for difference in differences if difference.fatal]
    if fatal:
        listed = "".join(f"\n  {difference}" for difference in fatal)
        raise VersionMismatchError(
            f"the cluster at {address} runs versions that do not fit this process:{listed}\n"
            "Install the same versions on both sides; batchrun must be installed where workers run"
        )
    return tuple(f"versions differ: {difference}" for difference in differences)


def _shape(package: str, version: str | None) -> str | None:
    """What of a version must agree."""
    if version is None or package != "python":
        return version
    return ".".join(version.split(".")[:2])
