"""Figure of the bits lost to an inexact sensitivity, at equal true distortion, with rank correlations."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.analysis.price import REFERENCE, Price
from nbquant.views import theme
from nbquant.views.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

_LOOKS = tuple(
    zip(
        (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY),
        ("circle", "square", "diamond", "cross", "x", "star"),
        strict=True,
    )
)
_DASHES = ("solid", "dash", "dot")


@dataclass(frozen=True)
class PriceCurve:
    """Curve of one estimate.

    Attributes:
        label: Name of the estimate.
        distortion: D under the exact h, ascending [loss/weight].
        bits_lost: Rate above that of the exact h at the same D [bit/weight].
        rank_correlation: Spearman's, with the exact h; NaN if all h are equal.
        mean_lost: Mean over log D [bit/weight].
    """

    label: str
    distortion: Float[ndarray, " p"]
    bits_lost: Float[ndarray, " p"]
    rank_correlation: float
    mean_lost: float


@dataclass(frozen=True)
class PriceData:
    """Numbers behind the figure of bits lost.

    Attributes:
        curves: By mean loss, the best estimate first; without the exact h, which loses nothing.
        summary: One row per estimate, including the exact h.
        not_shown: Number of points outside the range of the exact h's curve.
    """

    curves: tuple[PriceCurve, ...]
    summary: pd.DataFrame
    not_shown: int


def price_data(price: Price) -> PriceData:
    """Sort the estimates by bits lost.

    Args:
        price: From :func:`nbquant.analysis.price.price`.
    """
    found, missing = [], 0
    for row in price.summary.to_dict("records"):
        if row["sensitivity"] == REFERENCE:
            continue
        own = price.points[price.points["sensitivity"] == row["sensitivity"]].sort_values("distortion")
        shown = own[np.isfinite(own["bits_lost"])]
        missing += len(own) - len(shown)
        found.append(
            PriceCurve(
                str(row["sensitivity"]),
                shown["distortion"].to_numpy(float),
                shown["bits_lost"].to_numpy(float),
                float(row["rank_correlation"]),
                float(row["bits_lost"]),
            )
        )
    order = sorted(found, key=lambda c: (np.isnan(c.mean_lost), c.mean_lost))
    return PriceData(tuple(order), price.summary, missing)


def draw_price(data: PriceData) -> theme.Figure:
    """Draw bits lost over true distortion, which falls to the right as rates rise; rank correlations in the legend.

    Args:
        data: From :func:`price_data`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    distortions = np.concatenate([c.distortion for c in data.curves] or [np.array([1e-3, 1.0])])
    distortions = distortions if len(distortions) else np.array([1e-3, 1.0])
    low, high = np.log10(distortions.min()), np.log10(distortions.max())
    margin = max(0.04 * (high - low), 0.05)
    limits = [float(high + margin), float(low - margin)]
    traces: list[theme.Trace] = [
        {
            "type": "scatter",
            "x": [10 ** limits[0], 10 ** limits[1]],
            "y": [0.0, 0.0],
            "mode": "lines",
            "line": {"color": theme.MUTED, "width": 1.5, "dash": "dash"},
            "hoverinfo": "skip",
            "name": "exact h",
        }
    ]
    for i, c in enumerate(data.curves):
        colour, symbol = _LOOKS[i % len(_LOOKS)]
        rank = f"ranks {c.rank_correlation:.2f}" if np.isfinite(c.rank_correlation) else "no ranks"
        lost = f"mean {c.mean_lost:+.3f}" if np.isfinite(c.mean_lost) else "nowhere near the exact curve"
        traces.append(
            {
                "type": "scatter",
                "x": c.distortion,
                "y": c.bits_lost,
                "mode": "lines+markers",
                "line": {"color": colour, "width": 2, "dash": _DASHES[i // len(_LOOKS) % len(_DASHES)]},
                "marker": {"color": colour, "symbol": symbol, "size": 7},
                "name": f"{c.label}: {rank}, {lost}",
                "hovertemplate": f"<b>{c.label}</b><br>%{{y:+.4f}} bit/weight at D = %{{x:.3g}}<extra></extra>",
            }
        )
    step = {"dtick": 1} if limits[0] - limits[1] > 1.5 else {"dtick": "D2"}
    return theme.figure(
        "Price of a wrong sensitivity",
        _subtitle(data),
        traces,
        xaxis=theme.axis(
            "distortion under the exact h [loss/weight], rates rise to the right",
            type="log",
            range=limits,
            exponentformat="power",
            automargin=False,
            **step,
        ),
        yaxis=theme.axis("bits lost [bit/weight]", automargin=False),
        # Below the plot: inside it would always cover a curve.
        legend=theme.LEGEND_BELOW,
        margin={"l": 64, "r": 20, "t": 52, "b": 58 + 19 * (len(data.curves) + 1), "autoexpand": False},
        showlegend=True,
        uirevision="price",
    )


def _subtitle(data: PriceData) -> str:
    text = "quantizers found under an estimate, at equal true distortion"
    return text + (
        f" · {data.not_shown} points beyond the exact curve's ends: see the points" if data.not_shown else ""
    )
