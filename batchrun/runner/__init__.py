"""The loop of a run: plan, dispatch, observe, recover, record."""

from batchrun.runner.loop import Runner
from batchrun.runner.state import RunnerSettings

__all__ = ["Runner", "RunnerSettings"]
