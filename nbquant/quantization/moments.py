"""Moments of a layer for error feedback: second moments of its inputs, and sensitivities of its outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A weight matrix of the network with known inputs.

    Attributes:
        weight: Parameter name of the weight.
        bias: Name of the bias added to its outputs; None if there is none, or if it is shared.
        along: Whether the first axis of the weight is the input, as in transposed convolutions, and not the output.
        groups: Number of groups of outputs, each with its own inputs.
        stacked: Whether the weight is a stack of matrices, such as experts: [groups, in, out] if ``along``, else
            [groups, out, in].
    """

    weight: str
    bias: str | None = None
    along: bool = False
    groups: int = 1
    stacked: bool = False

    def shape(self, weight: Tensor) -> tuple[int, int]:
        """Count the outputs of all groups and the inputs of each, for a weight in this layout."""
        first, *others = weight.shape
        if self.stacked:
            inputs, outputs = others if self.along else others[::-1]
            return first * outputs, inputs
        cols = prod(others)
        return (self.groups * cols, first // self.groups) if self.along else (first, cols)


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Kronecker-factored curvature of a layer: ½ Σ_r s_r E(δ_r x)² is the predicted loss of row errors δ.

    The second moments G = E[x xᵀ] of a wide input are block-diagonal: moments between blocks are left out.

    Attributes:
        blocks: Diagonal blocks of G, averaged over samples and places, from the first input to the last; one matrix per
            group.
        mean: E[x] where the layer has a bias, which sees an input of 1; None where it has none.
        outputs: s: squared gradient of the loss for each output, summed over places, mean over samples
            [loss/output²]; with groups and ``along``, concatenated group by group.
        places: Number of inputs averaged over; per group where these differ.
        held_back: Inputs not included in the blocks, to test whether feedback helps; None if there are none.
    """

    blocks: tuple[Float[Tensor, "groups width width"], ...]
    mean: Float[Tensor, "groups d"] | None
    outputs: Float[Tensor, " rows"]
    places: int | Int64[Tensor, " groups"]
    held_back: Float[Tensor, "groups places d"] | None = None

    @property
    def width(self) -> int:
        """Number of inputs d, without the bias's."""
        return sum(block.shape[1] for block in self.blocks)

    @property
    def energy(self) -> Float[Tensor, "groups d"]:
        """E[x²] of each input."""
        return torch.cat([block.diagonal(dim1=1, dim2=2) for block in self.blocks], 1)

    @property
    def inputs(self) -> Float[Tensor, "groups d d"]:
        """The full G, with a last row and column for the bias's input of 1; zero between blocks.

        It covers all places, the held-back ones too.
        """
        dense = torch.stack([torch.block_diag(*of_group) for of_group in zip(*self.blocks, strict=True)]).double()
        mean = None if self.mean is None else self.mean.double()
        if self.held_back is not None:
            held, count = self.held_back.double(), self.held_back.shape[1]
            known, places = (dense != 0) | (len(self.blocks) == 1), torch.as_tensor(self.places).to(held).reshape(-1, 1)
            dense = (places[..., None] * dense + (held.mT @ held) * known) / (places[..., None] + count)
            mean = None if mean is None else (places * mean + held.sum(1)) / (places + count)
        if mean is None:
            return dense
        beside = mean[..., None]
        return torch.cat([torch.cat([dense, beside], 2), torch.cat([beside.mT, torch.ones_like(beside[:, :1])], 2)], 1)


@dataclass(frozen=True, eq=False)
class Shift:
    """Change of a layer's inputs after quantizing the layers before it, on some places of some samples.

    Attributes:
        inputs: x̂: current inputs of the layer.
        missing: Output error due to x̂ with the original weights: w x − w x̂.
        mean: Original E[x] at the same places.
        energy: Original E[x²] there.
    """

    inputs: Float[Tensor, "groups places d"]
    missing: Float[Tensor, "groups places rows"]
    mean: Float[Tensor, "groups d"]
    energy: Float[Tensor, "groups d"]


Choice = Callable[[str, Shift | None], Mapping[str, Tensor]]
"""Quantizes a layer, given the change of its inputs; returns the new values of its parameters by name."""


class Calibration(Protocol):
    """Source of the layers' moments.

    Attributes:
        outputs: s of each known layer [loss/output²], in the order of execution.
        parts: Their parameters, by the same names.
        diagonals: Curvatures of embedding tables by parameter name: factors of the rows and of the columns.
    """

    @property
    def outputs(self) -> Mapping[str, Float[Tensor, " rows"]]: ...  # noqa: D102

    @property
    def parts(self) -> Mapping[str, Part]: ...  # noqa: D102

    @property
    def diagonals(self) -> Mapping[str, tuple[Float[Tensor, " rows"], Float[Tensor, " columns"]]]: ...  # noqa: D102

    def moments(self, layer: str, changed: Mapping[str, Float[Tensor, "..."]]) -> LayerMoments:
        """Compute the moments of a layer, with other values for some parameters."""
        ...

    def in_turn(self, choose: Choice, changed: Mapping[str, Float[Tensor, "..."]]) -> None:
        """Quantize the layers in the order of execution, each after the layers before it."""
        ...
