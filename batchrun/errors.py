"""Everything that batchrun raises.

::

    BatchrunError
    ├── UsageError                   nothing ran; what was asked for cannot be done as written
    │   ├── ConfigError              cluster.yaml, or a setting that overrides it
    │   ├── PipelineError            a pipeline, stage or split that is not well formed
    │   │   ├── PipelineNotFoundError
    │   │   └── ParameterError       a parameter that is unknown, missing or of the wrong type
    │   ├── InputError               a table that is missing, unreadable or lacks a column
    │   ├── DemandError              resources that no worker can ever give
    │   └── RunNotFoundError         a run id that the store does not know
    ├── ClusterError                 the cluster was lost or cannot be used
    │   ├── ClusterUnreachableError  nothing answers at the address
    │   └── VersionMismatchError     client and workers run versions that do not fit
    ├── StoreError                   the store or the artifact root cannot be read or written
    ├── LeaseLostError               another process has taken over the run that this one drove
    ├── ResultError                  a stage gave back something that is not a table or cannot be stored
    └── RunFailedError               raised by RunReport.raise_for_state()

    KeyboardInterrupt
    └── RunInterrupted               a run was stopped by Ctrl-C, in order, and is recorded as cancelled

Every message says what was wrong and what to do. Every error takes one positional argument, its
message, so that it survives pickling between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BatchrunError",
    "ClusterError",
    "ClusterUnreachableError",
    "ConfigError",
    "DemandError",
    "InputError",
    "LeaseLostError",
    "ParameterError",
    "PipelineError",
    "PipelineNotFoundError",
    "ResultError",
    "RunFailedError",
    "RunInterrupted",
    "RunNotFoundError",
    "StoreError",
    "UsageError",
    "VersionMismatchError",
]


class BatchrunError(Exception):
    """The root of every error that batchrun raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """How IPython shows it."""
        from batchrun.tracebacks import render_error

        return render_error(self)


class UsageError(BatchrunError):
    """What was asked for cannot be done as written; nothing has run."""


class ConfigError(UsageError):
    """A setting in ``cluster.yaml``, or one that overrides it, is wrong."""


class PipelineError(UsageError):
    """A pipeline, stage or split is not well formed."""


class PipelineNotFoundError(PipelineError):
    """No pipeline of that name can be imported."""


class ParameterError(PipelineError):
    """A pipeline parameter is unknown, missing or of the wrong type."""


class InputError(UsageError):
    """The input table is missing, unreadable or lacks a column."""


class DemandError(UsageError):
    """A stage needs resources that no worker can ever give."""


class RunNotFoundError(UsageError):
    """The store knows no run of that id."""


class ClusterError(BatchrunError):
    """The cluster was lost or cannot be used."""


class ClusterUnreachableError(ClusterError):
    """Nothing answers at the scheduler's address."""


class VersionMismatchError(ClusterError):
    """Client and workers run versions that do not fit together."""


class StoreError(BatchrunError):
    """The store or the artifact root cannot be read or written."""


class LeaseLostError(BatchrunError):
    """Another process drives the run by now; this one can write nothing more of it."""


class ResultError(BatchrunError):
    """A stage gave back something that is not a table, or that cannot be stored."""


class RunFailedError(BatchrunError):
    """A run ended without the result that was asked for."""


class RunInterrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C, in order; what it solved is kept."""

    def _render_traceback_(self) -> list[str]:
        """How IPython shows it."""
        from batchrun.tracebacks import render_error

        return render_error(self, alone=True)


def near_miss(name: str, known: Iterable[str]) -> str:
    """The sentence that suggests what *name* was meant to be, or an empty string.

    It begins with a space, so that it can follow the sentence it belongs to.

    >>> near_miss("arr_dely", ["carrier", "arr_delay"])
    ' Did you mean `arr_delay`?'
    >>> near_miss("zzz", ["carrier"])
    ''
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{close[0]}`?" if close else ""
