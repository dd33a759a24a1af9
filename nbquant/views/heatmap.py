"""Heat map of a layer's Hessian diagonal."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from nbquant.views import theme

_DECADES = 8.0  # colours span at most this many: one stray 1e-30 would turn all the rest yellow
_MOST_READ = 1 << 24  # weights; of a larger tensor, which may be on disk, each cell shows a few neighbours
_ZERO_COLOUR = "#9a9a9a"  # no colour of viridis is grey
_MUTED = {"color": theme.MUTED}


@dataclass(frozen=True)
class HeatmapData:
    """Numbers behind the heat map.

    Attributes:
        log_sensitivity: log₁₀ of the pooled h; NaN where it is zero.
        low: log₁₀ of the least h that has a colour of its own; what lies below shares it.
        high: log₁₀ of the greatest h.
        row_start: Index at the upper edge of the first row, in units of ``row_title``.
        row_step: Indices a row covers: above 1 where rows were pooled, below 1 for the rows of one kernel.
        column_start: Likewise for columns.
        column_step: Likewise for columns.
        row_title: What counts down.
        column_title: What counts across.
        wrapped: Where one index runs on from row to row, how many make a row; else 0.
        zero_share: Share of the weights looked at whose h is exactly zero.
        pooling: What a cell shows of the weights in it: "max" or "mean".
        weights_per_cell: How many weights a cell covers; 1 if nothing was pooled.
        weights_read: How many of them were looked at: all, but for very large tensors.
        name: Name of the layer or parameter.
        shape: Shape of h.
    """

    log_sensitivity: Float[ndarray, "rows columns"]
    low: float
    high: float
    row_start: float
    row_step: float
    column_start: float
    column_step: float
    row_title: str
    column_title: str
    wrapped: int
    zero_share: float
    pooling: Literal["max", "mean"]
    weights_per_cell: int
    weights_read: int
    name: str
    shape: tuple[int, ...]


def heatmap_data(
    sensitivity: Float[Tensor, "..."],
    *,
    name: str = "",
    pooling: Literal["max", "mean"] = "max",
    max_rows: int = 250,
    max_columns: int = 400,
) -> HeatmapData:
    """Lay out a Hessian diagonal as an image, and pool it until it is small enough to send.

    Matrices stay as they are; convolution filters become a grid of kernels, output channels down and input channels
    across, in which a kernel shrinks to one cell if the whole grid would be too large; a vector, or the kernels of
    a convolution with one input channel, run on in rows of equal length. Of a tensor of more than 2²⁴ weights, which
    may be on disk, only some neighbouring weights of each cell are read.

    Args:
        sensitivity: Hessian diagonal h [loss/weight²] of one parameter, non-negative, of any shape.
        name: Name of the layer or parameter.
        pooling: What a cell shows of the weights in it.
        max_rows: Most rows sent.
        max_columns: Most columns sent.

    Returns:
        The numbers to draw.

    Raises:
        ValueError: An empty h, negative or non-finite entries, or an unknown pooling.
    """
    h = sensitivity.detach()
    if h.numel() == 0:
        raise ValueError(f"sensitivity must not be empty, but its shape is {tuple(h.shape)}.")
    if pooling not in ("max", "mean"):
        raise ValueError(f'pooling must be "max" or "mean", but {pooling!r} was given.')
    if h.numel() > _MOST_READ:
        seen, pool_row, pool_column = _sample(h, max_rows, max_columns)
        image, unit_row, unit_column = seen.amax(2) if pooling == "max" else seen.mean(2), 1, 1
    else:
        seen = h
        image, kernel = _as_image(h)
        unit_row, unit_column = kernel
        pool_row, pool_column = 1, 1
        if image.shape[0] > max_rows or image.shape[1] > max_columns:
            if kernel != (1, 1):
                image, unit_row, unit_column = _pool(image, kernel, pooling), 1, 1
            pool_row, pool_column = -(-image.shape[0] // max_rows), -(-image.shape[1] // max_columns)
            image = _pool(image, (pool_row, pool_column), pooling)
    greatest = _require_valid(seen)
    zero_share = 1 - int(torch.count_nonzero(seen)) / seen.numel()
    row_title, column_title, wrapped = _titles(h.shape)

    value = image.to(torch.float64).cpu().numpy()
    with np.errstate(divide="ignore"):
        log = np.log10(value)
    log[value == 0] = np.nan
    high = float(np.log10(greatest)) if greatest > 0 else 0.0
    positive = log[np.isfinite(log)]
    low = max(high - _DECADES, float(np.quantile(positive, 0.001))) if positive.size else high - 1
    return HeatmapData(
        log_sensitivity=log.astype(np.float32),
        low=min(low, high - 0.1),
        high=high,
        row_start=-0.5,
        row_step=pool_row / unit_row,
        column_start=-0.5,
        column_step=pool_column / unit_column,
        row_title=row_title,
        column_title=column_title,
        wrapped=wrapped,
        zero_share=zero_share,
        pooling=pooling,
        weights_per_cell=max(1, round(h.numel() / image.numel())),
        weights_read=max(1, round(seen.numel() / image.numel())),
        name=name,
        shape=tuple(h.shape),
    )


def _require_valid(h: Tensor) -> float:
    """The greatest of the entries; refuses those that are negative or not finite."""
    least, greatest = (float(x) for x in torch.aminmax(h))
    if not (least >= 0 and np.isfinite(greatest)):
        bad = int((~((h >= 0) & torch.isfinite(h))).sum())
        raise ValueError(
            f"sensitivity must be finite and non-negative, but {bad} of {h.numel()} entries are not "
            f"(min {least:g}, max {greatest:g})."
        )
    return greatest


def _as_image(h: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The image, and the size of a kernel in it."""
    if h.ndim <= 1:
        return h.reshape(-1, _row_length(h.numel())), (1, 1)
    if h.ndim == 2:
        return h, (1, 1)
    output, input_ = h.shape[:2]
    kernel = h.reshape(output, input_, -1, h.shape[-1])  # a 3-D kernel is a stack of its slices
    height, width = kernel.shape[2:]
    across = _row_length(output) if input_ == 1 else input_
    grid = kernel.reshape(-1, across, height, width)
    return grid.permute(0, 2, 1, 3).reshape(-1, across * width), (height, width)


