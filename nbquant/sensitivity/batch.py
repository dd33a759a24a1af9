"""A batch: nested tensors with samples along their first dimension."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nbquant.nested import map_tensors


@dataclass(frozen=True)
class Batch:
    """Samples, along the first dimension of every tensor that has one entry a sample.

    Attributes:
        inputs: What the model is called with: a tensor, or a tuple, list or dict of arguments.
        target: What the loss compares the output with.
        size: Number of samples.
    """

    inputs: Any
    target: Any
    size: int

    def part(self, start: int, stop: int) -> "Batch":
        """Samples ``start`` to ``stop``, as a batch."""

        def cut(tensor: Tensor) -> Tensor:
            return tensor[start:stop] if has_samples(tensor, self.size) else tensor

        return Batch(map_tensors(cut, self.inputs), map_tensors(cut, self.target), min(stop, self.size) - start)

    def twice(self) -> "Batch":
        """The same samples, each two times."""

        def repeat(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor]) if has_samples(tensor, self.size) else tensor

        return Batch(map_tensors(repeat, self.inputs), map_tensors(repeat, self.target), 2 * self.size)


def has_samples(tensor: Tensor, size: int) -> bool:
    """Whether the first dimension counts the samples."""
    return tensor.ndim > 0 and tensor.shape[0] == size


def sample_dims(value: Any, size: int) -> Any:
    """The nest with 0 for a tensor that has one entry a sample and None for all else, as ``vmap`` wants it."""
    if isinstance(value, Tensor):
        return 0 if has_samples(value, size) else None
    if isinstance(value, Mapping):
        return {key: sample_dims(item, size) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [sample_dims(item, size) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return None


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor of the nest that has a dimension."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) if tensor.ndim > 0 else None, value)
    return found[0] if found else None
