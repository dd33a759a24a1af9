"""Figures of block formats: all on one rate-distortion plane, and where the bits of a quantized file go."""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.views import theme
from nbquant.views.palette import BLUE, GREEN, ORANGE, OTHER_PART, PURPLE, SKY, VERMILION

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, OTHER_PART)
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-down", "star", "x")
_SAME = {"ggml": "gguf"}  # the reader and the writer of one family
_PLOT = (620, 330)  # px: of a small figure
_CHARACTER, _LINE = 6, 12  # px: of a label
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
    labels = _labels(data)
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
            colour, symbol = _COLOURS[i % len(_COLOURS)], _SYMBOLS[i % len(_SYMBOLS)]
            traces.append(
                {
                    "type": "scatter",
                    "x": data.rate[here],
                    "y": data.distortion[here],
                    "mode": "markers+text" if search else "markers",
                    "text": [labels[j] for j in here],
                    "textposition": ["top right"] * len(here),
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
        xaxis=theme.axis("rate R [bit/weight]"),
        yaxis=theme.axis("distortion D [loss/weight]", type="log", exponentformat="power", dtick=1),
        legend=theme.LEGEND_BELOW | {"orientation": "h"},
        margin={"l": 64, "r": 20, "t": 52, "b": 84, "autoexpand": False},
        showlegend=True,
        uirevision="formats",
    )


def _labels(data: FormatsData) -> list[str]:
    """Names of the points with searched scales, those left out that would lie on another; hovering shows them all."""
    logs = np.log10(data.distortion)
    x = (data.rate - data.rate.min()) / max(float(np.ptp(data.rate)), 1e-9) * _PLOT[0]
    y = (logs - logs.min()) / max(float(np.ptp(logs)), 1e-9) * _PLOT[1]
    placed = [(a - 4.0, b - 4.0, a + 4.0, b + 4.0) for a, b in zip(x, y, strict=True)]  # markers
    labels = [""] * len(data.name)
    for i in np.argsort(data.wasted):
        box = (x[i] + 5, y[i] + 5, x[i] + 5 + _CHARACTER * len(data.name[i]), y[i] + 5 + _LINE)
        free = all(a[0] > box[2] or a[2] < box[0] or a[1] > box[3] or a[3] < box[1] for a in placed)
        if data.search[i] and free:
            placed.append(box)
            labels[i] = data.name[i]
    return labels


@dataclass(frozen=True)
class SpentData:
    """Numbers behind the figure of a quantized file's bits.

    Attributes:
        name: Tensors, in the order of the file.
        parts: Names of the parts of the stored bits.
        rate: Bits of each part [bit/weight]: parts × tensors.
    """

    name: tuple[str, ...]
    parts: tuple[str, ...]
    rate: Float[ndarray, "p t"]


_SPENT = {
    "needed by the bound": BLUE,
    "lost by the quantizer": ORANGE,
    "carried by codes and scales": BLUE,
    "codes not used fully": VERMILION,
    "scales not used fully": PURPLE,
}


def spent_data(rows: pd.DataFrame) -> SpentData:
    """Split the stored bits of each tensor: what the bound needs, what the quantizer loses, what codes do not use.

    Args:
        rows: From :func:`nbquant.inspect`.

    Raises:
        ValueError: No tensor in a block format.
    """
    missing = [name for name in ("name", "rate", "entropy", "code_entropy", "code_bits") if name not in rows]
    known = rows[rows["entropy"].notna()] if not missing else rows[:0]
    if not len(known):
        raise ValueError("rows of nbquant.inspect with tensors in block formats are required: pass its result.")
    codes = (known["code_bits"] - known["code_entropy"]).to_numpy(float)
    scales = (known["side_bits"] - known["side_entropy"]).to_numpy(float)
    used, bound = known["entropy"].to_numpy(float), known["bound_rate"].to_numpy(float)
    if np.isfinite(bound).all():
        first = {"needed by the bound": np.minimum(bound, used), "lost by the quantizer": np.maximum(used - bound, 0)}
    else:
        first = {"carried by codes and scales": used}
    parts = first | {"codes not used fully": codes, "scales not used fully": scales}
    return SpentData(tuple(known["name"]), tuple(parts), np.stack(list(parts.values())))


def draw_spent(data: SpentData) -> theme.Figure:
    """Draw a bar for each tensor.

    Args:
        data: From :func:`spent_data`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    traces: list[theme.Trace] = [
        {
            "type": "bar",
            "x": np.arange(len(data.name)),
            "y": rate,
            "base": base,
            "width": np.ones(len(data.name)),
            "customdata": list(data.name),
            "name": part,
            "marker": {"color": _SPENT[part], "line": {"width": 0}},
            "hovertemplate": "%{customdata}<br>" + part + ": %{y:.3f} bit/weight<extra></extra>",
        }
        for part, rate, base in zip(data.parts, data.rate, np.cumsum(data.rate, 0) - data.rate, strict=True)
    ]
    few = len(data.name) <= 12
    ticks = {"tickvals": list(range(len(data.name))), "ticktext": list(data.name)} if few else {}
    return theme.figure(
        "Where the bits go",
        f"{len(data.name)} tensors in block formats, in the order of the file",
        traces,
        barmode="overlay",
        xaxis=theme.axis("tensor", **ticks),
        yaxis=theme.axis("rate [bit/weight]"),
        legend=theme.LEGEND_BELOW | {"orientation": "h"},
        margin={"l": 64, "r": 20, "t": 52, "b": 84, "autoexpand": False},
        showlegend=True,
        uirevision="spent",
    )
