"""The one list of panels."""

from nbquant import registry
from nbquant.widgets.panels.difference import DIFFERENCE
from nbquant.widgets.panels.error import ERROR, WEIGHTED_ERROR
from nbquant.widgets.panels.file_codes import FILE_CODES
from nbquant.widgets.panels.file_tensors import FILE_TENSORS
from nbquant.widgets.panels.finetuning import FINETUNING
from nbquant.widgets.panels.heatmap import HEATMAP
from nbquant.widgets.panels.histogram import HISTOGRAM
from nbquant.widgets.panels.panel import Kind, Panel
from nbquant.widgets.panels.prediction import PREDICTION
from nbquant.widgets.panels.rate_distortion import RATE_DISTORTION
from nbquant.widgets.state import ExplorerState

PANELS: tuple[Panel, ...] = (
    HISTOGRAM,
    HEATMAP,
    ERROR,
    WEIGHTED_ERROR,
    DIFFERENCE,
    RATE_DISTORTION,
    PREDICTION,
    FINETUNING,
    FILE_TENSORS,
    FILE_CODES,
)
"""All panels, in the order of the page. Look at ``panels.PANELS``, so that additions are seen."""


def arguments() -> tuple[list[str], dict[str, Kind], list[str]]:
    """Make the arguments of a figure panel for all panels: their names, kinds, and the names of the late ones."""
    kinds = {panel.name: panel.kind for panel in PANELS}
    return list(kinds), kinds, [panel.name for panel in PANELS if panel.late]


def named(name: str) -> Panel:
    """Look up a panel by its name."""
    return registry.find(PANELS, name, "figure")


def descriptions(state: ExplorerState) -> dict[str, str]:
    """What each figure shows, in words; empty before the first operating point."""
    if state.point is None:
        return {}
    found = {panel.name: panel.describe(state) for panel in PANELS}
    return {name: text for name, text in found.items() if text}
