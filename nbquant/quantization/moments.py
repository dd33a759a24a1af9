"""What a layer's errors do together: second moments of its inputs, and the loss's sensitivity to its outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A weight matrix of the network whose inputs are known.

    Attributes:
        weight: Name of its parameter.
        bias: Name of the bias that is added to its outputs; None if there is none, or others use it too.
        along: Whether the first axis of the weight is the input, as in transposed convolutions, and not the output.
        groups: Groups of outputs, each of which sees inputs of its own.
        stacked: Whether the weight is a stack of matrices, as of experts: [groups, in, out] where ``along``, else
            [groups, out, in].
    """

    weight: str
    bias: str | None = None
    along: bool = False
    groups: int = 1
    stacked: bool = False

    def shape(self, weight: Tensor) -> tuple[int, int]:
        """Count the outputs of all groups and the inputs of each, of a weight that has this layout."""
        first, *others = weight.shape
        if self.stacked:
            inputs, outputs = others if self.along else others[::-1]
            return first * outputs, inputs
        cols = prod(others)
        return (self.groups * cols, first // self.groups) if self.along else (first, cols)


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """A layer's curvature as a product: ½ Σ_r s_r E(δ_r x)², the loss that errors δ of its rows predict.

    The second moments G = E[x xᵀ] of a wide input are block-diagonal: moments between blocks are left out.

    Attributes:
        blocks: Diagonal blocks of G, over samples and places, from the first input to the last; one matrix for each
            group.
        mean: E[x] where the layer has a bias, which then sees an input of 1; None where it has none.
        outputs: s: mean over samples of the loss's squared gradients of each output, summed over places
            [loss/output²]; of an ``along`` part with groups, those of one group after the other.
        places: Number of inputs that the moments are a mean over; of each group where these differ.
        held_back: Inputs at places that the blocks do not know, to tell whether feedback helps; None if there are none.
    """

    blocks: tuple[Float[Tensor, "groups width width"], ...]
    mean: Float[Tensor, "groups d"] | None
    outputs: Float[Tensor, " rows"]
    places: int | Int64[Tensor, " groups"]
    held_back: Float[Tensor, "groups places d"] | None = None

    @property
    def width(self) -> int:
        """Number of inputs d, without that of the bias."""
        return sum(block.shape[1] for block in self.blocks)

    @property
    def energy(self) -> Float[Tensor, "groups d"]:
        """E[x²] of each input."""
        return torch.cat([block.diagonal(dim1=1, dim2=2) for block in self.blocks], 1)

    @property
    def inputs(self) -> Float[Tensor, "groups d d"]:
        """G in full, with a last row and column for the 1 that a bias sees; zero between blocks.

        It is of all places, those that were held back too.
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
    """How a layer's inputs have changed because layers before it are quantized, at some places of some samples.

    Attributes:
        inputs: x̂: what the layer sees now.
        missing: What its outputs lack now, with its own weights as they were: w x − w x̂.
        mean: E[x] at the same places, before.
        energy: E[x²] there.
    """

    inputs: Float[Tensor, "groups places d"]
    missing: Float[Tensor, "groups places rows"]
    mean: Float[Tensor, "groups d"]
    energy: Float[Tensor, "groups d"]


Choice = Callable[[str, Shift | None], Mapping[str, Tensor]]
"""Quantizes a layer, given how its inputs have changed; returns the new values of its parameters by name."""


class Calibration(Protocol):
    """What knows the moments of layers.

    Attributes:
        outputs: s of each layer that it knows [loss/output²], in the order of their execution.
        parts: Which parameters they are, by the same names.
        diagonals: Curvatures of tables of vectors by parameter name: factors of the rows and of the columns.
    """

    @property
    def outputs(self) -> Mapping[str, Float[Tensor, " rows"]]: ...  # noqa: D102

    @property
    def parts(self) -> Mapping[str, Part]: ...  # noqa: D102

    @property
    def diagonals(self) -> Mapping[str, tuple[Float[Tensor, " rows"], Float[Tensor, " columns"]]]: ...  # noqa: D102

    def moments(self, layer: str, changed: Mapping[str, Float[Tensor, "..."]]) -> LayerMoments:
        """Moments of a layer, with other values of some parameters."""
        ...

    def in_turn(self, choose: Choice, changed: Mapping[str, Float[Tensor, "..."]]) -> None:
        """Have each layer quantized in the order of execution, behind the layers that already are."""
        ...
