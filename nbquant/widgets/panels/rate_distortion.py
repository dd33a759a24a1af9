"""Panel: rate-distortion curves of all methods, or what was measured of points on them."""

from dataclasses import replace
from typing import Any

import pandas as pd

from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.views import theme
from nbquant.views.bound import bound_traces
from nbquant.views.evaluated import EvaluatedData, EvaluatedPoint, draw_evaluated, evaluated_data, evaluated_table
from nbquant.views.format_points import FormatPoint
from nbquant.views.labels import LARGE, SMALL
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
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.state.evaluations import evaluated_point
from nbquant.widgets.state.pins import Pin


def curve_points(state: ExplorerState) -> list[tuple[tuple[str, bool], list[OperatingPoint]]]:
    """The curves that are there, in the order they are drawn."""
    return [
        (key, state.curves[key]) for key in dict.fromkeys([*tabulated_pairs(), *state.curves]) if state.curves.get(key)
    ]


def clickable(state: ExplorerState) -> list[tuple[str, bool] | list[FormatPoint] | None]:
    """Method and weighting of each trace that leads to a point where it is clicked, or its formats; None for others."""
    found = data(state, False)
    if isinstance(found, EvaluatedData):
        return [None, *dict.fromkeys((p.method, p.weighted) for p in found.points)]  # first the error bars
    formats = () if found is None else found.formats
    own = [[p for p in formats if p.search == search] for search in (False, True)] if formats else []
    return [*(key for key, _ in curve_points(state)), *own]


def measured_values(state: ExplorerState) -> dict[str, float]:
    """What was measured of the point that is shown, by axis; empty before."""
    if state.measurement is None or state.by_hand is not None:
        return {}
    point = evaluated_point(state.measurement)
    values = {"accuracy": point.accuracy_lost, "divergence": point.divergence}
    return {name: value for name, value in values.items() if value is not None}


def data(state: ExplorerState, whole: bool) -> RateDistortionData | EvaluatedData | None:
    """Curves, pins and measured points; or measured points alone; None before the first curve."""
    curves = [Curve.of_points(points) for _, points in curve_points(state)]
    if not curves:
        return None
    point = state.by_hand or state.point if whole else None
    found = rate_distortion_data(
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
            if not m.at_rest
            for q in (m.point.quantizer,)
        ],
        formats=state.format_points,
    )
    axis: Any = state.axis
    if axis == "predicted":
        return found
    points = [replace(p, label=", ".join(q.label for q in state.pins if _is_of(p, q))) for p in state.evaluated]
    unmeasured = sum(not any(_is_of(p, q) for p in state.evaluated) for q in state.pins)
    return evaluated_data(points, axis, found.ratio_range, unmeasured)


def _is_of(point: EvaluatedPoint, pin: Pin) -> bool:
    """Whether a pin is of the result that was measured."""
    same = (point.method, point.weighted) == (pin.inputs.method, pin.inputs.weighted)
    return same and (point.rate, point.compression_ratio, point.finetuned) == (pin.rate, pin.ratio, pin.finetuned)


def _chosen(point: OperatingPoint) -> ChosenPoint:
    q = point.quantizer
    return ChosenPoint(q.method, q.weighted, point.rate, point.compression_ratio, point.predicted_loss_increase)


def _draw(found: RateDistortionData | EvaluatedData, state: ExplorerState, whole: bool) -> theme.Figure:
    lettering = LARGE if whole else SMALL
    if isinstance(found, EvaluatedData):
        return draw_evaluated(found, lettering)
    beside = [] if state.bound is None else bound_traces(state.bound, brief=True)
    return draw_rate_distortion(found, beside, lettering)


def _table(found: Any) -> pd.DataFrame:
    return evaluated_table(found) if isinstance(found, EvaluatedData) else rate_distortion_table(found)


def _describe(state: ExplorerState) -> str:
    point = state.point
    if state.axis != "predicted":
        what = {"accuracy": "Accuracy lost", "divergence": "KL divergence"}[state.axis]
        return f"{what} over compression ratio, of {len(state.evaluated)} measured points."
    return (
        f"Rate-distortion curves of {len(state.curves)} methods; chosen: {point.compression_ratio:.2f} times smaller, "
        f"predicted loss increase {point.predicted_loss_increase:.3g}."
    )


RATE_DISTORTION = Panel(
    name="rate_distortion",
    title="Rate-distortion",
    kind="curves",
    data=data,
    draw=_draw,
    table=_table,
    describe=_describe,
    follows=("curves", "bound", "pins", "compared", "measured", "evaluated", "axis", "format_points"),
)
