"""The notebooks run to the end from where a reader would start them, and are kept without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLACES = [(path, ROOT) for path in NOTEBOOKS] + [
    (ROOT / "notebooks" / "quickstart.ipynb", ROOT / "notebooks")
]
"""Each notebook where it is run. All begin alike, so that one shows that either folder will do."""


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(("path", "folder"), PLACES, ids=lambda path: path.stem or path.name)
def test_a_notebook_runs_to_its_end(path: Path, folder: Path) -> None:
    notebook = read(path)

    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()

    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    data = [output["data"] for output in shown if "data" in output]
    assert any("batchrun-tabs" in each.get("text/html", "") for each in data)
    for each in data:  # what is kept can be read without a kernel, and without HTML
        assert "application/vnd.jupyter.widget-view+json" not in each
        assert "IPython.core.display.HTML object" not in each.get("text/plain", "")
        assert " elapsed" not in each.get("text/plain", "")  # also of a run that was left to the background
    assert "widgets" not in notebook.metadata


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = read(path)

    for cell in notebook.cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


def test_all_notebooks_find_the_pipelines_in_the_same_way() -> None:
    beginnings = {"\n".join(read(path).cells[1].source.splitlines()[:8]) for path in NOTEBOOKS}

    assert len(beginnings) == 1
    assert "sys.path.insert" in beginnings.pop()


def test_there_are_a_quickstart_and_one_on_high_memory() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["high_memory_solves", "quickstart"]
