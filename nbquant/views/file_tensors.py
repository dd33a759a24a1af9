"""Figure of a quantized file's tensors on the rate-distortion plane, each with its entropy and its bound."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.views import theme
from nbquant.views.log_axis import decade_ticks
from nbquant.views.palette import COLOURS, SYMBOLS


@dataclass(frozen=True)
class FileTensorsData:
    """Numbers behind the figure, of tensors whose distortion is known.

    Attributes:
        name: Name of each tensor in the file.
        kinds: Formats, those of most tensors first.
        kind: Index of the format of each tensor.
        rate: Stored bits [bit/weight].
        entropy: Bits with ideal codes of codes and scales [bit/weight]; NaN where there are no codes.
        bound: Rate-distortion function at this distortion [bit/weight]; NaN if unknown.
        distortion: D against the original [loss/weight].
    """

    name: tuple[str, ...]
    kinds: tuple[str, ...]
    kind: ndarray
    rate: Float[ndarray, " t"]
    entropy: Float[ndarray, " t"]
    bound: Float[ndarray, " t"]
    distortion: Float[ndarray, " t"]


def file_tensors_data(rows: pd.DataFrame) -> FileTensorsData:
    """Collect the tensors of a file that differ from the original.

    Args:
        rows: From :func:`nbquant.inspect` with ``original``.

    Raises:
        ValueError: No tensor has a distortion.
    """
    known = rows[np.isfinite(rows["distortion"].to_numpy(float)) & (rows["distortion"] > 0)] if "name" in rows else None
    if known is None or not len(known):
        raise ValueError(
            "tensors with a distortion are required, but there are none: pass the result of nbquant.inspect(path, "
            "original)."
        )
    kinds = tuple(kind for kind, _ in Counter(known["format"]).most_common())
    return FileTensorsData(
        tuple(known["name"]),
        kinds,
        np.array([kinds.index(kind) for kind in known["format"]], np.int64),
        *(known[name].to_numpy(float) for name in ("rate", "entropy", "bound_rate", "distortion")),
    )


def file_tensors_table(data: FileTensorsData) -> pd.DataFrame:
    """Tabulate the points."""
    return pd.DataFrame(
        {
            "tensor": data.name,
            "format": [data.kinds[kind] for kind in data.kind],
            "stored [bit/weight]": data.rate,
            "entropy [bit/weight]": data.entropy,
            "bound [bit/weight]": data.bound,
            "distortion [loss/weight]": data.distortion,
        }
    )


def draw_file_tensors(data: FileTensorsData, chosen: str = "") -> theme.Figure:
    """Draw distortion over bits: each tensor is a line from its bound over its entropy to what is stored.

    Args:
        data: From :func:`file_tensors_data`.
        chosen: Name of a tensor to mark.

    Returns:
        The figure as plotly's JSON, unvalidated. Points have the names of their tensors as ``hovertext``.
    """
    bounded, gap = np.isfinite(data.bound), np.full(len(data.name), np.nan)
    traces: list[theme.Trace] = [
        {
            "type": "scatter",
            "x": np.stack([np.where(bounded, data.bound, data.rate), data.rate, gap], 1).reshape(-1),
            "y": np.stack([data.distortion, data.distortion, gap], 1).reshape(-1),
            "mode": "lines",
            "line": {"color": theme.GRID, "width": 2},
            "hoverinfo": "skip",
            "showlegend": False,
            "name": "wasted",
        },
        _points(data, np.flatnonzero(bounded), data.bound, "bound")
        | {"marker": {"color": theme.FOREGROUND, "symbol": "diamond", "size": 6}},
    ]
    for i, kind in enumerate(data.kinds):
        here = np.flatnonzero(data.kind == i)
        colour, symbol = COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]
        coded = here[np.isfinite(data.entropy[here])]
        traces.append(
            _points(data, coded, data.entropy, f"{kind}, entropy")
            | {"marker": {"color": colour, "symbol": f"{symbol}-open", "size": 7}, "showlegend": False}
        )
        traces.append(_points(data, here, data.rate, kind) | {"marker": {"color": colour, "symbol": symbol, "size": 8}})
    marked = [i for i, name in enumerate(data.name) if name == chosen]
    if marked:
        traces.append(
            _points(data, np.array(marked), data.rate, "chosen")
            | {"marker": {"color": theme.FOREGROUND, "symbol": "circle-open", "size": 15}, "showlegend": False}
        )
    logs = np.log10(data.distortion)
    spare = max(0.05 * float(np.ptp(logs)), 0.5 - float(np.ptp(logs)) / 2)
    low, high = float(logs.min()) - spare, float(logs.max()) + spare
    return theme.figure(
        "Tensors on the rate-distortion plane",
        "filled: bits stored · hollow: entropy · diamond: bound for the same weights",
        traces,
        xaxis=theme.axis("rate R [bit/weight]", rangemode="tozero"),
        yaxis=theme.axis(
            "distortion D [loss/weight]",
            type="log",
            exponentformat="power",
            range=[low, high],
            **decade_ticks(low, high),
        ),
        legend=theme.LEGEND_BELOW | {"orientation": "h"},
        margin={"l": 64, "r": 20, "t": 52, "b": 84, "autoexpand": False},
        showlegend=True,
        uirevision="file tensors",
    )


def _points(data: FileTensorsData, here: ndarray, x: ndarray, name: str) -> theme.Trace:
    return {
        "type": "scatter",
        "x": x[here],
        "y": data.distortion[here],
        "mode": "markers",
        "hovertext": [data.name[i] for i in here],
        "name": name,
        "showlegend": True,
        "hovertemplate": f"<b>%{{hovertext}}</b><br>{name}: %{{x:.3f}} bit/weight<br>distortion %{{y:.3g}} "
        "loss/weight<extra></extra>",
    }
