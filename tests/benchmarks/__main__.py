"""Measures how batchrun compares with its peers, and makes a page of what was found.

``python -m tests.benchmarks [NAME ...]`` measures; ``python -m tests.benchmarks page`` writes the page,
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.arena import Arena
from tests.benchmarks.cases import CASES
from tests.benchmarks.page import write_page

RESULTS = Path(".batchrun/benchmarks")
PAGE = Path("docs/benchmarks.md")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"page, or any of {', '.join(CASES)}; all of these by default",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size, as in 0.1")
    parser.add_argument("--rounds", type=int, help="timed turns of each contestant")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    if options.names == ["page"]:
        print(f"written to {write_page(options.out, PAGE)}")
        return
    unknown = [name for name in options.names if name not in CASES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(CASES)}")
    out = options.out.resolve()
    for name in options.names or CASES:
        case = CASES[name]
        with Arena(RESULTS) as arena:
            record = case.run(arena, max(1, round(case.size * options.scale)), options.rounds or case.rounds)
        print(f"{record}\n  written to {record.write(out)}", flush=True)


if __name__ == "__main__":
    main()
