"""A copy of an SQLite store, made before its tables are changed."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

__all__ = ["back_up"]

logger = logging.getLogger("batchrun")


def back_up(path: Path, revision: str) -> Path:
    """Copy the database beside itself, as ``NAME.before-REVISION``, and say so in the log.

    The copy is whole or not there at all. An older copy of that name, of a change that failed, is replaced.

    Raises sqlite3.Error or OSError if it cannot be made.
    """
    copy = path.with_name(f"{path.name}.before-{revision}")
    unfinished = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    try:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(unfinished)) as target,
        ):
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, which can be moved about
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, copy)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    logger.warning("the store is changed for this version of batchrun; %s is a copy of it as it was", copy)
    return copy
