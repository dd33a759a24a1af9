"""Panel: the heat map of the Hessian diagonal."""

from typing import Literal

from nbquant.views.heatmap import HeatmapData, heatmap_data, heatmap_table
from nbquant.views.heatmap_drawing import draw_equal_sensitivities, draw_heatmap
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState


def pooling_of(state: ExplorerState) -> Literal["max", "mean"]:
    """How entries that share a pixel are pooled."""
    return "max" if state.pooling == "max" else "mean"


def data(state: ExplorerState, whole: bool) -> HeatmapData | None:
    """Sensitivities of the parameter in focus; None while there are none."""
    h, focus = state.sensitivity, state.focus
    if h is None or focus not in h:
        return None
    return heatmap_data(h[focus], name=focus, pooling=pooling_of(state))


def _describe(state: ExplorerState) -> str:
    heatmap = "Heat map of the Hessian diagonal of" if state.sensitivity is not None else "No sensitivities of"
    return f"{heatmap} {state.focus}."


HEATMAP = Panel(
    name="heatmap",
    title="Hessian",
    kind="map",
    data=data,
    draw=lambda found, state, whole: draw_heatmap(found),
    table=heatmap_table,
    describe=_describe,
    follows=("sensitivity", "focus", "pooling"),
    empty=lambda state: draw_equal_sensitivities(state.focus) if state.sensitivity is None and state.lacking else None,
)
