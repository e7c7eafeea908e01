"""The command line: ``batchrun``. It observes and asks; what happens is decided elsewhere."""

from batchrun.cli.program import app, main

# Their commands are listed in this order.
from batchrun.cli import driving, requeueing, serving, scheduling, looking, events, pruning, setup  # noqa: F401  isort: skip

__all__ = ["app", "main"]
