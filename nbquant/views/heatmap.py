"""Heat map of one tensor: Hessian diagonal, quantization error, or predicted loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from nbquant.kernels import dispatch
from nbquant.quantization.codebook import QuantizedTensor
from nbquant.views import theme
from nbquant.views.grid import Grid, grid_of

Pooling = Literal["max", "mean"]
Quantity = Literal["sensitivity", "error", "weighted_error", "difference"]

_DECADES = 8.0  # largest range of colours: one stray 1e-30 would turn all the rest yellow
_MOST_READ = 1 << 24  # weights; for a larger tensor, possibly on disk, each cell samples a few neighbours
_ZERO_COLOUR = "#9a9a9a"  # viridis has no grey
_MUTED = {"color": theme.MUTED}
_CALLED: dict[str, tuple[str, str, str]] = {  # title, symbol, unit
    "sensitivity": ("Hessian diagonal", "h", "loss/weight²"),
    "error": ("Error", "|w − c|", "weight"),
    "weighted_error": ("Predicted loss", "½h(w − c)²", "loss"),
    "difference": ("Difference", "|c − c′|", "weight"),
}


@dataclass(frozen=True)
class HeatmapData:
    """Numbers behind a heat map.

    Attributes:
        quantity: Quantity shown: "sensitivity" h, "error" |w − c|, "weighted_error" ½h(w − c)², or "difference"
            |c − c′| of two results.
        unit: Its unit.
        log_value: log₁₀ of the pooled values; NaN where they are zero.
        low: log₁₀ of the least value with its own colour; values below share it.
        high: log₁₀ of the greatest value.
        row_start: Index at the upper edge of the first row, in units of ``row_title``.
        row_step: Indices per row: above 1 where rows were pooled, below 1 for the rows of one kernel.
        column_start: Likewise for columns.
        column_step: Likewise for columns.
        row_title: Name of the row index.
        column_title: Name of the column index.
        wrapped: If one index continues from row to row, the length of a row; else 0.
        zero_share: Share of exact zeros among the weights read.
        pooling: Pooling of the weights in a cell: "max" or "mean".
        weights_per_cell: Number of weights per cell; 1 without pooling.
        weights_read: Number of weights read per cell: all, except for very large tensors.
        name: Name of the layer or parameter.
        shape: Shape of the tensor.
    """

    quantity: Quantity
    unit: str
    log_value: Float[ndarray, "rows columns"]
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
    pooling: Pooling
    weights_per_cell: int
    weights_read: int
    name: str
    shape: tuple[int, ...]

    @property
    def symbol(self) -> str:
        """Symbol of the quantity: "h", "|w − c|", "½h(w − c)²", or "½(w − c)²" if every h is 1."""
        symbol = _CALLED[self.quantity][1]
        return symbol.replace("h", "") if self.unit == "weight²" else symbol

    @property
    def called(self) -> str:
        """The symbol and the pooling."""
        return {"max": "greatest ", "mean": "mean "}[self.pooling] * (self.weights_per_cell > 1) + self.symbol

    @property
    def title(self) -> str:
        """The quantity in words, and the tensor."""
        words = "Squared error" if self.unit == "weight²" else _CALLED[self.quantity][0]
        shape = "×".join(map(str, self.shape)) or "scalar"
        return f"{words} – {self.name} {shape}" if self.name else f"{words} – {shape}"


def heatmap_data(
    values: Float[Tensor, "..."],
    *,
    name: str = "",
    pooling: Pooling = "max",
    quantity: Quantity = "sensitivity",
    max_rows: int = 250,
    max_columns: int = 400,
) -> HeatmapData:
    """Lay out the values of a parameter as an image, and pool it until it is small enough to send.

    Matrices are unchanged; convolution filters become a grid of kernels, output channels down and input channels
    across, in which a kernel shrinks to one cell if the whole grid would be too large; a vector, or the kernels of
    a convolution with one input channel, continues in rows of equal length. For a tensor of more than 2²⁴ weights,
    which may be on disk, only some neighbouring weights of each cell are read.

    Args:
        values: Hessian diagonal h [loss/weight²] of one parameter, or the ``quantity``, of any shape; not
            negative.
        name: Name of the layer or parameter.
        pooling: Pooling of the weights in a cell.
        quantity: Quantity of the values.
        max_rows: Largest number of rows.
        max_columns: Largest number of columns.

    Returns:
        The numbers to draw.

    Raises:
        ValueError: Empty values, negative or non-finite entries, an unknown pooling or quantity.
    """
    if quantity not in get_args(Quantity):
        raise ValueError(f"quantity must be one of {get_args(Quantity)}, but got {quantity!r}.")
    return _data(
        values.shape,
        lambda part: part(values.detach()),
        (max_rows, max_columns),
        name=name,
        pooling=pooling,
        quantity=quantity,
        unit=_CALLED[quantity][2],
    )


def error_data(
    weight: Float[Tensor, "..."],
    tensor: QuantizedTensor,
    sensitivity: Float[Tensor, "..."] | None,
    *,
    name: str = "",
    pooling: Pooling = "max",
    weighted: bool = False,
    max_rows: int = 250,
    max_columns: int = 400,
) -> HeatmapData:
    """Lay out the error of a quantized parameter as :func:`heatmap_data` lays out its h.

    Args:
        weight: The original weights w.
        tensor: The quantized tensor, with values c.
        sensitivity: Hessian diagonal h [loss/weight²]; None for 1, and ½(w − c)² is then in weight².
        name: Name of the layer or parameter.
        pooling: Pooling of the weights in a cell.
        weighted: Show ½h(w − c)² [loss] rather than |w − c| [weight].
        max_rows: Largest number of rows.
        max_columns: Largest number of columns.

    Raises:
        ValueError: Different shapes, or as :func:`heatmap_data`.
    """
    shapes = {tuple(weight.shape), tuple(tensor.shape)} | (set() if sensitivity is None else {tuple(sensitivity.shape)})
    if len(shapes) > 1:
        raise ValueError(f"weight, tensor and sensitivity must have one shape, but came with {sorted(shapes)}.")

    restored = _unscaled(tensor)

    def read(part: Callable[[Tensor], Tensor]) -> Tensor:
        before, after = _values(weight, part), _values(restored, part)
        error = before.to(torch.float64, copy=True).sub_(after.to(before.device))
        if not weighted:
            return error.abs_()
        squared = error.square_().mul_(0.5)
        return squared if sensitivity is None else squared.mul_(part(sensitivity.detach()).to(before.device))

    return _data(
        weight.shape,
        read,
        (max_rows, max_columns),
        name=name,
        pooling=pooling,
        quantity="weighted_error" if weighted else "error",
        unit="weight²" if weighted and sensitivity is None else _CALLED["weighted_error" if weighted else "error"][2],
    )


def difference_data(
    value: QuantizedTensor | Float[Tensor, "..."],
    other: QuantizedTensor | Float[Tensor, "..."],
    *,
    name: str = "",
    pooling: Pooling = "max",
    max_rows: int = 250,
    max_columns: int = 400,
) -> HeatmapData:
    """Lay out the difference |c − c′| between two results of one parameter as :func:`heatmap_data` lays out its h.

    Args:
        value: The quantized tensor, with values c; or the original weights, where it is not quantized.
        other: Likewise, with values c′.
        name: Name of the layer or parameter.
        pooling: Pooling of the weights in a cell.
        max_rows: Largest number of rows.
        max_columns: Largest number of columns.

    Raises:
        ValueError: Different shapes, or as :func:`heatmap_data`.
    """
    if value.shape != other.shape:
        raise ValueError(f"both results must have one shape, but have {tuple(value.shape)} and {tuple(other.shape)}.")

    value, other = _unscaled(value), _unscaled(other)

    def read(part: Callable[[Tensor], Tensor]) -> Tensor:
        first, second = _values(value, part), _values(other, part)
        return first.to(torch.float64, copy=True).sub_(second.to(first.device)).abs_()

    return _data(
        value.shape,
        read,
        (max_rows, max_columns),
        name=name,
        pooling=pooling,
        quantity="difference",
        unit=_CALLED["difference"][2],
    )


def _unscaled(value: QuantizedTensor | Tensor) -> QuantizedTensor | Tensor:
    """A tensor in a block format restored as a whole: its parts have no values of their own."""
    return value.dequantize() if isinstance(value, QuantizedTensor) and value.scaling is not None else value


def _values(of: QuantizedTensor | Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    """A part of a tensor, looked up in the codebook if it is quantized."""
    if isinstance(of, Tensor):
        return part(of.detach())
    index = part(of.assignment.reshape(of.shape))
    return dispatch.gather(of.codebook.to(index.device), index.reshape(-1)).reshape(index.shape)


def _data(
    shape: torch.Size,
    read: Callable[[Callable[[Tensor], Tensor]], Tensor],
    most: tuple[int, int],
    *,
    name: str,
    pooling: Pooling,
    quantity: Quantity,
    unit: str,
) -> HeatmapData:
    """Pool the values that ``read`` returns for parts of a tensor."""
    if pooling not in ("max", "mean"):
        raise ValueError(f'pooling must be "max" or "mean", but got {pooling!r}.')
    grid = grid_of(shape)
    if shape.numel() > _MOST_READ:
        step = _steps((grid.rows, grid.columns), most)
        seen = read(partial(_sample, grid=grid, step=step, some=max(1, _MOST_READ // (most[0] * most[1]))))
        image, unit_step = seen.amax(2) if pooling == "max" else seen.mean(2), (1, 1)
    else:
        seen = read(lambda tensor: tensor)
        image, unit_step, step = grid.image(seen), grid.kernel, (1, 1)
        if image.shape[0] > most[0] or image.shape[1] > most[1]:
            image, unit_step = _pool(image, grid.kernel, pooling), (1, 1)
            step = _steps(image.shape, most)
            image = _pool(image, step, pooling)
    greatest = _require_valid(seen, quantity)

    value = image.to(torch.float64).cpu().numpy()
    with np.errstate(divide="ignore"):
        log = np.log10(value)
    log[value == 0] = np.nan
    high = float(np.log10(greatest)) if greatest > 0 else 0.0
    positive = log[np.isfinite(log)]
    low = max(high - _DECADES, float(np.quantile(positive, 0.001))) if positive.size else high - 1
    return HeatmapData(
        quantity=quantity,
        unit=unit,
        log_value=log.astype(np.float32),
        low=min(low, high - 0.1),
        high=high,
        row_start=-0.5,
        row_step=step[0] / unit_step[0],
        column_start=-0.5,
        column_step=step[1] / unit_step[1],
        row_title=grid.row_title,
        column_title=grid.column_title,
        wrapped=grid.wrapped,
        zero_share=1 - int(torch.count_nonzero(seen)) / seen.numel(),
        pooling=pooling,
        weights_per_cell=max(1, round(shape.numel() / image.numel())),
        weights_read=max(1, round(seen.numel() / image.numel())),
        name=name,
        shape=tuple(shape),
    )


def _require_valid(values: Tensor, quantity: Quantity) -> float:
    """The greatest entry; refuses entries that are negative or not finite."""
    least, greatest = (float(x) for x in torch.aminmax(values))
    if not (least >= 0 and np.isfinite(greatest)):
        bad = int((~((values >= 0) & torch.isfinite(values))).sum())
        raise ValueError(
            f"{quantity.replace('_', ' ')} must be finite and non-negative, but {bad} of {values.numel()} entries are "
            f"not (min {least:g}, max {greatest:g})."
        )
    return greatest


def _steps(size: tuple[int, int] | torch.Size, most: tuple[int, int]) -> tuple[int, int]:
    """Numbers of rows and columns pooled into one."""
    return -(-size[0] // most[0]), -(-size[1] // most[1])


def _sample(tensor: Tensor, grid: Grid, step: tuple[int, int], some: int) -> Float[Tensor, "rows columns some"]:
    """Some neighbouring weights of each cell."""
    places = grid.view(tensor)
    if tensor.ndim > 2:
        return places[:: step[0], :: step[1], :some]
    return places[:: step[0], :, 0].unfold(1, min(some, step[1]), step[1])


def _pool(image: Tensor, block: tuple[int, int], pooling: Pooling) -> Tensor:
    """Pool blocks; blocks that extend beyond the edges cover what is there."""
    if block == (1, 1):
        return image
    pool = max_pool2d if pooling == "max" else avg_pool2d
    return pool(image[None, None], block, stride=block, ceil_mode=True)[0, 0]


def heatmap_table(data: HeatmapData) -> pd.DataFrame:
    """Tabulate the cells: first row and column, also within a kernel, and value; zeros are 0."""
    rows, columns = data.log_value.shape
    row, column = (i.reshape(-1) for i in np.indices((rows, columns)))
    # Steps are whole numbers, or one over the size of a kernel.
    down, across = (max(1, round(1 / step)) for step in (data.row_step, data.column_step))
    first_row = row // down * max(1, round(data.row_step))
    first_column = column // across * max(1, round(data.column_step))
    if data.wrapped or not data.row_title:
        table = pd.DataFrame({data.column_title: first_row * data.wrapped + first_column})
    else:
        table = pd.DataFrame({data.row_title: first_row, data.column_title: first_column})
    if max(down, across) > 1:
        table["kernel row"], table["kernel column"] = row % down, column % across
    value = 10.0 ** data.log_value.reshape(-1).astype(np.float64)
    table[f"{data.called} [{data.unit}]"] = np.nan_to_num(value, nan=0.0)
    return table
