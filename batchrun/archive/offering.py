"""Lets the pages of this process ask the store that its runs are recorded in."""

from __future__ import annotations

import threading

from batchrun.archive.stored import StoreArchive
from batchrun.dashboard.archive import offer

__all__ = ["offer_store"]

_known: dict[str, StoreArchive] = {}
_lock = threading.Lock()


def offer_store(store_url: str, *, acts: bool = True) -> StoreArchive:
    """Offer the archive of a store; the pages show the one that was offered last.

    *acts* says whether runs may be stopped and queued again from there.

    A scheduler that lives in this process is the one whose page can ask. It costs nothing until one does.
    """
    with _lock:
        archive = _known.get(store_url)
        if archive is None:
            archive = _known[store_url] = StoreArchive(store_url)
        archive.acts = acts
        offer(archive)
        return archive
