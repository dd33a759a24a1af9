"""Panel: map of the difference between the present result and that of a pin."""

from nbquant.views import theme
from nbquant.views.heatmap import HeatmapData, difference_data, heatmap_table
from nbquant.views.heatmap_drawing import draw_heatmap, draw_nothing
from nbquant.widgets.panels.heatmap import pooling_of
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState


def data(state: ExplorerState, whole: bool) -> HeatmapData | None:
    """Differences of the parameter in focus from the pin's; None while no pin is compared.

    What one of the two does not quantize has its original weights there.
    """
    found, focused = state.comparison, state.focused
    if found is None or focused is None:
        return None
    name = focused.name
    first, second = (result.tensors.get(name, focused.weight) for result in (found.quantized, found.other))
    return difference_data(first, second, name=f"{name} (pin {found.label})", pooling=pooling_of(state))


def _empty(state: ExplorerState) -> theme.Figure | None:
    if state.compared >= 0:
        return None  # it is on its way
    return draw_nothing("Difference from a pin", "no pin is compared", "pin a point, and choose it under Pins")


DIFFERENCE = Panel(
    name="difference",
    title="A | B",
    kind="map",
    data=data,
    draw=lambda found, state, whole: draw_heatmap(found),
    table=heatmap_table,
    describe=lambda state: (
        "" if state.comparison is None else f"Map of the difference of {state.focus} from pin {state.comparison.label}."
    ),
    follows=("comparison", "compared", "focus", "pooling"),
    slow=True,
    empty=_empty,
)
