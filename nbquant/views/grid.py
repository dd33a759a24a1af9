"""Layout of a tensor of any shape as a two-dimensional map."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Rows and columns of a tensor's map, and the entries in each place.

    A matrix has one entry per place; a convolution one kernel, output channels down and input channels across; a
    vector, or the kernels of a convolution with one input channel, continues in rows of equal length.

    Attributes:
        rows: Number of places down.
        columns: Number of places across.
        kernel: Rows and columns of the entries in a place; (1, 1) for matrices and vectors.
        row_title: Name of the row index; empty if there is only one row.
        column_title: Name of the column index.
        wrapped: If one index continues from row to row, the length of a row; else 0.
    """

    rows: int
    columns: int
    kernel: tuple[int, int]
    row_title: str
    column_title: str
    wrapped: int

    def view(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "rows columns inside"]:
        """View the tensor by places, without a copy if its memory layout allows."""
        return tensor.reshape(self.rows, self.columns, prod(self.kernel))

    def image(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "height width"]:
        """Arrange the entries as the map shows them."""
        height, width = self.kernel
        places = tensor.reshape(self.rows, self.columns, height, width)
        return places.permute(0, 2, 1, 3).reshape(self.rows * height, self.columns * width)


def grid_of(shape: Sequence[int]) -> Grid:
    """Choose the layout for a shape.

    Args:
        shape: Shape of a parameter, with at least one entry; a 3-D kernel becomes a stack of its slices.

    Raises:
        ValueError: A shape without entries.
    """
    count = prod(shape)
    if not count:
        raise ValueError(f"a tensor to be drawn must not be empty, but its shape is {tuple(shape)}: leave it out.")
    if len(shape) <= 1:
        across = _row_length(count)
        wrapped = across if across < count else 0
        return Grid(count // across, across, (1, 1), "index" if wrapped else "", "index", wrapped)
    if len(shape) == 2:
        return Grid(shape[0], shape[1], (1, 1), "output index", "input index", 0)
    output, input_, width = shape[0], shape[1], shape[-1]
    kernel = count // (output * input_ * width), width
    if input_ > 1:
        return Grid(output, input_, kernel, "output channel", "input channel", 0)
    across = _row_length(output)
    return Grid(output // across, across, kernel, "output channel", "output channel", across)


def _row_length(count: int) -> int:
    """The divisor of ``count`` for an image about twice as wide as high; ``count`` itself if none is near."""
    ideal = (2 * count) ** 0.5
    divisors = [d for i in range(1, int(count**0.5) + 1) if count % i == 0 for d in (i, count // i)]
    best = min(divisors, key=lambda d: abs(np.log(d / ideal)))
    return best if 0.25 < best / ideal < 4 else count
