"""What a run that goes on does at this moment, and what keeps the rest of it from being done."""

from __future__ import annotations

from batchrun.resources import Demand, Worker
from batchrun.store.live import LiveState
from batchrun.why.wording import count, listing

__all__ = ["at_work", "workers_of"]


def at_work(live: LiveState, now: float) -> str:
    """How many chunks run, and for what the others wait, as a clause.

    Args:
        live: What the driver told last.
        now: Seconds since the epoch.
    """
    if not live.workers:
        return "no worker is there"
    workers = workers_of(live)
    parts = [f"{count(live.chunks, 'chunk')} {'runs' if live.chunks == 1 else 'run'}"]
    for group in live.waiting:
        demand = Demand(group.memory, group.tags)
        wanted = str(demand) if group.memory or group.tags else "a free thread"
        verb = "waits" if group.chunks == 1 else "wait"
        able = any(worker.can_ever_run(demand) for worker in workers)
        nobody = "" if able else ", which no worker has"
        parts.append(f"{group.chunks:,} {verb} for {wanted}{nobody}")
    later = sum(chunk.until > now for chunk in live.delayed)
    if later:
        parts.append(f"{later:,} {'waits' if later == 1 else 'wait'} before the next try")
    return listing(parts)


def workers_of(live: LiveState | None) -> list[Worker]:
    """The workers that the driver told of last."""
    workers = live.workers if live else ()
    return [Worker(w.name, w.name, w.threads, w.memory, w.tags, w.host) for w in workers]
