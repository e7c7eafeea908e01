"""The loop of a run: plan, dispatch, observe, recover, record."""

from batchrun.runner.loop import Runner
from batchrun.runner.sharing import SharedSlots
from batchrun.runner.state import RunnerSettings

__all__ = ["Runner", "RunnerSettings", "SharedSlots"]
