"""What a stage needs and what a worker has: sizes, times, tags.

``MEMORY`` is a Dask abstract resource like any other, in bytes; batchrun gives it to every worker that
it starts. See https://distributed.dask.org/en/stable/resources.html.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from batchrun.errors import DemandError, PipelineError

__all__ = [
    "MEMORY",
    "Demand",
    "Worker",
    "WorkerKind",
    "check_demands",
    "describe_workers",
    "format_bytes",
    "format_seconds",
    "kinds_of",
    "parse_bytes",
    "parse_seconds",
    "summarize_workers",
]

MEMORY = "MEMORY"
"""The resource tag that counts bytes of memory."""
_SIZES = {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("KMGT", 1)
    for unit, base in (("B", 1000), ("iB", 1024))
}
_TIMES = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""What is read here, since Dask, which reads all else, takes long to import."""
MOST_GROUPS = 4
"""Groups of workers that a headline names; of more it tells the number of workers only."""


def parse_bytes(text: str | float) -> int:
    """A size as people write it, in bytes.

    Raises PipelineError for anything that is not a positive size.

    >>> parse_bytes("6GiB")
    6442450944
    """
    if isinstance(text, str) and (plain := re.fullmatch(r"(\d+)([KMGT]i?B)", text)):
        return _above_zero(int(plain[1]) * _SIZES[plain[2]], text)
    from dask.utils import parse_bytes as parse

    try:
        if isinstance(text, bool) or not str(text).strip():
            raise ValueError  # which Dask takes for one byte
        size = int(parse(text))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise PipelineError(f"{text!r} is not a size; write it like '6GiB' or '512MiB'") from error
    return _above_zero(size, text)


def _above_zero(size: int, text: str | float) -> int:
    if size <= 0:
        raise PipelineError(f"a size must be above zero, not {text!r}")
    return size


def parse_seconds(text: str | float) -> float:
    """A time as people write it, in seconds.

    Raises PipelineError for anything that is not a time of zero or more.

    >>> parse_seconds("90min"), parse_seconds("250ms"), parse_seconds(3)
    (5400.0, 0.25, 3.0)
    """
    if isinstance(text, str) and (plain := re.fullmatch(r"(\d+)(ms|s|min|h|d)", text)):
        return int(plain[1]) * _TIMES[plain[2]]
    from dask.utils import parse_timedelta

    written = str(text).strip()
    try:
        amount = written.removeprefix("-")
        if amount.endswith("min"):
            amount = amount[:-3] + " minutes"
        seconds = float(parse_timedelta(amount))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise PipelineError(f"{text!r} is not a time; write it like '90min', '2h' or '30s'") from error
    if seconds and written.startswith("-"):
        raise PipelineError(f"a time cannot be negative, as {text!r} is")
    return seconds


def format_bytes(size: float) -> str:
    """A size for people to read.

    >>> format_bytes(6 * 2**30), format_bytes(1536), format_bytes(12), format_bytes(1023.6 * 2**20)
    ('6 GiB', '1.5 KiB', '12 B', '1 GiB')
    """
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        # Compared as it would be shown, so that no unit ever counts to 1024.
        if round(amount) < 1024:
            return _amount(amount, unit)
        amount /= 1024
    return _amount(amount, "TiB")


def _amount(amount: float, unit: str) -> str:
    """Three digits of an amount, or all of a whole one with more."""
    whole = unit == "B" or round(amount) >= 1000
    return f"{amount:.0f} {unit}" if whole else f"{amount:.3g} {unit}"


def format_seconds(seconds: float) -> str:
    """A time for people to read.

    >>> format_seconds(0.0042), format_seconds(5.25), format_seconds(5400), format_seconds(90)
    ('4.2 ms', '5.2 s', '1 h 30 min', '1 min 30 s')
    """
    milliseconds = seconds * 1000
    if round(milliseconds) < 1000:
        return f"{milliseconds:.2g} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _quantity(amount: float) -> str:
    return f"{amount:g}"


@dataclass(frozen=True)
class Demand:
    """What one running task takes from its worker, beside one thread.

    >>> str(Demand(memory=2**30, tags={"HIGHMEM": 1}))
    'HIGHMEM: 1, MEMORY: 1 GiB'
    """

    memory: int = 0
    """Bytes of ``MEMORY``; 0 asks for none in particular."""
    tags: Mapping[str, float] = field(default_factory=dict)
    """Resource tags and the quantity of each."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", dict(sorted(self.tags.items())))

    def __hash__(self) -> int:
        return hash((self.memory, tuple(self.tags.items())))

    def __str__(self) -> str:
        parts = [f"{tag}: {_quantity(amount)}" for tag, amount in self.tags.items()]
        if self.memory:
            parts.append(f"{MEMORY}: {format_bytes(self.memory)}")
        return ", ".join(parts) or "one thread"

    def resources(self) -> dict[str, float]:
        """The demand as Dask's ``resources=`` mapping, ``MEMORY`` in bytes."""
        wanted = dict(self.tags)
        if self.memory:
            wanted[MEMORY] = self.memory
        return wanted


