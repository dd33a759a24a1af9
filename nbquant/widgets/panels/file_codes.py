"""Panel: codes of one tensor of a quantized file over the weights that they restore."""

from nbquant.views.tensor_codes import draw_tensor_codes, tensor_codes_table
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState


def _describe(state: ExplorerState) -> str:
    found = state.tensor_codes
    return "" if found is None else f"Histogram of {found.name}, with {len(found.level)} levels of {found.format}."


FILE_CODES = Panel(
    name="file_codes",
    title="Codes",
    kind="result",
    data=lambda state, whole: state.tensor_codes,
    draw=lambda found, state, whole: draw_tensor_codes(found),
    table=tensor_codes_table,
    describe=_describe,
    follows=("tensor_codes",),
    late=True,
)
