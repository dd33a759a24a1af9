"""A batch, and how its inputs are split by sample."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbquant.nested import map_tensors, tensors_in

Axes = tuple[int | None, ...]
"""Sample dimension of each tensor of a nest, in order; None for tensors shared by all samples."""


@dataclass(frozen=True)
class Offsets:
    """An offsets tensor with the start of each sample in other tensors: 0 first, non-decreasing.

    Attributes:
        with_end: Whether it also holds the end of the last sample.
    """

    with_end: bool


@dataclass(frozen=True)
class Ragged:
    """A tensor of concatenated samples of different lengths, along its first dimension.

    Attributes:
        offsets: Index of the tensor with their offsets.
    """

    offsets: int

    def ends(self, offsets: Tensor, length: int, start: int, stop: int) -> tuple[int, int]:
        """Start and end of the samples ``start`` to ``stop``."""
        return int(offsets[start]), int(offsets[stop]) if stop < len(offsets) else length


InputAxes = tuple[int | Offsets | Ragged | None, ...]
"""Sample dimension of each input tensor, some of which may be ragged."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of samples.

    Attributes:
        inputs: Inputs of the model: a tensor, or a tuple, list or mapping of arguments.
        target: Target of the loss.
        size: Number of samples.
        axes: Sample dimension of each input tensor; None if unknown.
    """

    inputs: Any
    target: Any
    size: int
    axes: InputAxes | None = None

    def part(self, start: int, stop: int) -> "Batch":
        """Take the inputs of samples ``start`` to ``stop``; the target stays whole."""
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
