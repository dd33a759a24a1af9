"""The explorer's figures from an :class:`ExplorerState`: for the panel, which draws what moves itself, and whole."""

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.coding.ledger import Ledger
from nbquant.models.layers import layer_label
from nbquant.quantization.clustering import WHOLE
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.rate import lengths_for
from nbquant.views import theme
from nbquant.views.bound import bound_traces
from nbquant.views.finetuning import FinetuningData, draw_finetuning, finetuning_data, finetuning_table
from nbquant.views.heatmap import (
    HeatmapData,
    draw_equal_sensitivities,
    draw_heatmap,
    error_data,
    heatmap_data,
    heatmap_table,
)
from nbquant.views.histogram import HistogramData, draw_histogram, histogram_data, histogram_table
from nbquant.views.ledger import ledger_data, plot_ledger
from nbquant.views.prediction import PredictedPoint, PredictionData, draw_prediction, prediction_data, prediction_table
from nbquant.views.rate_distortion import (
    ChosenPoint,
    Curve,
    MeasuredPoint,
    PinnedPoint,
    RateDistortionData,
    draw_rate_distortion,
    rate_distortion_data,
    rate_distortion_table,
)
from nbquant.views.still import picture, still
from nbquant.widgets.readout import caption, listed, newest_ledger
from nbquant.widgets.state import ExplorerState

_NONE = np.zeros(0)


def figure(state: ExplorerState, name: str, whole: bool = True) -> theme.Figure | None:
    """One of the panel's figures.

    Args:
        state: What it is of.
        name: As in :data:`nbquant.widgets.figure_panel.FIGURES`.
        whole: With all that there is to see, as for a still picture; else without what the panel draws itself.

    Returns:
        The figure; None while there is nothing to draw.
    """
    return _DRAWN[name](state, whole)


def still_figure(state: ExplorerState, name: str) -> Figure | None:
    """The same drawn by matplotlib, the ledger among them; None while there is nothing to draw."""
    if name == "ledger":
        ledger = newest_ledger(state)
        return None if ledger is None else plot_ledger(ledger_data({caption(state, short=True): ledger}))
    drawn = figure(state, name)
    return None if drawn is None else still(drawn)


def picture_of(state: ExplorerState) -> Figure | None:
    """What the explorer shows in one still picture; None while there is no point."""
    if state.point is None:
        return None
    shown = [figure(state, name) for name in ("histogram", "heatmap", "rate_distortion")]
    ledger = newest_ledger(state)
    bar = None if ledger is None else ledger_data({"bytes": ledger})
    return picture([each for each in shown if each is not None], caption(state), bar)


def table(state: ExplorerState, name: str) -> pd.DataFrame | None:
    """The numbers behind a figure, or behind the ledger; None while there are none."""
    if name == "ledger":
        ledger = newest_ledger(state)
        return None if ledger is None else _bytes(ledger)
    return _TABLES[name](state)


def _bytes(ledger: Ledger) -> pd.DataFrame:
    frame = ledger.to_frame()
    frame.insert(2, "bytes", frame["bits"] / 8)
    return frame


# Histogram.


def _histogram_data(state: ExplorerState, whole: bool) -> HistogramData | None:
    point, statistics = state.by_hand or state.point, state.statistics
    if point is None or statistics is None or not point.clusters:
        return None
    group = state.group
    cells = statistics.cells(False, False, group != WHOLE)[group]
    clusters = point.clusters[group] if whole else Clusters(_NONE, np.zeros(0, np.int64), 0.0, None)
    return histogram_data(
        cells.position,
        np.diff(cells.prefix[:, 0]),
        clusters.codebook,
        clusters.counts,
        lengths_for(clusters.counts, state.coding) if whole else _NONE,
        thresholds=clusters.threshold,
        pruned_zeros=statistics.zeros_of(group) if statistics.pruned else 0,
        label=listed(state.selection.layers) if group == WHOLE else layer_label(group),
    )


def _histogram(state: ExplorerState, whole: bool) -> theme.Figure | None:
    data = _histogram_data(state, whole)
    return None if data is None else draw_histogram(data, log_count=state.log_count)


def histogram_edges(state: ExplorerState) -> np.ndarray | None:
    """Edges of the bars that the panel shows [weight]; None while there are none."""
    data = _histogram_data(state, False)
    return None if data is None else data.bar_edge


# Maps.


def _pooling(state: ExplorerState) -> Literal["max", "mean"]:
    return "max" if state.pooling == "max" else "mean"


def _heatmap_data(state: ExplorerState) -> HeatmapData | None:
    h, focus = state.sensitivity, state.focus
    if h is None or focus not in h:
        return None
    return heatmap_data(h[focus], name=focus, pooling=_pooling(state))


def _heatmap(state: ExplorerState, whole: bool) -> theme.Figure | None:
    data = _heatmap_data(state)
    if data is not None:
        return draw_heatmap(data)
    return draw_equal_sensitivities(state.focus) if state.sensitivity is None and state.lacking else None


