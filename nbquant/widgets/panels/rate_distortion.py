"""Panel: rate-distortion curves of all methods."""

from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.views import theme
from nbquant.views.bound import bound_traces
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


def curve_points(state: ExplorerState) -> list[tuple[tuple[str, bool], list[OperatingPoint]]]:
    """The curves that are there, in the order they are drawn."""
    return [
        (key, state.curves[key]) for key in dict.fromkeys([*tabulated_pairs(), *state.curves]) if state.curves.get(key)
    ]


def data(state: ExplorerState, whole: bool) -> RateDistortionData | None:
    """Curves, pins and measured points; None before the first curve."""
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


def _chosen(point: OperatingPoint) -> ChosenPoint:
    q = point.quantizer
    return ChosenPoint(q.method, q.weighted, point.rate, point.compression_ratio, point.predicted_loss_increase)


def _draw(found: RateDistortionData, state: ExplorerState, whole: bool) -> theme.Figure:
    return draw_rate_distortion(found, [] if state.bound is None else bound_traces(state.bound, brief=True))


def _describe(state: ExplorerState) -> str:
    point = state.point
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
    table=rate_distortion_table,
    describe=_describe,
    follows=("curves", "bound", "pins", "compared", "measured"),
)
