"""Trace a weight into the file, in the background."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from nbquant.analysis.trace import Trace, layout_of, trace
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.tensor import SelectedTensor
from nbquant.storage.layout import Layout
from nbquant.views.grid import grid_of
from nbquant.widgets.jobs.exact import QUIET
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.workbench import Workbench

SLOT = "trace"
MOST_READ = 1 << 24  # weights among which the nearest to a value is looked for


class WeightTracer:
    """Traces one weight at a time, and again when what is kept at the target has changed."""

    def __init__(self, show: Callable[[Trace | None], None]) -> None:
        """Start with none; ``show`` gets the trace, None takes it back."""
        self._show = show
        self._weight: tuple[str, int] | None = None  # parameter, and place in it flattened
        self._layout: tuple[Quantized, Layout] | None = None

    def take(self, bench: Workbench, tensor: SelectedTensor, find: Callable[[Tensor], int]) -> None:
        """Trace a weight of a parameter; ``find`` gets the parameter, and gives its place in it flattened."""
        keep = bench.kept(SLOT)
        if keep is None:
            return

        def work(report: Report) -> tuple[int, Trace]:
            quantized = keep(report)
            if self._layout is None or self._layout[0] is not quantized:
                self._layout = quantized, layout_of(quantized, bench.weights.origin)
            index = find(tensor.weight)
            return index, trace(quantized, tensor.weight, tensor.name, index, self._layout[1])

        def done(found: tuple[int, Trace]) -> None:
            self._weight = tensor.name, found[0]
            self._show(found[1])

        bench.jobs.start(SLOT, "Tracing the weight", work, done, quiet=QUIET)

    def follow(self, bench: Workbench, tensor: SelectedTensor | None) -> None:
        """Trace the same weight through another result, if it is of the parameter in focus; else forget it."""
        if self._weight is None:
            return
        name, index = self._weight
        if tensor is None or tensor.name != name:
            self._weight = None
            bench.jobs.cancel(SLOT)
            self._show(None)
        else:
            self.take(bench, tensor, lambda weight: index)


def nearest_to(value: float) -> Callable[[Tensor], int]:
    """Get what finds the weight nearest to a value, among the first 2²⁴."""
    return lambda weight: int((weight.detach().reshape(-1)[:MOST_READ] - value).abs().argmin())


def at_place(x: float, y: float) -> Callable[[Tensor], int]:
    """Get what finds the weight at a point of a map, in units of its axes; where cells are pooled, one of its cell."""

    def find(weight: Tensor) -> int:
        grid = grid_of(weight.shape)
        row, down = _split(y, grid.rows, grid.kernel[0], "rows")
        column, across = _split(x, grid.columns, grid.kernel[1], "columns")
        return ((row * grid.columns + column) * grid.kernel[0] + down) * grid.kernel[1] + across

    return find


def _split(at: float, places: int, inside: int, what: str) -> tuple[int, int]:
    """Place along an axis of the map, and within its kernel."""
    if not -0.5 <= at <= places - 0.5:
        raise ValueError(f"a point must lie on one of the {places} {what} of the map, but is at {at:g}")
    place = min(int(at + 0.5), places - 1)
    return place, min(int((at + 0.5 - place) * inside), inside - 1)


def at_index(text: str) -> Callable[[Tensor], int]:
    """Get what finds the weight at an index, as in "3, 17"."""

    def find(weight: Tensor) -> int:
        shape = tuple(weight.shape)
        try:
            place = tuple(int(part) for part in text.replace("[", " ").replace("]", " ").split(","))
        except ValueError:
            place = ()
        if len(place) != len(shape) or not all(0 <= i < size for i, size in zip(place, shape, strict=True)):
            most = ", ".join(str(size - 1) for size in shape)
            raise ValueError(f"the index of a weight must be {len(shape)} numbers up to {most}, but is {text!r}"[:300])
        return int(np.ravel_multi_index(place, shape))

    return find
