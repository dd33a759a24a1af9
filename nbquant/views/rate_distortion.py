"""Figure of the methods' rate-distortion curves, with chosen, pinned and measured points."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.analysis.live import largest_ratio
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.quantization.block_quantizer import BLOCKS_METHOD
from nbquant.views import theme
from nbquant.views.format_points import FormatPoint, shown_points
from nbquant.views.labels import LARGE, SMALL, Lettering
from nbquant.views.log_axis import decade_ticks, ratio_ticks, widened
from nbquant.views.palette import method_style
from nbquant.views.single_points import (
    ChosenPoint,
    MeasuredPoint,
    PinnedPoint,
    draw_chosen,
    draw_points,
)

_DECADES = 7.0  # largest range of predicted loss; smaller losses are negligible
_MOST_POINTS = 400  # no more points than pixels
_COLUMNS = [
    "point",
    "method",
    "parameter",
    "value",
    "rate [bit/weight]",
    "compression ratio",
    "predicted loss increase [loss]",
    "measured loss increase [loss]",
    "accuracy",
]
_ROW = 20  # of a legend [px]
_LEGEND = {
    "bgcolor": "rgba(0,0,0,0)",
    "font": {"size": 11},  # the longest label just fits with two figures side by side
    "xanchor": "left",
    "y": 0,
    "yref": "container",
    "yanchor": "bottom",
}


@dataclass(frozen=True)
class Curve:
    """Rate-distortion curve of one method.

    Attributes:
        method: Name of the method.
        weighted: Whether it uses the Hessian.
        rate: R, side information included [bit/weight].
        compression_ratio: Source bits over all stored bits.
        predicted_loss: N·D, the loss increase that the diagonal predicts [loss].
        parameter: Parameter values of the points.
        parameter_name: Name of the parameter: "levels", "step", "lmbda".
    """

    method: str
    weighted: bool
    rate: Float[ndarray, " p"]
    compression_ratio: Float[ndarray, " p"]
    predicted_loss: Float[ndarray, " p"]
    parameter: Float[ndarray, " p"]
    parameter_name: str = "levels"

    @staticmethod
    def of_points(points: Sequence[OperatingPoint]) -> "Curve":
        """Make the curve through a method's points, at least one."""
        quantizer = points[0].quantizer
        return Curve(
            method=quantizer.method,
            weighted=quantizer.weighted,
            rate=np.array([p.rate for p in points]),
            compression_ratio=np.array([p.compression_ratio for p in points]),
            predicted_loss=np.array([p.predicted_loss_increase for p in points]),
            parameter=np.array([p.parameter for p in points]),
            parameter_name=quantizer.parameter.name,
        )


@dataclass(frozen=True)
class RateDistortionData:
    """Numbers behind the rate-distortion figure.

    Attributes:
        curves: The curves, with points by rising compression ratio, without those a logarithmic axis cannot show.
        chosen: The current point, if any.
        target_ratio: The requested compression ratio, if any.
        pins: Points kept for comparison.
        measured: Evaluated points.
        ratio_range: Least and greatest compression ratio shown.
        loss_range: Least and greatest predicted loss shown [loss].
        formats: Block formats, best first.
        left_out: Number of points without a positive finite ratio and loss.
    """

    curves: tuple[Curve, ...]
    chosen: ChosenPoint | None
    target_ratio: float | None
    pins: tuple[PinnedPoint, ...]
    measured: tuple[MeasuredPoint, ...]
    ratio_range: tuple[float, float]
    loss_range: tuple[float, float]
    left_out: int
    formats: tuple[FormatPoint, ...] = ()


