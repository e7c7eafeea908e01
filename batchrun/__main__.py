"""``python -m batchrun`` is the same as ``batchrun``."""

from batchrun.cli import main

main()