@dataclass(frozen=True)
class Worker:
    """One live worker and all that it has when idle."""

    address: str
    """What the executor knows it by."""
    name: str
    """What people know it by: its group and number."""
    threads: int
    """Tasks that it can run at once."""
    memory: int
    """Bytes that tasks may ask for together."""
    tags: Mapping[str, float] = field(default_factory=dict)
    """Resource tags and the quantity of each, ``MEMORY`` left out."""
    host: str = "localhost"
    """The machine it runs on."""

    def can_ever_run(self, demand: Demand) -> bool:
        """Whether an idle worker of this shape meets *demand*."""
        return (
            self.threads > 0
            and demand.memory <= self.memory
            and all(self.tags.get(tag, 0) >= amount for tag, amount in demand.tags.items())
        )

    def slots(self, demand: Demand) -> int:
        """How many tasks with this demand an idle worker of this shape can run at once.

        >>> Worker("", "highmem-0", threads=8, memory=32 * 2**30).slots(Demand(memory=6 * 2**30))
        5
        """
        if not self.can_ever_run(demand):
            return 0
        limits = [self.threads]
        if demand.memory:
            limits.append(self.memory // demand.memory)
        limits += [int(self.tags[tag] // amount) for tag, amount in demand.tags.items() if amount]
        return min(limits)

    @property
    def group(self) -> str:
        """What workers of one kind share: the name without its number; empty if it is no more than a number
        or an address.

        >>> Worker("tcp://10.0.0.1:4001", "high-mem-3", 1, 0).group
        'high-mem'
        """
        if "://" in self.name:
            return ""
        before, dash, number = self.name.rpartition("-")
        name = before if dash and number.isdigit() else self.name
        return "" if name.isdigit() else name

    @property
    def shape(self) -> str:
        """All that it has when idle, for people."""
        tags = "".join(f", {tag}: {_quantity(amount)}" for tag, amount in self.tags.items())
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{threads}, {MEMORY}: {format_bytes(self.memory)}{tags}"

    def __str__(self) -> str:
        return f"{self.name} ({self.shape})"


@dataclass(frozen=True)
class WorkerKind:
    """Workers of one group and shape."""

    group: str
    """The group; empty if they have no names that tell one."""
    count: int
    """How many there are."""
    threads: int
    """Tasks that each can run at once."""
    memory: int
    """Bytes that tasks on each may ask for together."""
    tags: Mapping[str, float] = field(default_factory=dict)
    """Resource tags and the quantity of each that one worker has."""

    def slots(self, demand: Demand) -> int:
        """How many tasks with this demand all of them can run at once, when idle."""
        return self.count * self._one.slots(demand)

    @property
    def _one(self) -> Worker:
        return Worker("", self.group, self.threads, self.memory, self.tags)

    def __str__(self) -> str:
        return f"{self.count} × {self.group or 'worker'} ({self._one.shape})"


def kinds_of(workers: Iterable[Worker]) -> list[WorkerKind]:
    """The workers, those of one group and shape together.

    >>> [str(kind) for kind in kinds_of(Worker("", f"standard-{n}", 1, 2**30) for n in range(2))]
    ['2 × standard (1 thread, MEMORY: 1 GiB)']
    """
    kinds = Counter(
        (worker.group, worker.threads, worker.memory, tuple(sorted(worker.tags.items())))
        for worker in workers
    )
    return [
        WorkerKind(group, count, threads, memory, dict(tags))
        for (group, threads, memory, tags), count in kinds.items()
    ]


def check_demands(demands: Mapping[str, Demand], workers: Sequence[Worker]) -> None:
    """Refuse stages, by name, that no worker could run even when idle.

    Raises DemandError that names the demand and what the workers have.
    """
    for stage, demand in demands.items():
        if not any(worker.can_ever_run(demand) for worker in workers):
            raise DemandError(
                f"stage `{stage}` needs {demand}, which no worker can ever give; there is "
                f"{describe_workers(workers)}. Ask for less, or add such a worker to cluster.yaml"
            )


def describe_workers(workers: Iterable[Worker]) -> str:
    """What the workers have, those of one group and shape counted together.

    >>> describe_workers(Worker("", f"standard-{n}", 1, 2**30) for n in range(2))
    '2 × standard (1 thread, MEMORY: 1 GiB)'
    """
    return ", ".join(map(str, kinds_of(workers))) or "no worker at all"


def summarize_workers(workers: Iterable[Worker]) -> str:
    """How many workers there are of each group, short enough for a headline; the largest group comes first.

    >>> summarize_workers(Worker("", name, 1, 2**30) for name in ("highmem-0", "standard-0", "standard-1"))
    '2 standard, 1 highmem'
    """
    groups = Counter(worker.group for worker in workers)
    total = groups.total()
    if not total:
        return "no worker"
    if "" in groups or len(groups) > MOST_GROUPS:
        return "1 worker" if total == 1 else f"{total} workers"
    return ", ".join(f"{count} {group}" for group, count in groups.most_common())
