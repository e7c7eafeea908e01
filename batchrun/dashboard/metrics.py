"""Metrics for Prometheus, beside Dask's own at ``/metrics`` of the scheduler.

They are there where ``prometheus_client`` is installed where the scheduler runs. All are of what runs on this
scheduler told it; counters begin at zero when it starts. Services tell of their leases.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from batchrun.dashboard.message import RUNNING, WAITING

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    from batchrun.dashboard.board import Board, RunView

__all__ = ["hide", "show"]

_boards: weakref.WeakSet[Board] = weakref.WeakSet()
_lock = threading.Lock()
_registered = False


def show(board: Board) -> bool:
    """Let the metrics of this process tell of a board.

    Returns whether there are any, which takes prometheus_client.
    """
    global _registered  # noqa: PLW0603  there is one registry in a process
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        return False
    with _lock:
        _boards.add(board)
        if not _registered:
            REGISTRY.register(_Collector())
            _registered = True
    return True


def hide(board: Board) -> None:
    """Tell of a board no more."""
    with _lock:
        _boards.discard(board)


class _Collector:
    """Gives the figures when they are asked for."""

    def describe(self) -> list[Any]:
        """Nothing, so that nothing is collected when it is registered."""
        return []

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """All metrics."""
        with _lock:
            boards = list(_boards)
        yield from _counters(boards)
        live = [
            (board.totals.name_of(view.message.pipeline), view)
            for board in boards
            for view in board.newest_first()
            if not view.message.ended
        ]
        yield from _gauges(live)
        yield from _leases(boards)


def _counters(boards: list[Board]) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    totals = [board.totals for board in boards]
    for name, what, label, counts in (
        ("batchrun_chunks", "Chunks that were settled.", "outcome", [one.chunks for one in totals]),
        ("batchrun_rows", "Input rows of chunks that were settled.", "outcome", [one.rows for one in totals]),
        ("batchrun_attempts", "Attempts that ended.", "outcome", [one.attempts for one in totals]),
        ("batchrun_runs_ended", "Sessions of runs that ended.", "state", [one.runs for one in totals]),
    ):
        family = CounterMetricFamily(name, what, labels=["pipeline", label])
        for labels, number in sum(counts, Counter()).items():
            family.add_metric(labels, number)
        yield family
    seconds = CounterMetricFamily(
        "batchrun_chunk_seconds", "Seconds that attempts of settled chunks took.", labels=["pipeline"]
    )
    for pipeline, number in sum((one.seconds for one in totals), Counter()).items():
        seconds.add_metric([pipeline], number)
    yield seconds
    peaks = GaugeMetricFamily(
        "batchrun_peak_memory_bytes",
        "The most memory that a running chunk was seen to use since the scheduler started.",
        labels=["pipeline"],
    )
    for pipeline in {pipeline for one in totals for pipeline in one.peaks}:
        peaks.add_metric([pipeline], max(one.peaks.get(pipeline, 0) for one in totals))
    yield peaks


def _gauges(live: list[tuple[str, RunView]]) -> Iterator[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    runs = GaugeMetricFamily("batchrun_runs", "Runs that go on.", labels=["pipeline"])
    for pipeline, number in Counter(pipeline for pipeline, _ in live).items():
        runs.add_metric([pipeline], number)
    yield runs

    chunks = GaugeMetricFamily(
        "batchrun_chunks_open", "Chunks that are not settled.", labels=["pipeline", "condition"]
    )
    waiting: Counter[str] = Counter()
    running: Counter[str] = Counter()
    for pipeline, view in live:
        counts = view.counts
        waiting[pipeline] += int(counts[WAITING])
        running[pipeline] += int(counts[RUNNING])
    for condition, numbers in (("waiting", waiting), ("running", running)):
        for pipeline, number in numbers.items():
            chunks.add_metric([pipeline, condition], number)
    yield chunks

    slots = GaugeMetricFamily(
        "batchrun_slots",
        "Slots by resource tag, MEMORY in bytes: what all workers have, what is in use, and what waits.",
        labels=["tag", "what"],
    )
    capacity: dict[str, float] = {}
    used: dict[str, float] = {}
    wanted: Counter[str] = Counter()
    for _, view in live:
        for tag, has, in_use, waits in view.message.slots:
            # Runs of one service see the same slots, each of them whole.
            capacity[tag] = max(has, capacity.get(tag, 0.0))
            used[tag] = max(in_use, used.get(tag, 0.0))
            wanted[tag] += waits  # type: ignore[assignment]
    for what, amounts in (("capacity", capacity), ("used", used), ("waiting", wanted)):
        for tag, amount in amounts.items():
            slots.add_metric([tag, what], amount)
    yield slots


def _leases(boards: list[Board]) -> Iterator[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    ages = GaugeMetricFamily(
        "batchrun_lease_age_seconds",
        "Seconds since a service renewed its lease of a queued run that it drives, of the oldest lease.",
        labels=["pipeline"],
    )
    limits = GaugeMetricFamily(
        "batchrun_lease_limit_seconds",
        "The age at which another service may take such a run.",
        labels=["pipeline"],
    )
    oldest: dict[str, float] = {}
    least: dict[str, float] = {}
    for board in boards:
        for pipeline, (age, limit) in board.leases.ages().items():
            name = board.totals.name_of(pipeline)
            oldest[name] = max(age, oldest.get(name, 0.0))
            least[name] = min(limit, least.get(name, limit))
    for family, figures in ((ages, oldest), (limits, least)):
        for pipeline, seconds in figures.items():
            family.add_metric([pipeline], seconds)
        yield family