def _error_data(state: ExplorerState, weighted: bool) -> HeatmapData | None:
    quantized, focused, h = state.kept, state.focused, state.sensitivity
    if quantized is None or focused is None or focused.name not in quantized.tensors:
        return None
    name = focused.name
    known = h[name] if h is not None and name in h else None
    made = quantized.tensors[name]
    return error_data(focused.weight, made, known, name=name, pooling=_pooling(state), weighted=weighted)


def _error(state: ExplorerState, weighted: bool) -> theme.Figure | None:
    data = _error_data(state, weighted)
    return None if data is None else draw_heatmap(data)


# Curves.


def curve_points(state: ExplorerState) -> list[tuple[tuple[str, bool], list[OperatingPoint]]]:
    """The curves that are there, in the order they are drawn."""
    return [
        (key, state.curves[key]) for key in dict.fromkeys([*tabulated_pairs(), *state.curves]) if state.curves.get(key)
    ]


def _rate_distortion_data(state: ExplorerState, whole: bool) -> RateDistortionData | None:
    curves = [Curve.of_points(points) for _, points in curve_points(state)]
    if not curves:
        return None
    point = state.by_hand or state.point if whole else None
    return rate_distortion_data(
        curves,
        chosen=None if point is None else _chosen(point),
        target_ratio=state.ratio if whole and state.driver == "ratio" else None,
        pins=[
            PinnedPoint(p.label, p.inputs.method, p.inputs.weighted, p.rate, p.ratio, p.predicted_loss)
            for p in state.pins
        ],
        measured=[
            MeasuredPoint(
                q.method,
                q.weighted,
                m.point.rate,
                m.point.compression_ratio,
                m.point.predicted_loss_increase,
                m.evaluation.accuracy,
                m.evaluation.loss,
            )
            for m in state.measured
            for q in (m.point.quantizer,)
        ],
    )


def _rate_distortion(state: ExplorerState, whole: bool) -> theme.Figure | None:
    data = _rate_distortion_data(state, whole)
    if data is None:
        return None
    return draw_rate_distortion(data, [] if state.bound is None else bound_traces(state.bound, brief=True))


def _chosen(point: OperatingPoint) -> ChosenPoint:
    q = point.quantizer
    return ChosenPoint(q.method, q.weighted, point.rate, point.compression_ratio, point.predicted_loss_increase)


# What was tried.


def _prediction_data(state: ExplorerState) -> PredictionData | None:
    points = [
        PredictedPoint(
            f"{m.point.compression_ratio:.1f}× {m.point.quantizer.method}"
            + " fine-tuned" * bool(m.quantized.finetuned),
            m.quantized.compression_ratio,
            m.prediction.gradient,
            m.prediction.diagonal,
            m.prediction.quadratic,
            m.prediction.measured,
        )
        for m in state.measured
        if m.prediction is not None
    ]
    return prediction_data(points) if points else None


def _prediction(state: ExplorerState, whole: bool) -> theme.Figure | None:
    data = _prediction_data(state)
    return None if data is None else draw_prediction(data)


def _finetuning_data(state: ExplorerState) -> FinetuningData | None:
    training = state.training
    if training is None:
        return None
    return finetuning_data(
        training.step_loss,
        training.history,
        training.kept,
        validation="test",
        label=f"{training.quantized.levels} levels at {training.quantized.compression_ratio:.2f}×",
    )


def _finetuning(state: ExplorerState, whole: bool) -> theme.Figure | None:
    data = _finetuning_data(state)
    return None if data is None else draw_finetuning(data)


_DRAWN: dict[str, Callable[[ExplorerState, bool], theme.Figure | None]] = {
    "histogram": _histogram,
    "heatmap": _heatmap,
    "error": lambda state, whole: _error(state, False),
    "weighted_error": lambda state, whole: _error(state, True),
    "rate_distortion": _rate_distortion,
    "prediction": _prediction,
    "finetuning": _finetuning,
}


D = TypeVar("D")


def _framed(data: D | None, frame: Callable[[D], pd.DataFrame]) -> pd.DataFrame | None:
    return None if data is None else frame(data)


_TABLES: dict[str, Callable[[ExplorerState], pd.DataFrame | None]] = {
    "histogram": lambda state: _framed(_histogram_data(state, True), histogram_table),
    "heatmap": lambda state: _framed(_heatmap_data(state), heatmap_table),
    "error": lambda state: _framed(_error_data(state, False), heatmap_table),
    "weighted_error": lambda state: _framed(_error_data(state, True), heatmap_table),
    "rate_distortion": lambda state: _framed(_rate_distortion_data(state, True), rate_distortion_table),
    "prediction": lambda state: _framed(_prediction_data(state), prediction_table),
    "finetuning": lambda state: _framed(_finetuning_data(state), finetuning_table),
}