def rate_distortion_data(
    curves: Iterable[Curve],
    *,
    chosen: ChosenPoint | None = None,
    target_ratio: float | None = None,
    pins: Sequence[PinnedPoint] = (),
    measured: Sequence[MeasuredPoint] = (),
    formats: Sequence[FormatPoint] = (),
) -> RateDistortionData:
    """Sort and thin curves, and find the range to show.

    Args:
        curves: One per method; a curve may be empty.
        chosen: The current point.
        target_ratio: The requested compression ratio.
        pins: Points kept for comparison.
        measured: Evaluated points.
        formats: Block formats of other libraries.

    Returns:
        The numbers to draw.

    Raises:
        ValueError: An unknown method, a curve whose arrays differ in length, or a target ratio that is not positive.
    """
    if target_ratio is not None and not (target_ratio > 0 and np.isfinite(target_ratio)):
        raise ValueError(f"target_ratio must be positive and finite, but got {target_ratio}.")
    cleaned, left_out = [], 0
    for curve in curves:
        method_style(curve.method, curve.weighted)
        clean, missing = _clean(curve)
        cleaned.append(clean)
        left_out += missing
    single: list[ChosenPoint | PinnedPoint | MeasuredPoint] = [*([] if chosen is None else [chosen]), *pins, *measured]
    for point in single:
        method_style(point.method, point.weighted)

    shown = shown_points(formats)
    losses = [*(p.predicted_loss for p in (*single, *shown)), *(m.loss for m in measured)]
    ratio = [*map(_worth_showing, cleaned), _positive(p.compression_ratio for p in (*single, *shown))]
    loss = [*(c.predicted_loss for c in cleaned), _positive(losses)]
    if target_ratio is not None:
        ratio.append(np.array([target_ratio]))
    all_ratio, all_loss = np.concatenate([*ratio, []]), np.concatenate([*loss, []])
    ratio_range = (float(all_ratio.min()), float(all_ratio.max())) if all_ratio.size else (1.0, 100.0)
    greatest = float(all_loss.max()) if all_loss.size else 1.0
    least = float(all_loss.min()) if all_loss.size else 1e-3
    return RateDistortionData(
        curves=tuple(cleaned),
        chosen=chosen,
        target_ratio=target_ratio,
        pins=tuple(pins),
        measured=tuple(measured),
        ratio_range=ratio_range,
        loss_range=(max(least, greatest * 10**-_DECADES), greatest),
        left_out=left_out,
        formats=shown,
    )


def _worth_showing(curve: Curve) -> Float[ndarray, " p"]:
    ratio = curve.compression_ratio
    return ratio[ratio <= largest_ratio(ratio, curve.predicted_loss)] if len(ratio) else ratio


def _positive(values: Iterable[float]) -> Float[ndarray, " n"]:
    """Mask of the values that a logarithmic axis can show."""
    array = np.fromiter(values, np.float64)
    return array[np.isfinite(array) & (array > 0)]


def _clean(curve: Curve) -> tuple[Curve, int]:
    """The curve with the points that can be drawn, by rising ratio, and the number of others."""
    columns = [curve.rate, curve.compression_ratio, curve.predicted_loss, curve.parameter]
    rate, ratio, loss, parameter = (np.asarray(c, dtype=np.float64).reshape(-1) for c in columns)
    if not len(rate) == len(ratio) == len(loss) == len(parameter):
        raise ValueError(
            f"a curve needs one rate, compression ratio, predicted loss and parameter per point, but {curve.method} "
            f"has {len(rate)}, {len(ratio)}, {len(loss)} and {len(parameter)}."
        )
    shown = np.flatnonzero(np.isfinite(rate + ratio + loss) & (ratio > 0) & (loss > 0))
    missing = len(rate) - len(shown)
    order = shown[np.argsort(ratio[shown], kind="stable")]
    if len(order) > _MOST_POINTS:
        order = order[np.linspace(0, len(order) - 1, _MOST_POINTS).round().astype(int)]
    clean = replace(
        curve, rate=rate[order], compression_ratio=ratio[order], predicted_loss=loss[order], parameter=parameter[order]
    )
    return clean, missing


