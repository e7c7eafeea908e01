"""The best answer of a stage that still runs: checked, and kept as it is now."""

from __future__ import annotations

import sys
from typing import Any

from batchrun.data.table import to_table
from batchrun.errors import ResultError

__all__ = ["check_incumbent", "encode_table", "snapshot"]


def check_incumbent(frame: Any, stage: str) -> None:
    """Raise ResultError at once for what is no frame."""
    import pyarrow as pa

    if isinstance(frame, (pa.Table, pa.RecordBatch)):
        return
    for package in ("pandas", "polars"):
        module = sys.modules.get(package)
        if module is not None and isinstance(frame, module.DataFrame):
            return
    if frame is None:
        raise ResultError(f"an incumbent of stage `{stage}` is None; give the frame it would return")
    to_table(frame, owner=f"an incumbent of stage `{stage}`")


def snapshot(frame: Any) -> Any:
    """*frame* as it is now, whatever is done to it later; as cheap as its kind allows."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(frame, pandas.DataFrame):
        # Arrow tables cannot be changed; a polars frame is changed in place by few methods, which a clone
        # does not see.
        return frame.clone() if hasattr(frame, "clone") else frame
    return frame.copy(deep=not _copies_on_write(pandas))


def _copies_on_write(pandas: Any) -> bool:
    return int(pandas.__version__.partition(".")[0]) >= 3


def encode_table(frame: Any, stage: str) -> bytes:
    """The frame as an Arrow IPC stream. Raises ResultError for one that Arrow cannot hold."""
    from batchrun.data.table import encode

    return encode(to_table(frame, owner=f"an incumbent of stage `{stage}`"))
