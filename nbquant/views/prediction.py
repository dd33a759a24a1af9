"""Figure of predicted against measured loss increases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.views import theme
from nbquant.views.palette import BLUE, VERMILION

_DECADES = 6.0  # largest range; a more distant point would squeeze all others into a corner
_KINDS = (("diagonal", "½Σhδ²", "circle", BLUE), ("quadratic", "gᵀδ + ½δᵀHδ", "diamond-open", VERMILION))


@dataclass(frozen=True)
class PredictedPoint:
    """Prediction and measurement of one quantization, on the same batches [loss].

    Attributes:
        label: Label of the quantization.
        compression_ratio: Source bits over all stored bits.
        gradient: gᵀδ.
        diagonal: ½Σhδ², the explorer's objective.
        quadratic: ½δᵀHδ with the full Hessian.
        measured: Loss after minus loss before.
    """

    label: str
    compression_ratio: float
    gradient: float
    diagonal: float
    quadratic: float
    measured: float


@dataclass(frozen=True)
class PredictionData:
    """Numbers behind the prediction figure.

    Attributes:
        points: All points.
        diagonal: ½Σhδ² of each [loss].
        quadratic: gᵀδ + ½δᵀHδ of each [loss].
        measured: Loss after minus loss before [loss].
        limits: Least and greatest loss shown, on both axes.
        not_shown: Number of markers (two per point) that logarithmic axes cannot show, or below the limits.
    """

    points: tuple[PredictedPoint, ...]
    diagonal: Float[ndarray, " p"]
    quadratic: Float[ndarray, " p"]
    measured: Float[ndarray, " p"]
    limits: tuple[float, float]
    not_shown: int


def prediction_data(points: Sequence[PredictedPoint]) -> PredictionData:
    """Find the range to show.

    Args:
        points: One per measured quantization; may be empty.
    """
    diagonal = np.array([p.diagonal for p in points], np.float64)
    quadratic = np.array([p.gradient + p.quadratic for p in points], np.float64)
    measured = np.array([p.measured for p in points], np.float64)
    pairs = np.stack([np.concatenate([diagonal, quadratic]), np.tile(measured, 2)], 1)
    shown = pairs[(np.isfinite(pairs) & (pairs > 0)).all(1)]
    greatest = float(shown.max()) if len(shown) else 1.0
    least = max(float(shown.min()), greatest * 10**-_DECADES) if len(shown) else 1e-3
    return PredictionData(
        points=tuple(points),
        diagonal=diagonal,
        quadratic=quadratic,
        measured=measured,
        limits=(least, greatest),
        not_shown=len(pairs) - int((shown >= least).all(1).sum()),
    )


def prediction_table(data: PredictionData) -> pd.DataFrame:
    """Tabulate the points, including those that the figure cannot show."""
    return pd.DataFrame(
        {
            "what": [p.label for p in data.points],
            "compression ratio": [p.compression_ratio for p in data.points],
            "½Σhδ² [loss]": data.diagonal,
            "gᵀδ [loss]": [p.gradient for p in data.points],
            "½δᵀHδ [loss]": [p.quadratic for p in data.points],
            "gᵀδ + ½δᵀHδ [loss]": data.quadratic,
            "measured [loss]": data.measured,
        }
    )


def draw_prediction(data: PredictionData) -> theme.Figure:
    """Draw measured against predicted loss increase on logarithmic axes, with the line where they agree.

    Args:
        data: From :func:`prediction_data`.

    Returns:
        The figure as plotly's JSON, unvalidated, as the explorer sends it.
    """
    low, high = np.log10(data.limits)
    margin = max(0.06 * (high - low), (1 - (high - low)) / 2, 0.1)  # at least a decade is shown
    low, high = float(low - margin), float(high + margin)
    traces: list[theme.Trace] = [
        {
            "type": "scatter",
            "x": [10**low, 10**high],
            "y": [10**low, 10**high],
            "mode": "lines",
            "line": {"color": theme.MUTED, "width": 1, "dash": "dash"},
            "hoverinfo": "skip",
            "name": "as predicted",
        }
    ]
    for field, name, symbol, colour in _KINDS:
        predicted = getattr(data, field)
        here = (predicted >= data.limits[0]) & (data.measured >= data.limits[0]) & np.isfinite(data.measured)
        traces.append(
            {
                "type": "scatter",
                "x": predicted[here],
                "y": data.measured[here],
                "mode": "markers",
                "marker": {
                    "color": colour,
                    "symbol": symbol,
                    "size": 9,
                    "line": {"width": 2 * symbol.endswith("open")},
                },
                "name": name,
                "customdata": [
                    [p.label, p.compression_ratio] for p, shown in zip(data.points, here, strict=True) if shown
                ],
                "hovertemplate": f"<b>%{{customdata[0]}}</b>, %{{customdata[1]:.2f}}×<br>{name} = %{{x:.3g}}<br>"
                "measured %{y:.3g}<extra></extra>",
            }
        )
    settings = {"type": "log", "range": [low, high], **_ticks(low, high)}
    return theme.figure(
        "Predicted and measured loss",
        _subtitle(data),
        traces,
        xaxis=theme.axis("predicted loss increase", **settings),
        yaxis=theme.axis("measured loss increase", **settings),
        legend={"bgcolor": "rgba(0,0,0,0)", "xanchor": "left", "x": 0.02, "yanchor": "top", "y": 1},
        showlegend=True,
        uirevision="prediction",
    )


def _ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks at decades, and for few decades at 1, 2 and 5 of each; all with their value."""
    if high - low > 2.5:
        return {"exponentformat": "power", "dtick": 1 if high - low < 6 else 2}
    ticks = [s * 10.0**d for d in range(int(np.floor(low)), int(np.ceil(high)) + 1) for s in (1, 2, 5)]
    shown = [t for t in ticks if low <= np.log10(t) <= high]
    return {"tickvals": shown, "ticktext": [f"{t:.3g}" for t in shown]}


def _subtitle(data: PredictionData) -> str:
    if not data.points:
        return "nothing measured yet"
    last = data.points[-1]
    parts = [f"last: ½Σhδ² {last.diagonal:+.2g}, gᵀδ + ½δᵀHδ {last.gradient + last.quadratic:+.2g}"]
    parts.append(f"measured {last.measured:+.2g}")
    text = ", ".join(parts)
    if data.not_shown:
        text += f" · {data.not_shown} not positive or too small to show: see the table"
    return text
