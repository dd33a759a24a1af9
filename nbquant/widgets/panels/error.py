"""Panels: maps of the quantization error, and of the loss that it adds."""

from dataclasses import replace
from functools import partial

from nbquant.views.heatmap import HeatmapData, error_data, heatmap_table
from nbquant.views.heatmap_drawing import draw_heatmap
from nbquant.widgets.panels.heatmap import pooling_of
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState


def data(state: ExplorerState, whole: bool, weighted: bool) -> HeatmapData | None:
    """Errors of the parameter in focus, or h times their squares; None while it is not quantized."""
    quantized, focused, h = state.kept, state.focused, state.sensitivity
    if quantized is None or focused is None or focused.name not in quantized.tensors:
        return None
    name = focused.name
    known = h[name] if h is not None and name in h else None
    made = quantized.tensors[name]
    return error_data(focused.weight, made, known, name=name, pooling=pooling_of(state), weighted=weighted)


ERROR = Panel(
    name="error",
    title="Error",
    kind="map",
    data=partial(data, weighted=False),
    draw=lambda found, state, whole: draw_heatmap(found),
    table=heatmap_table,
    describe=lambda state: f"Map of the quantization error of {state.focus}.",
    follows=("exact", "finetuned", "focus", "pooling"),
    slow=True,
)
WEIGHTED_ERROR = replace(
    ERROR,
    name="weighted_error",
    title="Loss",
    data=partial(data, weighted=True),
    describe=lambda state: f"Map of the predicted loss that each weight of {state.focus} adds.",
)
