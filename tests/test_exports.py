"""The public face of the package, and how little it costs to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import batchrun
from batchrun import Pipeline, RetryPolicy, Stage, by_rows, run_pipeline

PUBLIC = [
    "BatchrunError",
    "ChunkContext",
    "Outcome",
    "Pipeline",
    "QueueOptions",
    "RetryPolicy",
    "RunHandle",
    "RunReport",
    "RunState",
    "Stage",
    "by_file",
    "by_group",
    "by_rows",
    "load_pipeline",
    "open_report",
    "pipeline",
    "requeue_run",
    "resume_run",
    "run_pipeline",
    "submit_pipeline",
]


def loaded_modules(code: str) -> set[str]:
    listing = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('\\n'.join(sys.modules))"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(listing.stdout.split())


def test_the_public_names_are_exactly_these():
    assert batchrun.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(batchrun, name) is not None


def test_the_pipeline_decorator_is_not_hidden_by_a_module_of_that_name():
    code = "import batchrun.launch, batchrun\nassert callable(batchrun.pipeline)"
    assert "batchrun.definition" in loaded_modules(code)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(batchrun, "run_pipelines")


HEAVY = {
    "alembic",
    "bokeh",
    "dask",
    "distributed",
    "fsspec",
    "jinja2",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic",
    "rich",
    "sqlalchemy",
    "yaml",
}
HELP = """
from batchrun.cli import app
sys.argv = ["batchrun", "--help"]
sys.stdout, out = sys.stderr, sys.stdout
try:
    app()
except SystemExit:
    sys.stdout = out
"""


@pytest.mark.parametrize(
    ("code", "own", "most"),
    [
        pytest.param("import batchrun", 1, 60, id="the package"),
        pytest.param("from batchrun import Pipeline, Stage, by_rows", 12, 120, id="what declares a pipeline"),
        pytest.param(HELP, 26, 220, id="the help of the command line"),
        pytest.param("import batchrun.worker.work", 40, 200, id="what runs a chunk on a worker"),
    ],
)
def test_what_is_not_needed_is_not_imported(code: str, own: int, most: int):
    """So many modules of batchrun, and so many beside those that Python starts with, are enough."""
    modules = loaded_modules(code)

    assert not modules & HEAVY
    ours = {name for name in modules if name.split(".")[0] == "batchrun"}
    assert 0 < len(ours) <= own
    assert len(modules - loaded_modules("")) <= most


COMMAND = """
import os
os.chdir({folder!r})
sys.path.insert(0, "")
from batchrun.cli import app
sys.argv = ["batchrun", *{arguments!r}]
try:
    app()
except SystemExit as error:
    assert not error.code
"""


def test_a_run_is_queued_and_looked_at_without_what_it_takes_to_drive_it(tmp_path: Path):
    pd.DataFrame({"x": range(4)}).to_parquet(tmp_path / "in.parquet")
    (tmp_path / "work.py").write_text(
        "from batchrun import by_rows, pipeline\n\n"
        "@pipeline(split=by_rows(2))\ndef double(chunk):\n    return chunk * 2\n"
    )
    heavy = {"bokeh", "dask", "distributed", "jinja2", "pandas", "polars"}
    driving = {"batchrun.launch", "batchrun.runner", "batchrun.session"}
    for arguments in (
        ["submit", "work:double", "-i", "in.parquet", "--detach"],
        ["runs"],
        ["show", "last"],
        ["watch", "--once"],
    ):
        modules = loaded_modules(COMMAND.format(folder=str(tmp_path), arguments=arguments))
        assert "batchrun.store.runs" in modules
        assert not modules & (heavy | driving), arguments


def test_a_run_that_failed_is_shown_without_pandas(here: Path):
    def refuse(chunk: pd.DataFrame) -> pd.DataFrame:
        raise ValueError("no")

    stage = Stage(refuse, retry=RetryPolicy(attempts=1))
    run_pipeline(
        Pipeline("refused", split=by_rows(1), stages=[stage]),
        pd.DataFrame({"x": range(2)}),
        cluster="inline",
        progress=False,
    )
    modules = loaded_modules(COMMAND.format(folder=str(here), arguments=["show", "last"]))
    assert "batchrun.store.failures" in modules
    assert not modules & {"dask", "distributed", "pandas"}
