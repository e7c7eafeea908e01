"""Why a chunk, or a run, stands where it stands: one causal sentence from what the store knows."""

from batchrun.why.explain import explain
from batchrun.why.facts import RunFacts
from batchrun.why.queued import QueueFacts

__all__ = ["QueueFacts", "RunFacts", "explain"]
