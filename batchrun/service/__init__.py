"""The service: a process that keeps a cluster up and drives the runs that are queued in a store."""

from batchrun.service.service import Service

__all__ = ["Service"]
