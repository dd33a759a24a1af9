"""The notebooks as the site shows them."""

import json
import shutil
from pathlib import Path
from typing import Any

# Figures are drawn by matplotlib, as in the committed pictures: Plotly's would need its script in every page. Widgets,
# progress bars among them, are left out: they do nothing without a kernel.
STILL = """
import nbquant.plot, nbquant.views.still
nbquant.plot._shown = lambda figure, backend, still=nbquant.views.still.still: still(figure)
def _without_widgets(data, *rest, publish=get_ipython().display_pub.publish, **options):
    if "application/vnd.jupyter.widget-view+json" not in data:
        publish(data, *rest, **options)
get_ipython().display_pub.publish = _without_widgets
"""
EXPLORER = (
    'The explorer works without a kernel in <a href="../explorer.html">a page of its own</a>, with the network '
    "`lenet5-fashion`."
)


def copy_notebooks(source: Path, target: Path) -> None:
    """Copy the notebooks of a folder for Sphinx, and remove those of an earlier build."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted(source.glob("*.ipynb")):
        notebook = prepared(json.loads(path.read_text(encoding="utf-8")))
        (target / path.name).write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")


def prepared(notebook: dict[str, Any]) -> dict[str, Any]:
    """Hide the cells tagged `claims`, link to the living explorer below each `nq.explore`, and draw still pictures."""
    cells = []
    for cell in notebook["cells"]:
        if "claims" in cell["metadata"].get("tags", ()):
            cell = cell | {"metadata": {"tags": ["claims", "remove-cell"]}}
        cells.append(cell)
        if cell["cell_type"] == "code" and "nq.explore(" in "".join(cell["source"]):
            cells.append({"cell_type": "markdown", "id": f"living-{cell['id']}", "metadata": {}, "source": EXPLORER})
    # After the title, which Sphinx expects in the first cell.
    still = {"cell_type": "code", "id": "still-pictures", "metadata": {"tags": ["remove-cell"]}, "source": STILL}
    cells.insert(1, still | {"outputs": [], "execution_count": None})
    return notebook | {"cells": cells}
