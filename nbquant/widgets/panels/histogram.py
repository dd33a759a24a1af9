"""Panel: the weight histogram, with cluster centres over it."""

import numpy as np

from nbquant.models.layers import layer_label, layers_label
from nbquant.quantization.clustering import WHOLE
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.rate import lengths_for
from nbquant.views.histogram import HistogramData, draw_histogram, histogram_data, histogram_table
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState

_NONE = np.zeros(0)


def data(state: ExplorerState, whole: bool) -> HistogramData | None:
    """Bars of the group in focus, with its clusters; None before the first operating point."""
    point, statistics = state.by_hand or state.point, state.statistics
    if point is None or statistics is None or not point.clusters:
        return None
    group = state.group
    cells = statistics.cells(False, False, group != WHOLE)[group]
    clusters = point.clusters[group] if whole else Clusters(_NONE, np.zeros(0, np.int64), 0.0, None)
    return histogram_data(
        cells.position,
        np.diff(cells.true_prefix[:, 1] if state.bars == "h" else cells.prefix[:, 0]),
        clusters.codebook,
        clusters.counts,
        lengths_for(clusters.counts, state.coding) if whole else _NONE,
        thresholds=clusters.threshold,
        pruned_zeros=statistics.zeros_of(group) if statistics.pruned else 0,
        label=layers_label(state.selection.layers) if group == WHOLE else layer_label(group),
        of="Σh" if state.bars == "h" else "weights",
    )


def histogram_edges(state: ExplorerState) -> np.ndarray | None:
    """Edges of the bars that the panel shows [weight]; None while there are none."""
    found = data(state, False)
    return None if found is None else found.bar_edge


HISTOGRAM = Panel(
    name="histogram",
    title="Histogram",
    kind="clusters",
    data=data,
    draw=lambda found, state, whole: draw_histogram(found, log_count=state.log_count),
    table=histogram_table,
    describe=lambda state: f"Histogram of {state.point.weights:,} weights with {state.point.levels} cluster centres.",
    follows=("curves", "bound", "log_count", "bars"),
)
