"""Where two runs differ: in what was asked for, in what came of it, in how long it took, in their results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.errors import ResultError
from batchrun.render.account import attempts_line, chunks_line, conservation, count, stage_accounts
from batchrun.resources import format_bytes, format_seconds

if TYPE_CHECKING:
    import pyarrow as pa

    from batchrun.report import RunReport

__all__ = ["ColumnDifference", "Comparison", "Line", "ResultDifference", "compare"]

_NOTHING = "-"
"""Stands for what one of the two has not."""
_MOST_FAILURES = 3
"""Distinct failures that are told of a run."""


@dataclass(frozen=True)
class Line:
    """One thing that can be said of both runs."""

    name: str
    """What it is."""
    first: str
    """What it is in the first run, for people."""
    second: str
    """What it is in the second run."""

    @property
    def differs(self) -> bool:
        """Whether the two are not alike."""
        return self.first != self.second


@dataclass(frozen=True)
class ColumnDifference:
    """How a column of the results differs, row by row."""

    name: str
    """The column."""
    rows: int
    """In how many rows the values are not equal; two missing values are equal."""
    largest: float | None
    """The largest absolute difference of two numbers; None if the column has no numbers."""


@dataclass(frozen=True)
class ResultDifference:
    """How the results of two runs differ."""

    rows: tuple[int, int]
    """Rows of each."""
    only_first: tuple[str, ...] = ()
    """Columns that the second has not."""
    only_second: tuple[str, ...] = ()
    """Columns that the first has not."""
    columns: tuple[ColumnDifference, ...] = ()
    """The common columns whose values differ, as far as values were compared."""
    unknown: str = ""
    """Why values were not compared; empty if they were."""

    @property
    def alike(self) -> bool:
        """Whether both have the same columns and values."""
        return not (self.only_first or self.only_second or self.columns or self.unknown)


@dataclass(frozen=True)
class Comparison:
    """Two runs, side by side."""

    first: str
    """Id of the first run."""
    second: str
    """Id of the second run."""
    asked: tuple[Line, ...]
    """What they were asked for: pipeline, input, split, parameters, settings, versions."""
    outcome: tuple[Line, ...]
    """What came of them: state, rows, chunks, attempts."""
    times: tuple[Line, ...]
    """How long they took, and the memory that they used."""
    results: ResultDifference
    """Their results."""


def compare(first: RunReport, second: RunReport) -> Comparison:
    """Compare two runs.

    Results are read a few rows at a time and compared row by row, in input order; that says something only
    if they have equally many rows.

    Raises StoreError if the files of a run are gone.
    """
    return Comparison(
        first.run_id,
        second.run_id,
        asked=_asked(first, second),
        outcome=_outcome(first, second),
        times=_times(first, second),
        results=_results(first, second),
    )


def _lines(first: dict[str, str], second: dict[str, str]) -> tuple[Line, ...]:
    names = dict.fromkeys([*first, *second])
    return tuple(Line(name, first.get(name, _NOTHING), second.get(name, _NOTHING)) for name in names)


def _asked(first: RunReport, second: RunReport) -> tuple[Line, ...]:
    def of(report: RunReport) -> dict[str, str]:
        said = {
            "pipeline": report.target or report.pipeline,
            "stages": ", ".join(f"{stage.name} ({stage.demand})" for stage in stage_accounts(report)),
            "split": str(report.split),
            "input": str(report.input.get("description", "")),
            "input fingerprint": str(report.input.get("fingerprint", "")),
            "cluster": str(report.cluster),
        }
        said |= {
            f"{stage.name}: limits of time": stage.time_limits
            for stage in stage_accounts(report)
            if stage.time_limits
        }
        said |= {f"parameter {name}": repr(value) for name, value in report.params.items()}
        said |= {f"setting {setting['key']}": setting["value"] for setting in report.settings}
        return said | {f"version of {name}": version for name, version in report.versions.items()}

    return _lines(of(first), of(second))


def _outcome(first: RunReport, second: RunReport) -> tuple[Line, ...]:
    def of(report: RunReport) -> dict[str, str]:
        return {
            "state": report.state.value,
            "rows": conservation(report),
            "chunks": chunks_line(report),
            "attempts": attempts_line(report),
            "error": str(report.error) if report.error else _NOTHING,
            "failures": _failures(report),
        }

    return _lines(of(first), of(second))


def _failures(report: RunReport) -> str:
    """What most chunks were given up for."""
    kinds = report.failure_kinds
    said = [f"{one.error_type}: {one.error} ({count(one.chunks, 'chunk')})" for one in kinds[:_MOST_FAILURES]]
    more = len(kinds) - len(said)
    return "; ".join([*said, f"and {count(more, 'other error')}"] if more else said) or _NOTHING


def _times(first: RunReport, second: RunReport) -> tuple[Line, ...]:
    def of(report: RunReport) -> dict[str, str]:
        said = {"wall time": format_seconds(report.seconds)}
        for stage in stage_accounts(report):
            said[f"{stage.name}: in all"] = format_seconds(stage.seconds)
            said[f"{stage.name}: median"] = format_seconds(stage.median)
            said[f"{stage.name}: longest"] = format_seconds(stage.longest)
            if stage.peak_memory is not None:
                said[f"{stage.name}: peak memory"] = format_bytes(stage.peak_memory)
        return said

    return _lines(of(first), of(second))


def _results(first: RunReport, second: RunReport) -> ResultDifference:
    rows = first.rows_out, second.rows_out
    if not all(rows):
        unknown = "" if rows == (0, 0) else "one of them has no results"
        return ResultDifference(rows, unknown=unknown)
    try:
        one, other = first.batches(), second.batches()
    except ResultError as error:
        return ResultDifference(rows, unknown=str(error))
    names, others = set(one.schema.names), set(other.schema.names)
    only_first = tuple(name for name in one.schema.names if name not in others)
    only_second = tuple(name for name in other.schema.names if name not in names)
    if rows[0] != rows[1]:
        return ResultDifference(rows, only_first, only_second, unknown="they have not equally many rows")
    common = [name for name in one.schema.names if name in others]
    return ResultDifference(rows, only_first, only_second, tuple(_differences(one, other, common)))


def _differences(
    one: pa.RecordBatchReader, other: pa.RecordBatchReader, names: list[str]
) -> Iterator[ColumnDifference]:
    counts = dict.fromkeys(names, 0)
    largest: dict[str, float] = {}
    for left, right in _side_by_side(one, other):
        for name in names:
            rows, most = _compare_columns(left.column(name), right.column(name))
            counts[name] += rows
            if most is not None:
                largest[name] = max(most, largest.get(name, 0.0))
    for name in names:
        if counts[name]:
            yield ColumnDifference(name, counts[name], largest.get(name))


def _side_by_side(
    one: pa.RecordBatchReader, other: pa.RecordBatchReader
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Pieces of both readers that have equally many rows."""
    left = right = None
    while True:
        left = left if left is not None and left.num_rows else next(_filled(one), None)
        right = right if right is not None and right.num_rows else next(_filled(other), None)
        if left is None or right is None:
            return
        rows = min(left.num_rows, right.num_rows)
        yield left.slice(0, rows), right.slice(0, rows)
        left, right = left.slice(rows), right.slice(rows)


def _filled(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    return (batch for batch in reader if batch.num_rows)


def _compare_columns(left: pa.Array, right: pa.Array) -> tuple[int, float | None]:
    """In how many rows two columns differ, and the largest difference of two numbers."""
    import numpy as np
    from pyarrow import types

    if left.equals(right):
        return 0, None
    if all(types.is_integer(one.type) or types.is_floating(one.type) for one in (left, right)):
        a, b = (
            one.to_numpy(zero_copy_only=False).astype(np.float64)
            if types.is_floating(one.type) or one.null_count
            else one.to_numpy(zero_copy_only=False)
            for one in (left, right)
        )
        differ = ~((a == b) | (_missing(a) & _missing(b)))
        apart = np.abs(a[differ].astype(np.float64) - b[differ].astype(np.float64))
        apart = apart[np.isfinite(apart)]
        return int(differ.sum()), float(apart.max()) if len(apart) else None
    values: zip[tuple[Any, Any]] = zip(left.to_pylist(), right.to_pylist(), strict=True)
    # What is not equal to itself is a missing number.
    return sum(a != b and not (a != a and b != b) for a, b in values), None  # noqa: PLR0124


def _missing(values: Any) -> Any:
    import numpy as np

    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
