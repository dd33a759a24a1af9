"""Figure of measured points over the compression ratio: accuracy lost, or KL divergence, with standard errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.views import theme
from nbquant.views.labels import LARGE, Lettering, place_labels, short
from nbquant.views.log_axis import decade_ticks, ratio_ticks, widened
from nbquant.views.palette import method_style

Quantity = Literal["accuracy", "divergence"]

_DECADES = 5.0  # largest range of divergences
_MOST_LOST = 5.0  # percentage points up to which all is always shown
_TITLES = {"accuracy": "accuracy lost [percentage points]", "divergence": "KL divergence [nat/label]"}


@dataclass(frozen=True)
class EvaluatedPoint:
    """A result that was evaluated beside the original on the same samples.

    Attributes:
        method: Name of the method.
        weighted: Whether it uses the Hessian.
        rate: R, side information included [bit/weight].
        compression_ratio: Source bits over all stored bits.
        predicted_loss: Predicted loss increase [loss].
        accuracy_lost: Accuracy lost, negative if it rose [percentage points]; None if the network does not classify.
        accuracy_error: Its standard error, paired over the samples [percentage points].
        divergence: Mean KL divergence from the original's predictions [nat/label]; None if there is none.
        divergence_error: Its standard error [nat/label].
        labels: Number of labels.
        partial: Whether on some of the samples only.
        finetuned: Whether the values are fine-tuned.
        label: What it is pinned as; "" if it is not.
    """

    method: str
    weighted: bool
    rate: float
    compression_ratio: float
    predicted_loss: float
    accuracy_lost: float | None
    accuracy_error: float | None
    divergence: float | None
    divergence_error: float | None
    labels: int
    partial: bool = False
    finetuned: bool = False
    label: str = ""

    def value(self, quantity: Quantity) -> tuple[float | None, float | None]:
        """What was measured of a quantity, and its standard error."""
        if quantity == "accuracy":
            return self.accuracy_lost, self.accuracy_error
        return self.divergence, self.divergence_error


@dataclass(frozen=True)
class EvaluatedData:
    """Numbers behind the figure of measured points.

    Attributes:
        quantity: "accuracy" or "divergence".
        points: Points with that quantity, by rising ratio.
        value: Its values [percentage points, or nat/label].
        error: Their standard errors; 0 where unknown.
        ratio_range: Least and greatest compression ratio shown.
        limits: Least and greatest value shown.
        unmeasured: Number of pins that are not drawn, as they were not measured.
    """

    quantity: Quantity
    points: tuple[EvaluatedPoint, ...]
    value: Float[ndarray, " p"]
    error: Float[ndarray, " p"]
    ratio_range: tuple[float, float]
    limits: tuple[float, float]
    unmeasured: int


def evaluated_data(
    points: Sequence[EvaluatedPoint],
    quantity: Quantity,
    ratio_range: tuple[float, float] = (1.0, 100.0),
    unmeasured: int = 0,
) -> EvaluatedData:
    """Sort points by their ratio, and find the range to show.

    Args:
        points: Measured points; those without the quantity are left out.
        quantity: What to show.
        ratio_range: Compression ratios to show, widened to those of the points.
        unmeasured: Number of pins that were not measured.

    Raises:
        ValueError: An unknown quantity or method.
    """
    if quantity not in _TITLES:
        raise ValueError(f"quantity must be one of {', '.join(_TITLES)}, but got {quantity!r}.")
    known = [p for p in points if p.value(quantity)[0] is not None and np.isfinite(p.compression_ratio)]
    known.sort(key=lambda p: p.compression_ratio)
    for point in known:
        method_style(point.method, point.weighted)
    value = np.array([p.value(quantity)[0] for p in known], np.float64)
    error = np.nan_to_num(np.array([p.value(quantity)[1] or 0.0 for p in known], np.float64))
    ratios = [*ratio_range, *(p.compression_ratio for p in known)]
    return EvaluatedData(
        quantity=quantity,
        points=tuple(known),
        value=value,
        error=error,
        ratio_range=(min(ratios), max(ratios)),
        limits=_limits(value, error, quantity),
        unmeasured=unmeasured,
    )


def _limits(value: ndarray, error: ndarray, quantity: Quantity) -> tuple[float, float]:
    """What is shown: of accuracy with zero and all errors; of divergence the decades of the positive values."""
    if quantity == "accuracy":
        low, high = float((value - error).min(initial=0.0)), float((value + error).max(initial=0.0))
        if len(value):  # where much is lost, it would hide how little is lost elsewhere
            high = min(high, max(_MOST_LOST, 3 * float(np.median(np.abs(value)))))
        return (low, high) if high - low > 0.2 else (low - 0.1, high + 0.1)
    positive = value[value > 0]
    if not len(positive):
        return 1e-3, 1.0
    high = float((value + error).max())
    return max(float(positive.min()), high * 10**-_DECADES), high


def evaluated_table(data: EvaluatedData) -> pd.DataFrame:
    """Tabulate the measured points, by rising ratio."""
    return pd.DataFrame(
        {
            "pin": [p.label for p in data.points],
            "method": [method_style(p.method, p.weighted).label for p in data.points],
            "rate [bit/weight]": [p.rate for p in data.points],
            "compression ratio": [p.compression_ratio for p in data.points],
            "predicted loss increase [loss]": [p.predicted_loss for p in data.points],
            "accuracy lost [points]": [p.accuracy_lost for p in data.points],
            "its standard error [points]": [p.accuracy_error for p in data.points],
            "KL divergence [nat/label]": [p.divergence for p in data.points],
            "its standard error [nat/label]": [p.divergence_error for p in data.points],
            "labels": [p.labels for p in data.points],
            "fine-tuned": [p.finetuned for p in data.points],
        }
    )


def draw_evaluated(data: EvaluatedData, lettering: Lettering = LARGE) -> theme.Figure:
    """Draw measured points with bars of ± one standard error; nothing stands for what was not measured.

    Args:
        data: From :func:`evaluated_data`.
        lettering: Size of the labels' letters, by which they are placed.

    Returns:
        The figure as plotly's JSON, unvalidated; its ``layout.meta`` names the quantity, by which the explorer draws
        the present point.
    """
    is_log = data.quantity == "divergence"
    left, right = widened(data.ratio_range, 0.03)
    if is_log:
        low, high = widened(data.limits, 0.08)
    else:
        margin = 0.06 * (data.limits[1] - data.limits[0])
        low, high = data.limits[0] - margin, data.limits[1] + margin
    down: Callable[[Any], Any] = np.log10 if is_log else lambda v: v
    bottom = 10**low if is_log else low
    y = np.clip(data.value, bottom, 10**high if is_log else high)
    across = [(np.log10(p.compression_ratio) - left) / (right - left) for p in data.points]
    labels = [short(p.label) for p in data.points]
    places = place_labels(across, [float((down(v) - low) / (high - low)) for v in y], labels, lettering)
    traces = [_bars(data, bottom)] if len(y) else []
    groups = dict.fromkeys((p.method, p.weighted) for p in data.points)
    for method, weighted in groups:
        own = [i for i, p in enumerate(data.points) if (p.method, p.weighted) == (method, weighted)]
        traces.append(_marks(data, own, y, labels, places))
    scale: dict[str, Any] = {"zeroline": True, "zerolinecolor": theme.MUTED}
    if is_log:
        scale = {"type": "log", "exponentformat": "power"} | decade_ticks(low, high)
    return theme.figure(
        "Rate and distortion",
        _subtitle(data),
        traces,
        xaxis=theme.axis(
            "compression ratio", automargin=False, type="log", range=[left, right], **ratio_ticks(left, right)
        ),
        yaxis=theme.axis(_TITLES[data.quantity], automargin=False, range=[low, high], **scale),
        margin={"l": 64, "r": 12, "t": 52, "b": 50, "autoexpand": False},
        showlegend=True,
        meta={"quantity": data.quantity},
        uirevision=f"rate and {data.quantity}",
    )


def _bars(data: EvaluatedData, bottom: float) -> theme.Trace:
    """Lines from one standard error below to one above."""
    spans = zip(data.points, data.value, data.error, strict=True)
    ends = [(p.compression_ratio, max(v - e, bottom), v + e) for p, v, e in spans]
    return {
        "type": "scatter",
        "x": np.array([v for x, _, _ in ends for v in (x, x, np.nan)]),
        "y": np.array([v for _, below, above in ends for v in (below, above, np.nan)]),
        "mode": "lines",
        "line": {"color": theme.MUTED, "width": 1.5},
        "hoverinfo": "skip",
        "showlegend": False,
        "name": "standard errors",
    }


def _marks(data: EvaluatedData, own: list[int], y: ndarray, labels: list[str], places: list[str]) -> theme.Trace:
    first = data.points[own[0]]
    style = method_style(first.method, first.weighted)
    hollow = "" if first.weighted else "-open"
    return {
        "type": "scatter",
        "x": [data.points[i].compression_ratio for i in own],
        "y": [float(y[i]) for i in own],
        "mode": "markers+text",
        "marker": {
            "color": style.colour,
            "symbol": [_symbol(style.symbol, data.value[i] - y[i]) + hollow for i in own],
            "size": 9,
            "line": {"width": 2 * (not first.weighted)},
        },
        "text": [labels[i] if places[i] else "" for i in own],
        "textposition": [places[i] or "top center" for i in own],
        "textfont": {"size": theme.FONT_SIZE - 1, "color": theme.FOREGROUND},
        "cliponaxis": False,
        "name": style.label,
        "showlegend": True,
        "customdata": [_words(data.points[i]) for i in own],
        "hovertemplate": f"<b>{style.label}</b>%{{customdata}}<extra></extra>",
    }


def _symbol(usual: str, beyond: float) -> str:
    """A triangle that points to where a value lies beyond the axis, or else the usual symbol."""
    return usual if beyond == 0 else "triangle-up" if beyond > 0 else "triangle-down"


def _words(point: EvaluatedPoint) -> str:
    said = [f", {point.label}" * bool(point.label) + ", fine-tuned" * point.finetuned]
    said.append(f"{point.compression_ratio:.2f}×, {point.rate:.3f} bit/weight")
    if point.accuracy_lost is not None:
        said.append(f"{point.accuracy_lost:.2f} ± {point.accuracy_error or 0:.2f} points lost")
    if point.divergence is not None:
        said.append(f"KL {point.divergence:.3g} ± {point.divergence_error or 0:.2g} nat")
    said.append(f"on {point.labels:,} labels" + " (the first)" * point.partial)
    return "<br>".join(said)


def _subtitle(data: EvaluatedData) -> str:
    count = len(data.points)
    if not count:
        return "nothing measured yet: let a point come to rest"
    said = f"{count} point{'s' * (count != 1)} measured, ± standard error"
    said += " · ▲ more" * bool((data.value > data.limits[1]).any() and data.quantity == "accuracy")
    return said + f" · {data.unmeasured} pinned, not measured" * bool(data.unmeasured)
