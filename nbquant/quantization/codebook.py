"""Codebooks of reconstruction values, and tensors as indices into them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Size, Tensor

from nbquant.coding.levels import PRUNED, Alphabet
from nbquant.kernels import dispatch
from nbquant.quantization.blocks.scaling import Scaling

__all__ = ["PRUNED", "BlockLevels", "Codebook", "Lattice", "QuantizedTensor", "Scaling", "alphabet_of"]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Reconstruction values that are integers times a step.

    Attributes:
        step: Step Δ [weight].
        integer: Integer m of each value, ascending; the value is mΔ rounded to the dtype.
        dependent: Whether a tensor's integers are on paths through the trellis: see :mod:`nbquant.coding.trellis`.
    """

    step: float
    integer: Int64[Tensor, " k"]
    dependent: bool


@dataclass(frozen=True, eq=False)
class BlockLevels:
    """Reconstruction values that are levels of a block format, before scaling.

    Attributes:
        format: Name of the format.
        codes: Code of each value.
    """

    format: str
    codes: UInt8[np.ndarray, " k"]


@dataclass(frozen=True)
class Codebook:
    """Reconstruction values with their counts and code.

    Attributes:
        value: Reconstruction values c, ascending, in the dtype of the weights.
        counts: Number of weights n_j in each cluster.
        codeword_length: Length ℓ_j of each codeword [bit]; for arithmetic codes the ideal −log₂(n_j / Σn).
        lattice: Lattice of the values if they are integers times a step, else None.
        levels: The block format whose levels the values are, else None; then they have no unit, and float32.
    """

    value: Float[Tensor, " k"]
    counts: Int64[Tensor, " k"]
    codeword_length: Int64[Tensor, " k"] | Float[Tensor, " k"]
    lattice: Lattice | None = None
    levels: BlockLevels | None = None


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor as indices into a codebook.

    Attributes:
        codebook: Reconstruction values, shared with the other tensors of its group.
        assignment: Index of each weight's codeword, flattened; −1 marks a pruned weight, which is exactly zero.
        shape: Shape of the tensor.
        streams: Size of each block's stream [byte] where it is known only after encoding; None where codeword lengths
            give it.
        scaling: Scales by which a block format multiplies its levels; None if the codebook's values are weights.
    """

    codebook: Float[Tensor, " k"]
    assignment: Int[Tensor, " n"]
    shape: Size
    streams: tuple[int, ...] | None = None
    scaling: Scaling | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.codebook.dtype if self.scaling is None else self.scaling.dtype

    def dequantize(self) -> Float[Tensor, "..."]:
        """Look up the tensor of reconstruction values, and scale them in a block format."""
        if self.scaling is not None:
            return self.scaling.dequantize(self.assignment, self.shape)
        return dispatch.gather(self.codebook, self.assignment).reshape(self.shape)

    def losses(
        self, weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"] | None, part: slice = slice(None)
    ) -> np.ndarray:
        """Sum n, h and ½h(w − c)² [loss] of each codeword, and last of pruned weights.

        Args:
            weight: Original weights of the part, flattened.
            sensitivity: Their sensitivities; None for 1.
            part: Part of the flattened tensor.

        Returns:
            k + 1 rows, see :func:`nbquant.kernels.reference.cluster_losses`.
        """
        index = self.assignment[part]
        if self.scaling is None:
            return dispatch.cluster_losses(weight, sensitivity, self.codebook, index)
        restored = self.dequantize().reshape(-1)[part].to(weight.device).double()
        h = torch.ones_like(restored) if sensitivity is None else sensitivity.double()
        loss = 0.5 * h * (weight.double() - restored).square()
        sums = torch.zeros(len(self.codebook) + 1, 3, dtype=torch.float64, device=weight.device)
        sums.index_add_(0, index.long().to(weight.device), torch.stack([torch.ones_like(h), h, loss], 1))
        return sums.cpu().numpy()


def alphabet_of(value: Float[Tensor, " k"], lattice: Lattice | None, pruned: bool) -> Alphabet:
    """Map indices to the integers that adaptive coding encodes.

    Args:
        value: Values of a codebook.
        lattice: Lattice of the values, if any.
        pruned: Whether zeros of the selection are left out.
    """
    if lattice is None:
        return Alphabet.by_rank(value.detach().cpu().double().numpy(), pruned)
    return Alphabet(lattice.integer.cpu().numpy(), pruned, lattice.dependent)
