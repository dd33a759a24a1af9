"""A batch, and what part of its inputs belongs to which sample."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbquant.nested import map_tensors, tensors_in

Axes = tuple[int | None, ...]
"""Dimension that counts the samples, of each tensor of a nest in its order; None for what all samples share."""


@dataclass(frozen=True)
class Offsets:
    """A tensor that tells where each sample begins in others: 0 first, never falling.

    Attributes:
        with_end: Whether it tells where the last sample ends, too.
    """

    with_end: bool


@dataclass(frozen=True)
class Ragged:
    """A tensor whose samples follow each other along its first dimension, each with a length of its own.

    Attributes:
        offsets: Number of the tensor that tells where they begin.
    """

    offsets: int

    def ends(self, offsets: Tensor, length: int, start: int, stop: int) -> tuple[int, int]:
        """Where the samples ``start`` to ``stop`` begin and end."""
        return int(offsets[start]), int(offsets[stop]) if stop < len(offsets) else length


InputAxes = tuple[int | Offsets | Ragged | None, ...]
"""The same of inputs, of which some may be ragged."""


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
    axes: InputAxes | None = None

    def part(self, start: int, stop: int) -> "Batch":
        """Cut out the inputs of samples ``start`` to ``stop``; the target stays whole."""
        assert self.axes is not None
        return Batch(cut(self.inputs, self.axes, start, stop), self.target, min(stop, self.size) - start, self.axes)


def cut(nest: Any, axes: InputAxes, start: int, stop: int) -> Any:
    """Take the samples ``start`` to ``stop`` of every tensor of a nest."""
    tensors, following = tensors_in(nest), iter(axes)

    def narrow(tensor: Tensor) -> Tensor:
        axis = next(following)
        if isinstance(axis, Offsets):
            own = tensor[start : stop + axis.with_end]
            return own - own[:1]
        if isinstance(axis, Ragged):
            first, end = axis.ends(tensors[axis.offsets], len(tensor), start, stop)
            return tensor[first:end]
        return tensor if axis is None else tensor.narrow(axis, start, min(stop, tensor.shape[axis]) - start)

    return map_tensors(narrow, nest)


def repeated(nest: Any, axes: InputAxes) -> Any:
    """Repeat the only sample of a nest once."""
    following = iter(axes)
    lengths = [len(t) for t, axis in zip(tensors_in(nest), axes, strict=True) if isinstance(axis, Ragged)]

    def twice(tensor: Tensor) -> Tensor:
        axis = next(following)
        if isinstance(axis, Offsets):
            return lengths[0] * torch.arange(2 + axis.with_end).to(tensor)
        if isinstance(axis, Ragged):
            return torch.cat([tensor, tensor])
        return tensor if axis is None else tensor.repeat_interleave(2, axis)

    return map_tensors(twice, nest)


def first_tensor(value: Any) -> Tensor | None:
    """Find the first tensor of a nest that has a dimension."""
    return next((tensor for tensor in tensors_in(value) if tensor.ndim), None)
