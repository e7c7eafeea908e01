"""Aids for tests: a stage whose failures are scripted by its input, and what every executor must pass."""

from batchrun.testing.contract import ExecutorContract, collect, pack_for, task_for
from batchrun.testing.scripted import attempts_in, scripted

__all__ = ["ExecutorContract", "attempts_in", "collect", "pack_for", "scripted", "task_for"]
