"""Figure of the KL divergence from the original's predictions against file size, by method."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.quantization import methods
from nbquant.views import theme
from nbquant.views.palette import method_style

_NEEDED = ("method", "kl_mean", "kl_99")
_SIZES = {"bytes": "file size [kB]", "compression_ratio": "compression ratio"}
"""Options of a method that a sweep may vary; those that do vary are named in the legend."""

_ROW = 20  # of the legend [px]


@dataclass(frozen=True)
class DivergenceCurve:
    """Divergence of one method.

    Attributes:
        label: Name, with the options in which it differs from others of the same method.
        colour: Hex colour.
        symbol: Marker.
        size: Bytes, or compression ratios, ascending.
        mean: Mean divergence from the original's predictions [nat/label].
        high: Its 99th percentile over labels [nat].
    """

    label: str
    colour: str
    symbol: str
    size: Float[ndarray, " p"]
    mean: Float[ndarray, " p"]
    high: Float[ndarray, " p"]


@dataclass(frozen=True)
class DivergenceData:
    """Numbers behind the divergence figure.

    Attributes:
        curves: One per method, in the order of the rows.
        over: Quantity of the x axis, "bytes" or "compression_ratio".
        limits: Least and greatest divergence shown [nat].
        not_shown: Number of rows without a positive finite mean divergence: a ratio out of reach, or equal predictions.
    """

    curves: tuple[DivergenceCurve, ...]
    over: str
    limits: tuple[float, float]
    not_shown: int


def divergence_data(rows: pd.DataFrame) -> DivergenceData:
    """Sort rows into one curve per method.

    Args:
        rows: Columns "method", "kl_mean" [nat/label], "kl_99" [nat], and "bytes" or else "compression_ratio", such as
            :func:`nbquant.sweep` returns if ``evaluate`` compares with a reference. Of one model.

    Raises:
        ValueError: No rows, a missing column, rows of several models, or an unknown method.
    """
    over = next((name for name in _SIZES if name in rows), None)
    missing = [name for name in _NEEDED if name not in rows] + ([] if over else [" or ".join(_SIZES)])
    if missing or over is None:
        raise ValueError(
            f"rows must have the columns {', '.join(_NEEDED)} and {' or '.join(_SIZES)}, but {', '.join(missing)} "
            "is missing: sweep with evaluate=lambda m: nbquant.evaluate(m, batches, reference=original)."
        )
    if not len(rows):
        raise ValueError("at least one row is required, but there is none: pass the result of nbquant.sweep.")
    models = list(dict.fromkeys(rows["model"])) if "model" in rows else []
    if len(models) > 1:
        raise ValueError(
            f"rows must be of one model, but are of {len(models)} ({', '.join(map(str, models[:3]))}): draw each "
            f'separately, rows[rows["model"] == {models[0]!r}].'
        )
    curves, missing_rows = [], 0
    by = ["method", *(n for n in methods.option_names() if n in rows)]
    groups = list(rows.groupby(by, sort=False, dropna=False))
    labels = _labels([key for key, _ in groups], by)
    drawn: set[str] = set()
    for (key, own), label in zip(groups, labels, strict=True):
        method = str(key[0])
        size, mean, high = (own[name].to_numpy(float) for name in (over, "kl_mean", "kl_99"))
        shown = np.flatnonzero(np.isfinite(size + mean) & (mean > 0))
        missing_rows += len(own) - len(shown)
        order = shown[np.argsort(size[shown], kind="stable")]
        style = method_style(method, True)
        symbol = style.symbol + "-open" * (method in drawn)
        drawn.add(method)
        curves.append(DivergenceCurve(label, style.colour, symbol, size[order], mean[order], high[order]))
    values = np.concatenate([v for c in curves for v in (c.mean, c.high[np.isfinite(c.high) & (c.high > 0)])])
    limits = (float(values.min()), float(values.max())) if len(values) else (1e-3, 1.0)
    return DivergenceData(tuple(curves), over, limits, missing_rows)


def _labels(keys: Sequence[tuple[Hashable, ...]], by: Sequence[str]) -> list[str]:
    """Name each group: its method, and the options in which groups of that method differ."""
    found = []
    for key in keys:
        named: dict[str, Any] = dict(zip(by, key, strict=True))
        method, weighted = str(named["method"]), named.get("weighted")
        known = methods.named(method)
        label = known.title if pd.isna(weighted) else known.label(bool(weighted))
        alike = [dict(zip(by, other, strict=True)) for other in keys if other[0] == key[0]]
        differing = [n for n in by if n not in ("method", "weighted") and len({str(other[n]) for other in alike}) > 1]
        options = [f"{n} {'as by default' if pd.isna(named[n]) else named[n]}" for n in differing]
        found.append(label + f" ({', '.join(options)})" * bool(options))
    return found


def draw_divergence(data: DivergenceData) -> theme.Figure:
    """Draw divergence over size, on a logarithmic axis: solid is the mean, dashed the 99th percentile.

    Args:
        data: From :func:`divergence_data`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    low, high = np.log10(data.limits)
    margin = max(0.06 * (high - low), 0.1)
    low, high = float(low - margin), float(high + margin)
    traces = [_line(data, c, "high") for c in data.curves] + [_line(data, c, "mean") for c in data.curves]
    return theme.figure(
        "Divergence from the original's predictions",
        _subtitle(data),
        traces,
        xaxis=theme.axis(_SIZES[data.over], automargin=False),
        yaxis=theme.axis(
            "KL divergence [nat/label]",
            automargin=False,
            type="log",
            range=[low, high],
            exponentformat="power",
            **({"dtick": 1} if high - low > 1.5 else {"dtick": "D2"}),
        ),
        # Below the plot: curves fill it from corner to corner.
        legend=theme.LEGEND_BELOW,
        margin={"l": 64, "r": 20, "t": 52, "b": 58 + _ROW * len(data.curves), "autoexpand": False},
        showlegend=True,
        uirevision="divergence",
    )


def _line(data: DivergenceData, curve: DivergenceCurve, what: str) -> theme.Trace:
    is_mean = what == "mean"
    in_bytes = data.over == "bytes"
    at = "%{x:,.1f} kB" if in_bytes else "%{x:.2f}×"
    value = curve.mean if is_mean else np.where(curve.high > 0, curve.high, np.nan)
    return {
        "type": "scatter",
        "x": curve.size / 1000 if in_bytes else curve.size,
        "y": value,
        "mode": "lines+markers" if is_mean else "lines",
        "line": {"color": curve.colour, "width": 2 if is_mean else 1.5, "dash": "solid" if is_mean else "dash"},
        "marker": {"color": curve.colour, "symbol": curve.symbol, "size": 7},
        "name": curve.label if is_mean else f"{curve.label}, 99th percentile",
        "showlegend": is_mean,
        "legendgroup": curve.label,
        "hovertemplate": f"<b>{curve.label}</b>, {at}<br>{'mean' if is_mean else '99th percentile'} %{{y:.3g}} nat"
        "<extra></extra>",
    }


def _subtitle(data: DivergenceData) -> str:
    text = "solid: mean over labels · dashed: 99th percentile"
    return text + f" · not shown: {data.not_shown} (out of reach, or no divergence)" * bool(data.not_shown)
