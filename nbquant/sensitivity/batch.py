"""A batch, and what part of its inputs belongs to which sample."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nbquant.nested import map_tensors, tensors_in

Axes = tuple[int | None, ...]
"""Dimension that counts the samples, of each tensor of a nest in its order; None for what all samples share."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples.

    Attributes:
        inputs: What the model is called with: a tensor, or a tuple, list or mapping of arguments.
        target: What the loss compares the output with.
        size: Number of samples.
        axes: Dimension of each input tensor that counts the samples; None where that is not known.
    """

    inputs: Any
    target: Any
    size: int
    axes: Axes | None = None

    def part(self, start: int, stop: int) -> "Batch":
        """Cut out the inputs of samples ``start`` to ``stop``; the target stays whole."""
        assert self.axes is not None
        return Batch(cut(self.inputs, self.axes, start, stop), self.target, min(stop, self.size) - start, self.axes)


def cut(nest: Any, axes: Axes, start: int, stop: int) -> Any:
    """Narrow the tensors of a nest along their axes."""
    following = iter(axes)

    def narrow(tensor: Tensor) -> Tensor:
        axis = next(following)
        return tensor if axis is None else tensor.narrow(axis, start, min(stop, tensor.shape[axis]) - start)

    return map_tensors(narrow, nest)


def repeated(nest: Any, axes: Axes) -> Any:
    """Repeat every sample of a nest once."""
    following = iter(axes)

    def twice(tensor: Tensor) -> Tensor:
        axis = next(following)
        return tensor if axis is None else tensor.repeat_interleave(2, axis)

    return map_tensors(twice, nest)


def first_tensor(value: Any) -> Tensor | None:
    """Find the first tensor of a nest that has a dimension."""
    return next((tensor for tensor in tensors_in(value) if tensor.ndim), None)
