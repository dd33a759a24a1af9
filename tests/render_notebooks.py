"""Put still pictures into the notebooks, so that they can be read where nothing runs.

python -m tests.render_notebooks [NAME ...]

Runs each notebook in full, live pictures in their still form, and keeps of its outputs the pictures, in 256 colours;
nothing else is committed. For the explorer of notebook 01 there is the picture of the README.
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
EXPLORER = NOTEBOOKS.parent / ".github" / "explorer-light.png"
EXPLORER_WIDTH = 760  # pixels
COLOURS = 256
# What nq.plot gives in a notebook is drawn by a browser: here by matplotlib.
STILL = """
import nbquant.plot, nbquant.views.still
nbquant.plot._shown = lambda figure, backend, still=nbquant.views.still.still: still(figure)
"""


def render(path: Path) -> int:
    """Number of pictures that are in the notebook now."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STILL))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.execute()
    committed = nbformat.read(path, as_version=4)
    for cell, ran in zip(committed.cells, notebook.cells[1:], strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = pictures(ran.outputs), None
            if path.stem == "01_explore" and "nq.explore(" in cell.source:
                cell.outputs = [picture(explorer())]
    path.write_text(nbformat.writes(committed) + "\n")
    return sum(len(cell.get("outputs", ())) for cell in committed.cells)


def pictures(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Those of the outputs that are pictures, and nothing but the pictures."""
    found = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [picture(Image.open(io.BytesIO(base64.b64decode(png)))) for png in found]


def explorer() -> Image.Image:
    """The picture of the README, smaller."""
    image = Image.open(EXPLORER).convert("RGB")
    return image.resize((EXPLORER_WIDTH, image.height * EXPLORER_WIDTH // image.width), Image.Resampling.LANCZOS)


def picture(image: Image.Image) -> nbformat.NotebookNode:
    """An output with the picture in so many colours as a map needs."""
    drawn = image.convert("RGB")
    # Rare colours count: those of a map's ends are on few pixels.
    few = drawn.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    few.save(out, "PNG", optimize=True)
    return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(out.getvalue()).decode() + "\n"})


if __name__ == "__main__":
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not sys.argv[1:] or notebook.stem in sys.argv[1:]:
            print(notebook.stem, render(notebook), "pictures")
