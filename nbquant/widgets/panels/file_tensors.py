"""Panel: tensors of a quantized file on the rate-distortion plane; without the original, where their bits go."""

from typing import Any

from nbquant.views.file_tensors import FileTensorsData, draw_file_tensors, file_tensors_data, file_tensors_table
from nbquant.views.spent import SpentData, draw_spent, spent_data, spent_table
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState


def data(state: ExplorerState, whole: bool) -> FileTensorsData | SpentData | None:
    """Tensors of the open file; None while there is none, or none of its tensors has codes."""
    if state.inspected is None:
        return None
    rows = state.inspected.rows
    if (rows["distortion"] > 0).any():
        return file_tensors_data(rows)
    return spent_data(rows) if rows["entropy"].notna().any() else None


def tensor_of(figure: dict[str, Any], trace: int, point: int) -> str:
    """Name of the tensor at a point of the figure; "" for others."""
    names = figure["data"][trace].get("hovertext", ()) if trace < len(figure["data"]) else ()
    return str(names[point]) if point < len(names) else ""


def _describe(state: ExplorerState) -> str:
    if state.inspected is None:
        return ""
    rows = state.inspected.rows
    return f"{len(rows)} tensors of {state.inspected.opened.path.name}: bits stored, entropy and bound."


FILE_TENSORS = Panel(
    name="file_tensors",
    title="Tensors",
    kind="result",
    data=data,
    draw=lambda found, state, whole: (
        draw_file_tensors(found, state.file_tensor) if isinstance(found, FileTensorsData) else draw_spent(found)
    ),
    table=lambda found: file_tensors_table(found) if isinstance(found, FileTensorsData) else spent_table(found),
    describe=_describe,
    follows=("inspected", "file_tensor"),
    late=True,
)
