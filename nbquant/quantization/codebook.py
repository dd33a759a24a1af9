"""Reconstruction values, and tensors as indices into them."""

from dataclasses import dataclass

from jaxtyping import Float, Int, Int64
from torch import Size, Tensor

from nbquant.coding.levels import PRUNED, Alphabet
from nbquant.kernels import dispatch

__all__ = ["PRUNED", "Codebook", "Lattice", "QuantizedTensor", "alphabet_of"]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Values that are integers times a step.

    Attributes:
        step: Step Δ [weight].
        integer: Integer m of each value, which is mΔ rounded to the dtype; ascending.
        dependent: Whether a tensor's integers are on paths through the trellis: see :mod:`nbquant.coding.trellis`.
    """

    step: float
    integer: Int64[Tensor, " k"]
    dependent: bool


@dataclass(frozen=True)
class Codebook:
    """Reconstruction values with their use and their code.

    Attributes:
        value: Reconstruction values c, ascending, in the dtype of the weights.
        counts: Members n_j of each cluster.
        codeword_length: Length ℓ_j of each codeword [bit]; for arithmetic codes −log₂(n_j / Σn), which is what a
            codeword takes on average at order 0.
        lattice: What lies behind the values, if they are integers times a step; None if they are any.
    """

    value: Float[Tensor, " k"]
    counts: Int64[Tensor, " k"]
    codeword_length: Int64[Tensor, " k"] | Float[Tensor, " k"]
    lattice: Lattice | None = None


@dataclass(frozen=True)
class QuantizedTensor:
    """One tensor as indices into a codebook.

    Attributes:
        codebook: Reconstruction values, shared with the other tensors of its group.
        assignment: Index of each weight's codeword, flattened; −1 marks a pruned weight, which is exactly zero.
        shape: Shape of the tensor.
        streams: Bytes of each block's indices, where only coding them tells; None where the lengths of codewords do.
    """

    codebook: Float[Tensor, " k"]
    assignment: Int[Tensor, " n"]
    shape: Size
    streams: tuple[int, ...] | None = None

    def dequantize(self) -> Float[Tensor, "..."]:
        """The tensor of reconstruction values."""
        return dispatch.gather(self.codebook, self.assignment).reshape(self.shape)


def alphabet_of(value: Float[Tensor, " k"], lattice: Lattice | None, pruned: bool) -> Alphabet:
    """What adaptive coding has in the place of indices.

    Args:
        value: Values of a codebook.
        lattice: What lies behind them.
        pruned: Whether zeros of the selection are left out.
    """
    if lattice is None:
        return Alphabet.by_rank(value.detach().cpu().double().numpy(), pruned)
    return Alphabet(lattice.integer.cpu().numpy(), pruned, lattice.dependent)
