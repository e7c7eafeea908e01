"""The page of all results, made from the JSON files and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.bars import Bar, draw_bars
from tests.benchmarks.cases import CASES
from tests.benchmarks.contest import Record, Verdict

__all__ = ["write_page"]

HEAD = """\
# How fast it is

Every number here is measured by `tests/benchmarks/`, beside its peer or its bound in the same run.
`make bench` measures all of it, `make bench BENCH=from_parquet` one case, and `make bench BENCH=page`
writes this page from the JSON files that they leave in `.batchrun/benchmarks`; what was not measured since
is as it was in the files in [benchmarks](benchmarks), which are replaced by newer ones.

Contestants take turns. Times are medians, with the fastest and the slowest round beside them. Where
contestants give a result, all must give the same one, which is checked before anything is timed. Peers are
written with their own best habits. What batchrun takes includes that every chunk is recorded and its result
is on disk; of the peers only the task queues keep results, and of these only Huey on disk.

Only ratios mean anything on another machine.
"""


def write_page(results: Path, page: Path) -> Path:
    """Write the page and its plots, in ``img/benchmarks`` beside it, from the records in *results*.

    They are kept in ``benchmarks`` beside the page; a case that is not in *results* is shown as it is there.

    Raises FileNotFoundError if there is no record at all.
    """
    kept = page.parent / "benchmarks"
    for name in CASES:
        if (results / f"{name}.json").exists():
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results / f"{name}.json", kept / f"{name}.json")
    records = [Record.read(kept / f"{name}.json") for name in CASES if (kept / f"{name}.json").exists()]
    if not records:
        raise FileNotFoundError(f"there are no results in {results}; `make bench` makes them")
    images = page.parent / "img" / "benchmarks"
    images.mkdir(parents=True, exist_ok=True)
    for record in records:
        if record.seconds:
            (images / f"{record.name}.svg").write_text(_plot(record), encoding="utf-8")
    parts = [HEAD, _overview(records), *map(_section, records), _machines(records)]
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def _overview(records: Sequence[Record]) -> str:
    """What was wanted and what was reached, all on one screen."""
    rows = [
        (
            f"[{_title(record)}](#{record.name})",
            verdict.what,
            _number(verdict),
            _bound(verdict),
            _met(verdict),
        )
        for record in records
        for verdict in record.verdicts
    ]
    missed = sum(not verdict.met for record in records for verdict in record.verdicts)
    count = f"{len(rows) - missed} of {len(rows)} targets are met"
    count += "." if not missed else f"; {missed} are not."
    table = _table(("case", "what", "reached", "wanted", ""), rows)
    return f"## Targets\n\n{count}\n\n{table}"


def _section(record: Record) -> str:
    settings = ", ".join(f"{key} {_plain(value)}" for key, value in record.settings.items())
    parts = [f'<a id="{record.name}"></a>\n\n## {_title(record)}', CASES[record.name].about, f"*{settings}*"]
    if record.seconds:
        parts += [f"![{_title(record)}](img/benchmarks/{record.name}.svg)", _times(record)]
        parts += filter(None, [_where_peers_win(record)])
    if record.table:
        parts.append(_table(tuple(record.table[0]), [tuple(line.values()) for line in record.table]))
    if record.figures:
        rows = [(name, f"{_plain(figure.value)} {figure.unit}") for name, figure in record.figures.items()]
        parts.append(_table(("measured", ""), rows))
    parts += [
        f"- {verdict.what}: {_number(verdict)}, wanted {_bound(verdict)}: {_met(verdict)}"
        for verdict in record.verdicts
    ]
    return "\n\n".join([*parts, *record.notes]).replace("\n\n- ", "\n- ") + "\n"


def _times(record: Record) -> str:
    medians = record.medians
    fastest = min(medians.values())
    rate = (f"{record.work.unit} a second",) if record.work else ()
    rows = []
    for name, median in medians.items():
        times = record.seconds[name]
        row = [name, _seconds(median), f"{median / fastest:.2f}"]
        row.append(f"{_seconds(min(times))} to {_seconds(max(times))}" if len(times) > 1 else "once")
        if record.work:
            row.append(_plain(record.work.value / median))
        rows.append(tuple(row))
    return _table(("", "median", "by the fastest", "range", *rate), rows)


def _where_peers_win(record: Record) -> str:
    """Says which peers are faster, and by how much."""
    medians = record.medians
    ours = [median for name, median in medians.items() if is_ours(name)]
    if not ours:
        return ""
    best = min(ours)
    faster = {name: best / median for name, median in medians.items() if not is_ours(name) and median < best}
    if not faster:
        return ""
    said = ", ".join(f"{name} {_plain(times)} times" for name, times in _by_value(faster))
    return f"Faster than batchrun here: {said}."


def _by_value(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(numbers.items(), key=lambda item: -item[1])


def _plot(record: Record) -> str:
    bars = [
        Bar(
            name,
            median,
            min(record.seconds[name]),
            max(record.seconds[name]),
            _seconds(median),
            is_ours(name),
        )
        for name, median in record.medians.items()
    ]
    return draw_bars("median time, less is better", bars)


def is_ours(name: str) -> bool:
    """Whether a contestant is batchrun, in one form or another."""
    return "batchrun" in name or name == "in a warm child"


def _machines(records: Sequence[Record]) -> str:
    """Where all of it was measured; more than one table if that was not the same place."""
    places: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for record in records:
        key = tuple((name, str(value)) for name, value in record.machine.items() if name != "date")
        places.setdefault(key, []).append(f"{_title(record)} ({record.machine.get('date', 'undated')})")
    parts = ["## Machine and versions"]
    for key, names in places.items():
        if len(places) > 1:
            parts.append(", ".join(names) + ":")
        parts.append(_table(("", ""), list(key)))
    if len(places) == 1:
        dates = sorted({str(record.machine.get("date", "undated")) for record in records})
        parts.append(f"Measured on {' and '.join(dates)}.")
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _title(record: Record) -> str:
    return record.name.replace("_", " ").capitalize()


def _number(verdict: Verdict) -> str:
    return f"{_plain(verdict.reached)} {verdict.unit}"


def _bound(verdict: Verdict) -> str:
    return f"{'at least' if verdict.at_least else 'at most'} {_plain(verdict.wanted)}"


def _met(verdict: Verdict) -> str:
    return "met" if verdict.met else "**not met**"


def _seconds(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.2f} s"


def _plain(value: object) -> str:
    """A number of three digits or so, with commas if it is long."""
    if isinstance(value, float) and value and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)
