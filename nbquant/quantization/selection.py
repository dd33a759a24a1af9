"""What is quantized: named tensors with their sensitivities."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class SelectedTensor:
    """One parameter tensor of a selection.

    Attributes:
        name: Parameter name, as in ``model.named_parameters()``; tied ones have one entry, under their first name.
        layer: Name of the module that owns it; the unit of "per layer".
        weight: The weights, in their own shape, dtype and device, detached.
        sensitivity: Hessian diagonal h [loss/weight²] of the same shape and device; None if it was not given.
    """

    name: str
    layer: str
    weight: Float[Tensor, "..."]
    sensitivity: Float[Tensor, "..."] | None = None


@dataclass(frozen=True)
class Selection:
    """Tensors chosen to be quantized together.

    Attributes:
        tensors: The chosen tensors, in the model's order; never empty.
        unselected_bits: Bits of the model's other parameters and buffers, which are stored as they are.
        unselected_count: Number of the model's other parameters (buffers are not weights and do not count).
    """

    tensors: tuple[SelectedTensor, ...]
    unselected_bits: int = 0
    unselected_count: int = 0

    def __len__(self) -> int:
        """Number of weights N."""
        return sum(t.weight.numel() for t in self.tensors)

    def __iter__(self) -> Iterator[SelectedTensor]:
        return iter(self.tensors)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the model's order."""
        return tuple(dict.fromkeys(t.layer for t in self.tensors))

    @property
    def weight(self) -> Float[Tensor, " n"]:
        """All weights, flattened and joined."""
        return torch.cat([t.weight.reshape(-1) for t in self.tensors])

    @property
    def sensitivity(self) -> Float[Tensor, " n"] | None:
        """All sensitivities, flattened and joined; None if any tensor has none."""
        parts = [t.sensitivity for t in self.tensors]
        return None if any(p is None for p in parts) else torch.cat([p.reshape(-1) for p in parts if p is not None])

    @property
    def source_bits(self) -> int:
        """N·b: bits of the weights as they are stored now."""
        return sum(t.weight.numel() * t.weight.element_size() * 8 for t in self.tensors)

    def by_layer(self) -> dict[str, "Selection"]:
        """One selection a layer."""
        return {layer: Selection(tuple(t for t in self.tensors if t.layer == layer)) for layer in self.layers}
