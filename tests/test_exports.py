"""The public face of the package, and how little it costs to import."""

from __future__ import annotations

import subprocess
import sys

import batchrun

PUBLIC = [
    "BatchrunError",
    "ChunkContext",
    "Outcome",
    "Pipeline",
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


def test_importing_batchrun_imports_nothing_heavy():
    modules = loaded_modules("import batchrun")

    heavy = {"distributed", "dask", "pandas", "numpy", "pyarrow", "bokeh", "sqlalchemy", "pydantic", "typer"}
    assert not modules & heavy
    assert len([name for name in modules if name.startswith("batchrun")]) == 1


def test_the_command_line_shows_its_help_without_the_engine():
    modules = loaded_modules("import batchrun.cli")

    assert not modules & {
        "distributed",
        "dask",
        "pandas",
        "numpy",
        "pyarrow",
        "bokeh",
        "sqlalchemy",
        "pydantic",
    }
