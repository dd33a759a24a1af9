"""Put still pictures into the notebooks, so that they can be read where nothing runs.

python -m tests.render_notebooks [NAME ...]

Runs each notebook in full, and keeps of its outputs what matplotlib drew, in 256 colours; nothing else is committed.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
COLOURS = 256


def render(path: Path) -> int:
    """Number of pictures that are in the notebook now."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.execute()
    committed = nbformat.read(path, as_version=4)
    for cell, ran in zip(committed.cells, notebook.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = pictures(ran.outputs), None
    path.write_text(nbformat.writes(committed) + "\n")
    return sum(len(cell.get("outputs", ())) for cell in committed.cells)


def pictures(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Those of the outputs that are pictures, and nothing but the pictures."""
    found = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [nbformat.v4.new_output("display_data", {"image/png": smaller(png)}) for png in found]


def smaller(png: str) -> str:
    """The same picture in so many colours as a map needs."""
    drawn = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    # Rare colours count: those of a map's ends are on few pixels.
    image = drawn.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode() + "\n"


if __name__ == "__main__":
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not sys.argv[1:] or notebook.stem in sys.argv[1:]:
            print(notebook.stem, render(notebook), "pictures")