def rate_distortion_table(data: RateDistortionData) -> pd.DataFrame:
    """Tabulate the points as drawn: the chosen one, pins, measured points, then the curves."""
    single: list[tuple[str, ChosenPoint | PinnedPoint | MeasuredPoint]] = []
    single += [("chosen", data.chosen)] if data.chosen is not None else []
    single += [(f"pinned: {p.label}", p) for p in data.pins]
    single += [("measured", m) for m in data.measured]
    rows = [
        {
            "point": what,
            "method": method_style(p.method, p.weighted).label,
            "rate [bit/weight]": p.rate,
            "compression ratio": p.compression_ratio,
            "predicted loss increase [loss]": p.predicted_loss,
            "measured loss increase [loss]": p.loss if isinstance(p, MeasuredPoint) else None,
            "accuracy": p.accuracy if isinstance(p, MeasuredPoint) else None,
        }
        for what, p in single
    ]
    rows += [
        {
            "point": f"format: {p.name}" + ", as the library rounds" * (not p.search),
            "method": method_style(BLOCKS_METHOD.name, True).label,
            "rate [bit/weight]": p.rate,
            "compression ratio": p.compression_ratio,
            "predicted loss increase [loss]": p.predicted_loss,
        }
        for p in data.formats
    ]
    for curve in data.curves:
        method = method_style(curve.method, curve.weighted).label
        numbers = zip(curve.rate, curve.compression_ratio, curve.predicted_loss, curve.parameter, strict=True)
        rows += [
            {
                "point": "curve",
                "method": method,
                "rate [bit/weight]": rate,
                "compression ratio": ratio,
                "predicted loss increase [loss]": loss,
                "parameter": curve.parameter_name,
                "value": value,
            }
            for rate, ratio, loss, value in numbers
        ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def draw_rate_distortion(
    data: RateDistortionData, beside: Sequence[theme.Trace] = (), lettering: Lettering = LARGE
) -> theme.Figure:
    """Draw predicted loss against compression ratio, on logarithmic axes.

    Args:
        data: From :func:`rate_distortion_data`.
        beside: Further lines, such as from :func:`nbquant.views.bound.bound_traces`; they come last.
        lettering: Size of the labels' letters, by which they are placed.

    Returns:
        The figure as plotly's JSON, unvalidated, as the explorer sends it.
    """
    low, high = widened(data.loss_range, 0.08)
    left, right = widened(data.ratio_range, 0.03)
    traces = [_line(curve) for curve in data.curves]
    if data.target_ratio is not None:
        traces.append(
            {
                "type": "scatter",
                "x": [data.target_ratio] * 2,
                "y": [10**low, 10**high],
                "mode": "lines",
                "line": {"color": theme.FOREGROUND, "width": 1.5, "dash": "dot"},
                "hoverinfo": "skip",
                "showlegend": False,
                "name": "target",
            }
        )
    lines = [(c.compression_ratio, c.predicted_loss) for c in data.curves if len(c.rate)]
    lines += [(trace["x"], trace["y"]) for trace in beside if len(trace["x"])]
    traces += draw_points(
        data.pins,
        data.measured,
        (left, right),
        (low, high),
        data.chosen,
        lettering=lettering,
        lines=lines,
        formats=data.formats,
    )
    if data.chosen is not None:
        traces.append(draw_chosen(data.chosen))
    traces += beside
    named = [t.get("legend", "legend") for t in traces if t.get("showlegend") and "legend" in t]
    rows = max((named.count(legend) for legend in named), default=0)
    # Shares of the plot's width: in a wide figure any share left of the plot is more than the margin.
    columns = (-0.1, 0.2) if lettering is SMALL else (0.0, 0.36)
    annotations = []
    if data.target_ratio is not None:
        near_right = np.log10(data.target_ratio) > (left + right) / 2
        annotations.append(
            {
                "x": np.log10(data.target_ratio),
                "y": 0,
                "yref": "paper",
                "yanchor": "bottom",
                "xanchor": "right" if near_right else "left",
                "text": f"target {data.target_ratio:.3g}×",
                "showarrow": False,
                "font": {"color": theme.FOREGROUND},
            }
        )
    return theme.figure(
        "Rate and distortion",
        _subtitle(data),
        traces,
        xaxis=theme.axis(
            "compression ratio", automargin=False, type="log", range=[left, right], **ratio_ticks(left, right)
        ),
        yaxis=theme.axis(
            "predicted loss increase",
            automargin=False,
            type="log",
            range=[low, high],
            exponentformat="power",
            **decade_ticks(low, high),
        ),
        annotations=annotations,
        # Below the axis, so that they never cover a curve; two columns, a narrow one for the plain methods. By
        # default plotly would also make room for them beside the plot, until nothing of it is left;
        # and with legends in the container's coordinates the title of the y axis moves to the middle.
        legend=_LEGEND | {"x": columns[0]},
        legend2=_LEGEND | {"x": columns[1]},
        margin={"l": 64, "r": 12, "t": 52, "b": 50 + _ROW * max(rows, 3), "autoexpand": False},
        uirevision="rate and distortion",
    )


def _line(curve: Curve) -> theme.Trace:
    style = method_style(curve.method, curve.weighted)
    return {
        "type": "scatter",
        "x": curve.compression_ratio,
        "y": curve.predicted_loss,
        "customdata": np.stack([curve.rate, curve.parameter], 1),
        "mode": "lines" if len(curve.rate) != 1 else "markers",
        "line": {"color": style.colour, "dash": style.dash, "width": 2},
        "marker": {"color": style.colour, "symbol": style.symbol, "size": 7},
        "name": style.label,
        "showlegend": True,
        "legend": "legend2" if curve.weighted else "legend",
        "hovertemplate": f"<b>{style.label}</b><br>%{{x:.2f}}×, %{{customdata[0]:.3f}} bit/weight<br>predicted loss "
        f"+%{{y:.3g}}<br>{curve.parameter_name} %{{customdata[1]:.4~g}}<extra></extra>",
    }


def _subtitle(data: RateDistortionData) -> str:
    parts = []
    if data.chosen is not None:
        c = data.chosen
        parts.append(
            f"chosen: {c.compression_ratio:.1f}×, {c.rate:.2f} bit/weight, predicted loss +{c.predicted_loss:.2g}"
        )
    if data.pins:
        parts.append("hollow: pinned")
    if data.measured:
        parts.append("✕ measured" + ", ▼ no loss" * any(m.loss <= 0 for m in data.measured))
    if data.formats:
        parts.append("● block formats, ○ as their libraries round")
    return " · ".join(parts)