def _sample(h: Tensor, max_rows: int, max_columns: int) -> tuple[Float[Tensor, "rows columns some"], int, int]:
    """Some neighbouring weights of each cell, and how many rows and columns of the tensor a cell covers."""
    if h.ndim <= 2:
        whole = h.reshape(-1, _row_length(h.numel())) if h.ndim <= 1 else h
    else:
        across = _row_length(len(h)) if h.shape[1] == 1 else h.shape[1]
        whole = h.reshape(len(h) * h.shape[1] // across, across, -1)
    pool_row, pool_column = -(-whole.shape[0] // max_rows), -(-whole.shape[1] // max_columns)
    some = max(1, _MOST_READ // (max_rows * max_columns))
    if h.ndim <= 2:
        return whole[::pool_row].unfold(1, min(some, pool_column), pool_column), pool_row, pool_column
    return whole[::pool_row, ::pool_column, :some], pool_row, pool_column


def _titles(shape: torch.Size) -> tuple[str, str, int]:
    """What counts down and across, and the length of wrapped rows or 0."""
    if len(shape) <= 1:
        across = _row_length(shape.numel())
        return ("index", "index", across) if across < shape.numel() else ("", "index", 0)
    if len(shape) == 2:
        return "output index", "input index", 0
    if shape[1] > 1:
        return "output channel", "input channel", 0
    return "output channel", "output channel", _row_length(shape[0])


def _row_length(count: int) -> int:
    """The divisor of ``count`` for an image about twice as wide as high; ``count`` itself if none is near."""
    ideal = (2 * count) ** 0.5
    divisors = [d for i in range(1, int(count**0.5) + 1) if count % i == 0 for d in (i, count // i)]
    best = min(divisors, key=lambda d: abs(np.log(d / ideal)))
    return best if 0.25 < best / ideal < 4 else count


def _pool(image: Tensor, block: tuple[int, int], pooling: str) -> Tensor:
    """Pool blocks; those that stick out at the edges cover what is there."""
    if block == (1, 1):
        return image
    pool = max_pool2d if pooling == "max" else avg_pool2d
    return pool(image[None, None], block, stride=block, ceil_mode=True)[0, 0]


def plot_heatmap(data: HeatmapData) -> go.Figure:
    """Make a plotly figure of :func:`draw_heatmap`, to be shown or saved by itself.

    Takes what that takes; nothing is shown.
    """
    return go.Figure(draw_heatmap(data))


def draw_heatmap(data: HeatmapData) -> theme.Figure:
    """Draw the heat map; zeros are grey.

    Args:
        data: What :func:`heatmap_data` gives.

    Returns:
        The figure as plotly's JSON has it, unvalidated: what the explorer sends.
    """
    z = data.log_sensitivity
    rows, columns = z.shape
    where = {
        "x0": data.column_start + data.column_step / 2,
        "dx": data.column_step,
        "y0": data.row_start + data.row_step / 2,
        "dy": data.row_step,
    }
    place = f"{data.row_title} %{{y:.0f}}, " * bool(data.row_title) + f"{data.column_title} %{{x:.0f}}"
    if data.wrapped:
        place = f"{data.row_title} %{{y:.0f}} × {data.wrapped} + %{{x:.0f}}"
    what = {"max": "greatest ", "mean": "mean "}[data.pooling] if data.weights_per_cell > 1 else ""
    decade = np.arange(np.ceil(data.low), np.floor(data.high) + 1)
    if len(decade) < 2:
        decade = np.array([data.low, data.high])
    traces = []
    zero = np.isnan(z)
    if zero.any():
        traces.append(
            dict(
                type="heatmap",
                z=np.where(zero, np.float32(0), np.float32(np.nan)),
                colorscale=[[0, _ZERO_COLOUR], [1, _ZERO_COLOUR]],
                showscale=False,
                hovertemplate=f"{place}<br>h = 0<extra></extra>",
                hoverongaps=False,
                **where,
            )
        )
    traces.append(
        dict(
            type="heatmap",
            z=z,
            zmin=data.low,
            zmax=data.high,
            colorscale="Viridis",
            colorbar={
                "title": {"text": f"{what}h [loss/weight²]", "side": "right", "font": {"size": theme.FONT_SIZE}},
                "tickvals": decade,
                "ticktext": [_power(float(d)) for d in decade],
                "thickness": 12,
                "outlinewidth": 0,
                "ticks": "outside",
                "ticklen": 3,
                "tickcolor": theme.MUTED,
                "xpad": 6,
            },
            hovertemplate=f"{place}<br>{what}h = 10^%{{z:.2f}} loss/weight²<extra></extra>",
            hoverongaps=False,
            **where,
        )
    )
    shape = "×".join(map(str, data.shape)) or "scalar"
    notes = []
    if data.weights_per_cell > 1:
        some = f"{data.weights_read:,} of the " if data.weights_read < data.weights_per_cell else ""
        notes.append(f"{data.pooling} of {some}{data.weights_per_cell:,} weights a cell")
    if data.zero_share > 0:
        notes.append(f"{data.zero_share:.1%} of h is zero" + (" (grey)" if zero.any() else ""))
    bottom, right = data.row_start + rows * data.row_step, data.column_start + columns * data.column_step
    whole: dict[str, Any] = {"tickformat": "d", "showgrid": False, "minallowed": -0.5, "nticks": 8}
    down: dict[str, Any] = {"title": data.row_title, "showticklabels": bool(data.row_title)}
    title = data.column_title
    if data.wrapped:
        line = np.arange(0, round(bottom + 0.5), max(1, -(-round(bottom + 0.5) // 8)))
        down |= {"title": f"{data.row_title} (first of row)", "tickvals": line, "ticktext": line * data.wrapped}
        title = "position in row"
    return theme.figure(
        f"Hessian diagonal – {data.name} {shape}" if data.name else f"Hessian diagonal – {shape}",
        " · ".join(notes) or "one weight a cell",
        traces,
        xaxis=theme.axis(title, range=[data.column_start, right], maxallowed=right, **whole),
        yaxis=theme.axis(range=[bottom, data.row_start], maxallowed=bottom, **(whole | down)),
        uirevision=f"{data.name} {shape}",
    )


def draw_equal_sensitivities(name: str) -> theme.Figure:
    """Draw in place of the heat map that there are no sensitivities.

    Args:
        name: Name of the layer or parameter.
    """
    hidden = {"visible": False, "range": [0, 1]}
    text = {
        "text": "no sensitivities: every weight counts alike<br>explore(…, sensitivity=…) takes some",
        "showarrow": False,
        "x": 0.5,
        "y": 0.5,
    }
    return theme.figure(
        f"Hessian diagonal – {name}", "h = 1", [], xaxis=hidden, yaxis=hidden, annotations=[text | {"font": _MUTED}]
    )


def _power(exponent: float) -> str:
    return f"1e{exponent:.0f}" if float(exponent).is_integer() else f"{10**exponent:.1e}"
