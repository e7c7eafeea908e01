"""The executor over a Dask client: tasks go to the worker that the runner chose, and nowhere else.

Every task is one key of a graph whose layers carry the annotations that pin it, so that a batch of
placements is one message, whatever the number of workers (0.7 ms a task in batches, against 1.4 ms for
``submit`` one by one; measured with two workers on loopback). The graph holds bytes and standard-library
functions only: the scheduler unpickles it, and need not have batchrun.

A small program goes along with every task. A large one is a task of its own that all others depend upon;
workers fetch it from each other once, and it is forgotten with the client. When little runs, the scheduler
drops all copies of it but one (active memory manager), which may be that on a worker that hangs; so a second
start of a straggler brings it along in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import operator
import pickle
import queue
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, Future

from batchrun.cluster.connection import Connection, list_workers, worker_facts
from batchrun.cluster.entry import Entry
from batchrun.cluster.gathering import fetch
from batchrun.cluster.loss import loss_is_noticed, scheduler_is_gone
from batchrun.cluster.stopping import ask_back, ask_to_stop, end_tasks
from batchrun.errors import ClusterError
from batchrun.executor import (
    Placement,
    Signal,
    TaskDone,
    TaskLost,
    TaskReported,
    TaskShortened,
    WorkersChanged,
)
from batchrun.resources import Worker, format_bytes
from batchrun.status import TaskStatus
from batchrun.worker.work import WorkResult

if TYPE_CHECKING:
    from batchrun.data.source import Source

__all__ = ["DaskExecutor"]

_log = logging.getLogger(__name__)

_Told = TaskReported | TaskShortened | WorkersChanged
"""Signals that come ready made."""
_Item = tuple[str, WorkResult | None] | _Told | None
"""What comes in: the key of a task that ended with its result, a signal, or None to wake who waits."""
_SCATTER_ABOVE = 2**18
"""Tasks of more bytes go to their worker beside the graph."""
_SMALL_PROGRAM = 2**15
"""A program of up to so many bytes goes along with each task, which saves a way before the first one."""
_TICK = 0.5
"""Seconds between looks at the connection while waiting."""


@dataclass
class _Held:
    """A task that the cluster has."""

    future: Future
    address: str
    delivered: bool = False


class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster.

    The client must be the executor's own as long as it is open: it sets handlers for the topics ``all``,
    ``worker-restart-memory`` and one that has the client's name.
    """

    def __init__(self, connection: Connection, *, shared_folder: str | None = None) -> None:
        """Use *connection*, which the caller closes after the executor.

        Workers of a cluster that batchrun started share all files with the runner. Others do if one of each
        host proves it in *shared_folder*, a folder or an fsspec URL; without one they are taken to share
        none.
        """
        self.description = connection.description
        self._client: Client = connection.client
        with loss_is_noticed(self._client, self.description):
            self.dashboard = self._install_page() if connection.dashboard else ""
        self._entry: Future | None = None
        self._program = b""
        self._batches = 0
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self._scattered: dict[str, Future] = {}
        self._gone: dict[str, str] = {}
        self._killed_at: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._changes = itertools.count(1)
        self._change = 0
        self._seen: tuple[int, Sequence[Worker]] | None = None
        self._advertised: dict[str, frozenset[str]] = {}
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._topic = f"batchrun-status-{self._client.id}"
        self._comm: object = self._client.scheduler_comm
        self._local = connection.local
        self._waits_for_more = connection.waits_for_more
        with loss_is_noticed(self._client, self.description):
            self._subscribe()
            self.shares_files = self._local or (shared_folder is not None and self.shares(shared_folder))

    def shares(self, folder: str) -> bool:
        """Whether a worker of each host reads and writes in *folder* what the runner does."""
        from batchrun.cluster.file_probe import probe

        if self._local:
            return True
        one_of_each = {worker.host: worker.address for worker in self.workers()}
        return probe(self._client, folder, list(one_of_each.values()))

    def workers(self) -> Sequence[Worker]:
        """The live workers; asked for only if one came or went since the last time.

        The first time those of a local cluster that are being started again are waited for: by what it finds
        then, a run is refused.
        """
        change = self._change
        if self._seen is not None and self._seen[0] == change:
            return self._seen[1]
        with loss_is_noticed(self._client, self.description):
            facts = worker_facts(self._client)
            found = list_workers(self._client, facts)
            if self._seen is None and self._waits_for_more(len(found)):
                facts = worker_facts(self._client)
                found = list_workers(self._client, facts)
        self._advertised = {at: frozenset(known.get("resources") or ()) for at, known in facts.items()}
        with self._lock:
            self._names.update((worker.address, worker.name) for worker in found)
        self._seen = change, found
        return found

    def prepare(self, program: bytes) -> None:
        """Let a small program go along with each task; make a large one a task that they depend upon."""
        self._program = pickle.dumps(Entry(program, self._topic))
        if len(self._program) <= _SMALL_PROGRAM:
            return
        key = f"batchrun-program-{uuid.uuid4().hex}"
        with loss_is_noticed(self._client, self.description):
            self._entry = self._client.submit(pickle.loads, self._program, key=key, pure=False, priority=1)

    def submit(self, placements: Sequence[Placement]) -> None:
        """Send the tasks in one graph, earlier batches before later ones."""
        if not self._program:
            raise ClusterError("submit was called before prepare")
        if not placements:
            return
        if any(placement.worker not in self._advertised for placement in placements):
            self._seen = None  # another run that shares the workers may have heard of it first
            self.workers()
        self._batches += 1
        blobs = {placement.task.key: pickle.dumps(placement.task) for placement in placements}
        self._scatter_large(placements, blobs)
        layers = {
            placement.task.key: self._layer(placement, blobs[placement.task.key]) for placement in placements
        }
        graph = HighLevelGraph(layers, {key: set() for key in layers})
        with loss_is_noticed(self._client, self.description):
            futures = self._client.get(graph, list(layers), sync=False)
        with self._lock:
            for placement, future in zip(placements, futures, strict=True):
                self._held[placement.task.key] = _Held(future, placement.worker)
            late = [future for p, future in zip(placements, futures, strict=True) if p.worker in self._gone]
        self._client.loop.add_callback(self._follow, futures)
        if late:
            self._client.cancel(late)

    def wait(self, timeout: float | None) -> list[Signal]:
        """Signals since the last call; none if nothing came in time, or if somebody woke it.

        Raises ClusterError if the scheduler is lost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._check_connection()
            left = _TICK if deadline is None else deadline - time.monotonic()
            try:
                first = self._inbox.get(timeout=max(0.0, min(left, _TICK)))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    return []
                continue
            items = [first, *self._drain()]
            signals = self._read(items)
            if signals or None in items:
                return signals

    def wake(self) -> None:
        """Put something into the inbox that is no signal."""
        self._inbox.put(None)

    def release(self, keys: Sequence[str]) -> None:
        """Let the cluster forget results that are durable."""
        with self._lock:
            gone = [self._held.pop(key) for key in keys if key in self._held]
        for key in keys:
            self._scattered.pop(key, None)
        for held in gone:
            held.future.release()

    def stop(self, keys: Sequence[str], *, keep_best: bool, grace: float) -> None:
        """Ask the workers of running tasks to stop them; does not wait for an answer."""
        with self._lock:
            held = {key: self._held[key] for key in keys if key in self._held}
        if self._client.status == "running":
            ask_to_stop(self._client, self._by_worker(held), keep_best=keep_best, grace=grace)

    def recall(self, keys: Sequence[str]) -> None:
        """Ask the workers of tasks for what has not begun; does not wait for an answer."""
        with self._lock:
            held = {key: self._held[key] for key in keys if key in self._held}
        if self._client.status == "running":
            ask_back(self._client, self._by_worker(held), self._on_shortened)

    def cancel(self, keys: Sequence[str]) -> None:
        """Give up tasks and end what runs: child processes are killed, and a worker in whose own process a
        stage goes on is restarted, unless others have work there."""
        with self._lock:
            gone = {key: self._held.pop(key) for key in keys if key in self._held}
        for key in keys:
            self._scattered.pop(key, None)
        if gone and self._client.status == "running":
            running = self._by_worker(gone)
            with loss_is_noticed(self._client, self.description):
                self._client.cancel([held.future for held in gone.values()], force=True)
            end_tasks(self._client, running)

    def regroup(self, source: Source, columns: tuple[str, ...], folder: str) -> Source:
        """Lay the rows out anew with Dask's shuffle on the workers.

        Raises ClusterError if the workers share no folder with the runner, or cannot do it.
        """
        if not self.shares_files:
            raise ClusterError(
                f"rows must be brought together by {', '.join(columns)} on workers that share no folder "
                "with this process; set `artifacts` in cluster.yaml to a folder or URL that all reach, or "
                "sort the input by its groups, which needs no regrouping"
            )
        from batchrun.cluster.regroup import regroup_on_workers

        return regroup_on_workers(self._client, source, columns, folder)

    def publish(self, message: dict[str, object]) -> None:
        """Log an event of the topic ``batchrun``; a page that cannot be told is no reason to stop."""
        if self._client.status == "running":
            try:
                self._client.log_event("batchrun", message)
            except (OSError, TimeoutError) as error:
                _log.debug("the dashboard was not told: %s", error)

    def close(self) -> None:
        """Give up what is left and stop listening; the client stays open."""
        self.cancel(list(self._held))
        if self._entry is not None:
            self._entry.release()
            self._entry = None
        if self._client.status == "running":
            with contextlib.suppress(OSError):  # it was lost just now
                for topic in ("all", "worker-restart-memory", self._topic):
                    self._client.unsubscribe_topic(topic)

    def _install_page(self) -> str:
        from batchrun.dashboard.plugin import install

        return install(self._client)

    # Sending

    def _layer(self, placement: Placement, blob: bytes) -> MaterializedLayer:
        task, address = placement.task, placement.worker
        known = self._advertised.get(address, frozenset())
        annotations: dict[str, Any] = {
            "workers": [address],
            "allow_other_workers": False,
            "retries": 0,
            "priority": -self._batches,
        }
        resources = {tag: n for tag, n in task.demand.resources().items() if tag in known}
        if resources:
            annotations["resources"] = resources
        payload = self._scattered.get(task.key, blob)
        # Functions of the standard library only: the scheduler may not be able to import batchrun.
        along = self._entry is None or placement.self_contained
        entry = (pickle.loads, self._program) if along else self._entry
        return MaterializedLayer({task.key: (operator.call, entry, payload)}, annotations=annotations)

    def _scatter_large(self, placements: Sequence[Placement], blobs: dict[str, bytes]) -> None:
        """Send large inputs straight to their workers; the graph is no place for them."""
        by_worker: dict[str, list[str]] = {}
        for placement in placements:
            if len(blobs[placement.task.key]) > _SCATTER_ABOVE:
                by_worker.setdefault(placement.worker, []).append(placement.task.key)
        for address, keys in by_worker.items():
            if address in self._gone:
                continue
            values = [blobs[key] for key in keys]
            try:
                futures = self._client.scatter(values, workers=[address], hash=False)
            except (OSError, TimeoutError, ValueError) as error:
                _log.debug("could not send to %s beside the graph: %s", address, error)
                continue
            self._scattered.update(zip(keys, futures, strict=True))

    def _by_worker(self, tasks: dict[str, _Held]) -> dict[str, list[str]]:
        """The keys of tasks that have not come back, by the address of a worker that lives."""
        found: dict[str, list[str]] = {}
        for key, task in tasks.items():
            if not task.delivered and task.future.status == "pending" and task.address not in self._gone:
                found.setdefault(task.address, []).append(key)
        return found

    # Hearing; up to `_subscribe` on the client's loop

    def _follow(self, futures: Sequence[Future]) -> None:
        for future in futures:
            fetching = asyncio.ensure_future(self._fetch(future))
            self._fetching.add(fetching)
            fetching.add_done_callback(self._fetching.discard)

    async def _fetch(self, future: Future) -> None:
        self._inbox.put((str(future.key), await fetch(self._client, future)))

    def _on_event(self, event: tuple[float, Any]) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, dict) else None
        if action in ("add-worker", "remove-worker"):
            self._change = next(self._changes)
        if action == "add-worker":
            with self._lock:
                self._gone.pop(message["worker"], None)
            self._inbox.put(WorkersChanged())
        elif action == "remove-worker":
            self._worker_left(message["worker"])

    def _on_status(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if isinstance(message, dict) and "status" in message:
            self._inbox.put(TaskReported(TaskStatus(**message["status"])))

    def _on_shortened(self, key: str, begun: int) -> None:
        self._inbox.put(TaskShortened(key, begun))

    def _on_memory_kill(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if isinstance(message, dict) and "worker" in message:
            self._killed_at[message["worker"]] = format_bytes(message.get("rss", 0))

    def _worker_left(self, address: str) -> None:
        """Cancel what was pinned to the worker, so that nothing waits for it, a gather included."""
        with self._lock:
            name = self._names.get(address, address)
            killed = self._killed_at.pop(address, None)
            self._gone[address] = (
                f"worker {name} was ended at {killed} because it passed its memory limit"
                if killed
                else f"worker {name} went away"
            )
            futures = [
                held.future for held in self._held.values() if held.address == address and not held.delivered
            ]
        if futures:
            asyncio.ensure_future(self._client.cancel(futures, asynchronous=True))  # noqa: RUF006
        self._inbox.put(WorkersChanged())

    def _subscribe(self) -> None:
        self._client.subscribe_topic("all", self._on_event)
        self._client.subscribe_topic("worker-restart-memory", self._on_memory_kill)
        self._client.subscribe_topic(self._topic, self._on_status)

    def _check_connection(self) -> None:
        status = self._client.status
        if status in ("closed", "closing"):
            raise scheduler_is_gone(self.description)
        comm = self._client.scheduler_comm
        if status == "running" and comm is not self._comm:  # it may have gone and come back between two looks
            self._comm = comm
            self._subscribe()
            self._change = next(self._changes)
            self._miss_workers()
            self._inbox.put(WorkersChanged())

    def _miss_workers(self) -> None:
        """Cancel what is pinned to workers that the scheduler, which may be a new one, does not know."""
        there = worker_facts(self._client)
        with self._lock:
            left = [held for held in self._held.values() if held.address not in there and not held.delivered]
            for held in left:
                name = self._names.get(held.address, held.address)
                self._gone[held.address] = f"worker {name} went away with the scheduler"
        if left:
            with loss_is_noticed(self._client, self.description):
                self._client.cancel([held.future for held in left])

    # Reading

    def _drain(self) -> Iterable[_Item]:
        while True:
            try:
                yield self._inbox.get_nowait()
            except queue.Empty:
                return

    def _read(self, items: Iterable[_Item]) -> list[Signal]:
        """Turn what came in into signals, one for each task that is waited for."""
        changed = False
        results: dict[str, WorkResult | None] = {}
        signals: list[Signal] = []
        for item in items:
            if isinstance(item, WorkersChanged):
                changed = True
            elif isinstance(item, TaskReported | TaskShortened):
                signals.append(item)
            elif item is not None:
                results.update([item])
        with self._lock:
            held = {key: self._held[key] for key in results if key in self._held}
        for key, task in held.items():
            result = results[key]
            if result is not None:
                task.delivered = True
                signals.append(TaskDone(key, result))
            else:
                signals.append(self._lost(key, task))
        return [*signals, WorkersChanged()] if changed else signals

    def _lost(self, key: str, task: _Held) -> TaskLost:
        with self._lock:
            self._held.pop(key, None)
            reason = self._gone.get(task.address)
        self._scattered.pop(key, None)
        future = task.future
        if reason is None and future.status == "error":
            error = future.exception()
            died = type(error).__name__ in ("KilledWorker", "NoValidWorkerError")
            text = f"its worker died: {error}" if died else f"{type(error).__name__}: {error}"
            found = TaskLost(key, text, worker_died=died)
        elif reason is None:
            found = TaskLost(key, "the connection to the scheduler was lost for a while", worker_died=False)
        else:
            found = TaskLost(key, reason)
        future.release()
        return found
