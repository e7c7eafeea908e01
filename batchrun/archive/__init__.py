"""Answers what pages ask of a store, in threads of its own."""

from batchrun.archive.offering import offer_store
from batchrun.archive.stored import StoreArchive

__all__ = ["StoreArchive", "offer_store"]
