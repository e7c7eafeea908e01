"""Contestants that do the same work, timed in turns in one run."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bound on the median of one contestant, as a multiple of another's or as what it takes beyond it."""

    of: str
    """The contestant that is judged."""
    against: tuple[str, ...]
    """The peers, of which the fastest counts."""
    at_most: float
    """The bound: a ratio, or seconds where *extra* is true."""
    extra: bool = False
    """Whether the bound is on the difference in seconds instead of on the ratio."""

    def measure(self, medians: Mapping[str, float]) -> float:
        """The ratio or the difference that was reached."""
        mine, peer = medians[self.of], min(medians[name] for name in self.against)
        return mine - peer if self.extra else mine / peer


@dataclass
class Record:
    """What a benchmark found; written as JSON."""

    name: str
    """The benchmark."""
    settings: dict[str, Any]
    """Size and rounds."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each round by contestant."""
    targets: list[dict[str, Any]] = field(default_factory=list)
    """Each target with what was reached."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Whatever else was measured."""

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds by contestant."""
        return {name: statistics.median(times) for name, times in self.seconds.items()}


def compete(
    record: Record, contestants: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> None:
    (
        """Time each contestant *rounds* times, in turns of changing order, after *warm_up* untimed ones."""
        ""
    )
    names = list(contestants)
    record.seconds = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            began = time.perf_counter()
            contestants[name]()
            if turn >= 0:
                record.seconds[name].append(time.perf_counter() - began)


def judge(record: Record, targets: Sequence[Target]) -> None:
    """Add to *record* what was reached of each target."""
    for target in targets:
        reached = target.measure(record.medians)
        record.targets.append({**asdict(target), "reached": reached, "met": reached <= target.at_most})


def present(record: Record, folder: Path) -> str:
    """Write *record* to ``NAME.json`` in *folder*; gives the table that people read."""
    lines = [f"{record.name}  ({', '.join(f'{key} {value}' for key, value in record.settings.items())})"]
    medians = record.medians
    fastest = min(medians.values(), default=1.0)
    for name, median in medians.items():
        times = record.seconds[name]
        spread = f"{min(times):8.3f} to {max(times):.3f} s"
        lines.append(f"  {name:<34} {median:8.3f} s  {median / fastest:6.2f} times   {spread}")
    lines += [f"  {key:<34} {value}" for key, value in record.facts.items()]
    for target in record.targets:
        unit = " s more" if target["extra"] else " times"
        verdict = "met" if target["met"] else "not met"
        lines.append(
            f"  {target['of']} against {' or '.join(target['against'])}: {target['reached']:.3f}{unit}, "
            f"wanted at most {target['at_most']:g}: {verdict}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.name}.json"
    path.write_text(json.dumps({**asdict(record), "medians": medians, "machine": machine()}, indent=2) + "\n")
    return "\n".join([*lines, f"  written to {path}"])


def machine() -> dict[str, Any]:
    """Where it was measured, and with which versions."""
    packages = ("batchrun", "dask", "distributed", "pandas", "pyarrow", "numpy")
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
