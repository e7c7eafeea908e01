"""What a run is driven on: its settings, and its executor, which is opened when it is first needed."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from pathlib import Path
from typing import Any

from batchrun.config import Settings, load_settings, settings_for_address
from batchrun.data.files import is_local
from batchrun.data.shared_memory import MemoryFolder, offer_memory
from batchrun.definition import Pipeline
from batchrun.errors import UsageError
from batchrun.executor import Executor, InlineExecutor

__all__ = ["Opener", "settings_of"]

logger = logging.getLogger("batchrun")


class Opener:
    """Opens the executor when it is first needed, so that bad input is found before a cluster starts."""

    def __init__(
        self, cluster: Any, settings: Settings, pipeline: Pipeline, stack: contextlib.ExitStack
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._pipeline = pipeline
        self._stack = stack
        self._executor: Executor | None = None
        if self._starts_here and cluster != "inline":
            from batchrun.cluster.forking import load_early

            load_early()

    @property
    def remote(self) -> bool:
        """Whether the cluster may turn out to be out of reach, which should be known first."""
        return self._settings.cluster.kind == "connect"

    def executor(self) -> Executor:
        """The executor, opened once."""
        if self._executor is None:
            self._executor = self._open()
            self._stack.callback(self._executor.close)
        return self._executor

    def shared_memory(self, run_id: str) -> MemoryFolder | None:
        """A folder in shared memory for the input of a run; None if the settings or the workers rule it out.

        Raises UsageError if it must be there and cannot.
        """
        wanted = self._settings.run.spool
        if not is_local(self._settings.artifact_root):  # the run's folder leads to it
            if wanted == "memory":
                raise UsageError(
                    "`run.spool` is memory, and `artifacts` is a URL; set the one to auto or disk, or the "
                    "other to a folder"
                )
            return None
        offered = None if wanted == "disk" else offer_memory(run_id, required=wanted == "memory")
        if offered is None or (self._executor is None and self._starts_here):
            return offered
        try:
            executor = self.executor()
            if not executor.shares_files or executor.shares(offered.path):
                return offered
            if offered.required:
                raise UsageError(
                    "`run.spool` is memory, and not all workers are on this machine; set it to auto or disk"
                )
        except BaseException:
            offered.remove()
            raise
        offered.remove()
        return None

    @property
    def _starts_here(self) -> bool:
        """Whether the executor will be one of this machine for certain."""
        if self._cluster is None and "distributed" in sys.modules:
            from batchrun.cluster.connect import active_client

            if active_client() is not None:
                return False
        named = self._cluster is None or isinstance(self._cluster, (str, Path, Settings))
        return self._cluster == "inline" or (named and self._settings.cluster.kind == "local")

    def _open(self) -> Executor:
        if self._cluster == "inline":
            return InlineExecutor(stage.demand for stage in self._pipeline.stages)
        if hasattr(self._cluster, "submit") and hasattr(self._cluster, "prepare"):
            given: Executor = self._cluster
            return given
        from batchrun.cluster.connect import active_client, open_cluster, wrap
        from batchrun.cluster.executor import DaskExecutor

        target = self._cluster
        if target is None:
            target = active_client()
        named = target is None or isinstance(target, (str, Path, Settings))
        connection = open_cluster(self._settings) if named else wrap(target)
        self._stack.callback(connection.close)
        for warning in connection.warnings:
            logger.warning("%s", warning)
        return DaskExecutor(connection, shared_folder=self._settings.artifact_root)


def settings_of(cluster: Any) -> Settings:
    """The settings that go with what the user gave as cluster."""
    if isinstance(cluster, Settings):
        return cluster
    if isinstance(cluster, str) and re.match(r"[a-z]+://", cluster):
        return settings_for_address(cluster)
    if isinstance(cluster, (str, Path)) and cluster != "inline":
        return load_settings(cluster)
    known = (
        cluster is None or cluster == "inline" or hasattr(cluster, "submit") or hasattr(cluster, "scheduler")
    )
    if not known:
        raise UsageError(
            f"cluster={cluster!r} is no cluster; give a cluster.yaml, an address like tcp://host:8786, "
            'a Dask client, or "inline"'
        )
    return load_settings()
