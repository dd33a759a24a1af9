"""Weight histogram with cluster centres, cells and codeword lengths."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from nbquant.views import theme
from nbquant.views.palette import BLUE, SKY, VERMILION

_QUANTILE = 0.0005  # on either side; a few outliers would squeeze all other weights into one bar
_WIDEN = 0.5  # most that centres may widen the range by on either side, relative to its width
_MOST_LINES = 64  # with more, boundaries would be closer than a few pixels: tints alone show the cells


@dataclass(frozen=True)
class HistogramData:
    """Numbers behind the weight histogram.

    Attributes:
        bar_edge: Edges of the bars [weight], ascending; regular ones, and all cell boundaries in range.
        bar_height: Weights per ``bar_width``, so that bars cut by a boundary keep their height.
        bar_cell: Cell of each bar; all 0 if there are no boundaries.
        bar_width: Width of a regular bar [weight].
        codebook: Centres [weight].
        counts: Number of weights of each centre.
        codeword_length: Codeword length of each centre [bit].
        thresholds: Boundaries between cells in range [weight]; None if cells are not intervals.
        thresholds_exact: False if boundaries hold for a weight of mean sensitivity only.
        total: Number of weights, without pruned zeros.
        outside: Number of weights outside the bars.
        centres_outside: Number of centres outside the bars.
        pruned_zeros: Number of pruned zeros, neither quantized nor drawn.
        label: Label of the weights, for instance the layers' names.
        of: What the bars hold: "weights", their number, or "Σh", the sum of their sensitivities [loss/weight²].
    """

    bar_edge: Float[ndarray, " m+1"]
    bar_height: Float[ndarray, " m"]
    bar_cell: Int[ndarray, " m"]
    bar_width: float
    codebook: Float[ndarray, " k"]
    counts: Int[ndarray, " k"]
    codeword_length: Float[ndarray, " k"]
    thresholds: Float[ndarray, " t"] | None
    thresholds_exact: bool
    total: float
    outside: float
    centres_outside: int
    pruned_zeros: int
    label: str
    of: Literal["weights", "Σh"] = "weights"

    @property
    def share(self) -> Float[ndarray, " k"]:
        """Share of each centre among all quantized weights."""
        return self.counts / max(1, self.counts.sum())


def histogram_data(
    bin_weight: Float[ndarray, " b"],
    bin_count: Float[ndarray, " b"] | Int[ndarray, " b"],
    codebook: Float[ndarray, " k"],
    counts: Int[ndarray, " k"],
    codeword_length: Float[ndarray, " k"] | Int[ndarray, " k"],
    *,
    thresholds: Float[ndarray, " k-1"] | None = None,
    thresholds_exact: bool = True,
    pruned_zeros: int = 0,
    bars: int = 160,
    label: str = "",
    of: Literal["weights", "Σh"] = "weights",
) -> HistogramData:
    """Re-bin a fine histogram of weights to bars, over the range of nearly all of them.

    Weights count as spread evenly over their bin; otherwise bars with two bins next to bars with three
    would show a false comb. A bin extends half-way to its neighbours, but never further than
    2⁻⁸ of its own position, the resolution of bfloat16: so omitted empty bins do not blur the others.

    Args:
        bin_weight: Position of each bin [weight], ascending.
        bin_count: Number of weights in each bin, or Σh [loss/weight²].
        codebook: Centres [weight]; empty for bars alone, over which a front end draws the centres.
        counts: Number of weights of each centre.
        codeword_length: Codeword length of each centre [bit].
        thresholds: Boundaries between neighbouring cells [weight], ascending; None if cells are not intervals, as in
            ECSQ with individual sensitivities.
        thresholds_exact: False if ``thresholds`` hold for a weight of mean sensitivity only.
        pruned_zeros: Number of weights that are zero and not quantized; not in ``bin_count``.
        bars: Number of regular bars.
        label: Label of the weights, for instance the layers' names.
        of: What ``bin_count`` is.

    Returns:
        The numbers to draw. The range is from the 0.05 % to the 99.95 % quantile, widened up to twofold for centres.

    Raises:
        ValueError: No weights, bins or thresholds out of order, or arrays whose lengths do not fit together.
    """
    position, weight_count = np.asarray(bin_weight, dtype=np.float64), np.asarray(bin_count, dtype=np.float64)
    centre, count = np.asarray(codebook, dtype=np.float64), np.asarray(counts)
    length = np.asarray(codeword_length, dtype=np.float64)
    if position.shape != weight_count.shape or position.ndim != 1:
        raise ValueError(
            f"bin_weight and bin_count must be two vectors of one length, but their shapes are {position.shape} and "
            f"{weight_count.shape}."
        )
    total = float(weight_count.sum())
    if not total > 0:
        raise ValueError(f"at least one weight is needed, but the {len(position)} bins hold {total:g}.")
    if not (np.diff(position) > 0).all():
        raise ValueError(
            f"bin_weight must ascend, but {int((np.diff(position) <= 0).sum())} steps do not: sort the bins."
        )
    if not len(centre) == len(count) == len(length):
        raise ValueError(
            f"codebook, counts and codeword_length must have one entry per centre, but have {len(centre)}, "
            f"{len(count)} and {len(length)}."
        )
    for name, values in {"bin_count": weight_count, "codebook": centre, "codeword_length": length}.items():
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(f"{name} must be finite, but {bad} of {len(values)} entries are not: leave them out.")
    boundary = None if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if boundary is not None and (len(boundary) != max(0, len(centre) - 1) or not (np.diff(boundary) >= 0).all()):
        raise ValueError(
            f"thresholds must be the {max(0, len(centre) - 1)} ascending boundaries between {len(centre)} cells, but "
            f"got {len(boundary)}: pass None if cells are not intervals."
        )

    knot, below = _cumulative(position, weight_count)
    low, high = _robust_range(knot, below, centre)
    edge = np.linspace(low, high, bars + 1)
    width = (high - low) / bars
    cell_boundary = None
    if boundary is not None:
        cell_boundary = boundary[(boundary > low) & (boundary < high)]
        edge = np.unique(np.concatenate([edge, cell_boundary]))
    mass = np.diff(np.interp(edge, knot, below))
    middle = (edge[1:] + edge[:-1]) / 2
    cell = np.zeros(len(mass), dtype=np.int64) if boundary is None else np.searchsorted(boundary, middle)
    return HistogramData(
        bar_edge=edge,
        bar_height=mass / np.diff(edge) * width,
        bar_cell=cell,
        bar_width=width,
        codebook=centre,
        counts=count,
        codeword_length=length,
        thresholds=cell_boundary,
        thresholds_exact=thresholds_exact,
        total=total,
        outside=max(0.0, total - float(mass.sum())),
        centres_outside=int(((centre < low) | (centre > high)).sum()),
        pruned_zeros=int(pruned_zeros),
        label=label,
        of=of,
    )


def _cumulative(position: ndarray, count: ndarray) -> tuple[ndarray, ndarray]:
    """Knots of the piecewise linear cumulative count: the lower and upper end of every bin."""
    half_way = (position[1:] + position[:-1]) / 2
    reach = np.abs(position) * 2.0**-8
    lower = np.maximum(position - reach, np.concatenate([[-np.inf], half_way]))
    upper = np.minimum(position + reach, np.concatenate([half_way, [np.inf]]))
    after = np.cumsum(count)
    return np.stack([lower, upper], 1).reshape(-1), np.stack([after - count, after], 1).reshape(-1)


def _robust_range(knot: ndarray, below: ndarray, centre: ndarray) -> tuple[float, float]:
    """The range of the inner quantiles, widened for centres up to a limit."""
    total = below[-1]
    low = float(knot[np.searchsorted(below, _QUANTILE * total, side="right") - 1])
    high = float(knot[np.searchsorted(below, (1 - _QUANTILE) * total, side="left")])
    span = high - low
    if not span > 0:
        span = max(abs(low) * 0.1, 1e-3)
        low, high = low - span / 2, high + span / 2
    reached = centre[(centre >= low - _WIDEN * span) & (centre <= high + _WIDEN * span)]
    if len(reached):
        low, high = min(low, float(reached.min())), max(high, float(reached.max()))
    margin = 0.02 * (high - low)
    return low - margin, high + margin


def histogram_table(data: HistogramData) -> pd.DataFrame:
    """Tabulate the bars, and, if cells are intervals, the centre of each."""
    table = pd.DataFrame(
        {
            "from [weight]": data.bar_edge[:-1],
            "to [weight]": data.bar_edge[1:],
            data.of: data.bar_height * np.diff(data.bar_edge) / data.bar_width,
            f"{data.of} per {data.bar_width:.2g}": data.bar_height,
        }
    )
    if len(data.codebook) and data.thresholds is not None:
        table["centre [weight]"] = data.codebook[data.bar_cell]
        table["codeword length [bit]"] = data.codeword_length[data.bar_cell]
    return table


def draw_histogram(data: HistogramData, *, log_count: bool = False) -> theme.Figure:
    """Draw the weight histogram: bars tinted by cell, and a stem at each centre as high as its codeword length.

    Without centres it has only the bars, as one trace, and both axes; the margins are the same.

    Args:
        data: From :func:`histogram_data`.
        log_count: Whether the count axis is logarithmic.

    Returns:
        The figure as plotly's JSON, unvalidated, as the explorer sends it.
    """
    edge, height = data.bar_edge, data.bar_height
    top = float(height.max())
    tallest = max(1.0, float(data.codeword_length.max(initial=0)))
    middle, width = (edge[1:] + edge[:-1]) / 2, np.diff(edge)
    traces: list[theme.Trace] = []
    for parity, tint in enumerate((SKY, BLUE) if len(data.codebook) else (SKY,)):
        here = (data.bar_cell % 2 == parity) & (height > 0)
        traces.append(
            {
                "type": "bar",
                "x": middle[here],
                "y": height[here],
                "width": width[here],
                "marker": {"color": tint, "opacity": 0.75, "line": {"width": 0}},
                "hovertemplate": f"weight %{{x:.4g}}<br>%{{y:,.4~r}} {data.of} per {data.bar_width:.2g}<extra></extra>",
                "name": "weights",
            }
        )
    if len(data.codebook):
        traces += _cells_and_centres(data, tallest)
    rounded = float(np.log10(max(top, 1.0) if data.of == "weights" else top))
    lowest = -0.3 if data.of == "weights" else rounded - 6
    count_axis = (
        {"type": "log", "range": [lowest, rounded + 0.1], "dtick": 1} if log_count else {"range": [0, 1.08 * top]}
    )
    return theme.figure(
        "Weights and clusters" + (f" – {data.label}" if data.label else ""),
        _subtitle(data),
        traces,
        # Fixed margins: plotly repeats the layout after measuring labels, which doubles the time.
        margin={"l": 64, "r": 64, "t": 56, "b": 44, "autoexpand": False},
        xaxis=theme.axis("weight", automargin=False, range=[float(edge[0]), float(edge[-1])], showgrid=False),
        yaxis=theme.axis(
            f"{data.of} per bar ({data.bar_width:.2g} wide)",
            automargin=False,
            uirevision=f"{log_count} {data.of}",
            **count_axis,
        ),
        **(_centre_axes(tallest) if len(data.codebook) else {}),
        bargap=0,
        barmode="overlay",
        showlegend=False,
        uirevision=data.label,
    )


def _cells_and_centres(data: HistogramData, tallest: float) -> list[theme.Trace]:
    traces = []
    few = len(data.codebook) <= _MOST_LINES
    if data.thresholds is not None and len(data.thresholds) <= _MOST_LINES:
        traces.append(
            _vertical_lines(data.thresholds, 1.0, theme.MUTED, 1, "solid" if data.thresholds_exact else "dash")
        )
    traces.append(
        _vertical_lines(data.codebook, data.codeword_length / (1.12 * tallest), VERMILION, 1.5 if few else 0.6, "solid")
    )
    traces.append(
        {
            "type": "scatter",
            "x": data.codebook,
            "y": data.codeword_length,
            "yaxis": "y2",
            "mode": "markers",
            "marker": {"color": VERMILION, "size": 7 if few else 4},
            "customdata": np.stack([np.arange(len(data.codebook)), data.counts, 100 * data.share], 1),
            "hovertemplate": "centre %{customdata[0]}: %{x:.5g}<br>%{customdata[1]:,} weights (%{customdata[2]:.3g} %)"
            "<br>codeword of %{y:.4g} bit<extra></extra>",
            "name": "centres",
        }
    )
    return traces


def _centre_axes(tallest: float) -> dict[str, Any]:
    return {
        "yaxis2": theme.axis(
            "codeword length [bit]",
            automargin=False,
            overlaying="y",
            side="right",
            range=[0, 1.12 * tallest],
            fixedrange=True,
            showgrid=False,
            tickmode="linear",  # by default plotly matches the other axis' ticks, at 3.21 bit and the like
            dtick=max(1, round(tallest / 5)),
            color=VERMILION,
            tickcolor=VERMILION,
            linecolor=VERMILION,
        ),
        # Boundaries and stems run in fractions of the height, whatever the count axis is.
        "yaxis3": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    }


def _vertical_lines(position: ndarray, height: float | ndarray, colour: str, width: float, dash: str) -> theme.Trace:
    """Lines from the bottom to a fraction of the height, as one trace: shapes would cost as much as the bars."""
    gap = np.full(len(position), np.nan)
    return {
        "type": "scatter",
        "x": np.stack([position, position, gap], 1).reshape(-1),
        "y": np.stack([np.zeros(len(position)), np.broadcast_to(height, len(position)), gap], 1).reshape(-1),
        "yaxis": "y3",
        "mode": "lines",
        "line": {"color": colour, "width": width, "dash": dash},
        "hoverinfo": "skip",
    }


def _subtitle(data: HistogramData) -> str:
    centres = len(data.codebook)
    whole = f"{data.total:,.0f} weights" if data.of == "weights" else f"Σh = {data.total:.3g} loss/weight²"
    parts = [whole + f", {centres} centre{'s' * (centres != 1)}" * bool(centres)]
    if data.pruned_zeros:
        parts.append(f"{data.pruned_zeros:,} pruned zeros not drawn")
    if data.outside >= 0.5 and data.of == "weights":
        parts.append(f"{data.outside:,.0f} weights ({100 * data.outside / data.total:.2g} %) outside the range")
    if data.centres_outside:
        parts.append(f"{data.centres_outside} centre{'s' * (data.centres_outside != 1)} outside")
    if centres and data.thresholds is None:
        parts.append("cells depend on h")
    elif centres and not data.thresholds_exact:
        parts.append("dashed: boundaries at mean h")
    return " · ".join(parts)
