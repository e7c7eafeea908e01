"""The loop of a service: keeps its cluster up, takes queued runs, and drives each in a thread."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field

from batchrun.admission import admit
from batchrun.cluster.connection import Connection
from batchrun.config import Settings
from batchrun.errors import BatchrunError, ClusterError, StoreError
from batchrun.outcome import ErrorRecord, RunState
from batchrun.recording import unplanned_record
from batchrun.runner import SharedSlots
from batchrun.service.drive import Drive
from batchrun.service.heart import Heart
from batchrun.service.leases import LeaseTeller
from batchrun.service.lookout import Lookout
from batchrun.service.messenger import Messenger
from batchrun.service.schedules import fire_due
from batchrun.store.driver import driver_name, is_gone
from batchrun.store.queue import QueuedRun
from batchrun.store.runs import RunStore
from batchrun.store.services import ServiceRecord
from batchrun.store.turns import candidates

__all__ = ["Service"]

logger = logging.getLogger("batchrun.service")

TICK = 0.1
"""Seconds between two looks for something new."""
ASK_A_SERVER_EVERY = 2
"""Looks for each at which a database is asked that does not tell by itself that it changed."""
LOOK_EVERY = 1.0
"""Seconds between two looks at all that is queued, held or overdue, while there is anything."""
LOOK_ANYWAY = 10.0
"""Seconds between two such looks while there is nothing, and nobody commits anything."""
LONGEST_WAIT = 30.0
"""The longest between two tries to reach a cluster, in seconds."""
LEAVE_WITHIN = 20.0
"""Seconds that runs get to be let go of."""


@dataclass
class _Cluster:
    """The cluster of a service, which may be away for a while."""

    settings: Settings
    connection: Connection | None = None
    slots: SharedSlots = field(default_factory=SharedSlots)
    """Those of its workers, for all runs that are driven on it."""
    failures: int = 0
    again_at: float = 0.0

    def keep_up(self) -> bool:
        """See to it that there is a cluster; whether there is one, and whether it is a new one.

        Raises nothing: a cluster that cannot be had is tried again after a while.
        """
        from batchrun.cluster.connect import open_cluster

        if self.connection is not None and self.connection.alive:
            return False
        if time.monotonic() < self.again_at:
            return False
        self.close()
        try:
            self.connection = open_cluster(self.settings)
        except ClusterError as error:
            self.failures += 1
            wait = min(LONGEST_WAIT, 0.5 * 2**self.failures)
            self.again_at = time.monotonic() + wait
            logger.warning("no cluster: %s; next try in %.0f s", error, wait)
            return False
        self.failures, self.slots = 0, SharedSlots()
        logger.info("%s", self.connection.description)
        return True

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(ClusterError, OSError, TimeoutError):
                connection.close()


class Service:
    """Drives the queued runs of a store on one cluster, until it is stopped.

    Several services may share a store: each run is held by one of them at a time. See ``store/queue.py`` for
    how, and ``admission.py`` for the order.

    Args:
        settings: The cluster, the store, and how runs are driven.
        log: The path of the service's log, which others are told; None if it writes to a terminal.
    """

    def __init__(self, settings: Settings, *, log: str | None = None) -> None:
        self.settings = settings
        self.service = f"service-{uuid.uuid4().hex[:8]}"
        """Its id."""
        self._log = log
        self._store = RunStore(settings.store_url)
        self._cluster = _Cluster(settings)
        self._drives: dict[str, Drive] = {}
        self._asked: str | None = None
        self._stop = threading.Event()
        self._queue = Lookout(LOOK_EVERY, LOOK_ANYWAY)
        self._schedules = Lookout(LOOK_EVERY, LOOK_ANYWAY)
        self._told: list[str] = []
        self._version: int | None = None
        self._turns = 0
        self._heart = Heart(settings, self.service, self._driven, self._lost)
        self._messenger = Messenger(settings)
        self._leases = LeaseTeller(self.service, settings.service.lease, self._publish)

    def stop(self) -> None:
        """Leave the runs as they stand, and end; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until stopped.

        Raises StoreError if the store cannot be reached at the start.
        """
        with self._store as store:
            store.services.add(self._record())
            logger.info("%s is up; its store is %s", self.service, store.place)
            self._heart.start()
            self._messenger.start()
            self._leases.start()
            try:
                self._serve()
            finally:
                self._end()

    def _serve(self) -> None:
        while not (self._stop.is_set() or (self._asked is not None and not self._drives)):
            try:
                self._turn()
            except StoreError as error:
                logger.warning("%s", error)
                self._stop.wait(LOOK_EVERY)
            self._stop.wait(TICK)

    def _turn(self) -> None:
        """One look at everything."""
        self._turns += 1
        for run_id, drive in list(self._drives.items()):
            if not drive.is_alive():
                del self._drives[run_id]
                self._leases.released(run_id)
                self._queue.at_once()
        if self._heart.asked is not None and self._asked is None:
            self._begin_to_end(self._heart.asked)
        if self._cluster.keep_up():
            self._tell()
        if self._asked is not None:
            return
        before, self._version = self._version, self._store.version()
        if self._schedules.due(self._version):
            self._fire()
        if self._cluster.connection is None or not self._cluster.connection.alive:
            self._queue.at_once()
            return
        if self._something_is_new(before):
            self._queue.at_once()
        if self._queue.due(self._version):
            self._take()

    def _something_is_new(self, before: int | None) -> bool:
        """Whether a run has come that may be taken; asked often, and cheap as long as nobody writes."""
        if self._version is None:  # then asking costs a query
            return self._turns % ASK_A_SERVER_EVERY == 0 and self._store.queue.anything_free()
        return self._version != before and self._store.queue.anything_free()

    def _fire(self) -> None:
        """Queue the runs of schedules whose time has come, also while there is no cluster."""
        now = self._store.services.now()
        told = fire_due(self._store, now, lambda asked: unplanned_record(asked, self.settings, now))
        for sentence in told:
            if sentence not in self._told:  # one that cannot be fired is told each time
                logger.info("%s", sentence)
        self._told = told
        if self._version is not None:  # else they are looked at every second anyway
            self._schedules.again_in(self._store.schedules.next_fire() - now)

    # Taking runs

    def _take(self) -> None:
        """Take the runs whose turn it is, as many as may be driven at once."""
        queue = self._store.queue
        under_way = {run.run_id: run for run in queue.under_way()}
        if not under_way:
            return
        self._queue.again_in(LOOK_EVERY)
        gone = self._gone()
        now = self._store.services.now()
        admission = admit(candidates(queue, under_way.values(), now, gone), time.time())
        for run_id, reason in admission.doomed.items():
            self._give_up(run_id, reason)
        for run_id in admission.ready:
            if len(self._drives) >= self.settings.service.runs:
                return
            self._claim(under_way[run_id], gone)

    def _claim(self, run: QueuedRun, gone: Collection[str]) -> None:
        if run.run_id in self._drives:
            return
        writer = self._store.queue.claim(
            run.run_id,
            self.service,
            lease=self.settings.service.lease,
            driver=driver_name(),
            gone=gone,
        )
        if writer is None:
            return
        logger.info("run %s is taken", run.run_id)
        self._leases.taken(run.run_id, run.pipeline)
        drive = self._drives[run.run_id] = Drive(run, writer, self.settings, self._cluster.slots)
        drive.start()

    def _give_up(self, run_id: str, reason: str) -> None:
        """Record that a run will never begin."""
        record = self._store.find(run_id)
        error = ErrorRecord.of(BatchrunError(f"it was not started: {reason}"))
        self._store.end_abandoned(
            record,
            state=RunState.CANCELLED,
            ended=time.time(),
            rows_cancelled=record.rows_in,
            error=asdict(error),
        )
        logger.warning("run %s is cancelled: %s", run_id, reason)

    def _gone(self) -> list[str]:
        """Other services that are certain to have ended, whose runs need not wait for their leases."""
        others = [other for other in self._store.services.all() if other.service != self.service]
        gone = [other.service for other in others if is_gone(other.process)]
        for service in gone:
            logger.warning("%s is gone; its runs go on here", service)
            self._store.services.remove(service, gone=True)
        return gone

    def _driven(self) -> list[str]:
        """Called by the heart: the runs that are driven now."""
        return [run_id for run_id, drive in list(self._drives.items()) if drive.is_alive()]

    def _lost(self, held: set[str]) -> None:
        """Called by the heart with the runs that the service still holds."""
        drives = {run_id: drive for run_id, drive in list(self._drives.items()) if drive.is_alive()}
        self._leases.beat(held, {run_id: drive.pipeline for run_id, drive in drives.items()})
        for run_id, drive in drives.items():
            if run_id not in held:
                drive.check()

    # Ending

    def _begin_to_end(self, asked: str) -> None:
        """Take nothing more; the runs that are driven end, are cancelled, or are left."""
        logger.info("asked to stop: %s", asked)
        self._asked = asked
        self._store.services.update(self.service, state="stopping")
        if asked == "leave":
            self._stop.set()
        if asked == "cancel":
            for run_id in self._drives:
                self._store.request_cancel(run_id)

    def _end(self) -> None:
        """Let go of all runs, and of the cluster."""
        for drive in self._drives.values():
            drive.leave()
        until = time.monotonic() + LEAVE_WITHIN
        for drive in self._drives.values():
            drive.join(max(0.0, until - time.monotonic()))
        self._heart.stop()
        self._messenger.stop()
        self._leases.stop()
        with contextlib.suppress(StoreError):
            self._store.services.remove(self.service)
        self._cluster.close()
        from batchrun.cluster.connect import close_local_clusters

        close_local_clusters()
        logger.info("%s has ended", self.service)

    # Telling

    def _publish(self, message: Mapping[str, object]) -> None:
        """Tell the scheduler of leases, where it has a page and metrics."""
        from batchrun.dashboard.leases import LEASES

        connection = self._cluster.connection
        if connection is not None and connection.alive and connection.dashboard:
            connection.client.log_event(LEASES, dict(message))

    def _offer_page(self, connection: Connection) -> None:
        """Let the page be there before the first run, and ask the store where it lives in this process."""
        from batchrun.archive import offer_store
        from batchrun.dashboard.plugin import install

        offer_store(self.settings.store_url, acts=self.settings.dashboard_buttons)
        install(connection.client)

    def _record(self) -> ServiceRecord:
        now = time.time()
        return ServiceRecord(
            self.service, driver_name(), now, now, self.settings.service.lease, log=self._log
        )

    def _tell(self) -> None:
        """Tell others what the service has."""
        connection = self._cluster.connection
        if connection is None:
            return
        if connection.dashboard:
            self._offer_page(connection)
        keep = ("name", "threads", "memory", "tags", "host")
        workers = [{key: asdict(one)[key] for key in keep} for one in connection.workers()]
        self._store.services.update(
            self.service,
            state="running",
            cluster=connection.description,
            dashboard=f"{connection.dashboard}/batchrun" if connection.dashboard else "",
            workers=workers,
        )
