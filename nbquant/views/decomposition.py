"""Figure of second-order loss predictions against measured loss changes, over rates and methods."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from nbquant.analysis.decomposition import OFF, is_off
from nbquant.views import theme
from nbquant.views.labels import place_labels, short
from nbquant.views.palette import BLUE, GREEN, VERMILION

_DECADES = 7.0  # below the greatest
_KINDS = (
    ("diagonal", "½Σhδ²", "circle", BLUE),
    ("gauss_newton", "gᵀδ + ½δᵀGδ", "square", GREEN),
    ("second_order", "gᵀδ + ½δᵀHδ", "diamond", VERMILION),
)


@dataclass(frozen=True)
class DecompositionData:
    """Numbers behind the decomposition figure, one entry per quantization.

    Attributes:
        label: Label of the quantization.
        compression_ratio: Source bits over all stored bits.
        terms: gᵀδ, ½Σhδ², ½δᵀHδ and ½δᵀGδ by name [loss].
        predicted: Prediction by name [loss].
        measured: Loss after minus loss before [loss].
        off: Whether each prediction is off by more than twofold.
        limits: Least and greatest loss shown, on both axes.
        not_shown: Markers that logarithmic axes cannot show, or that lie below the limits.
    """

    label: tuple[str, ...]
    compression_ratio: Float[ndarray, " p"]
    terms: dict[str, Float[ndarray, " p"]]
    predicted: dict[str, Float[ndarray, " p"]]
    measured: Float[ndarray, " p"]
    off: dict[str, Bool[ndarray, " p"]]
    limits: tuple[float, float]
    not_shown: int


def decomposition_data(rows: pd.DataFrame) -> DecompositionData:
    """Gather predictions and measurements, and find the range to show.

    Args:
        rows: From :func:`nbquant.analysis.decomposition.decompose`.

    Raises:
        ValueError: No rows.
    """
    if not len(rows):
        raise ValueError("at least one row is required, but there is none: pass the result of decompose().")
    terms = {n: rows[n].to_numpy(float) for n in ("gradient", "diagonal", "quadratic", "gauss_newton")}
    measured = rows["measured"].to_numpy(float)
    predicted = {
        "diagonal": terms["diagonal"],
        "gauss_newton": terms["gradient"] + terms["gauss_newton"],
        "second_order": terms["gradient"] + terms["quadratic"],
    }
    pairs = np.concatenate([np.stack([p, measured], 1) for p in predicted.values()])
    shown = pairs[(np.isfinite(pairs) & (pairs > 0)).all(1)]
    greatest = float(shown.max()) if len(shown) else 1.0
    least = max(float(shown.min()), greatest * 10**-_DECADES) if len(shown) else 1e-3
    return DecompositionData(
        label=tuple(rows["label"]),
        compression_ratio=rows["compression_ratio"].to_numpy(float),
        terms=terms,
        predicted=predicted,
        measured=measured,
        off={n: is_off(p, measured) for n, p in predicted.items()},
        limits=(least, greatest),
        not_shown=len(pairs) - int((shown >= least).all(1).sum()),
    )


def draw_decomposition(data: DecompositionData) -> theme.Figure:
    """Draw measured against predicted loss on logarithmic axes; hollow markers are off by more than twofold.

    Args:
        data: From :func:`decomposition_data`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    low, high = np.log10(data.limits)
    margin = max(0.06 * (high - low), 0.15)
    low, high = float(low - margin), float(high + margin)
    ends = np.array([10**low, 10**high])
    traces: list[theme.Trace] = [
        _line(ends, ends, "as predicted", "dash", True),
        _line(ends, OFF * ends, f"off by {OFF:g}×", "dot", True),
        _line(ends, ends / OFF, f"off by {OFF:g}×", "dot", False),
    ]
    traces += [_markers(data, *kind, hollow) for kind in _KINDS for hollow in (False, True)]
    traces.append(_labels(data, low, high))
    step = {"dtick": 1 if high - low < 6 else 2} if high - low > 1.5 else {"dtick": "D2"}
    settings = {"type": "log", "range": [low, high], "exponentformat": "power", **step}
    return theme.figure(
        "Where the second-order picture breaks",
        _subtitle(data),
        traces,
        xaxis=theme.axis("predicted loss increase", automargin=False, **settings),
        yaxis=theme.axis("measured loss increase", automargin=False, **settings),
        # Below the plot: predictions are off in any direction, so that no corner is free.
        legend=theme.LEGEND_BELOW | {"orientation": "h"},
        margin={"l": 64, "r": 20, "t": 52, "b": 100, "autoexpand": False},
        showlegend=True,
        uirevision="decomposition",
    )


