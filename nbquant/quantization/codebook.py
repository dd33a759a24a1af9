"""Codebooks of reconstruction values, and tensors as indices into them."""

from dataclasses import dataclass

from jaxtyping import Float, Int, Int64
from torch import Size, Tensor

from nbquant.coding.levels import PRUNED, Alphabet
from nbquant.kernels import dispatch

__all__ = ["PRUNED", "Codebook", "Lattice", "QuantizedTensor", "alphabet_of"]


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


@dataclass(frozen=True)
class Codebook:
    """Reconstruction values with their counts and code.

    Attributes:
        value: Reconstruction values c, ascending, in the dtype of the weights.
        counts: Number of weights n_j in each cluster.
        codeword_length: Length ℓ_j of each codeword [bit]; for arithmetic codes the ideal −log₂(n_j / Σn).
        lattice: Lattice of the values if they are integers times a step, else None.
    """

    value: Float[Tensor, " k"]
    counts: Int64[Tensor, " k"]
    codeword_length: Int64[Tensor, " k"] | Float[Tensor, " k"]
    lattice: Lattice | None = None


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor as indices into a codebook.

    Attributes:
        codebook: Reconstruction values, shared with the other tensors of its group.
        assignment: Index of each weight's codeword, flattened; −1 marks a pruned weight, which is exactly zero.
        shape: Shape of the tensor.
        streams: Size of each block's stream [byte] where it is known only after encoding; None where codeword lengths
            give it.
    """

    codebook: Float[Tensor, " k"]
    assignment: Int[Tensor, " n"]
    shape: Size
    streams: tuple[int, ...] | None = None

    def dequantize(self) -> Float[Tensor, "..."]:
        """Look up the tensor of reconstruction values."""
        return dispatch.gather(self.codebook, self.assignment).reshape(self.shape)


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
