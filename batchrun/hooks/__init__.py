"""Telling others when a run has ended: a command, a webhook, or both."""

from batchrun.hooks.deliver import deliver
from batchrun.hooks.run_end import end_told, run_hooks, run_pending_hooks
from batchrun.store.deliveries import Delivery

__all__ = ["Delivery", "deliver", "end_told", "run_hooks", "run_pending_hooks"]