def _line(x: ndarray, y: ndarray, name: str, dash: str, in_legend: bool) -> theme.Trace:
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "mode": "lines",
        "line": {"color": theme.MUTED, "width": 1, "dash": dash},
        "hoverinfo": "skip",
        "showlegend": in_legend,
        "name": name,
    }


def _markers(data: DecompositionData, key: str, name: str, symbol: str, colour: str, hollow: bool) -> theme.Trace:
    predicted, measured = data.predicted[key], data.measured
    here = (predicted >= data.limits[0]) & (measured >= data.limits[0]) & np.isfinite(measured)
    all_off = not (here & ~data.off[key]).any()
    here &= data.off[key] == hollow
    return {
        "type": "scatter",
        "x": predicted[here],
        "y": measured[here],
        "mode": "markers",
        "marker": {
            "color": colour,
            "symbol": symbol + "-open" * hollow,
            "size": 9,
            "line": {"width": 2 * hollow},
        },
        "name": name + " (off)" * hollow,
        "showlegend": hollow == all_off,
        "legendgroup": key,
        "customdata": [
            [label, ratio]
            for label, ratio, shown in zip(data.label, data.compression_ratio, here, strict=True)
            if shown
        ],
        "hovertemplate": f"<b>%{{customdata[0]}}</b>, %{{customdata[1]:.2f}}×<br>{name} = %{{x:.3g}}<br>"
        "measured %{y:.3g}<extra></extra>",
    }


def _labels(data: DecompositionData, low: float, high: float) -> theme.Trace:
    """Label each quantization once, beside its marker of the diagonal, or of the first other term that is shown."""
    shown = {
        key: (predicted >= data.limits[0]) & (data.measured >= data.limits[0]) & np.isfinite(data.measured)
        for key, predicted in data.predicted.items()
    }
    x, y, labels = [], [], []
    for number, label in enumerate(data.label):
        for key in (key for key, here in shown.items() if here[number]):
            x.append(float(data.predicted[key][number]))
            y.append(float(data.measured[number]))
            labels.append(short(label))
            label = ""  # the other markers of the same quantization only take room
    places = place_labels(
        ((np.log10(x) - low) / (high - low)).tolist(), ((np.log10(y) - low) / (high - low)).tolist(), labels
    )
    return {
        "type": "scatter",
        "x": np.array(x),
        "y": np.array(y),
        "mode": "markers+text",
        "marker": {"color": "#00000000", "size": 11},  # by whose size labels keep clear of the markers
        "text": [label if place else "" for label, place in zip(labels, places, strict=True)],
        "textposition": [place or "top center" for place in places],
        "textfont": {"size": theme.FONT_SIZE - 1, "color": theme.FOREGROUND},
        "cliponaxis": False,
        "hoverinfo": "skip",
        "showlegend": False,
        "name": "labels",
    }


def _subtitle(data: DecompositionData) -> str:
    count = len(data.label)
    parts = [f"{name} {count - int(data.off[key].sum())}" for key, name, _, _ in _KINDS]
    text = f"within {OFF:g}×, of {count}: {', '.join(parts)} · hollow: off by more"
    if data.not_shown:
        text += f" · {data.not_shown} not positive or tiny"
    return text
