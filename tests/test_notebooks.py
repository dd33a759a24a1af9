"""Every notebook runs top to bottom, and is committed with still pictures at most."""

import importlib
import os
import re
from pathlib import Path

import pytest

from nbquant.course import EXERCISES

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
START = "00_start_here"
MOST_PICTURE = 200_000  # characters; a heat map of much detail takes most
PARAMETERS = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def nbformat():
    """The library, whose import takes seconds: only in the processes that these tests run in."""
    return importlib.import_module("nbformat")


def test_there_is_a_notebook_to_start_with():
    assert "01_explore.ipynb" in [path.name for path in NOTEBOOKS]


@PARAMETERS
def test_notebook_is_valid_and_small(path, nbformat):
    """Of outputs only pictures are committed: see tests/render_notebooks.py."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    for output in outputs:
        assert output.output_type == "display_data"
        assert list(output.data) == ["image/png"], "render the notebook before committing"
        assert len(output.data["image/png"]) < MOST_PICTURE
    assert not any(cell.execution_count for cell in code), "clear the outputs before committing"
    assert "widgets" not in notebook.metadata, "saved widget state is an output too"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    # An editor would rewrite a file that is not laid out as nbformat does.
    assert path.read_text() == nbformat.writes(notebook) + "\n"


@PARAMETERS
def test_notebook_runs(path, tmp_path, monkeypatch, nbformat):
    """With NBQUANT_FAST=1 in its environment, by which a long notebook may choose less work."""
    monkeypatch.setenv("NBQUANT_FAST", os.environ.get("NBQUANT_FAST", "1"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    from nbclient import NotebookClient  # imports nbformat

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


@PARAMETERS
def test_what_is_drawn_can_be_seen_without_running(path, nbformat):
    """Where nothing runs there is a picture for each that nq.plot draws, and for the explorer of the first notebook."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    drawing = [cell for cell in code if "nq.plot." in cell.source]
    if path.stem == "01_explore":
        drawing += [cell for cell in code if "nq.explore(" in cell.source]
    assert drawing
    assert all(len(cell.outputs) == 1 for cell in drawing)


@PARAMETERS
def test_question_is_said_and_exercises_are_checked(path, nbformat):
    notebook = nbformat.read(path, as_version=4)
    title, question, *_ = [line for line in notebook.cells[0].source.splitlines() if line]
    assert title.startswith("# ")
    if path.stem != START:
        assert question.startswith("*")
        assert question.endswith("?*")
        assert any("nq.course.check(" in cell.source for cell in notebook.cells)


@PARAMETERS
def test_terms_are_explained_and_a_run_may_be_shorter(path, nbformat):
    """Each notebook links to the glossary, and says what NBQUANT_FAST does to it."""
    notebook = nbformat.read(path, as_version=4)
    anchor = "#glossary" if path.stem == START else f"{START}.ipynb#glossary"
    assert f"]({anchor})" in notebook.cells[0].source
    assert any("NBQUANT_FAST" in cell.source for cell in notebook.cells)


@PARAMETERS
def test_claims_are_hidden_and_colours_are_the_palette_s(path, nbformat):
    """Cells tagged "claims" hold numbers of the text to computed ones; methods have one colour everywhere."""
    for cell in nbformat.read(path, as_version=4).cells:
        claims = "claims" in cell.metadata.get("tags", ())
        assert claims == bool(cell.metadata.get("jupyter", {}).get("source_hidden"))
        assert not claims or "assert " in cell.source
        assert cell.cell_type != "code" or not re.search("[\"']#[0-9A-Fa-f]{6}", cell.source)


def test_map_lists_every_notebook_and_explains_its_terms(nbformat):
    text = "\n".join(cell.source for cell in nbformat.read(NOTEBOOKS[0], as_version=4).cells)
    assert re.findall(r"^\| \[[^]]+\]\((\w+\.ipynb)\)", text, re.MULTILINE) == [path.name for path in NOTEBOOKS[1:]]
    terms = re.findall(r'<a id="word-([\w-]+)"', text)
    assert len(terms) == len(set(terms)) > 20
    assert '<a id="glossary"></a>' in text


def test_map_counts_exercises(nbformat):
    text = nbformat.read(NOTEBOOKS[0], as_version=4).cells[0].source
    counts = dict(re.findall(r"\]\((\d\d)_\w+\.ipynb\).*\| (\d+) \|$", text, re.MULTILINE))
    asked = [number[:2] for number in EXERCISES]
    assert counts == {notebook: str(asked.count(notebook)) for notebook in dict.fromkeys(asked)}
