"""``python -m tests.benchmarks [NAME ...]`` runs benchmarks and prints what they found."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

BENCHMARKS = {
    "declared_columns": ("group_by", 10_000_000, 5),
    "all_columns": ("group_by", 10_000_000, 5),
    "from_parquet": ("group_by", 10_000_000, 5),
    "client_memory": ("client_memory", 125_000_000, 1),
    "startup": ("startup", 0, 11),
    "child": ("child", 25_000_000, 51),
}
"""By name: the module, and the rows and rounds of a full measurement."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; all by default"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full number of rows, as in 0.1"
    )
    parser.add_argument("--rounds", type=int, help="timed turns of each contestant")
    parser.add_argument(
        "--statistic",
        choices=["delays", "sums"],
        default="delays",
        help="what is computed: the flights pipeline's statistic, or a group-by that only adds up",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(".batchrun/benchmarks"), help="folder for the JSON files"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    from tests.benchmarks.contest import present

    for name in options.names or BENCHMARKS:
        module, rows, rounds = BENCHMARKS[name]
        benchmark = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)
        record = benchmark(int(rows * options.scale), options.rounds or rounds, options.statistic)
        print(present(record, options.out), flush=True)


if __name__ == "__main__":
    main()
