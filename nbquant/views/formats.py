"""Figure of block formats on one rate-distortion plane."""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.views import theme
from nbquant.views.labels import Lettering, place_labels
from nbquant.views.log_axis import decade_ticks
from nbquant.views.palette import COLOURS, SYMBOLS

_SAME = {"ggml": "gguf"}  # the reader and the writer of one family
_FINE = Lettering(0.0125, 0.052, (0.01, 0.02))  # in letters of 9 px
_NEEDED = ("format", "title", "library", "search", "rate", "distortion", "bound_rate", "bits_wasted")


@dataclass(frozen=True)
class FormatsData:
    """Numbers behind the figure of formats.

    Attributes:
        families: Name of each library, those of most formats first.
        family: Index of the library of each row.
        name: Format of each row.
        search: Whether its scales were searched.
        rate: Stored bits [bit/weight].
        distortion: D [loss/weight].
        bound_rate: Rate-distortion function at this distortion [bit/weight]; NaN if unknown.
        wasted: Rate above it [bit/weight].
    """

    families: tuple[str, ...]
    family: ndarray
    name: tuple[str, ...]
    search: ndarray
    rate: Float[ndarray, " r"]
    distortion: Float[ndarray, " r"]
    bound_rate: Float[ndarray, " r"]
    wasted: Float[ndarray, " r"]


def formats_data(rows: pd.DataFrame) -> FormatsData:
    """Sort rows by library.

    Args:
        rows: From :func:`nbquant.compare_formats`.

    Raises:
        ValueError: No rows, or a missing column.
    """
    missing = [name for name in _NEEDED if name not in rows]
    if missing or not len(rows):
        came = f"{', '.join(missing)} is missing" if missing else "there are none"
        raise ValueError(f"rows of nbquant.compare_formats are required, but {came}: pass its result.")
    rows = rows[(rows["distortion"] > 0) & np.isfinite(rows["distortion"])]
    families = [_SAME.get(name, name) for name in (re.split("[ ,]", library)[0] for library in rows["library"])]
    known = tuple(name for name, _ in Counter(families).most_common())
    return FormatsData(
        known,
        np.array([known.index(family) for family in families], np.int64),
        tuple(rows["format"]),
        rows["search"].to_numpy(bool),
        *(rows[name].to_numpy(float) for name in ("rate", "distortion", "bound_rate", "bits_wasted")),
    )


def draw_formats(data: FormatsData) -> theme.Figure:
    """Draw distortion over stored bits: hollow as the library rounds, filled with the best scales, and the bound.

    Args:
        data: From :func:`formats_data`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    places, (across, down) = _places(data), _ranges(data)
    order = np.argsort(data.bound_rate)
    known = order[np.isfinite(data.bound_rate[order])]
    traces: list[theme.Trace] = [
        {
            "type": "scatter",
            "x": data.bound_rate[known],
            "y": data.distortion[known],
            "mode": "lines",
            "line": {"color": theme.MUTED, "width": 2},
            "name": "bound",
            "hovertemplate": "bound: %{x:.3f} bit/weight<extra></extra>",
        }
    ]
    for i, family in enumerate(data.families):
        for search in (False, True):
            here = np.flatnonzero((data.family == i) & (data.search == search))
            colour, symbol = COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]
            traces.append(
                {
                    "type": "scatter",
                    "x": data.rate[here],
                    "y": data.distortion[here],
                    "mode": "markers+text" if search else "markers",
                    "text": [data.name[j] if places[j] else "" for j in here],
                    "textposition": [places[j] or "top right" for j in here],
                    "hovertext": [data.name[j] for j in here],
                    "textfont": {"size": 9, "color": theme.FOREGROUND},
                    "customdata": np.stack([data.bound_rate[here], data.wasted[here]], 1),
                    "marker": {"color": colour, "symbol": symbol + "-open" * (not search), "size": 8},
                    "name": family,
                    "legendgroup": family,
                    "showlegend": search,
                    "hovertemplate": "<b>%{hovertext}</b>, "
                    + ("best scales" if search else "as the library rounds")
                    + "<br>"
                    "%{x:.3f} bit/weight stored, %{customdata[0]:.3f} would do<br>%{customdata[1]:.3f} wasted"
                    "<extra></extra>",
                }
            )
    return theme.figure(
        "Block formats on the rate-distortion plane",
        "hollow: as the library rounds · filled: scales of least weighted error",
        traces,
        xaxis=theme.axis("rate R [bit/weight]", range=list(across)),
        yaxis=theme.axis(
            "distortion D [loss/weight]", type="log", exponentformat="power", range=list(down), **decade_ticks(*down)
        ),
        legend=theme.LEGEND_BELOW | {"orientation": "h"},
        margin={"l": 64, "r": 20, "t": 52, "b": 84, "autoexpand": False},
        showlegend=True,
        uirevision="formats",
    )


def _ranges(data: FormatsData) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of the axes: of rates, and of the distortions' logarithms."""
    logs = np.log10(data.distortion)
    rates = np.concatenate([data.rate, data.bound_rate[np.isfinite(data.bound_rate)]])
    margin = 0.04 * max(float(np.ptp(rates)), 0.1)
    left, right = max(float(rates.min()) - margin, 0.0), float(rates.max()) + margin
    spare = 0.05 * max(float(np.ptp(logs)), 0.1)
    return (left, right), (float(logs.min()) - spare, float(logs.max()) + spare)


def _places(data: FormatsData) -> list[str]:
    """Sides on which searched formats have their names, those of least waste first; "" where none is free."""
    order = np.argsort(np.where(data.search, data.wasted, np.inf), kind="stable")
    shown = zip((data.rate, np.log10(data.distortion)), _ranges(data), strict=True)
    x, y = ((values - low) / (high - low) for values, (low, high) in shown)
    labels = [data.name[i] if data.search[i] else "" for i in order]
    found = place_labels(list(x[order]), list(y[order]), labels, _FINE, most_covered=0)
    places = [""] * len(order)
    for i, label, place in zip(order, labels, found, strict=True):
        places[i] = place if label else ""
    return places
