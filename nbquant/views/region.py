"""Rectangular regions in the map of a tensor, and the weights in them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from nbquant.views.grid import grid_of

_RANGE = re.compile(r"\s*(\d*)\s*(:?)\s*(\d*)\s*")


@dataclass(frozen=True)
class Region:
    """A rectangle of places in a tensor's :class:`~nbquant.views.grid.Grid`; those of a convolution are kernels.

    Attributes:
        shape: Shape of the tensor.
        rows: First row and the one after the last.
        columns: First column and the one after the last.
    """

    shape: tuple[int, ...]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @staticmethod
    def of(shape: Sequence[int], x: tuple[float, float], y: tuple[float, float]) -> "Region":
        """Make the region of the places that a box touches.

        Args:
            shape: Shape of the tensor.
            x: Left and right in units of the map's axis, in any order; place i reaches from i − ½ to i + ½.
            y: Likewise up and down.

        Raises:
            ValueError: A box that is not finite or lies outside the map.
        """
        grid = grid_of(shape)
        return Region(tuple(shape), _touched(y, grid.rows, "rows"), _touched(x, grid.columns, "columns"))

    @staticmethod
    def parse(text: str, shape: Sequence[int]) -> "Region":
        """Parse :attr:`text`: rows, comma, columns, as Python's slices or single numbers.

        If the map has only one row, its columns are enough.

        Raises:
            ValueError: Other text, or a region outside the map.
        """
        grid = grid_of(shape)
        parts = text.split(",")
        if len(parts) == 1 and grid.rows == 1:
            parts = [":", *parts]
        if len(parts) != 2:
            raise ValueError(
                f"a region must be rows, comma, columns, such as 0:{grid.rows}, 0:{grid.columns}, but is {text!r}."
            )
        rows, columns = _range(parts[0], grid.rows, "rows"), _range(parts[1], grid.columns, "columns")
        return Region(tuple(shape), rows, columns)

    @property
    def text(self) -> str:
        """Rows and columns as slices, such as "0:10, 5:20"."""
        return f"{self.rows[0]}:{self.rows[1]}, {self.columns[0]}:{self.columns[1]}"

    @property
    def label(self) -> str:
        """Description in words, such as "rows 0–9, columns 5–20"; the whole is "all of it"."""
        grid = grid_of(self.shape)
        if self.rows == (0, grid.rows) and self.columns == (0, grid.columns):
            return "all of it"
        whole_rows = self.columns == (0, grid.columns)
        if grid.rows == 1 or (grid.wrapped and (whole_rows or self.rows[1] == self.rows[0] + 1)):
            start = self.rows[0] * grid.columns + self.columns[0]
            stop = (self.rows[1] - 1) * grid.columns + self.columns[1]
            name = "output channel" if len(self.shape) > 2 else "index"
            return _counted((start, stop), name if len(self.shape) != 2 else "column")
        if grid.wrapped:
            return f"{_counted(self.rows, 'row')}, {_counted(self.columns, 'position')} of the map"
        down, across = ("output channel", "input channel") if len(self.shape) > 2 else ("row", "column")
        return f"{_counted(self.rows, down)}, {_counted(self.columns, across)}"

    def weights(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, " n"]:
        """Read the entries in the region; of a tensor on disk no others are read.

        Args:
            tensor: A tensor of the region's shape: weights, sensitivities, or indices.

        Raises:
            ValueError: Another shape.
        """
        if tuple(tensor.shape) != self.shape:
            raise ValueError(f"a tensor of shape {self.shape} is required, but has {tuple(tensor.shape)}.")
        return grid_of(self.shape).view(tensor)[slice(*self.rows), slice(*self.columns)].reshape(-1)


def _touched(limits: tuple[float, float], count: int, what: str) -> tuple[int, int]:
    low, high = sorted(limits)
    if not (math.isfinite(low) and math.isfinite(high) and low < count - 0.5 and high > -0.5):
        raise ValueError(f"a box must touch the {count} {what} from −0.5 to {count - 0.5}, but is at {limits}.")
    first, last = math.floor(low + 0.5), math.ceil(high - 0.5)
    return max(0, first), min(count, max(first, last) + 1)


def _range(text: str, count: int, what: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    start, colon, stop = match.groups() if match else ("", "", "")
    begin, end = int(start or 0), int(stop or count) if colon else int(start or 0) + 1
    if not (start or colon) or begin >= end or end > count:
        raise ValueError(f"{what} must be a range in 0:{count}, such as :{min(5, count)}, but {text.strip()!r} came.")
    return begin, end


def _counted(limits: tuple[int, int], name: str) -> str:
    if limits[1] == limits[0] + 1:
        return f"{name} {limits[0]}"
    return f"{'indices' if name == 'index' else name + 's'} {limits[0]}–{limits[1] - 1}"
