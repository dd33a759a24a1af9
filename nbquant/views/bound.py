"""Rate-distortion bounds as lines in the rate-distortion figure."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from nbquant.analysis.bounds import ENTROPY_CODED_SCALAR_GAP, Bound, shannon_lower_bound
from nbquant.analysis.statistics import Statistics
from nbquant.views import theme

PICTURE_GAP = 0.05  # bit/weight that the iteration may leave in figures, where time counts
_LEAST_RATE = 0.05  # bit/weight: lower rates lie outside every figure
_LINES = (
    ("lower", "bound, certified", theme.FOREGROUND, "dot", 1.5),
    ("rate", "bound R(D), reached", theme.FOREGROUND, "solid", 2.5),
    ("scalar", "R(D) + 0.2546 bit", theme.FOREGROUND, "dashdot", 2),
    ("shannon", "Shannon's lower bound", theme.FOREGROUND, "longdash", 1.5),
)


@dataclass(frozen=True)
class BoundData:
    """Numbers behind the bounds, by falling distortion; rates exclude tables and codebook.

    Attributes:
        distortion: D [loss/weight].
        predicted_loss: N·D [loss].
        lower: Certified: no code has a lower rate [bit/weight].
        rate: R(D) as achieved [bit/weight].
        scalar: R(D) plus the excess of entropy-coded scalar quantization at high rates [bit/weight].
        shannon: The weighted Shannon lower bound; 0 where it is vacuous [bit/weight].
        source_bits: Bits per weight before quantization.
    """

    distortion: Float[ndarray, " p"]
    predicted_loss: Float[ndarray, " p"]
    lower: Float[ndarray, " p"]
    rate: Float[ndarray, " p"]
    scalar: Float[ndarray, " p"]
    shannon: Float[ndarray, " p"]
    source_bits: float


def bound_data(bound: Bound, statistics: Statistics) -> BoundData:
    """Compute all bounds at the same distortions.

    Args:
        bound: From :func:`nbquant.analysis.bounds.rate_distortion_bound`.
        statistics: Statistics it was computed from.
    """
    order = np.argsort(-bound.distortion)
    distortion = bound.distortion[order]
    return BoundData(
        distortion=distortion,
        predicted_loss=bound.predicted_loss[order],
        lower=np.maximum.accumulate(bound.lower[order]),  # a bound at less distortion also holds at more
        rate=bound.rate[order],
        scalar=bound.rate[order] + ENTROPY_CODED_SCALAR_GAP,
        shannon=shannon_lower_bound(statistics, distortion),
        source_bits=statistics.source_bits / statistics.weights,
    )


def bound_traces(
    data: BoundData,
    *,
    over: Literal["compression_ratio", "rate"] = "compression_ratio",
    legend: str = "legend",
    brief: bool = False,
) -> list[theme.Trace]:
    """Make the lines drawn under the curves of the methods: predicted loss over compression ratio, or over rate.

    Args:
        data: From :func:`bound_data`.
        over: Quantity of the x axis.
        legend: The figure's legend that names them.
        brief: Draw only the certified and the achieved bound, under one name.
    """
    lines = [_line(data, key, name, colour, dash, width, over, legend) for key, name, colour, dash, width in _LINES]
    if not brief:
        return lines
    return [lines[0] | {"showlegend": False}, lines[1] | {"name": "bound"}]


def _line(
    data: BoundData, key: str, name: str, colour: str, dash: str, width: float, over: str, legend: str
) -> theme.Trace:
    rate = getattr(data, key)
    kept: Bool[ndarray, " p"] = rate >= _LEAST_RATE
    ratio = data.source_bits / np.maximum(rate[kept], _LEAST_RATE)
    return {
        "type": "scatter",
        "x": ratio if over == "compression_ratio" else rate[kept],
        "y": data.predicted_loss[kept],
        "customdata": np.stack([rate[kept], ratio], 1),
        "mode": "lines",
        "line": {"color": colour, "dash": dash, "width": width},
        "name": name,
        "showlegend": True,
        "legend": legend,
        "hovertemplate": f"<b>{name}</b><br>%{{customdata[1]:.2f}}×, %{{customdata[0]:.3f}} bit/weight<br>"
        "predicted loss +%{y:.3g}<extra></extra>",
    }
