"""Contestants that do the same work, timed in turns in one run, and what is made of their times."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

PACKAGES = (
    *("batchrun", "dask", "distributed", "pandas", "pyarrow", "numpy", "polars", "duckdb", "joblib"),
    *("huey", "celery", "rq", "redis", "psycopg"),
)


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


@dataclass(frozen=True)
class Figure:
    """Something that was measured beside the times."""

    value: float
    """The number."""
    unit: str
    """What it counts, such as ``MiB``."""


@dataclass(frozen=True)
class Verdict:
    """What was reached of what was wanted."""

    what: str
    """What is judged, in a few words."""
    reached: float
    """The number that was measured."""
    wanted: float
    """The number that was wanted."""
    unit: str
    """What both count; ``times`` for a ratio."""
    at_least: bool = False
    """Whether more is better."""

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        return self.reached >= self.wanted if self.at_least else self.reached <= self.wanted


@dataclass
class Record:
    """What a benchmark found; written as JSON."""

    name: str
    """The benchmark."""
    settings: dict[str, Any]
    """Size and rounds."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each round by contestant."""
    work: Figure | None = None
    """What each contestant does in one round, if it can be counted: gives rates."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """Whatever else was measured."""
    table: list[dict[str, str]] = field(default_factory=list)
    """Lines of a table of its own, each by heading."""
    verdicts: list[Verdict] = field(default_factory=list)
    """Each target with what was reached."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know about how it was measured, a sentence each."""
    machine: dict[str, Any] = field(default_factory=dict)
    """Where it was measured, and with which versions."""

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds by contestant."""
        return {name: statistics.median(times) for name, times in self.seconds.items()}

    def judge(self, targets: Sequence[Target]) -> None:
        """Compare the medians of contestants; peers that did not take part are passed over."""
        medians = self.medians
        for target in targets:
            there = [name for name in target.against if name in medians]
            if not there:
                continue
            mine, best = medians[target.of], min(medians[name] for name in there)
            what = f"{target.of} against {' or '.join(there)}"
            reached, unit = (mine - best, "s more") if target.extra else (mine / best, "times as long")
            self.verdicts.append(Verdict(what, reached, target.at_most, unit))

    def measure(self, name: str, value: float, unit: str) -> None:
        """Note a figure."""
        self.figures[name] = Figure(value, unit)

    def want_at_most(self, name: str, value: float, unit: str, bound: float) -> None:
        """Note a figure that should not be above *bound*."""
        self.measure(name, value, unit)
        self.verdicts.append(Verdict(name, value, bound, unit))

    def want_at_least(self, name: str, value: float, unit: str, bound: float) -> None:
        """Note a figure that should not be below *bound*."""
        self.measure(name, value, unit)
        self.verdicts.append(Verdict(name, value, bound, unit, at_least=True))

    def write(self, folder: Path) -> Path:
        """Write ``NAME.json``, with medians and verdicts."""
        self.machine = machine()
        document = asdict(self)
        for verdict, row in zip(self.verdicts, document["verdicts"], strict=True):
            row["met"] = verdict.met
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps({**document, "medians": self.medians}, indent=2) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record that was written to *path*."""
        document = json.loads(path.read_text())
        del document["medians"]
        verdicts = [
            {key: value for key, value in row.items() if key != "met"} for row in document["verdicts"]
        ]
        work = document["work"]
        return cls(
            **{
                **document,
                "work": Figure(**work) if work else None,
                "figures": {name: Figure(**figure) for name, figure in document["figures"].items()},
                "verdicts": [Verdict(**verdict) for verdict in verdicts],
            }
        )

    def __str__(self) -> str:
        """The table that people read in a terminal."""
        lines = [f"{self.name}  ({', '.join(f'{key} {value}' for key, value in self.settings.items())})"]
        medians = self.medians
        fastest = min(medians.values(), default=1.0)
        for name, median in medians.items():
            times = self.seconds[name]
            rate = f"  {self.work.value / median:12,.0f} {self.work.unit}/s" if self.work else ""
            lines.append(
                f"  {name:<36} {median:9.4g} s  {median / fastest:7.2f} times  "
                f"{min(times):9.4g} to {max(times):.4g} s{rate}"
            )
        lines += [
            "  " + ", ".join(f"{heading} {cell}" for heading, cell in line.items()) for line in self.table
        ]
        lines += [f"  {name:<58} {figure.value:,.4g} {figure.unit}" for name, figure in self.figures.items()]
        for verdict in self.verdicts:
            bound = "at least" if verdict.at_least else "at most"
            lines.append(
                f"  {verdict.what}: {verdict.reached:,.4g} {verdict.unit}, wanted {bound} "
                f"{verdict.wanted:,g}: {'met' if verdict.met else 'not met'}"
            )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def compete(
    record: Record, contestants: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int | None = None
) -> None:
    """Time each contestant *rounds* times, in turns of changing order, after *warm_up* untimed turns; by
    default one, or none before a single round."""
    warm_up = min(1, rounds - 1) if warm_up is None else warm_up
    names = list(contestants)
    record.seconds.update({name: [] for name in names})
    for turn in range(-warm_up, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            began = time.perf_counter()
            contestants[name]()
            if turn >= 0:
                record.seconds[name].append(time.perf_counter() - began)


def race(record: Record, contestants: Mapping[str, Callable[[], pd.DataFrame]], rounds: int) -> None:
    """Let contestants compete who each give a frame; all must give the same one in the first turn, which
    counts only where there is no other.

    Raises AssertionError if one of them gives another result than the first.
    """
    results: dict[str, pd.DataFrame] = {}
    keeping = {name: partial(_keep, results, name, run) for name, run in contestants.items()}
    compete(record, keeping, 1)
    first = next(iter(results.values()))
    for name, result in results.items():
        pd.testing.assert_frame_equal(first, result, check_dtype=False, check_column_type=False, obj=name)
    if rounds > 1:
        compete(record, contestants, rounds, warm_up=0)


def _keep(results: dict[str, pd.DataFrame], name: str, run: Callable[[], pd.DataFrame]) -> None:
    results[name] = run()


def machine() -> dict[str, Any]:
    """Where it was measured, and with which versions."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := _version(package))},
    }


def _processor() -> str:
    """Its name, where the system tells one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
