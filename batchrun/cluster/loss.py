"""What it means that the scheduler is gone, whichever call found it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from distributed import Client
from distributed.client import ClosedClientError

from batchrun.errors import ClusterError

__all__ = ["loss_is_noticed", "scheduler_is_gone"]


def scheduler_is_gone(description: str) -> ClusterError:
    """The error that says so of the cluster of that *description*."""
    return ClusterError(
        f"the scheduler of the {description} is gone and did not come back. What is finished is recorded: "
        "start the cluster again and resume the run"
    )


@contextlib.contextmanager
def loss_is_noticed(client: Client, description: str) -> Iterator[None]:
    """Within this context, what Dask raises because the scheduler is gone is a ClusterError."""
    try:
        yield
    except ClusterError:
        raise
    except Exception as error:
        if client.status != "running" or isinstance(error, (OSError, ClosedClientError)):
            raise scheduler_is_gone(description) from error
        raise
