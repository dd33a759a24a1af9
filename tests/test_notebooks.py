"""Every notebook runs top to bottom, and is committed without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
PARAMETERS = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_is_a_notebook_to_start_with():
    assert "01_explore.ipynb" in [path.name for path in NOTEBOOKS]


@PARAMETERS
def test_notebook_is_valid_and_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code), "clear the outputs before committing"
    assert not any(cell.execution_count for cell in code), "clear the outputs before committing"
    assert "widgets" not in notebook.metadata, "saved widget state is an output too"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    # An editor would rewrite a file that is not laid out as nbformat does.
    assert path.read_text() == nbformat.writes(notebook) + "\n"


@PARAMETERS
def test_notebook_runs(path, tmp_path, monkeypatch):
    """With NBQUANT_FAST=1 in its environment, by which a long notebook may choose less work."""
    monkeypatch.setenv("NBQUANT_FAST", os.environ.get("NBQUANT_FAST", "1"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    # The kernel of this environment, whatever the notebook was saved with.
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    complaints = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr" and "Warning:" in output.text
    ]
    assert not complaints
